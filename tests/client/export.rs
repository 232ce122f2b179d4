//! audit_export: every format can be read back, says whether it is whole, and is the same bytes each time.

use serde_json::Value;

use crate::support::{Database, Session};

const NASTY: &str = "line one\nline \"two\", and\r\nthree\ttab é 日本";

fn story(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text, at timestamptz, n numeric, f float8, b bytea, i interval);
         CREATE TABLE other (id int PRIMARY KEY); SELECT threadline.audit_enable('t'), threadline.audit_enable('other')",
    );
    s.run(&format!(
        "BEGIN; SET LOCAL threadline.correlation_id = '=cmd|calc'; SET LOCAL threadline.request_id = '{NASTY}'; SET LOCAL threadline.job_id = 'plain';
         INSERT INTO t VALUES (1, '{NASTY}', '2024-03-15 10:30+02', 1.00, 0.1, '\\x00ff', '1 day 02:00'), (2, '', NULL, NULL, NULL, NULL, NULL); COMMIT"
    ));
    s.run("UPDATE t SET v = 'x' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO other VALUES (1)");
    (db, s)
}

fn export(s: &mut Session, args: &str) -> Vec<String> {
    s.column(&format!("SELECT threadline.audit_export({args})"))
}

/// The ids that the timeline has for the same filters, oldest first.
fn expected(s: &mut Session, args: &str) -> Vec<String> {
    let mut ids = s.column(&format!("SELECT id FROM threadline.audit_timeline({args})"));
    ids.reverse();
    ids
}

/// What a reader of RFC 4180 makes of it; None for a field that is empty without quotes.
fn parse_csv(text: &str) -> Vec<Vec<Option<String>>> {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut quoted, mut was_quoted) = (false, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.push(chars.next().unwrap()),
            '"' => (quoted, was_quoted) = (!quoted, true),
            ',' | '\n' if !quoted => {
                record.push((was_quoted || !field.is_empty()).then(|| std::mem::take(&mut field)));
                was_quoted = false;
                if c == '\n' {
                    records.push(std::mem::take(&mut record));
                }
            }
            c => field.push(c),
        }
    }
    assert!(!quoted && field.is_empty() && record.is_empty(), "the text ends with a record");
    records
}

fn assert_manifest(s: &mut Session, lines: &[String], manifest: &Value, rows: usize, truncated: bool) {
    assert_eq!(manifest["rows"], rows, "{manifest}");
    assert_eq!(manifest["truncated"], truncated, "{manifest}");
    let before: String = lines[..lines.len() - 1].iter().map(|line| format!("{line}\n")).collect();
    let sum = s
        .client
        .query_one("SELECT encode(sha256(convert_to($1::text, 'UTF8')), 'hex')", &[&before])
        .expect("a checksum")
        .get::<_, String>(0);
    assert_eq!(manifest["sha256"], sum);
}

fn id_of(change: &Value) -> String {
    change["id"].to_string()
}

#[test]
fn json_and_ndjson_read_back() {
    let (_db, mut s) = story("exp_json");
    let ids = expected(&mut s, "");
    assert_eq!(ids.len(), 5);
    let lines = export(&mut s, "'ndjson'");
    let objects: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects[..5].iter().map(id_of).collect::<Vec<_>>(), ids, "oldest first");
    assert_eq!(objects[0]["data_after"]["v"], NASTY);
    assert_eq!(objects[0]["request_id"], NASTY);
    assert!(lines[0].contains(r#""n": 1.00"#) && lines[0].contains("+00:00"), "{}", lines[0]);
    assert_manifest(&mut s, &lines, &objects[5]["manifest"], 5, false);
    assert_eq!(objects[5]["manifest"]["complete"], true);

    let lines = export(&mut s, "'json'");
    let document: Value = serde_json::from_str(&lines.join("\n")).unwrap();
    assert_eq!(document["changes"].as_array().unwrap().iter().map(id_of).collect::<Vec<_>>(), ids);
    assert_eq!(document["changes"][0], objects[0]);
    assert_manifest(&mut s, &lines, &document["manifest"], 5, false);
    let nothing = export(&mut s, "'json', job_id => 'none'").join("\n");
    let document: Value = serde_json::from_str(&nothing).unwrap();
    assert_eq!(document["changes"], serde_json::json!([]), "{nothing}");
}

#[test]
fn csv_reads_back_and_formulas_can_be_disarmed() {
    let (_db, mut s) = story("exp_csv");
    let lines = export(&mut s, "'csv'");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let records = parse_csv(&text);
    assert_eq!(records.len(), 7, "header, five rows, manifest: {records:?}");
    assert!(records.iter().all(|record| record.len() == 19), "as many fields in each: {records:?}");
    let column = |name: &str| records[0].iter().position(|n| n.as_deref() == Some(name)).unwrap();
    let ids: Vec<String> = records[1..6].iter().map(|record| record[0].clone().unwrap()).collect();
    assert_eq!(ids, expected(&mut s, ""));
    assert_eq!(records[1][column("request_id")].as_deref(), Some(NASTY));
    assert_eq!(records[1][column("correlation_id")].as_deref(), Some("=cmd|calc"));
    assert_eq!(records[3][column("request_id")], None);
    let after: Value = serde_json::from_str(records[1][column("data_after")].as_deref().unwrap()).unwrap();
    assert_eq!(after["v"], NASTY);
    assert_eq!(records[6][0].as_deref(), Some("manifest"));
    let manifest: Value = serde_json::from_str(records[6][1].as_deref().unwrap()).unwrap();
    assert_manifest(&mut s, &lines, &manifest, 5, false);

    let safe = parse_csv(
        &export(&mut s, "'csv', formula_safe => true").iter().map(|line| format!("{line}\n")).collect::<String>(),
    );
    assert_eq!(safe[1][column("correlation_id")].as_deref(), Some("'=cmd|calc"));
    assert_eq!(safe[1][column("job_id")].as_deref(), Some("plain"));
    for start in ["=", "+", "-", "@", "\t", "\r"] {
        let field = s
            .client
            .query_one("SELECT threadline.csv_record(ARRAY[$1::text || 'x', NULL, ''], true)", &[&start])
            .unwrap()
            .get::<_, String>(0);
        let quoted = if start == "\r" { "\"'\rx\"".to_string() } else { format!("'{start}x") };
        assert_eq!(field, format!("{quoted},,\"\""));
    }
}

#[test]
fn it_says_when_it_is_cut_and_takes_every_filter() {
    let (_db, mut s) = story("exp_cut");
    for (limit, rows, truncated) in
        [("2", 2, true), ("5", 5, false), ("4", 4, true), ("0", 0, true), ("NULL", 5, false)]
    {
        let lines = export(&mut s, &format!("'ndjson', max_rows => {limit}"));
        let manifest: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
        assert_manifest(&mut s, &lines, &manifest["manifest"], rows, truncated);
        let ids: Vec<String> = lines[..rows].iter().map(|line| id_of(&serde_json::from_str(line).unwrap())).collect();
        assert_eq!(ids, expected(&mut s, "")[..rows], "the oldest");
    }
    let moment = s.one("SELECT min(captured_at) FROM threadline.audit_changes WHERE op = 'update'");
    for filter in [
        "'t'",
        "target => 'other'",
        "correlation_id => '=cmd|calc'",
        "job_id => 'plain'",
        "op => 'delete'",
        "changed_field => 'v'",
        r#"match => '{"v": "x"}'"#,
        "actor => '{\"type\": \"user\"}'",
        &format!("since => '{moment}'"),
        &format!("until => '{moment}'"),
    ] {
        let lines = export(&mut s, &format!("'ndjson', {filter}"));
        let ids: Vec<String> =
            lines[..lines.len() - 1].iter().map(|line| id_of(&serde_json::from_str(line).unwrap())).collect();
        assert_eq!(ids, expected(&mut s, filter), "{filter}");
        assert!(ids.len() < 5, "{filter} leaves something out");
    }
    s.run("SELECT threadline.audit_disable('other')");
    let complete = |s: &mut Session, args: &str| {
        let lines = export(s, args);
        serde_json::from_str::<Value>(lines.last().unwrap()).unwrap()["manifest"]["complete"].clone()
    };
    assert_eq!(complete(&mut s, "'ndjson'"), false);
    assert_eq!(complete(&mut s, "'ndjson', 't'"), true);
}

#[test]
fn the_same_bytes_whatever_the_session_sets() {
    let (db, mut s) = story("exp_bytes");
    let mut other = db.session();
    other.run("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'escape'; SET extra_float_digits = -3");
    for format in ["json", "ndjson", "csv"] {
        assert_eq!(export(&mut s, &format!("'{format}'")), export(&mut other, &format!("'{format}'")), "{format}");
    }
    let bundle = "SELECT threadline.incident_bundle_for(job_id => 'plain')";
    assert_eq!(s.one(bundle), other.one(bundle));
}

#[test]
fn what_cannot_be_exported() {
    let (_db, mut s) = story("exp_errors");
    for (args, code) in [
        ("'xml'", "22023"),
        ("NULL", "22023"),
        ("'csv', max_rows => -1", "22023"),
        ("'csv', op => 'upsert'", "22023"),
        ("'csv', match => '1'", "22023"),
    ] {
        s.refused(&format!("SELECT threadline.audit_export({args})"), &[code]);
    }
}
