//! A regression test as psql runs it, and the same test with a transaction in it corrected.

use serde_json::{Value, json};

use super::scenarios::Planted;
use crate::support::Session;

const BEGIN: &str = "INSERT INTO recorded VALUES";

/// An event of the file. `transaction`: of which it is, or which left the row that it stands for.
struct Line {
    seq: i64,
    at: String,
    event: Value,
    transaction: String,
}

fn lines(s: &mut Session, text: &str) -> Vec<Line> {
    let mut transaction = String::new();
    let (mut tuples, mut transactions) = (Vec::new(), Vec::new());
    for line in text.lines().skip_while(|line| *line != BEGIN).skip(1) {
        let line = line.trim();
        if let Some(id) = line.strip_prefix("-- transaction ") {
            transaction = id.split(':').next().expect("the first part").to_string();
            continue;
        }
        if line.starts_with("--") {
            continue;
        }
        let (left_by, tuple) =
            match line.strip_prefix("/* left by transaction ").and_then(|rest| rest.split_once(" */ ")) {
                Some((id, tuple)) => (id.to_string(), tuple),
                None => (transaction.clone(), line),
            };
        assert!(tuple.starts_with('('), "an event expected: {line}");
        transactions.push(left_by);
        tuples.push(tuple.trim_end_matches([',', ';']));
        if tuple.ends_with(';') {
            break;
        }
    }
    let rows = s.rows(&format!("SELECT seq, at, event FROM (VALUES {}) AS v (seq, at, event)", tuples.join(", ")));
    rows.into_iter()
        .zip(transactions)
        .map(|(row, transaction)| {
            let [seq, at, event] = row.try_into().expect("three columns");
            Line {
                seq: seq.expect("a number").parse().expect("a number"),
                at: at.expect("a time"),
                event: serde_json::from_str(&event.expect("an event")).expect("json"),
                transaction,
            }
        })
        .collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number expected, not {value}"))
}

/// The file with what a correct application would have recorded; what it does not tell otherwise stays as it is. The
/// events that it had, and how many are of the planted transaction.
pub fn corrected(s: &mut Session, text: &str, planted: &Planted) -> (String, usize, usize) {
    let correction = &planted.correction;
    let mut all = lines(s, text);
    let count = all.len();
    let place = all.iter().filter(|line| line.transaction == planted.id).map(|line| line.seq).max();
    let of_planted = all.iter().filter(|line| line.transaction == planted.id).count();
    for line in &mut all {
        let table =
            line.event["table"].as_str().unwrap_or_default().split('.').next_back().unwrap_or_default().to_string();
        let key = line.event["key"].as_str().unwrap_or_default().to_string();
        let own = line.transaction == planted.id;
        for (of_table, of_key, column, value) in &correction.values {
            if own && table == *of_table && key == of_key.to_string() {
                line.event["new"][*column] = value.clone();
            }
        }
        let later = place.is_none_or(|seq| line.seq > seq);
        for (account, by) in &correction.shifts {
            if later && !own && table == "accounts" && key == account.to_string() {
                for image in ["old", "new"] {
                    if line.event[image].is_object() {
                        line.event[image]["balance"] = json!(number(&line.event[image]["balance"]) + *by as f64);
                    }
                }
            }
        }
    }
    let model = all.last().expect("events").event["table"]
        .as_str()
        .expect("a table")
        .split('.')
        .next()
        .expect("a schema")
        .to_string();
    let named =
        |event: &Value| -> Value { serde_json::from_str(&event.to_string().replace("SCHEMA", &model)).expect("json") };
    let mut tuples = Vec::new();
    for event in &correction.context {
        tuples.push((0, all[0].at.clone(), named(event)));
    }
    for line in &all {
        let own = line.transaction == planted.id;
        if !(own && correction.remove) {
            tuples.push((10 * line.seq, line.at.clone(), line.event.clone()));
        }
        if Some(line.seq) == place && own {
            for (n, event) in correction.added.iter().enumerate() {
                let mut event = named(event);
                event["transaction"] = line.event["transaction"].clone();
                tuples.push((10 * line.seq + 1 + n as i64, line.at.clone(), event));
            }
        }
    }
    let values: Vec<String> =
        tuples.iter().map(|(seq, at, event)| format!("    ({seq}, '{at}', $event${event}$event$)")).collect();
    let (head, rest) = text.split_once(&format!("{BEGIN}\n")).expect("the events");
    // No event holds the end of a line.
    let (_, tail) = rest.split_once(");\n").expect("their end");
    (format!("{head}{BEGIN}\n{};\n{tail}", values.join(",\n")), count, of_planted)
}

/// Whether a file's tests passed; None where it did not come to an end.
pub fn passed(output: &str) -> Option<bool> {
    let tests: Vec<&str> =
        output.lines().filter(|line| line.starts_with("ok ") || line.starts_with("not ok ")).collect();
    let planned = output.lines().any(|line| line == format!("1..{}", tests.len()));
    (planned && !output.contains("ERROR")).then(|| tests.iter().all(|line| line.starts_with("ok ")))
}

/// The file for a server without pgTAP: what the tests would compare is printed.
pub fn without_pgtap(text: &str) -> String {
    let stand_in = "CREATE SCHEMA tap; SET LOCAL search_path = public, tap;
CREATE FUNCTION tap.plan(n int) RETURNS text LANGUAGE sql AS $$ SELECT '1..' || n $$;
CREATE FUNCTION tap.is(a anyelement, b anyelement, what text) RETURNS text LANGUAGE sql AS $$ SELECT CASE WHEN a IS NOT DISTINCT FROM b THEN 'ok ' ELSE 'not ok ' END || what $$;
CREATE FUNCTION tap.ok(a boolean, what text) RETURNS text LANGUAGE sql AS $$ SELECT CASE WHEN a THEN 'ok ' ELSE 'not ok ' END || what $$;
CREATE FUNCTION tap.finish() RETURNS SETOF text LANGUAGE sql AS $$ SELECT NULL WHERE false $$;";
    text.replace("CREATE EXTENSION IF NOT EXISTS pgtap;", stand_in)
}
