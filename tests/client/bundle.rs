//! Incident bundles: the neighbours of many changes at once are those that one would find alone; sets of transactions.

use serde_json::Value;

use crate::support::{Database, Session};

fn bundle(s: &mut Session, args: &str) -> Value {
    serde_json::from_str(&s.one(&format!("SELECT threadline.incident_bundle_for({args})"))).unwrap()
}

/// For every change of every transaction: what the bundle says and what a search for this one change finds.
fn assert_neighbours(s: &mut Session, what: &str) -> i64 {
    let wrong = s.column(
        "WITH told AS MATERIALIZED (
             SELECT (c #>> '{audit_change,id}')::bigint AS id, (c #>> '{previous_change,id}')::bigint AS previous, (c #>> '{next_change,id}')::bigint AS next
             FROM threadline.audit_transactions x CROSS JOIN LATERAL jsonb_array_elements(threadline.incident_bundle(x.id) -> 'changes') c)
         SELECT concat_ws(' ', c.op_name, c.table_pk::text, c.id::text, 'previous', t.previous::text, 'not', threadline.previous_change(c)::text, 'next', t.next::text, 'not', threadline.next_change(c)::text)
         FROM threadline.readable_change c LEFT JOIN told t ON t.id = c.id
         WHERE c.op <> 2 AND (t.id IS NULL OR t.previous IS DISTINCT FROM threadline.previous_change(c) OR t.next IS DISTINCT FROM threadline.next_change(c))",
    );
    assert_eq!(wrong, Vec::<String>::new(), "{what}");
    s.number("SELECT count(*) FROM threadline.audit_changes")
}

#[test]
fn neighbours_are_those_that_a_search_for_each_change_finds() {
    for (stem, options) in [
        ("bun_plain", ""),
        ("bun_delta", r#", options => '{"image": "delta"}'"#),
        ("bun_mark", r#", options => '{"truncate": "mark"}'"#),
    ] {
        let db = Database::new(stem);
        let mut s = db.session();
        s.run(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v int);
             CREATE FUNCTION aside() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN IF pg_trigger_depth() = 1 THEN UPDATE t SET v = v + 100 WHERE id = new.id + 1; END IF; RETURN NULL; END $$;
             CREATE TRIGGER a_aside AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION aside();
             INSERT INTO t VALUES (2, 0), (3, 0); SELECT threadline.audit_enable('t'{options});
             CREATE TABLE bag (v int); SELECT threadline.audit_enable('bag', options => '{{\"key\": \"full_row\"}}'); SELECT setseed(0.71)"
        ));
        let mut other = db.session();
        for round in 0..45 {
            let open = round % 15 == 3;
            if open {
                other.run(&format!(
                    "BEGIN; INSERT INTO t VALUES ({0}, 0), ({0} + 1, 0); UPDATE t SET v = 1 WHERE id = {0}",
                    2000 + round
                ));
            }
            let mut sql = String::from("BEGIN;");
            for _ in 0..s.number("SELECT 1 + (random() * 3)::int") {
                let (a, b) = (s.one("SELECT (random() * 9)::int"), s.one("SELECT (random() * 9)::int"));
                let kind = s.number("SELECT (random() * 7)::int");
                sql += &match kind {
                    0 => format!("INSERT INTO t VALUES ({a}, {b}) ON CONFLICT DO NOTHING;"),
                    1 => format!("DELETE FROM t WHERE id = {a};"),
                    2 | 3 => format!("UPDATE t SET v = v + 1 WHERE id BETWEEN {a} AND {a} + 3;"),
                    4 => format!("UPDATE t SET id = {b} WHERE id = {a} AND NOT EXISTS (SELECT FROM t WHERE id = {b});"),
                    5 => format!(
                        "UPDATE t SET id = -1 WHERE id = {a}; UPDATE t SET id = {a} WHERE id = {b}; UPDATE t SET id = {b} WHERE id = -1;"
                    ),
                    6 => format!("INSERT INTO bag VALUES ({a} % 3), ({a} % 3);"),
                    _ => format!(
                        "UPDATE bag SET v = {b} % 3 WHERE v = {a} % 3; SAVEPOINT s; DELETE FROM bag; ROLLBACK TO s;"
                    ),
                };
            }
            if s.try_run(&format!("{sql} COMMIT")).is_err() {
                s.run("ROLLBACK");
            }
            if round % 15 == 8 {
                other.run("COMMIT");
            }
            if stem == "bun_mark" && round == 30 {
                s.run("TRUNCATE t");
            }
        }
        assert!(assert_neighbours(&mut s, stem) > 60, "{stem}");
    }
}

#[test]
fn neighbours_of_rows_of_several_tables_and_keys() {
    let db = Database::new("bun_keys");
    let mut s = db.session();
    s.run(
        "CREATE TABLE a (x int, y text, v int, PRIMARY KEY (x, y)); CREATE TABLE b (id uuid PRIMARY KEY, v text);
         SELECT threadline.audit_enable('a'), threadline.audit_enable('b')",
    );
    for round in 0..4 {
        s.run(&format!(
            "BEGIN; INSERT INTO a SELECT g, 'k', {round} FROM generate_series(1, 90) g ON CONFLICT (x, y) DO UPDATE SET v = {round};
             INSERT INTO b SELECT md5(g::text)::uuid, 'v' FROM generate_series(1, 30) g ON CONFLICT (id) DO UPDATE SET v = 'w{round}';
             UPDATE a SET v = -1 WHERE x % 7 = {round}; COMMIT"
        ));
    }
    s.run("UPDATE a SET v = 9 WHERE x = 4; DELETE FROM b");
    assert!(assert_neighbours(&mut s, "several") > 400);
}

fn story(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('t')");
    for (job, request, actor, sql) in [
        ("j1", "r1", "ann", "INSERT INTO t VALUES (1, 'a')"),
        ("j1", "r2", "bob", "UPDATE t SET v = 'b'"),
        ("j2", "r3", "ann", "ALTER TABLE t ADD COLUMN w int; UPDATE t SET v = 'c'"),
    ] {
        s.run(&format!("BEGIN; SET LOCAL threadline.job_id = '{job}'; SET LOCAL threadline.request_id = '{request}'; SELECT threadline.set_actor('user', '{actor}'); {sql}; COMMIT"));
    }
    s.run("BEGIN; SELECT threadline.record_action('looked', correlation_id => 'c9'); COMMIT");
    (db, s)
}

#[test]
fn a_set_of_transactions_is_chosen_by_each_selector() {
    let (_db, mut s) = story("bun_for");
    let said = |b: &Value| {
        b["transactions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["transaction"]["request_id"].as_str().unwrap_or("-").to_string())
            .collect::<Vec<_>>()
    };
    for (args, expected) in [
        ("job_id => 'j1'", vec!["r1", "r2"]),
        ("request_id => 'r2'", vec!["r2"]),
        ("actor => '{\"type\": \"user\", \"id\": \"ann\"}'", vec!["r1", "r3"]),
        ("job_id => 'j1', actor => '{\"id\": \"ann\"}'", vec!["r1"]),
        ("correlation_id => 'c9'", vec!["-"]),
    ] {
        let found = bundle(&mut s, args);
        assert_eq!(said(&found), expected, "{args}");
        assert_eq!(found["coverage"]["complete"], true, "{args}: {}", found["coverage"]);
        assert_eq!(found["coverage"]["transactions"], expected.len());
    }
    let id = s.one("SELECT id FROM threadline.audit_transactions WHERE request_id = 'r3'");
    let alone: Value = serde_json::from_str(&s.one(&format!("SELECT threadline.incident_bundle('{id}')"))).unwrap();
    let third = bundle(&mut s, "request_id => 'r3'");
    assert_eq!(third["transactions"][0], alone);
    assert_eq!(third["selectors"], serde_json::json!({"request_id": "r3"}));
    assert_eq!(alone["changes"][0]["previous_change"]["data_after"]["v"], "b");
    assert_eq!(alone["schemas"][0]["schema_version"], alone["changes"][0]["audit_change"]["schema_version"]);
    let columns = |b: &Value| b["schemas"][0]["columns"].as_array().unwrap().len();
    assert_eq!(
        (columns(&bundle(&mut s, "request_id => 'r1'")["transactions"][0]), columns(&alone)),
        (2, 3),
        "the shape of then"
    );
    let moment = s.one("SELECT occurred_at FROM threadline.audit_transactions WHERE request_id = 'r2'");
    assert_eq!(said(&bundle(&mut s, &format!("since => '{moment}', until => '{moment}'"))), ["r2"]);
    assert_eq!(said(&bundle(&mut s, &format!("job_id => 'j1', since => '{moment}'"))), ["r2"]);
    assert_eq!(said(&bundle(&mut s, &format!("job_id => 'j1', until => '{moment}'"))), ["r1", "r2"]);
    s.run("BEGIN; SET LOCAL threadline.job_id = 'j7'; DELETE FROM t");
    assert_eq!(bundle(&mut s, "job_id => 'j7'")["coverage"]["listed_changes"], 1, "the caller's own");
    s.run("ROLLBACK");
}

#[test]
fn no_transaction_is_an_answer_and_no_selector_an_error() {
    let (_db, mut s) = story("bun_none");
    let none = bundle(&mut s, "job_id => 'never ran'");
    assert_eq!(none["transactions"], serde_json::json!([]));
    assert_eq!(
        none["coverage"],
        serde_json::json!({"complete": true, "reasons": [], "transactions": 0, "recorded_changes": 0, "listed_changes": 0, "gaps": []})
    );
    s.run("SELECT threadline.audit_disable('t')");
    let none = bundle(&mut s, "job_id => 'never ran'");
    assert_eq!(none["coverage"]["complete"], false);
    assert_eq!(none["coverage"]["reasons"], serde_json::json!(["gaps in the record"]));
    assert_eq!(none["coverage"]["gaps"][0]["reason"], "disabled");
    let failure = s.refused("SELECT threadline.incident_bundle_for()", &["22023"]);
    assert!(failure.hint.contains("job_id"), "{failure:?}");
    s.refused("SELECT threadline.incident_bundle_for(NULL, NULL)", &["22023"]);
}
