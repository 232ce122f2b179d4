//! `options => '{"on_error": "warn"}'`: what cannot be recorded goes through, says so, and leaves a gap.

use crate::support::{Database, Session};

const WARN: &str = r#"options => '{"on_error": "warn"}'"#;

/// A table `w` that warns, and a table `f` that fails.
fn tables(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(&format!(
        "CREATE TABLE w (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('w', {WARN});
         CREATE TABLE f (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('f')"
    ));
    (db, s)
}

/// Takes a table of the record away.
fn drop_storage(s: &mut Session, table: &str) {
    s.run(&format!("ALTER EXTENSION threadline_forensics DROP TABLE threadline.{table}"));
    s.run(&format!("ALTER TABLE threadline.{table} RENAME TO {table}_gone"));
}

fn warnings(s: &mut Session) -> Vec<String> {
    let mut notices = s.notices.lock().unwrap();
    notices.drain(..).filter(|notice| notice.starts_with("WARNING: ")).collect()
}

/// The gaps of a table as `changes sqlstate`.
fn gaps(s: &mut Session, table: &str) -> Vec<String> {
    s.column(&format!(
        "SELECT concat_ws(' ', detail ->> 'changes', detail ->> 'sqlstate') FROM threadline.audit_gaps
         WHERE table_name = '{table}' AND reason = 'warn_on_error' ORDER BY since_at"
    ))
}

fn recorded(s: &mut Session) -> Vec<String> {
    s.column("SELECT concat_ws(' ', table_name, op, table_pk ->> 'id') FROM threadline.audit_changes WHERE op <> 'snapshot' ORDER BY id")
}

#[test]
fn a_value_without_json_form_goes_through_and_leaves_a_gap() {
    let db = Database::new("warn_value");
    let mut s = db.session();
    s.run("CREATE TYPE wrapped AS (j json); CREATE TABLE x (id int PRIMARY KEY, v wrapped, n text)");
    s.run(&format!("SELECT threadline.audit_enable('x', {WARN})"));
    s.run(r#"INSERT INTO x VALUES (1, ROW('{"a": 1}'), 'ok')"#);
    warnings(&mut s);
    s.run(r#"BEGIN; INSERT INTO x VALUES (2, ROW('{"a": "\u0000 s3cret"}'), 's3cret'); INSERT INTO x VALUES (3, ROW('{"a": "\u0000"}'), 'b'); INSERT INTO x VALUES (4, ROW('{}'), 'c'); COMMIT"#);
    let told = warnings(&mut s);
    assert_eq!(told.len(), 1, "once a kind and transaction: {told:?}");
    assert!(told[0].contains("public.x") && told[0].contains("\"v\""), "the table and the reason: {told:?}");
    assert_eq!(recorded(&mut s), ["x insert 1", "x insert 4"]);
    assert_eq!(gaps(&mut s, "x").len(), 1);
    assert_eq!(s.one("SELECT detail ->> 'changes' FROM threadline.audit_gaps WHERE reason = 'warn_on_error'"), "2");
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.gap WHERE detail::text LIKE '%s3cret%'"),
        0,
        "no value of a row in the gap"
    );
    assert_eq!(
        s.one("SELECT count(*) = 1 FROM threadline.audit_transactions x JOIN threadline.gap g ON g.detail ->> 'transaction_id' = x.id::text"),
        "t",
        "who wrote it is known"
    );
    // Every answer from then on, until there is a new baseline.
    assert_eq!(s.one("SELECT bool_or(complete) FROM threadline.audit_history('x', 1)"), "f");
    assert_eq!(s.one("SELECT complete FROM threadline.audit_as_of('x', 1, 'infinity')"), "f");
    assert_eq!(
        s.one("SELECT complete || ' ' || gaps::text FROM threadline.audit_status() WHERE table_name = 'x'"),
        "false {warn_on_error}"
    );
    assert_eq!(s.one("SELECT status FROM threadline.audit_coverage() WHERE table_name = 'x' AND findings @> '[{\"finding\": \"changes_lost\", \"changes\": 2}]'"), "covered");
    assert_eq!(s.one("SELECT severity FROM threadline.audit_health() WHERE check_name = 'lost_changes'"), "critical");
    s.run("DELETE FROM x WHERE id IN (2, 3)");
    assert_eq!(s.one("SELECT threadline.replay_check('x'::regclass) ->> 'complete'"), "false");
    s.run("SELECT pg_sleep(0.01); SELECT threadline.audit_enable('x')");
    assert_eq!(s.one("SELECT complete FROM threadline.audit_as_of('x', 1, 'infinity')"), "t", "a new baseline ends it");
    assert_eq!(s.one("SELECT severity FROM threadline.audit_health() WHERE check_name = 'lost_changes'"), "ok");
    s.assert_replay_holds("x");
}

#[test]
fn a_key_that_went_or_became_null_goes_through() {
    let (_db, mut s) = tables("warn_key");
    s.run(&format!("CREATE TABLE n (id int NOT NULL UNIQUE, v text); SELECT threadline.audit_enable('n', key_columns => '{{id}}', {WARN})"));
    s.run("ALTER TABLE n ALTER id DROP NOT NULL");
    s.run("INSERT INTO n VALUES (NULL, 'a'), (1, 'b')");
    assert_eq!(gaps(&mut s, "n"), ["1 23502"]);
    assert_eq!(recorded(&mut s), ["n insert 1"]);
    s.run("ALTER TABLE w DROP COLUMN id");
    s.run("INSERT INTO w VALUES ('x'), ('y')");
    assert_eq!(gaps(&mut s, "w"), ["2 42703"]);
    s.run("UPDATE w SET v = v || v; DELETE FROM w; TRUNCATE w");
    assert_eq!(gaps(&mut s, "w"), ["2 42703", "5 42703"], "two updates, two deletes and a truncate in one transaction");
    s.run("ALTER TABLE f DROP COLUMN id");
    s.refused("INSERT INTO f VALUES ('x')", &["42703"]);
}

#[test]
fn without_a_log_the_warned_go_through_and_the_others_fail() {
    let (_db, mut s) = tables("warn_log");
    drop_storage(&mut s, "change_log");
    s.run("INSERT INTO w VALUES (1, 'a')");
    assert!(warnings(&mut s)[0].contains("public.w"));
    assert_eq!(s.one("SELECT detail ->> 'changes' FROM threadline.gap WHERE reason = 'warn_on_error'"), "1");
    assert_eq!(s.failure("INSERT INTO f VALUES (1, 'a')").code, "55000");
    assert_eq!(
        s.failure("BEGIN; INSERT INTO w VALUES (2, 'b'); INSERT INTO f VALUES (2, 'b'); COMMIT").code,
        "55000",
        "a batch with rows of both"
    );
    s.run("ROLLBACK");
    assert_eq!(s.column("SELECT id FROM w"), ["1"]);
    assert_eq!(s.number("SELECT count(*) FROM f"), 0);
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.gap WHERE reason = 'warn_on_error'"),
        1,
        "no gap of what never was"
    );
    drop_storage(&mut s, "gap");
    s.run("INSERT INTO w SELECT g, 'c' FROM generate_series(10, 200) g");
    assert_eq!(s.number("SELECT count(*) FROM w"), 192, "even the gap cannot be written");
    assert!(!warnings(&mut s).is_empty());
}

#[test]
fn the_others_of_a_batch_are_not_lost() {
    let (_db, mut s) = tables("warn_batch");
    s.run(&format!("CREATE TABLE v (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('v', {WARN})"));
    let leaf = s.one("SELECT to_char(now() AT TIME ZONE 'UTC', '\"threadline.change_log_\"YYYY_MM')");
    // Direct insertion checks no constraint, but a unique index is one it keeps.
    s.run(&format!("CREATE UNIQUE INDEX once ON {leaf} (table_id, row_key, op)"));
    s.run("INSERT INTO w VALUES (1, 'a'); DELETE FROM w");
    warnings(&mut s);
    s.run("BEGIN; INSERT INTO f VALUES (7, 'f'); INSERT INTO w VALUES (1, 'again'); INSERT INTO v VALUES (8, 'v'); COMMIT");
    assert_eq!(recorded(&mut s), ["w insert 1", "w delete 1", "f insert 7", "v insert 8"]);
    assert_eq!(gaps(&mut s, "w"), ["1 23505"]);
    assert_eq!(gaps(&mut s, "v"), [""; 0]);
    assert_eq!(warnings(&mut s).len(), 1);
    assert_eq!(
        s.one("SELECT change_count FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1"),
        "2",
        "the transaction counts what is recorded"
    );
    s.run("DELETE FROM f");
    assert_eq!(s.failure("BEGIN; INSERT INTO v VALUES (9, 'v'); INSERT INTO f VALUES (7, 'f2'); COMMIT").code, "23505");
    s.run("ROLLBACK");
    assert_eq!(s.number("SELECT count(*) FROM v WHERE id = 9"), 0, "f's row must be recorded or nothing be written");
}

#[test]
fn statements_are_counted_without_what_is_lost() {
    let (_db, mut s) = tables("warn_statements");
    let leaf = s.one("SELECT to_char(now() AT TIME ZONE 'UTC', '\"threadline.change_log_\"YYYY_MM')");
    s.run(&format!("CREATE UNIQUE INDEX once ON {leaf} (table_id, row_key, op)"));
    s.run("INSERT INTO w VALUES (1, 'a'); DELETE FROM w");
    s.run(
        "DO $$ BEGIN
               INSERT INTO w VALUES (1, 'again'), (2, 'b');
               INSERT INTO f VALUES (1, 'c'), (2, 'd'), (3, 'e');
           END $$",
    );
    assert_eq!(gaps(&mut s, "w"), ["2 23505"]);
    let statements = "SELECT s.changes FROM threadline.audit_statements((SELECT id FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1)) s";
    assert_eq!(s.column(statements), ["0", "3"]);
}

#[test]
fn partitions_that_cannot_be_noted() {
    let db = Database::new("warn_partitions");
    let mut s = db.session();
    let parts = |name: &str| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE {name}1 PARTITION OF {name} FOR VALUES FROM (0) TO (10); CREATE TABLE {name}2 PARTITION OF {name} DEFAULT"
        )
    };
    s.run(&format!(
        "{}; SELECT threadline.audit_enable('p', {WARN}); {}; SELECT threadline.audit_enable('q')",
        parts("p"),
        parts("q")
    ));
    s.run("INSERT INTO p VALUES (1, 'a'), (11, 'b'); UPDATE p SET id = 12 WHERE id = 1; INSERT INTO q VALUES (1, 'a')");
    assert_eq!(gaps(&mut s, "p"), [""; 0]);
    db.session().run("CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (50) TO (60); UPDATE p SET id = 50 WHERE id = 12; UPDATE p SET id = 12 WHERE id = 50");
    assert_eq!(
        recorded(&mut s),
        ["p insert 1", "p insert 11", "p update 12", "q insert 1", "p update 50", "p update 12"],
        "a row that is on its way when a partition is noted arrives all the same"
    );
    s.assert_replay_holds("p");
    // In this session both are noted, and what TRUNCATE emptied is to be noted in the end.
    s.run("ALTER TABLE threadline.known_partition ADD CHECK (filenode <> 0) NOT VALID");
    assert_eq!(s.failure("TRUNCATE q1").code, "23514");
    s.run("TRUNCATE p2");
    assert_eq!(gaps(&mut s, "p"), ["0 23514"], "its rows are recorded");
    drop_storage(&mut s, "known_partition");
    let mut fresh = db.session();
    assert_eq!(fresh.failure("INSERT INTO q VALUES (2, 'b')").code, "55000");
    fresh.run("INSERT INTO p VALUES (2, 'b'), (13, 'c')");
    assert_eq!(s.number("SELECT count(*) FROM p"), 2);
    assert_eq!(
        s.one("SELECT detail ->> 'changes' FROM threadline.gap WHERE reason = 'warn_on_error' AND detail ->> 'sqlstate' = '55000'"),
        "2"
    );
}

#[test]
fn savepoints_blocks_and_prepared_transactions() {
    let (db, mut s) = tables("warn_savepoints");
    s.run("ALTER TABLE w ADD x text");
    s.run("BEGIN; INSERT INTO w VALUES (1, 'a'); SAVEPOINT p; INSERT INTO w VALUES (2, 'b'); ROLLBACK TO p; SAVEPOINT q; INSERT INTO w VALUES (3, 'c'); RELEASE q; INSERT INTO f VALUES (4, 'd'); COMMIT");
    assert_eq!(recorded(&mut s), ["w insert 1", "w insert 3", "f insert 4"]);
    s.run("BEGIN; SAVEPOINT a; INSERT INTO w SELECT g FROM generate_series(100, 170) g; SAVEPOINT b; INSERT INTO w SELECT g FROM generate_series(200, 270) g; COMMIT");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), 3 + 142);
    // More savepoints than one level holds rows for, each with a row of both kinds.
    s.run("BEGIN");
    for n in 1000..1200 {
        s.run(&format!("SAVEPOINT s; INSERT INTO w VALUES ({n}); INSERT INTO f VALUES ({n}); RELEASE s"));
    }
    s.run("COMMIT");
    s.run("DO $$ BEGIN FOR n IN 2000..2300 LOOP BEGIN INSERT INTO w VALUES (n); IF n % 3 = 0 THEN RAISE 'x'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$");
    s.assert_replay_holds("w");
    s.assert_replay_holds("f");
    let name = &db.name;
    s.run(&format!("BEGIN; INSERT INTO w VALUES (5000); PREPARE TRANSACTION '{name}'"));
    s.run(&format!("COMMIT PREPARED '{name}'"));
    s.assert_replay_holds("w");
    // What is lost in a savepoint that is rolled back never was.
    drop_storage(&mut s, "change_log");
    s.run("BEGIN; SAVEPOINT p; INSERT INTO w SELECT g FROM generate_series(6000, 6200) g; ROLLBACK TO p; COMMIT");
    assert_eq!(s.number("SELECT count(*) FROM threadline.gap WHERE reason = 'warn_on_error'"), 0);
    s.run("BEGIN; SAVEPOINT p; INSERT INTO w SELECT g FROM generate_series(6000, 6200) g; RELEASE p; INSERT INTO w VALUES (7000); COMMIT");
    assert_eq!(
        s.one("SELECT sum((detail ->> 'changes')::int) FROM threadline.gap WHERE reason = 'warn_on_error'"),
        "202"
    );
    s.run(&format!("BEGIN; INSERT INTO w VALUES (8000); PREPARE TRANSACTION '{name}'"));
    s.run(&format!("COMMIT PREPARED '{name}'"));
    assert_eq!(
        s.one("SELECT sum((detail ->> 'changes')::int) FROM threadline.gap WHERE reason = 'warn_on_error'"),
        "203"
    );
}

#[test]
fn a_lock_timeout_is_survived_and_a_cancellation_is_not() {
    let (db, mut s) = tables("warn_lock");
    let mut other = db.session();
    other.run("BEGIN; LOCK TABLE threadline.change_log IN ACCESS EXCLUSIVE MODE");
    // One by one: several statements sent together are one transaction, whose end waits for the log.
    s.run("SET lock_timeout = '50ms'");
    s.run("INSERT INTO w VALUES (1, 'a')");
    s.run("RESET lock_timeout");
    s.run("SET statement_timeout = '100ms'");
    assert_eq!(s.failure("INSERT INTO w SELECT g FROM generate_series(100, 300) g").code, "57014");
    s.run("RESET statement_timeout");
    other.run("ROLLBACK");
    assert_eq!(s.column("SELECT id FROM w"), ["1"]);
    assert_eq!(gaps(&mut s, "w"), ["1 55P03"]);
    s.run("INSERT INTO w VALUES (3, 'c')");
    assert_eq!(recorded(&mut s), ["w insert 3"]);
}

#[test]
fn truncate_goes_through_and_a_baseline_does_not() {
    let (_db, mut s) = tables("warn_truncate");
    s.run("CREATE TYPE wrapped AS (j json); CREATE TABLE x (id int PRIMARY KEY, v wrapped)");
    s.run(r#"INSERT INTO x VALUES (1, ROW('{}')), (2, ROW('{"a": "\u0000"}'))"#);
    let failure = s.failure(&format!("SELECT threadline.audit_enable('x', {WARN})"));
    assert_eq!(failure.code, "22P05", "a baseline is asked for: {failure:?}");
    s.run(&format!("SELECT threadline.audit_enable('x', baseline => false, {WARN}); TRUNCATE x"));
    assert_eq!(recorded(&mut s), ["x truncate 1"]);
    assert_eq!(gaps(&mut s, "x"), ["1 22P05"]);
    s.run("SELECT threadline.audit_enable('w', options => '{\"on_error\": \"warn\", \"truncate\": \"block\"}')");
    s.refused("TRUNCATE w", &["55000"]);
    s.run("SELECT threadline.audit_enable('w', options => '{\"on_error\": \"warn\", \"truncate\": \"mark\"}'); INSERT INTO w VALUES (1, 'a')");
    drop_storage(&mut s, "change_log");
    s.run("TRUNCATE w");
    assert_eq!(s.one("SELECT detail ->> 'changes' FROM threadline.gap JOIN threadline.captured_table USING (table_id) WHERE reason = 'warn_on_error' AND table_name = 'w'"), "1");
}

#[test]
fn without_its_own_row_a_transaction_goes_through_if_all_its_tables_warn() {
    let (_db, mut s) = tables("warn_transaction");
    drop_storage(&mut s, "transaction_log");
    s.run("INSERT INTO w VALUES (1, 'a')");
    assert_eq!(s.one("SELECT detail ->> 'message' LIKE 'the transaction''s own row%' FROM threadline.gap WHERE reason = 'warn_on_error'"), "t");
    assert_eq!(s.failure("INSERT INTO f VALUES (1, 'a')").code, "55000");
    assert_eq!(
        s.failure("BEGIN; INSERT INTO w VALUES (2, 'a'); SELECT threadline.record_action('x'); COMMIT").code,
        "55000"
    );
}

#[test]
fn deltas_and_warnings_exclude_each_other() {
    let (_db, mut s) = tables("warn_delta");
    s.refused(
        "SELECT threadline.audit_enable('w', options => '{\"on_error\": \"warn\", \"image\": \"delta\"}')",
        &["22023"],
    );
}
