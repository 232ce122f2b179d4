//! Random histories of two tables with a foreign key, and a random transaction of each taken back in every mode. Where running
//! the history again without it is defined (every other statement does to as many rows what it did), that is the oracle;
//! for single rows it is what the transaction found and left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::random::{Random, run_length, seed};
use crate::support::{Database, Failure, Session};

const ACTIONS: [&str; 3] = ["", "ON DELETE CASCADE ON UPDATE CASCADE", "ON DELETE SET NULL ON UPDATE CASCADE"];
const MODES: [&str; 4] = ["nocascade", "nocascade_force", "nonconflict_only", "cascade"];

/// By table and key: the columns, as text.
type Contents = BTreeMap<(String, String), Vec<Option<String>>>;

fn tables(schema: &str) -> String {
    let pairs: Vec<String> = (0..ACTIONS.len())
        .map(|n| {
            format!(
                "CREATE TABLE {schema}.p{n} (id int PRIMARY KEY, a int, b int, u int UNIQUE);
                 CREATE TABLE {schema}.c{n} (id int PRIMARY KEY, p int REFERENCES {schema}.p{n} {}, v int);",
                ACTIONS[n]
            )
        })
        .collect();
    pairs.concat()
}

fn contents(s: &mut Session, schema: &str, n: usize) -> Contents {
    let mut found = Contents::new();
    for (table, columns) in [("p", "id, a, b, u"), ("c", "id, p, v")] {
        for row in s.rows(&format!("SELECT {columns} FROM {schema}.{table}{n}")) {
            found.insert((format!("{table}{n}"), row[0].clone().expect("a key")), row);
        }
    }
    found
}

fn statement(r: &mut Random, n: usize, moves: bool) -> String {
    let (id, other, value, unique) = (r.between(1, 5), r.between(1, 5), r.between(0, 9), r.between(1, 7));
    let nullable = if r.percent(30) { "NULL".to_string() } else { other.to_string() };
    match r.below(if moves { 11 } else { 10 }) {
        0 | 1 => format!("INSERT INTO p{n} VALUES ({id}, {value}, {value}, {unique})"),
        2 | 3 => format!("INSERT INTO c{n} VALUES ({id}, {nullable}, {value})"),
        4 => format!("UPDATE p{n} SET a = {value} WHERE id = {id}"),
        5 => format!("UPDATE p{n} SET b = {value}, u = {unique} WHERE id = {id}"),
        6 => format!("UPDATE c{n} SET p = {nullable} WHERE id = {id}"),
        7 => format!("UPDATE c{n} SET v = {value} WHERE id IN ({id}, {other})"),
        8 => format!("DELETE FROM p{n} WHERE id = {id}"),
        9 => format!("DELETE FROM c{n} WHERE id = {id}"),
        _ => format!("UPDATE p{n} SET id = {other} WHERE id = {id}"),
    }
}

/// Runs a transaction; how many rows each statement did something to, None where it failed.
fn run(s: &mut Session, statements: &[String]) -> Vec<Option<u64>> {
    s.run("BEGIN");
    let counts = statements
        .iter()
        .map(|sql| {
            s.run("SAVEPOINT one");
            let count = s.try_run(sql).ok();
            s.run(if count.is_some() { "RELEASE one" } else { "ROLLBACK TO one" });
            count
        })
        .collect();
    s.run("COMMIT");
    counts
}

struct Transaction {
    id: String,
    statements: Vec<String>,
    counts: Vec<Option<u64>>,
    before: Contents,
    after: Contents,
}

/// What the tables hold when the history is run without some transactions, if that is the same history.
fn without(s: &mut Session, history: &[Transaction], left_out: &BTreeSet<String>, n: usize) -> Option<Contents> {
    s.run(&format!("SET search_path = plain; DELETE FROM c{n}; DELETE FROM p{n}"));
    let mut same = true;
    for transaction in history.iter().filter(|transaction| !left_out.contains(&transaction.id)) {
        same &= run(s, &transaction.statements) == transaction.counts;
    }
    let found = contents(s, "plain", n);
    s.run("SET search_path = public");
    same.then_some(found)
}

/// The tables when the rows that were applied are what the transaction found: where it changed a row, in the columns it changed.
fn put_back(transaction: &Transaction, now: &Contents, applied: &BTreeSet<(String, String)>) -> Contents {
    let mut expected = now.clone();
    for key in applied {
        match (transaction.before.get(key), transaction.after.get(key)) {
            (None, _) => {
                expected.remove(key);
            }
            (Some(before), None) => {
                expected.insert(key.clone(), before.clone());
            }
            (Some(before), Some(after)) => {
                let row = expected.get_mut(key).expect("only a row that is there is updated");
                for ((found, left), value) in before.iter().zip(after).zip(row) {
                    if found != left {
                        *value = found.clone();
                    }
                }
            }
        }
    }
    expected
}

#[test]
fn a_transaction_taken_back_never_was() {
    let mut r = Random::new(seed("a_transaction_taken_back_never_was"));
    let db = Database::new("prop_revert");
    let mut s = db.session();
    s.run(&format!("CREATE SCHEMA plain; {} {}", tables("public"), tables("plain")));
    for n in 0..ACTIONS.len() {
        s.run(&format!("SELECT threadline.audit_enable('p{n}'), threadline.audit_enable('c{n}')"));
    }
    let (mut compared, mut row_by_row, mut refused, mut histories) = ([0; 4], 0, [0; 4], 0);
    let end = Instant::now() + run_length();
    while Instant::now() < end {
        histories += 1;
        let n = r.below(ACTIONS.len() as u64) as usize;
        let moves = r.percent(40);
        s.run(&format!("DELETE FROM c{n}; DELETE FROM p{n}"));
        let mut history = Vec::new();
        for _ in 0..r.between(3, 8) {
            let statements: Vec<String> = (0..r.between(1, 5)).map(|_| statement(&mut r, n, moves)).collect();
            let before = contents(&mut s, "public", n);
            let counts = run(&mut s, &statements);
            let id = s.one("SELECT id FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1");
            let after = contents(&mut s, "public", n);
            if before != after {
                history.push(Transaction { id, statements, counts, before, after });
            }
        }
        if history.is_empty() {
            continue;
        }
        let now = contents(&mut s, "public", n);
        let chosen = &history[r.below(history.len() as u64) as usize];
        let told =
            || history.iter().map(|t| format!("{}: {}", t.id, t.statements.join("; "))).collect::<Vec<_>>().join("\n");
        for (number, mode) in MODES.iter().enumerate() {
            let call = format!(
                "SELECT status, table_name, table_pk ->> 'id' FROM threadline.audit_revert('{}', '{mode}'",
                chosen.id
            );
            let dry_run = s.rows(&format!("{call})"));
            assert_eq!(contents(&mut s, "public", n), now, "a dry run changes nothing: {} in\n{}", chosen.id, told());
            let failing = dry_run.iter().any(|row| row[0].as_deref() == Some("fails"));
            s.run("BEGIN");
            let steps = match s.try_rows(&format!("{call}, false, true)")) {
                Ok(steps) => steps,
                Err(error) => {
                    let failure = Failure::of(&error);
                    s.run("ROLLBACK");
                    let announced =
                        failing || dry_run.iter().any(|row| matches!(row[0].as_deref(), Some("conflict" | "redacted")));
                    assert!(
                        announced,
                        "{mode} of {} fails though its dry run did not: {failure:?} in\n{}",
                        chosen.id,
                        told()
                    );
                    assert!(failure.code == "55000" || failing, "{mode} of {}: {failure:?} in\n{}", chosen.id, told());
                    refused[number] += 1;
                    continue;
                }
            };
            assert!(!failing, "{mode} of {} works though its dry run did not: {dry_run:?} in\n{}", chosen.id, told());
            let left_out: BTreeSet<String> = s
                .column("SELECT regexp_replace(a.reason, ' \\(.*', '') FROM threadline.audit_actions a ORDER BY inserted_at DESC LIMIT 1")
                .iter()
                .flat_map(|ids| ids.split(", ").map(str::to_string).collect::<Vec<_>>())
                .collect();
            let found = contents(&mut s, "public", n);
            let applied: BTreeSet<(String, String)> = steps
                .iter()
                .filter(|row| row[0].as_deref() == Some("applied"))
                .map(|row| (row[1].clone().unwrap().replace("public.", ""), row[2].clone().unwrap()))
                .collect();
            let all = steps.iter().all(|row| row[0].as_deref() == Some("applied"));
            if all && matches!(*mode, "nocascade" | "cascade") {
                let left_out = if applied.is_empty() { BTreeSet::from([chosen.id.clone()]) } else { left_out };
                let found_now = found.clone();
                s.run("ROLLBACK");
                if let Some(expected) = without(&mut s, &history, &left_out, n) {
                    assert_eq!(found_now, expected, "{mode} of {} ({left_out:?}) in\n{}", chosen.id, told());
                    compared[number] += 1;
                }
            } else {
                s.run("ROLLBACK");
            }
            // Side effects are others' rows: a foreign key's SET NULL, a cascade of a key.
            if !moves && *mode != "cascade" && steps.iter().all(|row| row[0].as_deref() != Some("side_effect")) {
                assert_eq!(
                    found,
                    put_back(chosen, &now, &applied),
                    "{mode} of {} row by row: {steps:?} in\n{}",
                    chosen.id,
                    told()
                );
                row_by_row += 1;
            }
        }
        // There and back, for good.
        let mode = *r.pick(&MODES);
        if s.try_rows(&format!("SELECT * FROM threadline.audit_revert('{}', '{mode}', false, true)", chosen.id)).is_ok()
        {
            let revert = s.one("SELECT id FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1");
            if !history.iter().any(|transaction| transaction.id == revert) {
                s.rows(&format!(
                    "SELECT * FROM threadline.audit_revert('{revert}', dry_run => false, confirm => true)"
                ));
                assert_eq!(contents(&mut s, "public", n), now, "{mode} of {} and back in\n{}", chosen.id, told());
            }
        }
        if histories % 20 == 0 {
            for table in ["p", "c"] {
                s.assert_replay_holds(&format!("{table}{n}"));
            }
        }
    }
    eprintln!(
        "{histories} histories; equal to running without: {compared:?} by mode, row by row: {row_by_row}; refused: {refused:?} {MODES:?}"
    );
    assert!(histories < 20 || compared[0] > 0 && compared[3] > 0 && row_by_row > 0);
}
