//! Tables without a key: the whole row is its identity, and identical rows are counted.

use crate::cluster::Cluster;
use crate::dump::dump_restore;
use crate::support::{Database, Session};

const ENABLE: &str = "SELECT threadline.audit_enable('t', options => '{\"key\": \"full_row\"}')";

fn table(stem: &str, columns: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(&format!("CREATE TABLE t ({columns}); {ENABLE}"));
    (db, s)
}

/// The rows that as-of gives, as text, sorted: every copy.
fn as_of(s: &mut Session, at: &str) -> Vec<String> {
    s.column(&format!("SELECT r::text FROM threadline.audit_as_of(NULL::t, '{at}') r ORDER BY 1"))
}

fn now(s: &mut Session) -> String {
    s.one("SELECT clock_timestamp()")
}

fn status(s: &mut Session, row: &str, at: &str) -> String {
    s.one(&format!(
        "SELECT status || ' ' || complete FROM threadline.audit_as_of('t', '{row}'::jsonb, '{at}'::timestamptz)"
    ))
}

#[test]
fn identical_rows_are_counted() {
    let (_db, mut s) = table("full_row", "a int, b text");
    let row = r#"{"a": 1, "b": null}"#;
    s.run("INSERT INTO t VALUES (1, NULL), (1, NULL)");
    let two = now(&mut s);
    s.run("DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)");
    let one = now(&mut s);
    s.assert_replay_holds("t");
    s.run("UPDATE t SET b = 'x'");
    let moved = now(&mut s);
    s.run("DELETE FROM t");
    let none = now(&mut s);
    for (at, rows, state) in [
        (&two, vec!["(1,)", "(1,)"], "present true"),
        (&one, vec!["(1,)"], "present true"),
        (&moved, vec!["(1,x)"], "deleted true"),
        (&none, vec![], "deleted true"),
    ] {
        assert_eq!(as_of(&mut s, at), rows);
        assert_eq!(status(&mut s, row, at), state);
        assert_eq!(
            s.number(&format!("SELECT count(*) FROM threadline.audit_table_as_of('t', '{at}')")),
            rows.len() as i64
        );
        assert_eq!(
            s.number(&format!(
                "SELECT count(*) FROM threadline.audit_row_as_of(NULL::t, '{row}'::jsonb, '{at}'::timestamptz)"
            )),
            i64::from(state.starts_with("present"))
        );
    }
    assert_eq!(
        s.one(&format!("SELECT moved_to FROM threadline.audit_as_of('t', '{row}'::jsonb, '{moved}'::timestamptz)")),
        s.one("SELECT table_pk FROM threadline.audit_changes WHERE op = 'update'")
    );
    // What left the row is part of its history, and so is what came after.
    assert_eq!(
        s.column(&format!("SELECT op FROM threadline.audit_history('t', '{row}'::jsonb)")),
        ["delete", "update", "delete", "insert", "insert"]
    );
    assert_eq!(status(&mut s, r#"{"a": 2, "b": null}"#, "infinity"), "never_seen true");
    s.assert_replay_holds("t");
}

#[test]
fn a_key_is_small_and_finds_its_row() {
    let (_db, mut s) =
        table("full_row_key", "a int, doc jsonb, full_row text, n numeric, d date, big text, f float8[]");
    s.run("INSERT INTO t SELECT 1, '{\"x\": [1, {\"y\": null}]}', 'it''s', 1.50, '2024-02-29', string_agg(md5(g::text), ''), '{1.5,NULL}' FROM generate_series(1, 2000) g");
    s.run("UPDATE t SET a = 2");
    assert_eq!(s.number("SELECT max(length(table_pk::text)) FROM threadline.audit_changes"), 56);
    // Every key that people have at hand: table_pk, the recorded image, the row itself.
    for key in [
        "(SELECT table_pk FROM threadline.audit_changes WHERE op = 'update')",
        "(SELECT table_pk ->> 'full_row' FROM threadline.audit_changes WHERE op = 'update')",
        "(SELECT data_after FROM threadline.audit_changes WHERE op = 'update')",
        "(SELECT to_jsonb(t) FROM t)",
        "(SELECT threadline.row_image(t) FROM t)",
    ] {
        assert_eq!(
            s.column(&format!("SELECT op FROM threadline.audit_history('t', {key})")),
            ["update", "insert"],
            "{key}"
        );
        assert_eq!(
            s.one(&format!("SELECT status FROM threadline.audit_as_of('t', {key}, 'infinity')")),
            "present",
            "{key}"
        );
    }
    let missing = s.refused("SELECT * FROM threadline.audit_history('t', '{\"a\": 1, \"z\": 2}')", &["22023"]);
    assert!(missing.detail.contains("doc") && missing.detail.contains("Unknown: z"), "{missing:?}");
    s.refused("SELECT * FROM threadline.audit_history('t', '1')", &["22023"]);
    s.refused("SELECT * FROM threadline.audit_history('t', '{\"full_row\": \"1\"}')", &["22023"]);
    s.assert_replay_holds("t");
}

#[test]
fn masked_and_excluded_values_make_no_key() {
    let db = Database::new("full_row_masked");
    let mut s = db.session();
    s.run("CREATE TABLE t (a int, secret int, hidden text); INSERT INTO t VALUES (1, 1, 'x'), (1, 2, 'y'), (1, NULL, NULL)");
    s.run("SELECT threadline.audit_enable('t', mask => '{secret}', exclude => '{hidden}', options => '{\"key\": \"full_row\"}')");
    assert_eq!(s.number("SELECT count(DISTINCT table_pk) FROM threadline.audit_changes"), 1);
    s.run("UPDATE t SET secret = 9, hidden = 'z' WHERE secret = 1");
    assert_eq!(s.one("SELECT old_pk FROM threadline.audit_changes WHERE op = 'update'"), "NULL");
    s.assert_replay_holds("t");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_as_of(NULL::t, 'infinity')"), 3);
    for row in [r#"{"a": 1}"#, r#"{"a": 1, "secret": "[REDACTED]"}"#, r#"{"a": 1, "secret": 5, "hidden": "q"}"#] {
        assert_eq!(status(&mut s, row, "infinity"), "present true", "{row}");
    }
    // Redaction is a part of the recorded shape: with another, the rows are recorded anew.
    s.run("SELECT threadline.audit_enable('t', mask => '{}')");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes WHERE op = 'snapshot'"), 6);
    s.assert_replay_holds("t");
    s.run("SELECT threadline.audit_enable('t', mask => '{secret}', mask_placeholder => '?')");
    s.run("SELECT threadline.audit_enable('t', mask_placeholder => '!'); DELETE FROM t WHERE secret = 2");
    s.assert_replay_holds("t");
}

#[test]
fn what_is_asked_for_must_fit() {
    let db = Database::new("full_row_asked");
    let mut s = db.session();
    s.run("CREATE TABLE t (a int NOT NULL UNIQUE, b int)");
    let without = s.refused("SELECT threadline.audit_enable('t')", &["42P16"]);
    assert!(without.hint.contains("full_row"), "{without:?}");
    s.refused(
        "SELECT threadline.audit_enable('t', key_columns => '{a}', options => '{\"key\": \"full_row\"}')",
        &["22023"],
    );
    s.refused(
        "SELECT threadline.audit_enable('t', options => '{\"key\": \"full_row\", \"image\": \"delta\"}')",
        &["22023"],
    );
    s.refused("SELECT threadline.audit_enable('t', options => '{\"key\": \"a\"}')", &["22023"]);
    s.run(ENABLE);
    assert_eq!(
        s.one("SELECT status || ' ' || findings::text FROM threadline.audit_coverage() WHERE table_name = 't'"),
        r#"covered [{"finding": "full_row_key"}]"#
    );
    assert_eq!(s.one("SELECT state FROM threadline.audit_policy()"), "config_matches_deployed");
    assert_eq!(s.one("SELECT complete FROM threadline.audit_status()"), "t");
    // A better key is taken when there is one, and named columns win over the whole row.
    s.run("INSERT INTO t VALUES (1, 1); SELECT threadline.audit_enable('t', key_columns => '{a}'); UPDATE t SET b = 2");
    assert_eq!(s.one("SELECT table_pk FROM threadline.audit_changes WHERE op = 'update'"), r#"{"a": "1"}"#);
    s.assert_replay_holds("t");
    // Its index gone, the whole row again.
    s.run("ALTER TABLE t DROP CONSTRAINT t_a_key");
    s.run(ENABLE);
    s.run("INSERT INTO t VALUES (1, 2)");
    s.assert_replay_holds("t");
    assert_eq!(as_of(&mut s, "infinity"), ["(1,2)", "(1,2)"]);
}

#[test]
fn a_table_that_gets_a_primary_key_moves_to_it() {
    let (_db, mut s) = table("full_row_to_pk", "a int, b int");
    s.run("INSERT INTO t VALUES (1, 1), (1, 1)");
    let twice = now(&mut s);
    s.run("DELETE FROM t; INSERT INTO t VALUES (1, 1), (2, 1)");
    s.run("UPDATE t SET b = 3 WHERE a = 2");
    s.run("ALTER TABLE t ADD COLUMN c int, ADD PRIMARY KEY (a, b)");
    let failure = s.failure("SELECT threadline.audit_enable('t', baseline => false)");
    assert_eq!(failure.code, "55000");
    s.run(ENABLE);
    s.run("UPDATE t SET c = 1 WHERE a = 1");
    s.assert_replay_holds("t");
    assert_eq!(
        s.one("SELECT table_pk FROM threadline.audit_changes ORDER BY id DESC LIMIT 1"),
        r#"{"a": "1", "b": "1"}"#
    );
    // What was recorded before stays as it was, each change with the key of its time.
    assert_eq!(as_of(&mut s, &twice), ["(1,1,)", "(1,1,)"]);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes WHERE table_pk ? 'full_row'"), 7);
    assert_eq!(
        s.one(&format!(
            "SELECT complete FROM threadline.audit_as_of('t', '{{\"a\": 1, \"b\": 1}}'::jsonb, '{twice}'::timestamptz)"
        )),
        "f",
        "the key of now says nothing of then"
    );
    assert_eq!(
        s.column("SELECT DISTINCT complete FROM threadline.audit_history('t', '{\"a\": 1, \"b\": 1}'::jsonb)"),
        ["f"]
    );
    s.rows("SELECT threadline.incident_bundle(x.id), threadline.change_summary(c.id) FROM threadline.audit_transactions x JOIN threadline.audit_changes c ON c.transaction_id = x.id");
}

#[test]
fn a_changed_shape_is_a_gap_until_the_next_baseline() {
    let (_db, mut s) = table("full_row_shape", "a int, b int");
    s.run("INSERT INTO t VALUES (1, 1), (1, 1), (2, 2)");
    s.run("ALTER TABLE t RENAME b TO c; DELETE FROM t WHERE a = 2");
    s.assert_replay_holds("t");
    assert_eq!(status(&mut s, r#"{"a": 1, "c": 1}"#, "infinity"), "present true");
    assert_eq!(
        s.column("SELECT op || complete FROM threadline.audit_history('t', '{\"a\": 2, \"c\": 2}'::jsonb)"),
        ["deletetrue", "inserttrue"]
    );
    let before = now(&mut s);
    s.run("ALTER TABLE t ADD COLUMN d int");
    // Nothing is recorded in the new shape so far.
    assert_eq!(s.one("SELECT threadline.replay_check('t') ->> 'verdict'"), "unknown");
    assert_eq!(as_of(&mut s, "infinity"), ["(1,1,)", "(1,1,)"]);
    assert_eq!(status(&mut s, r#"{"a": 1, "c": 1, "d": null}"#, "infinity"), "never_seen false");
    s.run("DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)");
    assert_eq!(s.one("SELECT threadline.replay_check('t') ->> 'verdict'"), "unknown");
    assert_eq!(s.one("SELECT complete FROM threadline.audit_status()"), "f");
    assert!(s.one("SELECT detail FROM threadline.audit_health() WHERE check_name = 'gaps'").contains("shape_changed"));
    s.run("SET threadline.incomplete = error");
    s.refused("SELECT * FROM threadline.audit_as_of(NULL::t, 'infinity')", &["55000"]);
    s.refused(
        "SELECT * FROM threadline.audit_row_as_of(NULL::t, '{\"a\": 1, \"c\": 1, \"d\": null}'::jsonb, 'infinity')",
        &["55000"],
    );
    assert_eq!(as_of(&mut s, &before), ["(1,1,)", "(1,1,)"], "what was before is known");
    s.run("SELECT threadline.audit_enable('t')");
    s.assert_replay_holds("t");
    assert_eq!(as_of(&mut s, "infinity"), ["(1,1,)"]);
    assert_eq!(s.one("SELECT gaps FROM threadline.audit_status()"), "{shape_changed}", "it was one");
    assert_eq!(s.one("SELECT severity FROM threadline.audit_health() WHERE check_name = 'gaps'"), "ok");
    s.run("SELECT threadline.audit_enable('t')");
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.audit_changes WHERE op = 'snapshot'"),
        1,
        "a rerun does nothing"
    );
    // A column that went and came back is another column; a new type changes the rows.
    for change in ["DROP COLUMN d, ADD COLUMN d int", "ALTER COLUMN a TYPE bigint"] {
        s.run(&format!("ALTER TABLE t {change}; INSERT INTO t VALUES (5, 5, 5)"));
        assert_eq!(s.one("SELECT threadline.replay_check('t') ->> 'verdict'"), "unknown", "{change}");
        s.run("SELECT threadline.audit_enable('t')");
        s.assert_replay_holds("t");
    }
    s.refused("SELECT * FROM threadline.audit_history('t', '{\"a\": 1, \"c\": 1}'::jsonb)", &["22023"]);
    let then = s.one("SELECT table_pk FROM threadline.audit_changes ORDER BY id LIMIT 1");
    assert_eq!(status(&mut s, &then, &before), "present true", "by its digest of then");
    assert_eq!(status(&mut s, &then, "infinity"), "deleted true");
}

#[test]
fn what_went_unrecorded_shows_in_the_counts() {
    let (_db, mut s) = table("full_row_unseen", "a int");
    s.run("INSERT INTO t VALUES (1), (1), (2)");
    s.run("SET session_replication_role = replica; DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t); INSERT INTO t VALUES (2); RESET session_replication_role");
    assert_eq!(
        s.column("SELECT v ->> 'kind' || ' ' || (v -> 'copies') FROM jsonb_array_elements(threadline.replay_check('t') -> 'violations') v ORDER BY 1"),
        [r#"extra {"table": 2, "history": 1}"#, r#"missing {"table": 1, "history": 2}"#]
    );
    s.run("DELETE FROM t WHERE a = 2");
    assert_eq!(
        s.column(
            "SELECT DISTINCT invariant FROM threadline.replay_violations(threadline.replay_check('t')) ORDER BY 1"
        ),
        ["history_equals_table", "history_is_continuous"]
    );
    assert_eq!(status(&mut s, r#"{"a": 2}"#, "infinity"), "deleted false");
    assert_eq!(s.column("SELECT DISTINCT complete FROM threadline.audit_history('t', '{\"a\": 2}'::jsonb)"), ["f"]);
    s.run("SET threadline.incomplete = error");
    let refused = s.refused("SELECT * FROM threadline.audit_as_of(NULL::t, 'infinity')", &["55000"]);
    assert!(refused.detail.contains("rows left that had not arrived"), "{refused:?}");
}

#[test]
fn neighbours_of_a_change_are_the_rows_own() {
    let (_db, mut s) = table("full_row_bundle", "a int");
    s.run("INSERT INTO t VALUES (1), (1)");
    s.run("DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)");
    s.run("UPDATE t SET a = 2");
    s.run("DELETE FROM t");
    let neighbours = s.column(
        "SELECT (c -> 'audit_change' ->> 'op') || ': ' || coalesce(c -> 'previous_change' ->> 'op', '-') || ' ' || coalesce(c -> 'next_change' ->> 'op', '-')
         FROM threadline.audit_transactions x CROSS JOIN LATERAL jsonb_array_elements(threadline.incident_bundle(x.id) -> 'changes') c
         ORDER BY (c -> 'audit_change' ->> 'id')::bigint",
    );
    assert_eq!(
        neighbours,
        ["insert: - delete", "insert: - delete", "delete: insert -", "update: insert delete", "delete: update -"]
    );
    assert!(s.one("SELECT threadline.change_summary(max(id)) FROM threadline.audit_changes").starts_with("t "));
}

#[test]
fn purge_leaves_what_is_known_and_says_so() {
    let (_db, mut s) = table("full_row_purge", "a int");
    s.run("INSERT INTO t VALUES (1), (1), (2)");
    s.run("SELECT threadline.audit_set_retention(keep => '1 microsecond', enabled => true); SELECT pg_sleep(0.01)");
    s.run("CALL threadline.audit_purge(dry_run => false)");
    assert_eq!(status(&mut s, r#"{"a": 1}"#, "infinity"), "purged false");
    assert_eq!(s.one("SELECT threadline.replay_check('t') ->> 'verdict'"), "unknown");
    s.run("DELETE FROM t WHERE a = 2; INSERT INTO t VALUES (3)");
    assert_eq!(s.one("SELECT threadline.replay_check('t') ->> 'verdict'"), "unknown");
    assert_eq!(status(&mut s, r#"{"a": 2}"#, "infinity"), "deleted false");
    let purged = s.refused("SELECT * FROM threadline.audit_as_of(NULL::t, 'infinity')", &["55000"]);
    assert!(purged.hint.contains("audit_enable"));
    s.run("SELECT threadline.audit_enable('t')");
    assert_eq!(as_of(&mut s, "infinity"), ["(1)", "(1)", "(3)"]);
    assert_eq!(status(&mut s, r#"{"a": 1}"#, "infinity"), "present true");
    s.assert_replay_holds("t");
}

#[test]
fn labels_that_change_their_spelling() {
    let db = Database::new("full_row_labels");
    let mut s = db.session();
    s.run(&format!("CREATE TYPE mood AS ENUM ('happy', 'sad'); CREATE TABLE t (m mood); {ENABLE}; INSERT INTO t VALUES ('happy'), ('happy')"));
    s.run("ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'");
    s.run("DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)");
    assert_eq!(s.one("SELECT threadline.replay_check('t') ->> 'verdict'"), "violated");
    assert_eq!(status(&mut s, r#"{"m": "glad"}"#, "infinity"), "deleted false");
    s.run("SELECT threadline.audit_disable('t')");
    s.run(ENABLE);
    s.assert_replay_holds("t");
    assert_eq!(as_of(&mut s, "infinity"), ["(glad)"]);
}

#[test]
fn a_baseline_counts_what_its_own_transaction_did_before_once() {
    let (_db, mut s) = table("full_row_base", "a int");
    s.run("INSERT INTO t VALUES (1), (1)");
    s.run("BEGIN; INSERT INTO t VALUES (1), (7); SAVEPOINT p; ALTER TABLE t ADD COLUMN b int; DELETE FROM t WHERE a = 7; SELECT threadline.audit_enable('t'); RELEASE p; INSERT INTO t VALUES (1, NULL); COMMIT");
    assert_eq!(as_of(&mut s, "infinity"), ["(1,)", "(1,)", "(1,)", "(1,)"]);
    s.assert_replay_holds("t");
}

#[test]
fn values_of_every_kind() {
    let db = Database::new("full_row_types");
    let mut s = db.session();
    s.run("CREATE TYPE mood AS ENUM ('happy', 'sad'); CREATE TYPE pair AS (a int, b text[]); CREATE DOMAIN positive AS int CHECK (VALUE > 0)");
    s.run(&format!(
        "CREATE TABLE t (i interval, z timestamptz, ts timestamp, b bytea, n numeric, f float8, r real, j json, jb jsonb, x tsvector, g int4range, p point,
         c pair, m mood, d positive, m2 int[], bits bit(4), net inet, u uuid, ch char(5), nm name, tm time, o oid, \"Odd \"\"name\" text, s int GENERATED ALWAYS AS (d * 2) STORED);
         {ENABLE}"
    ));
    // Two sessions that would print the values differently write the same row.
    for settings in [
        "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'escape'; SET extra_float_digits = -3",
        "RESET ALL",
    ] {
        s.run(settings);
        s.run(
            "INSERT INTO t VALUES ('1 mon 2 days 03:04:05.6', '2024-02-29 10:30+00', 'infinity', '\\x00ff', '1.500', '-0', 'NaN', '{\"b\": 1, \"a\": [null]}', '{\"x\": 1.10}',
             'a:1 b:2', '[1,5)', '(1,2)', '(1,\"{x,NULL}\")', 'sad', 7, '[0:1]={1,2}', '1010', '10.0.0.1', '00112233-4455-6677-8899-aabbccddeeff', 'ab', 'n', '10:30', 4294967295, 'it''s')",
        );
        s.run("INSERT INTO t (i) VALUES (NULL)");
    }
    s.run("DELETE FROM t WHERE ctid IN (SELECT min(ctid::text)::tid FROM t GROUP BY d)");
    s.assert_replay_holds("t");
    assert_eq!(s.column("SELECT count(*) FROM threadline.audit_changes GROUP BY table_pk"), ["3", "3"]);
    for row in ["threadline.row_image(t)", "to_jsonb(t)"] {
        assert_eq!(
            s.column(&format!("SELECT a.status || a.complete FROM t CROSS JOIN LATERAL threadline.audit_as_of('t', {row}, 'infinity') a")),
            ["presenttrue", "presenttrue"],
            "{row}"
        );
    }
    s.run("UPDATE t SET n = 1.50 WHERE d = 7");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes WHERE old_pk IS NOT NULL"), 1, "another value");
    s.assert_replay_holds("t");
}

const STATEMENTS: [&str; 14] = [
    "INSERT INTO t SELECT a, b FROM t LIMIT 7",
    "INSERT INTO t VALUES (1, 'x'), (1, 'x'), (NULL, NULL), (2, 'y')",
    "UPDATE t SET a = coalesce(a, 0) % 3 + 1",
    "UPDATE t SET b = 'moved' WHERE a = 2",
    "UPDATE t SET a = a",
    "DELETE FROM t WHERE ctid IN (SELECT ctid FROM t LIMIT 3)",
    "DELETE FROM t WHERE a IS NULL",
    "SAVEPOINT s; INSERT INTO t VALUES (9, 'gone'); UPDATE t SET a = 9; ROLLBACK TO s",
    "SAVEPOINT s; UPDATE t SET b = 'kept' WHERE a = 1; RELEASE s",
    "WITH gone AS (DELETE FROM t WHERE a = 3 RETURNING *) INSERT INTO t SELECT * FROM gone UNION ALL SELECT * FROM gone",
    "TRUNCATE t",
    "INSERT INTO t SELECT g % 4, CASE WHEN g % 3 > 0 THEN 'z' END FROM generate_series(1, 40) g",
    "SELECT threadline.audit_enable('t')",
    "UPDATE t SET a = CASE a WHEN 1 THEN 2 WHEN 2 THEN 1 END WHERE a IN (1, 2)",
];

/// Random transactions, with the table's contents noted after each: as-of must give every one of them.
fn random_work(stem: &str, create: &str, options: &str) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(create);
    s.run(&format!("SELECT threadline.audit_enable('t', options => '{{\"key\": \"full_row\"{options}}}')"));
    let seed = std::process::id();
    println!("seed {seed}");
    let mut state = u64::from(seed);
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut moments = Vec::new();
    for _ in 0..20 {
        s.run("BEGIN");
        for _ in 0..=random(3) {
            s.run(STATEMENTS[random(STATEMENTS.len() as u64) as usize]);
        }
        s.run(if random(5) == 0 { "ROLLBACK" } else { "COMMIT" });
        if random(4) == 0 {
            s.copy_in("COPY t FROM STDIN", "1\tx\n1\tx\n\\N\t\\N\n").expect("copied");
        }
        moments.push((now(&mut s), s.column("SELECT t::text FROM t ORDER BY 1")));
    }
    s.assert_replay_holds("t");
    s.run("SET threadline.incomplete = error");
    for (no, (at, rows)) in moments.iter().enumerate() {
        assert_eq!(&as_of(&mut s, at), rows, "seed {seed}, at {at}");
        if no % 5 > 0 {
            continue;
        }
        let mut distinct = rows.clone();
        distinct.dedup();
        let present = s.number(&format!(
            "SELECT count(*) FROM (SELECT DISTINCT data_after AS row FROM threadline.audit_changes WHERE data_after IS NOT NULL) k
             CROSS JOIN LATERAL threadline.audit_as_of('t', k.row, '{at}'::timestamptz) a WHERE a.status = 'present' AND a.complete"
        ));
        assert_eq!(present, distinct.len() as i64, "seed {seed}, at {at}");
    }
    s.rows("SELECT threadline.incident_bundle(id) FROM threadline.audit_transactions");
}

#[test]
fn random_work_on_a_plain_table() {
    random_work("full_row_random", "CREATE TABLE t (a int, b text)", "");
}

#[test]
fn random_work_with_marks_and_no_noops() {
    random_work("full_row_marks", "CREATE TABLE t (a int, b text)", ", \"truncate\": \"mark\", \"skip_noop\": true");
}

#[test]
fn random_work_on_partitions() {
    random_work(
        "full_row_parts",
        "CREATE TABLE t (a int, b text) PARTITION BY LIST (a); CREATE TABLE t1 (b text, a int); ALTER TABLE t ATTACH PARTITION t1 FOR VALUES IN (1, 3); CREATE TABLE t2 PARTITION OF t DEFAULT",
        "",
    );
}

#[test]
fn a_restored_copy_goes_on() {
    let source = Database::new("full_row_dump");
    let mut old = source.session();
    old.run(&format!("CREATE TABLE t (gone int, a int, b text); ALTER TABLE t DROP COLUMN gone; {ENABLE}; INSERT INTO t VALUES (1, 'x'), (1, 'x')"));
    let at = now(&mut old);
    old.run("DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)");
    let cluster = Cluster::start("full_row_restore", &[]);
    let copy = Database::bare(&cluster.at, "full_row_copy");
    dump_restore(&source, &copy, false);
    let mut s = copy.session();
    // The dropped column is no more, so the columns have other numbers: a new shape as far as anybody can tell.
    assert_eq!(as_of(&mut s, &at), ["(1,x)", "(1,x)"]);
    assert_eq!(s.one("SELECT threadline.replay_check('t') ->> 'verdict'"), "unknown");
    s.run("SELECT threadline.audit_maintain(); SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1, 'x')");
    s.assert_replay_holds("t");
    assert_eq!(as_of(&mut s, "infinity"), ["(1,x)", "(1,x)"]);
    assert_eq!(as_of(&mut s, &at), ["(1,x)", "(1,x)"]);
}
