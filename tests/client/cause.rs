//! What made a transaction's changes: commands, call stacks, causes, and the tags of comments.

use postgres::{Client, Config, NoTls};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::support::{Database, Session};

const TRACE: &str = "00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01";
const TRACE_ID: &str = "5bd66ef5095369c7b0d1f8f4bd33716a";

fn shop(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let s = furnished(&db);
    (db, s)
}

fn furnished(db: &Database) -> Session {
    let mut s = db.session();
    s.run(
        "CREATE TABLE parent (id int PRIMARY KEY, v int);
         CREATE TABLE child (id int PRIMARY KEY, parent_id int CONSTRAINT child_parent REFERENCES parent ON DELETE CASCADE ON UPDATE SET NULL, v int);
         CREATE TABLE log (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, said text);
         INSERT INTO parent SELECT g, 0 FROM generate_series(1, 100) g; INSERT INTO child SELECT g, g, 0 FROM generate_series(1, 50) g;
         SELECT threadline.audit_enable(t, baseline => false) FROM unnest('{parent,child,log}'::regclass[]) t",
    );
    s
}

/// The statements of the transaction that committed last.
fn last(s: &mut Session) -> Value {
    let text =
        s.one("SELECT coalesce(statements, 'null') FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1");
    serde_json::from_str(&text).unwrap()
}

/// Of each entry of the last transaction the innermost function with its line, the command, and the changes.
fn lines(s: &mut Session) -> Vec<String> {
    let entries = last(s);
    let text = |value: &Value| value.as_str().unwrap_or("-").to_string();
    let shown = |e: &Value| {
        let frames = e["stack"].as_array().cloned().unwrap_or_default();
        let frames: Vec<String> = frames.iter().map(|f| format!("{}:{}", text(&f["fn"]), f["line"])).collect();
        format!("{} {} {}", text(&e["tag"]), e["changes"], frames.join(" < "))
    };
    entries.as_array().into_iter().flatten().map(|e| shown(e).trim_end().to_string()).collect()
}

/// Every change of the last transaction is of exactly one entry, and each entry has as many as it says.
fn assert_every_change_has_its_statement(s: &mut Session) {
    let wrong = s.rows(
        "SELECT a.no, a.changes, n.found
         FROM (SELECT x.id, x.statements FROM threadline.audit_transactions x ORDER BY x.commit_no DESC LIMIT 1) x
         CROSS JOIN LATERAL threadline.audit_statements(x.id) a
         FULL JOIN (SELECT c.transaction_id, threadline.statement_entry(y.statements, c.statement_no) AS no, count(*) AS found
                    FROM threadline.audit_changes c JOIN threadline.audit_transactions y ON y.id = c.transaction_id
                    WHERE y.commit_no = (SELECT max(commit_no) FROM threadline.audit_transactions)
                    GROUP BY 1, 2) n ON n.no = a.no
         WHERE a.changes IS DISTINCT FROM n.found",
    );
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn plain_commands_store_nothing() {
    let (_db, mut s) = shop("cause_plain");
    for statement in [
        "UPDATE parent SET v = 1 WHERE id = 1",
        "BEGIN; INSERT INTO parent VALUES (200, 1); DELETE FROM parent WHERE id = 99; UPDATE parent SET v = 2; COMMIT",
        "TRUNCATE log, child",
    ] {
        s.run(statement);
        assert_eq!(last(&mut s), json!(null), "{statement}");
        assert_every_change_has_its_statement(&mut s);
    }
    s.run("BEGIN; INSERT INTO parent VALUES (300, 1), (301, 2); DELETE FROM parent WHERE id = 98; COMMIT");
    let id = s.one("SELECT id FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1");
    let rows = s.rows(&format!("SELECT no, tag, changes, ranges FROM threadline.audit_statements('{id}')"));
    let row = |columns: [&str; 4]| columns.map(|column| Some(column.to_string())).to_vec();
    assert_eq!(rows, [row(["0", "INSERT", "2", "[[0, 0, 1]]"]), row(["1", "DELETE", "1", "[[1, 1, 1]]"])]);
}

#[test]
fn commands_whose_changes_do_not_say_them() {
    let (_db, mut s) = shop("cause_tags");
    s.copy_in("COPY parent FROM STDIN", "500\t1\n501\t1\n").unwrap();
    assert_eq!(last(&mut s), json!([{"no": 0, "tag": "COPY", "changes": 2}]));
    s.run("INSERT INTO parent VALUES (500, 1), (502, 1) ON CONFLICT (id) DO UPDATE SET v = 7");
    assert_eq!(last(&mut s), json!([{"no": 0, "tag": "INSERT", "changes": 2}]));
    s.run("WITH gone AS (DELETE FROM parent WHERE id = 502 RETURNING id) SELECT * FROM gone");
    assert_eq!(last(&mut s), json!([{"no": 0, "tag": "SELECT", "changes": 1}]));
    s.run("PREPARE p AS UPDATE parent SET v = $1 WHERE id = 500; EXECUTE p(3)");
    assert_eq!(last(&mut s), json!(null), "an UPDATE");
}

#[test]
fn nested_functions_with_lines() {
    let (_db, mut s) = shop("cause_stack");
    s.run(
        r#"CREATE SCHEMA "My App";
         CREATE FUNCTION "My App"."post.invoice ""x"" line 9 at"(a int, b text DEFAULT 'it''s') RETURNS void LANGUAGE plpgsql AS $$
         BEGIN
             UPDATE parent SET v = a WHERE id = 1;
             INSERT INTO log (said) VALUES (b);
         END $$;
         CREATE FUNCTION outermost() RETURNS int LANGUAGE plpgsql AS $$
         DECLARE r record;
         BEGIN
             PERFORM "My App"."post.invoice ""x"" line 9 at"(1);
             FOR r IN SELECT "My App"."post.invoice ""x"" line 9 at"(2) LOOP NULL; END LOOP;
             EXECUTE format('UPDATE parent SET v = %L WHERE id = 3', 5);
             RETURN 1;
         END $$;
         CREATE FUNCTION in_sql(a int) RETURNS int LANGUAGE sql AS $$
             UPDATE parent SET v = 0; UPDATE parent SET v = a WHERE id = 2; SELECT 1 $$"#,
    );
    s.run("SELECT outermost()");
    let inner = r#"fn:"My App"."post.invoice ""x"" line 9 at"/2"#;
    assert_eq!(
        lines(&mut s),
        [
            format!("SELECT 1 {inner}:3 < fn:public.outermost/0:4"),
            format!("SELECT 1 {inner}:4 < fn:public.outermost/0:4"),
            format!("SELECT 1 {inner}:3 < fn:public.outermost/0:5"),
            format!("SELECT 1 {inner}:4 < fn:public.outermost/0:5"),
            "SELECT 1 fn:public.outermost/0:6".to_string(),
        ]
    );
    assert_every_change_has_its_statement(&mut s);
    s.run("SELECT in_sql(4)");
    let frame = |statement: i32| json!([{"fn": "fn:public.in_sql/1", "statement": statement}]);
    let entries = last(&mut s);
    assert_eq!((&entries[0]["stack"], &entries[1]["stack"]), (&frame(1), &frame(2)), "{entries}");
    s.run("ALTER FUNCTION outermost() RENAME TO renamed; ALTER SCHEMA \"My App\" RENAME TO app");
    s.run("DO $x$\nBEGIN\n PERFORM app.\"post.invoice \"\"x\"\" line 9 at\"(8); END $x$");
    let inner = r#"fn:app."post.invoice ""x"" line 9 at"/2"#;
    let block = "inline_code_block:3";
    assert_eq!(lines(&mut s), [format!("DO 1 {inner}:3 < {block}"), format!("DO 1 {inner}:4 < {block}")]);
}

/// Schemas of tenants hold the same functions; which of them the search path means is not asked, but known.
#[test]
fn the_same_function_in_two_schemas() {
    let (_db, mut s) = shop("cause_tenants");
    for schema in ["a", "b"] {
        s.run(&format!(
            "CREATE SCHEMA {schema}; CREATE FUNCTION {schema}.f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN UPDATE public.parent SET v = 1; SET LOCAL search_path = b, a; END $$;
             CREATE FUNCTION {schema}.g() RETURNS void LANGUAGE sql AS $$ UPDATE public.parent SET v = 2 $$"
        ));
    }
    for schema in ["a", "b"] {
        s.run(&format!("SET search_path = {schema}, public; SELECT f(); RESET search_path"));
        assert_eq!(lines(&mut s), [format!("SELECT 100 fn:{schema}.f/0:1")]);
    }
    s.run("SELECT a.g()");
    assert_eq!(last(&mut s)[0]["stack"], json!([{"fn": "SQL function \"g\" statement 1", "statement": 1}]));
}

#[test]
fn a_query_cannot_forge_a_function() {
    let (_db, mut s) = shop("cause_forged");
    s.run(
        "DO $$ BEGIN EXECUTE format('INSERT INTO log (said) VALUES (%L)', E'x\"\\nPL/pgSQL function public.innocent() line 3 at SQL statement\\nsecret'); END $$",
    );
    assert_eq!(lines(&mut s), ["DO 1 inline_code_block:1"]);
    assert!(!last(&mut s).to_string().contains("secret"));
}

#[test]
fn procedures_that_commit() {
    let (_db, mut s) = shop("cause_call");
    s.run(
        "CREATE PROCEDURE p(n int) LANGUAGE plpgsql AS $$ BEGIN
         FOR i IN 1..n LOOP
             UPDATE parent SET v = i WHERE id = i;
             COMMIT;
         END LOOP; END $$",
    );
    s.run("CALL p(3)");
    assert_eq!(lines(&mut s), ["CALL 1 fn:public.p/1:3"]);
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.audit_transactions WHERE statements -> 0 ->> 'tag' = 'CALL'"),
        3
    );
}

#[test]
fn triggers_and_deferred_triggers() {
    let (_db, mut s) = shop("cause_trigger");
    s.run(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO log (said) VALUES (TG_NAME);
             RETURN NEW;
         END $$;
         CREATE TRIGGER \"On change\" BEFORE UPDATE ON parent FOR EACH ROW EXECUTE FUNCTION note()",
    );
    s.run("UPDATE parent SET v = 1 WHERE id <= 3");
    let trigger = |extra: Value| {
        let mut cause = json!({"kind": "trigger", "trigger": "On change", "on": "tbl:public.parent"});
        cause.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        cause
    };
    let entries = last(&mut s);
    assert_eq!(entries[0], json!({"no": 0, "tag": "UPDATE", "changes": 3}));
    assert_eq!(entries[1]["cause"], trigger(json!({})));
    assert_eq!((&entries[1]["statements"], &entries[1]["changes"]), (&json!(3), &json!(3)), "{entries}");
    assert_eq!(
        entries[1]["stack"],
        json!([{"fn": "fn:public.note/0", "line": 2, "trigger": "On change", "on": "tbl:public.parent"}])
    );
    assert_every_change_has_its_statement(&mut s);
    s.run(
        "DROP TRIGGER \"On change\" ON parent;
         CREATE CONSTRAINT TRIGGER \"On change\" AFTER UPDATE ON parent DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
         CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN UPDATE parent SET v = 3 WHERE id = 1; COMMIT; END $$",
    );
    s.run("BEGIN; UPDATE parent SET v = 2 WHERE id = 1; COMMIT");
    let entries = last(&mut s);
    assert_eq!(entries[1]["cause"], trigger(json!({"deferred": true})));
    assert_eq!(entries[1].get("tag"), None, "no command runs at commit");
    s.run("CALL p()");
    assert_eq!(last(&mut s)[1]["cause"], trigger(json!({"deferred": true})), "at COMMIT inside a procedure");
    s.run("BEGIN; UPDATE parent SET v = 4 WHERE id = 1; SET CONSTRAINTS ALL IMMEDIATE; COMMIT");
    let entries = last(&mut s);
    assert_eq!((&entries[1]["cause"], &entries[1]["tag"]), (&trigger(json!({})), &json!("SET CONSTRAINTS")));
}

#[test]
fn foreign_key_actions() {
    let (_db, mut s) = shop("cause_fk");
    s.run("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DELETE FROM parent WHERE id <= 40; UPDATE parent SET id = 1041 WHERE id = 41; END $$");
    s.run("SELECT f()");
    let cause = |action: &str| json!({"kind": "foreign_key", "on": "tbl:public.child", "constraint": "child_parent", "action": action});
    let entries = last(&mut s);
    let of = |entries: &Value, action: &str| {
        entries
            .as_array()
            .unwrap()
            .iter()
            .find(|e| e["cause"] == cause(action))
            .unwrap_or_else(|| panic!("{action}: {entries}"))
            .clone()
    };
    let cascade = of(&entries, "cascade");
    assert_eq!((&cascade["changes"], &cascade["statements"]), (&json!(40), &json!(40)));
    assert_eq!(cascade["stack"], json!([{"fn": "fn:public.f/0", "line": 1}]));
    assert_eq!(of(&entries, "set null")["changes"], 1);
    assert_eq!(entries.as_array().unwrap().len(), 3, "both statements stand on one line: {entries}");
    assert_every_change_has_its_statement(&mut s);
    // The parent need not be under capture.
    s.run("SELECT threadline.audit_disable('parent'); DELETE FROM parent WHERE id = 42");
    assert_eq!(last(&mut s)[0]["cause"], cause("cascade"));
    s.run("CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (0); ALTER TABLE child ADD CONSTRAINT second FOREIGN KEY (v) REFERENCES other ON DELETE CASCADE; DELETE FROM parent WHERE id = 43");
    assert_eq!(
        last(&mut s)[0]["cause"],
        json!({"kind": "foreign_key", "on": "tbl:public.child", "action": "cascade"}),
        "which one is not certain"
    );
    s.run("BEGIN; UPDATE child SET v = NULL WHERE id = 44; DELETE FROM child WHERE id = 44; COMMIT");
    assert_eq!(last(&mut s), json!(null), "by itself");
}

#[test]
fn a_long_loop_is_folded() {
    let (_db, mut s) = shop("cause_loop");
    s.run(
        "DO $$ BEGIN FOR i IN 1..10000 LOOP
             UPDATE parent SET v = i WHERE id = i % 100 + 1;
             INSERT INTO child VALUES (i + 1000, i % 100 + 1, i);
         END LOOP; END $$",
    );
    let entries = last(&mut s);
    assert_eq!(entries.as_array().unwrap().len(), 2);
    for entry in entries.as_array().unwrap() {
        assert_eq!((&entry["changes"], &entry["statements"]), (&json!(10_000), &json!(10_000)));
    }
    assert_every_change_has_its_statement(&mut s);
    s.run("DO $$ BEGIN FOR i IN 1..10000 LOOP UPDATE parent SET v = i WHERE id = 1; END LOOP; END $$");
    let size = s
        .number("SELECT pg_column_size(statements) FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1");
    assert!(size < 300, "{size} bytes: {}", last(&mut s));
}

#[test]
fn rolled_back_savepoints_take_their_statements_along() {
    let (_db, mut s) = shop("cause_savepoint");
    s.run(
        "CREATE FUNCTION f(fails boolean) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
             UPDATE parent SET v = 1 WHERE id = 1;
             BEGIN
                 UPDATE parent SET v = 2 WHERE id = 2;
                 IF fails THEN RAISE 'no'; END IF;
             EXCEPTION WHEN OTHERS THEN UPDATE parent SET v = 3 WHERE id = 3;
             END; END $$",
    );
    s.run("SELECT f(true)");
    assert_eq!(lines(&mut s), ["SELECT 1 fn:public.f/1:2", "SELECT 1 fn:public.f/1:6"]);
    assert_every_change_has_its_statement(&mut s);
    s.run("BEGIN; SELECT f(false); SAVEPOINT a; SELECT f(true); ROLLBACK TO a; SELECT f(false); RELEASE a; COMMIT");
    assert_eq!(lines(&mut s), ["SELECT 2 fn:public.f/1:2", "SELECT 2 fn:public.f/1:4"]);
    assert_every_change_has_its_statement(&mut s);
}

#[test]
fn tags_of_comments() {
    let (_db, mut s) = shop("cause_comment");
    let says = |s: &mut Session| {
        s.one("SELECT concat_ws('|', correlation_id, source, context -> 'from_comment') FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1")
    };
    let comment = format!("/*action='post',application='shop%20front',route='%2Fpay%2F%3Aid',traceparent='{TRACE}'*/");
    s.run(&format!("UPDATE parent SET v = 1 WHERE id = 1 {comment}"));
    let tags = json!({"action": "post", "application": "shop front", "route": "/pay/:id", "traceparent": TRACE});
    assert_eq!(last(&mut s), json!([{"no": 0, "tag": "UPDATE", "changes": 1, "tags": tags}]));
    assert_eq!(says(&mut s), format!("{TRACE_ID}|shop front|[\"correlation_id\", \"source\"]"));
    s.run(&format!(
        "BEGIN; SET LOCAL threadline.correlation_id = 'mine'; UPDATE parent SET v = 1 WHERE id = 1 {comment}; COMMIT"
    ));
    assert_eq!(says(&mut s), "mine", "a comment inside the string is not at its end");
    s.run(&format!(
        "BEGIN; SET LOCAL threadline.correlation_id = 'mine'; UPDATE parent SET v = 1 WHERE id = 1; COMMIT {comment}"
    ));
    assert_eq!(says(&mut s), "mine|shop front|[\"source\"]", "the setting wins");
    s.run(&format!("BEGIN; SET LOCAL threadline.context = '{{\"a\":1}}'; UPDATE parent SET v = 1; UPDATE child SET v = 1; COMMIT; {comment} ; "));
    assert_eq!(
        (&last(&mut s)[0]["tags"], &last(&mut s)[0]["statements"]),
        (&tags, &json!(2)),
        "of every statement of the string"
    );
    assert_eq!(
        s.one("SELECT context FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1"),
        "{\"a\": 1, \"from_comment\": [\"correlation_id\", \"source\"]}"
    );
    for (id, text) in [
        "UPDATE parent SET v = 1 WHERE id = 1 /*traceparent='00-xx'*/",
        "UPDATE parent SET v = 1 WHERE id = 1 /*traceparent=*/",
        "UPDATE parent SET v = 1 WHERE id = 1 /*%ff='%00',route='%ff%00'*/",
        "UPDATE parent SET v = 1 WHERE id = 1 -- /*route='x'*/",
        "INSERT INTO log (said) VALUES ('/*route=''x''*/')",
        "INSERT INTO log (said) VALUES ($$/*route='x'*/$$)",
        "/*route='x'*/ UPDATE parent SET v = 1 WHERE id = 1",
    ]
    .iter()
    .enumerate()
    {
        s.run(text);
        assert_eq!((last(&mut s), says(&mut s)), (json!(null), String::new()), "{id} {text}");
    }
}

fn client(db: &Database) -> Client {
    Config::new().host(&db.at.socket_dir).port(db.at.port).user(&db.at.user).dbname(&db.name).connect(NoTls).unwrap()
}

#[test]
fn a_prepared_statement_carries_no_stale_trace() {
    let (db, mut s) = shop("cause_prepared");
    let mut client = client(&db);
    s.run("CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN FOR r IN SELECT 1 LOOP UPDATE parent SET v = 1 WHERE id = 1; END LOOP; RETURN 1; END $$");
    for query in ["UPDATE parent SET v = v + $1 WHERE id = 1", "SELECT f() + $1"] {
        let prepared = client.prepare(&format!("{query} /*application='app',traceparent='{TRACE}'*/")).unwrap();
        for _ in 0..2 {
            client.execute(&prepared, &[&1]).unwrap();
            assert_eq!(last(&mut s)[0]["tags"], json!({"application": "app"}), "{query}");
            assert_eq!(s.one("SELECT concat_ws('|', correlation_id, source) FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1"), "app");
        }
    }
    // A portal of the client's own, and in it a cursor of the function's.
    let prepared = client.prepare(&format!("SELECT f() + $1 /*traceparent='{TRACE}'*/")).unwrap();
    let mut transaction = client.transaction().unwrap();
    let portal = transaction.bind(&prepared, &[&1]).unwrap();
    transaction.query_portal(&portal, 1).unwrap();
    transaction.commit().unwrap();
    assert_eq!(last(&mut s)[0].get("tags"), None);
    // EXECUTE is sent anew each time.
    client.batch_execute("PREPARE again AS UPDATE parent SET v = 9 /*application='old'*/").unwrap();
    client.batch_execute(&format!("EXECUTE again /*traceparent='{TRACE}'*/")).unwrap();
    assert_eq!(last(&mut s), json!([{"no": 0, "tag": "UPDATE", "changes": 100, "tags": {"traceparent": TRACE}}]));
    client.batch_execute("EXECUTE again").unwrap();
    assert_eq!(last(&mut s), json!(null));
}

#[test]
fn query_ids() {
    let (_db, mut s) = shop("cause_query_id");
    s.run("SET compute_query_id = on");
    s.run("UPDATE parent SET v = 1 WHERE id = 1");
    let id = last(&mut s)[0]["query_id"].clone();
    assert!(id.is_i64(), "{id}");
    s.run("UPDATE parent SET v = 2 WHERE id = 2");
    assert_eq!(last(&mut s)[0]["query_id"], id, "constants do not matter");
    s.run("SET threadline.capture_query = off");
    s.run("UPDATE parent SET v = 2 WHERE id = 2");
    assert_eq!(last(&mut s), json!(null));
}

#[test]
fn text_is_stored_only_where_nothing_is_redacted() {
    let (db, mut s) = shop("cause_text");
    let mut reader = reader(&db, &mut s);
    s.run("SET threadline.capture_query = text");
    s.run("INSERT INTO log (said) VALUES ('hush')");
    assert_eq!(last(&mut s)[0]["text"], "INSERT INTO log (said) VALUES ('hush')");
    let bundle =
        "SELECT threadline.incident_bundle(id) FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1";
    assert!(s.one(bundle).contains("VALUES ('hush')"));
    assert_eq!(
        last(&mut reader),
        json!([{"no": 0, "tag": "INSERT", "changes": 1}]),
        "only for who may read every table"
    );
    assert!(!reader.one(bundle).contains("hush"));
    s.run(&format!("INSERT INTO log (said) VALUES ('{}')", "é".repeat(5000)));
    let kept = last(&mut s)[0]["text"].as_str().unwrap().len();
    assert!((1..=4096).contains(&kept), "{kept}");
    s.run("SELECT threadline.audit_enable('child', mask => '{v}')");
    s.run("INSERT INTO log (said) VALUES ('hush')");
    assert_eq!(last(&mut s), json!([{"no": 0, "tag": "INSERT", "changes": 1}]));
    s.run("BEGIN; INSERT INTO log (said) VALUES ('hush')");
    assert!(!s.one("SELECT statements FROM threadline.audit_transactions WHERE commit_no IS NULL").contains("hush"));
    s.run("SELECT threadline.audit_enable('child', mask => '{}'); COMMIT");
    assert!(last(&mut s).to_string().contains("hush"), "decided at commit");
    assert_eq!(reader.failure("SET threadline.capture_query = off").code, "42501");
}

/// A session of a role that may read `child` and nothing else.
fn reader(db: &Database, s: &mut Session) -> Session {
    let role = crate::support::unique("reader");
    s.run(&format!(
        "CREATE ROLE {role} LOGIN; SELECT threadline.audit_grant('{role}', 'reader'); GRANT SELECT ON child TO {role}"
    ));
    db.session_as(&role)
}

#[test]
fn an_open_transaction_and_the_bundle_show_statements() {
    let (_db, mut s) = shop("cause_bundle");
    s.run("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN\nUPDATE parent SET v = 1 WHERE id = 1;\nDELETE FROM parent WHERE id = 2; END $$");
    s.run("BEGIN; SELECT f()");
    let id = s.one("SELECT threadline.current_audit_transaction_id()");
    let open =
        format!("SELECT string_agg(stack -> 0 ->> 'line', ',' ORDER BY no) FROM threadline.audit_statements('{id}')");
    assert_eq!(s.one(&open), "2,3,3");
    s.run("COMMIT");
    assert_eq!(s.one(&open), "2,3,3");
    let bundle: Value = serde_json::from_str(&s.one(&format!("SELECT threadline.incident_bundle('{id}')"))).unwrap();
    let changes = bundle["changes"].as_array().unwrap();
    let of = |no: &Value| bundle["statements"].as_array().unwrap().iter().find(|e| e["no"] == *no).unwrap().clone();
    let told: Vec<String> = changes
        .iter()
        .map(|c| {
            format!(
                "{} {} {}",
                c["audit_change"]["table_name"],
                of(&c["statement"])["stack"][0]["line"],
                of(&c["statement"])["cause"]["kind"]
            )
        })
        .collect();
    assert_eq!(told, ["\"parent\" 2 null", "\"parent\" 3 null", "\"child\" 3 \"foreign_key\""]);
    let change = s.number("SELECT max(id) FROM threadline.audit_changes WHERE table_name = 'child'");
    assert_eq!(s.one(&format!("SELECT cause ->> 'action' FROM threadline.change_statement({change})")), "cascade");
    assert_eq!(s.number("SELECT count(*) FROM threadline.change_statement(-1)"), 0);
}

#[test]
fn prepared_transactions_keep_their_statements() {
    let cluster = Cluster::start("cause_2pc", &["max_prepared_transactions=5"]);
    let db = Database::bare(&cluster.at, "cause_2pc");
    db.session().run("CREATE EXTENSION threadline_forensics");
    let mut s = furnished(&db);
    s.run("BEGIN; DO $$ BEGIN UPDATE parent SET v = 1 WHERE id = 1; END $$; PREPARE TRANSACTION 'one'");
    s.run("UPDATE parent SET v = 1 WHERE id = 2");
    s.run("COMMIT PREPARED 'one'");
    let all = s.column("SELECT coalesce(statements -> 0 ->> 'tag', '-') FROM threadline.audit_transactions WHERE change_count = 1 ORDER BY commit_no");
    assert_eq!(all, ["DO", "-"]);
}

/// Skipped where the server has no translations or the machine no locale to ask for them.
#[test]
fn a_translated_server_tells_the_same() {
    let (_db, mut s) = shop("cause_language");
    s.run(
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN\nUPDATE parent SET v = 1 WHERE id = 1; END $$",
    );
    let languages = ["de_DE.UTF-8", "fr_FR.UTF-8", "es_ES.UTF-8", "ja_JP.UTF-8"];
    let speaks = |s: &mut Session, language: &str| {
        s.try_run(&format!("SET lc_messages = '{language}'")).is_ok()
            && s.failure("SELECT 1/0").message != "division by zero"
    };
    let Some(language) = languages.into_iter().find(|language| speaks(&mut s, language)) else {
        eprintln!("skipped: no translated messages here");
        return;
    };
    s.run("SELECT f()");
    assert_eq!(lines(&mut s), ["SELECT 1 fn:public.f/0:2"], "{language}");
    assert_ne!(s.failure("SELECT 1/0").message, "division by zero", "the session goes on in its own language");
}
