//! audit_timeline: every filter leaves something out, pages follow each other, the order is that of commits, and what an
//! application said is found by index.

use crate::support::{Database, Session, unique};

const ANN: &str = r#"{"type": "user", "id": "ann"}"#;

/// Two tables, five transactions.
fn story(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(
        "CREATE TABLE orders (id int PRIMARY KEY, state text, total numeric); CREATE TABLE users (id int PRIMARY KEY, name text);
         SELECT threadline.audit_enable('orders'), threadline.audit_enable('users')",
    );
    for (said, sql) in [
        (
            "SELECT threadline.set_actor('user', 'ann'); SET LOCAL threadline.correlation_id = 'c1'; SET LOCAL threadline.request_id = 'r1'; SET LOCAL threadline.job_id = 'j1'",
            "INSERT INTO orders VALUES (1, 'new', 10)",
        ),
        (
            "SELECT threadline.set_actor('user', 'bob'); SET LOCAL threadline.correlation_id = 'c2'; SET LOCAL threadline.request_id = 'r1'",
            "UPDATE orders SET state = 'paid' WHERE id = 1",
        ),
        (
            "SELECT threadline.set_actor('user', 'ann'); SELECT threadline.record_action('order.refund', correlation_id => 'c3', job_id => 'j1')",
            "INSERT INTO users VALUES (1, 'Ann'); UPDATE orders SET state = 'refunded' WHERE id = 1",
        ),
        (
            r#"SET LOCAL threadline.actor_ref = '{"type": "user", "id": "ann", "session": 7}'"#,
            "UPDATE users SET name = 'Anna'",
        ),
        ("", "DELETE FROM orders"),
    ] {
        s.run(&format!("BEGIN; {said}; {sql}; COMMIT"));
    }
    (db, s)
}

fn of(s: &mut Session, args: &str) -> Vec<String> {
    s.column(&format!("SELECT concat(table_name, ' ', op) FROM threadline.audit_timeline({args})"))
}

#[test]
fn it_is_newest_first_and_each_filter_leaves_something_out() {
    let (_db, mut s) = story("tl_filters");
    let all = ["orders delete", "users update", "orders update", "users insert", "orders update", "orders insert"];
    assert_eq!(of(&mut s, ""), all);
    assert_eq!(of(&mut s, "max_rows => NULL"), all);
    assert_eq!(of(&mut s, "max_rows => 0"), Vec::<String>::new());
    assert_eq!(of(&mut s, "max_rows => 2"), all[..2]);
    assert_eq!(of(&mut s, "'users'"), ["users update", "users insert"]);
    let three = ["users update", "orders update", "users insert", "orders insert"];
    assert_eq!(of(&mut s, &format!("actor => '{ANN}'")), three, "who says more of himself is found too");
    assert_eq!(of(&mut s, "actor => '{\"session\": 7}'"), ["users update"]);
    assert_eq!(of(&mut s, "actor => '{\"type\": \"user\"}'").len(), 5);
    assert_eq!(of(&mut s, "actor => '{\"type\": \"user\", \"id\": \"an\"}'"), Vec::<String>::new());
    assert_eq!(of(&mut s, "correlation_id => 'c2'"), ["orders update"]);
    assert_eq!(of(&mut s, "correlation_id => 'c3'"), ["orders update", "users insert"], "said by an action");
    assert_eq!(of(&mut s, "request_id => 'r1'"), ["orders update", "orders insert"]);
    assert_eq!(of(&mut s, "job_id => 'j1'"), ["orders update", "users insert", "orders insert"]);
    assert_eq!(of(&mut s, "job_id => 'j1', correlation_id => 'c3'"), ["orders update", "users insert"]);
    assert_eq!(of(&mut s, "job_id => 'j1', request_id => 'r1'"), ["orders insert"]);
    assert_eq!(of(&mut s, "op => 'insert'"), ["users insert", "orders insert"]);
    assert_eq!(of(&mut s, "op => 'snapshot'"), Vec::<String>::new());
    assert_eq!(of(&mut s, "changed_field => 'name'"), ["users update"]);
    assert_eq!(of(&mut s, "changed_field => 'total'"), Vec::<String>::new());
    assert_eq!(of(&mut s, r#"match => '{"state": "refunded"}'"#), ["orders delete", "orders update"]);
    assert_eq!(of(&mut s, r#"match => '{"state": "new", "id": 1}'"#), ["orders update", "orders insert"]);
    assert_eq!(of(&mut s, r#"match => '{"state": "lost"}'"#), Vec::<String>::new());
    assert_eq!(of(&mut s, &format!("'orders', '{ANN}', op => 'update'")), ["orders update"]);
    let exact = s.one("SELECT captured_at FROM threadline.audit_changes WHERE data_after ->> 'name' = 'Anna'");
    assert_eq!(of(&mut s, &format!("since => '{exact}'")), all[..2]);
    assert_eq!(of(&mut s, &format!("until => '{exact}'")), all[1..]);
    assert_eq!(
        of(&mut s, &format!("since => '{exact}', until => '{exact}'")),
        ["users update"],
        "both ends belong to it"
    );
    assert_eq!(of(&mut s, "since => 'infinity'"), Vec::<String>::new());
    assert_eq!(of(&mut s, "since => NULL, until => NULL"), all);
    let who = s.column("SELECT concat_ws(' ', actor_ref ->> 'id', action_name, correlation_id, request_id, job_id, complete) FROM threadline.audit_timeline(max_rows => 3)");
    assert_eq!(who, ["t", "ann t", "ann order.refund c3 j1 t"]);
}

#[test]
fn pages_follow_each_other_in_commit_order() {
    let db = Database::new("tl_pages");
    let mut s = db.session();
    s.run(
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY, v int);
         CREATE FUNCTION aside() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN IF pg_trigger_depth() = 1 THEN UPDATE t SET v = v + 100 WHERE id = new.id + 1; END IF; RETURN NULL; END $$;
         CREATE TRIGGER a_aside AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION aside();
         SELECT threadline.audit_enable('t'), threadline.audit_enable('u');
         INSERT INTO t SELECT g, 0 FROM generate_series(1, 8) g",
    );
    let mut long = db.session();
    long.run("BEGIN; INSERT INTO u VALUES (0, 0)");
    for round in 1..12 {
        s.run(&format!("BEGIN; UPDATE t SET v = v + 1 WHERE id <= {0}; INSERT INTO u VALUES ({round}, {round}); UPDATE t SET v = 0 WHERE id = 1 + {0}; COMMIT", round % 5));
    }
    long.run("INSERT INTO u VALUES (100, 0); COMMIT");
    let expected = s.column(
        "SELECT c.id FROM threadline.audit_changes c JOIN threadline.audit_transactions x ON x.id = c.transaction_id
         ORDER BY x.commit_no DESC, c.statement_no DESC, array_position('{truncate,delete,snapshot,insert,update}', c.op) DESC, c.id DESC",
    );
    assert_eq!(s.column("SELECT id FROM threadline.audit_timeline()"), expected);
    assert_eq!(
        expected[1],
        s.one("SELECT id FROM threadline.audit_changes WHERE table_name = 'u' AND table_pk @> '{\"id\": \"0\"}'"),
        "a long transaction counts from its commit"
    );
    for size in [1, 3, 7] {
        let mut paged: Vec<String> = Vec::new();
        loop {
            let before = paged.last().map_or(String::new(), |id| format!(", before_change => {id}"));
            let page = s.column(&format!("SELECT id FROM threadline.audit_timeline(max_rows => {size}{before})"));
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, expected, "pages of {size}");
    }
    let failure = s.refused("SELECT * FROM threadline.audit_timeline(before_change => 1)", &["22023"]);
    assert!(failure.message.contains("no change 1"), "{failure:?}");
}

#[test]
fn the_callers_own_transaction_is_the_newest() {
    let (_db, mut s) = story("tl_own");
    s.run("BEGIN; SET LOCAL threadline.job_id = 'j9'; INSERT INTO users VALUES (2, 'own'), (3, 'own')");
    assert_eq!(of(&mut s, "max_rows => 3"), ["users insert", "users insert", "orders delete"]);
    assert_eq!(of(&mut s, "job_id => 'j9'").len(), 2);
    let first = s.one("SELECT id FROM threadline.audit_timeline(max_rows => 1)");
    assert_eq!(of(&mut s, &format!("max_rows => 2, before_change => {first}")), ["users insert", "orders delete"]);
    s.run("ROLLBACK");
}

#[test]
fn targets_are_taken_as_audit_history_takes_them() {
    let db = Database::new("tl_targets");
    let mut s = db.session();
    s.run(
        "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE gone (id int PRIMARY KEY); CREATE TABLE never (id int PRIMARY KEY);
         SELECT threadline.audit_enable('p'), threadline.audit_enable('gone');
         INSERT INTO p VALUES (1, 'a'); INSERT INTO gone VALUES (1); DROP TABLE gone",
    );
    assert_eq!(of(&mut s, "'p'"), ["p insert"]);
    assert_eq!(of(&mut s, "'p1'"), ["p insert"]);
    assert_eq!(of(&mut s, "").len(), 2, "the history of a dropped table is there for the owner of the log");
    assert_eq!(s.failure("SELECT * FROM threadline.audit_timeline('gone')").code, "42P01");
    s.refused("SELECT * FROM threadline.audit_timeline('never')", &["42704"]);
    let reader = unique("tl_reader");
    s.run(&format!("CREATE ROLE {reader} LOGIN; SELECT threadline.audit_grant('{reader}', 'reader'); CREATE TABLE mine (id int PRIMARY KEY);
                    SELECT threadline.audit_enable('mine'); INSERT INTO mine VALUES (1); GRANT SELECT ON mine TO {reader}"));
    let mut r = db.session_as(&reader);
    r.run("BEGIN READ ONLY");
    assert_eq!(of(&mut r, ""), ["mine insert"]);
    assert_eq!(of(&mut r, "'mine'"), ["mine insert"]);
    assert_eq!(r.number("SELECT count(*) FROM threadline.audit_export('csv')"), 3);
    assert_eq!(r.number("SELECT count(*) FROM threadline.audit_diff('mine', 'infinity', 'infinity')"), 0);
    assert_eq!(r.one("SELECT threadline.incident_bundle_for(job_id => 'none') -> 'transactions'"), "[]");
    assert_eq!(r.one("SELECT pg_current_xact_id_if_assigned()"), "NULL");
    r.run("COMMIT");
    r.refused("SELECT * FROM threadline.audit_timeline('p')", &["42501"]);
    r.refused("SELECT * FROM threadline.audit_diff('p', 'infinity', 'infinity')", &["42501"]);
    r.refused("SELECT * FROM threadline.audit_export('csv', 'p')", &["42501"]);
    drop(r);
    s.run(&format!("SELECT threadline.audit_revoke_role('{reader}'); DROP OWNED BY {reader}; DROP ROLE {reader}"));
}

#[test]
fn arguments_that_mean_nothing_are_refused() {
    let (_db, mut s) = story("tl_errors");
    let failure = s.refused("SELECT * FROM threadline.audit_timeline(op => 'upsert')", &["22023"]);
    assert!(failure.hint.contains("snapshot"), "{failure:?}");
    s.refused("SELECT * FROM threadline.audit_timeline(match => '[1]')", &["22023"]);
    s.refused("SELECT * FROM threadline.audit_timeline(max_rows => -1)", &["22023"]);
}

#[test]
fn a_gap_shows_in_the_rows_of_its_table_only() {
    let (_db, mut s) = story("tl_gap");
    s.run("SELECT threadline.audit_disable('users')");
    assert_eq!(
        s.column("SELECT DISTINCT concat(table_name, ' ', complete) FROM threadline.audit_timeline() ORDER BY 1"),
        ["orders t", "users f"]
    );
    let before = s.one("SELECT min(committed_at) FROM threadline.audit_transactions");
    assert_eq!(
        s.column(&format!("SELECT DISTINCT complete FROM threadline.audit_timeline('users', until => '{before}')")),
        Vec::<String>::new()
    );
}

/// A transaction of another table for each, and then one of a table that is hardly ever written.
#[test]
fn changes_of_a_table_are_found_behind_thousands_of_other_transactions() {
    let db = Database::new("tl_rare");
    let mut s = db.session();
    s.run("CREATE TABLE rare (id int PRIMARY KEY); CREATE TABLE busy (id int PRIMARY KEY, v int); SELECT threadline.audit_enable('rare'), threadline.audit_enable('busy')");
    s.run("INSERT INTO rare VALUES (1); INSERT INTO rare VALUES (2)");
    s.run("SET synchronous_commit = off");
    s.run("DO $$ BEGIN FOR g IN 1..5000 LOOP INSERT INTO busy VALUES (g, 0); COMMIT; END LOOP; END $$");
    assert_eq!(s.column("SELECT table_pk ->> 'id' FROM threadline.audit_timeline('rare', max_rows => 2)"), ["2", "1"]);
    assert_eq!(s.column("SELECT table_pk ->> 'id' FROM threadline.audit_timeline('rare', max_rows => 1)"), ["2"]);
    assert_eq!(
        s.column("SELECT table_pk ->> 'id' FROM threadline.audit_timeline(match => '{\"id\": 2}', op => 'insert')"),
        ["2", "2"]
    );
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_timeline(max_rows => NULL)"), 5002);
}

#[test]
fn what_was_said_is_in_the_indexes_however_long_it_is() {
    let (_db, mut s) = story("tl_indexes");
    s.run("SET synchronous_commit = off; SELECT threadline.audit_enable('orders')");
    // Random, so that it cannot be compressed into an index entry.
    let long = s.one("SELECT string_agg(md5(g::text), '') FROM generate_series(1, 300) g");
    s.run(&format!("BEGIN; SET LOCAL threadline.correlation_id = '{long}'; SET LOCAL threadline.request_id = '{long}'; SET LOCAL threadline.job_id = '{long}';
        SELECT set_config('threadline.actor_ref', jsonb_build_object('type', 'user', 'id', '{long}')::text, true);
        SELECT threadline.record_action('long'); INSERT INTO orders VALUES (77, 'long', 1); COMMIT"));
    let found = format!(
        "correlation_id => '{long}', request_id => '{long}', job_id => '{long}', actor => jsonb_build_object('type', 'user', 'id', '{long}')"
    );
    assert_eq!(of(&mut s, &found), ["orders insert"]);
    s.run("DO $$ BEGIN FOR g IN 1..3000 LOOP
             PERFORM set_config('threadline.correlation_id', 'c-' || g, true), set_config('threadline.request_id', 'r-' || g, true), set_config('threadline.job_id', 'j-' || g % 10, true);
             PERFORM threadline.set_actor('user', g % 100);
             UPDATE orders SET total = g WHERE id = 77; COMMIT; END LOOP; END $$");
    s.run("SELECT threadline.audit_maintain(); ANALYZE threadline.transaction_log");
    s.assert_log_indexes_are_sound();
    for (given, index, expected) in [
        ("NULL, 'c-1500', NULL, NULL", "correlation_id)", 1),
        ("NULL, NULL, 'r-1500', NULL", "request_id)", 1),
        ("NULL, NULL, NULL, 'j-5'", "job_id)", 300),
        (r#"'{"type": "user", "id": "42"}', NULL, NULL, NULL"#, "key_of_actor(actor_ref)", 30),
    ] {
        let statement = s.one(&format!("SELECT threadline.choosing_statement(threadline.selection_of({given}), NULL, 0, 9223372036854775807, 'infinity', 'infinity', true, 1000)"));
        let plan = s.column(&format!("SET enable_seqscan = off; EXPLAIN {statement}")).join("\n");
        assert!(
            plan.lines()
                .any(|line| line.contains("Index Cond: ((threadline.stretch_of_commit(") && line.contains(index)),
            "{given}:\n{plan}"
        );
        assert_eq!(
            s.number(&format!("RESET enable_seqscan; SELECT cardinality(x) FROM ({statement}) AS x (x)")),
            expected,
            "{given}"
        );
    }
    assert_eq!(
        s.number(r#"SELECT count(*) FROM threadline.audit_timeline(actor => '{"type": "user", "id": "42"}')"#),
        30
    );
}

#[test]
fn what_was_said_is_found_whatever_the_clock_said() {
    let db = Database::new("tl_clock");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY); SELECT threadline.audit_enable('t'); SET synchronous_commit = off");
    s.run("SET threadline.job_id = 'early'");
    s.run("DO $$ BEGIN FOR g IN 1..300 LOOP INSERT INTO t VALUES (g); COMMIT; END LOOP; END $$");
    // The clock was a day fast and has been set back since; meanwhile many numbers were drawn.
    s.run("UPDATE threadline.transaction_log SET committed_at = committed_at + interval '1 day'");
    s.run("SELECT setval('threadline.change_id_seq', 3 * (1 << 24))");
    s.run("SET threadline.job_id = 'late'");
    s.run("INSERT INTO t VALUES (1000)");
    assert_eq!(s.column("SELECT table_pk ->> 'id' FROM threadline.audit_timeline(job_id => 'late')"), ["1000"]);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_timeline(job_id => 'early', max_rows => NULL)"), 300);
    assert_eq!(
        s.one("SELECT threadline.incident_bundle_for(job_id => 'late') #>> '{coverage,transactions}'"),
        "1",
        "and so is it for bundles"
    );
}
