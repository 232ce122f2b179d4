//! Reading the past: history, as-of, one transaction, diffs, bundles; every filter must leave something out.

use crate::support::{Database, Session};

/// Row 1 lives through four transactions, row 2 through one; moments m0..m4 lie between them.
struct Story {
    db: Database,
    s: Session,
    moments: Vec<String>,
}

fn story(stem: &str) -> Story {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(
        "CREATE TABLE orders (id int PRIMARY KEY, state text, total numeric); SELECT threadline.audit_enable('orders')",
    );
    let mut moments = Vec::new();
    for (actor, sql) in [
        ("ann", "INSERT INTO orders VALUES (1, 'new', 10.00)"),
        ("bob", "UPDATE orders SET state = 'paid', total = 12.50"),
        ("ann", "INSERT INTO orders VALUES (2, 'new', 1)"),
        ("bob", "DELETE FROM orders WHERE id = 1"),
    ] {
        moments.push(s.one("SELECT clock_timestamp()"));
        s.run(&format!("BEGIN; SELECT threadline.set_actor('user', '{actor}'); {sql}; SELECT threadline.record_action('order.write', job_id => 'job-{actor}'); COMMIT"));
    }
    moments.push(s.one("SELECT clock_timestamp()"));
    Story { db, s, moments }
}

#[test]
fn history_is_newest_first_and_each_filter_excludes() {
    let Story { db: _db, mut s, moments, .. } = story("his_filters");
    let of =
        |s: &mut Session, args: &str| s.column(&format!("SELECT op FROM threadline.audit_history('orders', 1{args})"));
    assert_eq!(of(&mut s, ""), ["delete", "update", "insert"]);
    assert_eq!(of(&mut s, &format!(", since => '{}'", moments[1])), ["delete", "update"]);
    assert_eq!(of(&mut s, &format!(", until => '{}'", moments[2])), ["update", "insert"]);
    assert_eq!(of(&mut s, &format!(", since => '{}', until => '{}'", moments[1], moments[2])), ["update"]);
    assert_eq!(of(&mut s, ", max_rows => 2"), ["delete", "update"]);
    let update = s.one("SELECT id FROM threadline.audit_changes WHERE op = 'update'");
    assert_eq!(of(&mut s, &format!(", before_change => {update}")), ["insert"]);
    let exact = s.one("SELECT captured_at FROM threadline.audit_changes WHERE op = 'update'");
    assert_eq!(
        of(&mut s, &format!(", since => '{exact}', until => '{exact}'")),
        ["update"],
        "both ends belong to the window"
    );
    assert_eq!(s.column("SELECT op FROM threadline.audit_history('orders', 2)"), ["insert"]);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_history('orders', 99)"), 0);
    let who = s.column("SELECT actor_ref ->> 'id' FROM threadline.audit_history('orders', 1)");
    assert_eq!(who, ["bob", "bob", "ann"]);
    assert_eq!(
        s.number(
            "SELECT count(*) FROM threadline.audit_history('orders', 1) WHERE committed_at >= captured_at AND complete"
        ),
        3
    );
}

#[test]
fn untyped_literals_resolve() {
    let Story { db: _db, mut s, moments, .. } = story("his_literals");
    let at = &moments[2];
    for call in [
        "audit_history('orders', 1)".to_string(),
        "audit_history('orders', '1')".to_string(),
        "audit_history('orders', '{\"id\": 1}')".to_string(),
        "audit_history('orders', 1, '2001-01-01', 'infinity', 10)".to_string(),
        format!("audit_as_of('orders', 1, '{at}')"),
        format!("audit_as_of('orders', '1', '{at}')"),
        format!("audit_as_of('orders', '{{\"id\": \"1\"}}', '{at}')"),
        format!("audit_as_of('orders', 1::bigint, '{at}'::timestamptz)"),
        format!("audit_as_of(NULL::orders, '{at}')"),
    ] {
        assert!(s.number(&format!("SELECT count(*) FROM threadline.{call}")) >= 1, "{call}");
    }
    s.run("CREATE TABLE u (id uuid PRIMARY KEY); SELECT threadline.audit_enable('u'); INSERT INTO u VALUES ('00112233-4455-6677-8899-aabbccddeeff')");
    for key in [
        "'00112233-4455-6677-8899-aabbccddeeff'",
        "'00112233-4455-6677-8899-aabbccddeeff'::uuid",
        "'00112233-4455-6677-8899-aabbccddeeff'::text",
    ] {
        assert_eq!(s.number(&format!("SELECT count(*) FROM threadline.audit_history('u', {key})")), 1, "{key}");
    }
    assert_eq!(s.one("SELECT threadline.replay_check('orders') ->> 'verdict'"), "holds");
    s.run("PREPARE p AS SELECT count(*) FROM threadline.audit_history('orders', $1)");
    assert_eq!(s.one("EXECUTE p(1)"), "3");
    let by_text = s
        .client
        .query_one("SELECT count(*) FROM threadline.audit_history('orders', $1::text)", &[&"1"])
        .expect("text parameter");
    assert_eq!(by_text.get::<_, i64>(0), 3);
    let by_number = s
        .client
        .query_one("SELECT count(*) FROM threadline.audit_history('orders', $1::bigint)", &[&1_i64])
        .expect("bigint parameter");
    assert_eq!(by_number.get::<_, i64>(0), 3);
}

#[test]
fn as_of_has_a_status_for_each_answer() {
    let Story { db: _db, mut s, moments, .. } = story("his_asof");
    let of = |s: &mut Session, key: &str, at: &str| {
        s.one(&format!("SELECT concat_ws(' ', status, row_data ->> 'state', row_data ->> 'total', complete) FROM threadline.audit_as_of('orders', {key}, '{at}')"))
    };
    assert_eq!(of(&mut s, "1", &moments[0]), "never_seen t");
    assert_eq!(of(&mut s, "1", &moments[1]), "present new 10.00 t");
    assert_eq!(of(&mut s, "1", &moments[2]), "present paid 12.50 t");
    assert_eq!(of(&mut s, "1", &moments[4]), "deleted t");
    assert_eq!(of(&mut s, "77", &moments[4]), "never_seen t");
    assert_eq!(of(&mut s, "1", "2001-01-01"), "before_horizon f");
    let stamp = s.one("SELECT x.committed_at FROM threadline.audit_transactions x JOIN threadline.audit_changes c ON c.transaction_id = x.id WHERE c.op = 'update'");
    assert_eq!(of(&mut s, "1", &stamp), "present paid 12.50 t", "committed at T counts at T");
    assert_eq!(s.one(&format!("SELECT status || ' ' || (row_data ->> 'state') FROM threadline.audit_as_of('orders', 1, '{stamp}'::timestamptz - interval '1 microsecond')")), "present new");
    let facts = s.one(&format!(
        "SELECT a.change_id = c.id AND a.transaction_id = c.transaction_id AND a.committed_at = '{stamp}' FROM threadline.audit_as_of('orders', 1, '{}') a, threadline.audit_changes c WHERE c.op = 'update'",
        moments[2]
    ));
    assert_eq!(facts, "t");
}

#[test]
fn as_of_of_whole_table() {
    let Story { db: _db, mut s, moments, .. } = story("his_table");
    let of = |s: &mut Session, at: &str| {
        s.column(&format!("SELECT r::text FROM threadline.audit_as_of(NULL::orders, '{at}') r ORDER BY id"))
    };
    assert_eq!(of(&mut s, &moments[0]), Vec::<String>::new());
    assert_eq!(of(&mut s, &moments[1]), ["(1,new,10.00)"]);
    assert_eq!(of(&mut s, &moments[3]), ["(1,paid,12.50)", "(2,new,1)"]);
    assert_eq!(of(&mut s, &moments[4]), ["(2,new,1)"]);
    assert_eq!(
        s.column(&format!("SELECT total FROM threadline.audit_as_of(NULL::orders, '{}') WHERE id = 1", moments[2])),
        ["12.50"]
    );
    let horizon = s.failure("SELECT * FROM threadline.audit_as_of(NULL::orders, '2001-01-01')");
    assert!(!horizon.hint.is_empty() && horizon.message.contains("orders"), "{horizon:?}");
}

#[test]
fn as_of_follows_a_moved_key_and_refuses_the_future() {
    let Story { db: _db, mut s, .. } = story("his_moved");
    s.run("UPDATE orders SET id = 3 WHERE id = 2");
    assert_eq!(s.one("SELECT concat_ws(' ', status, row_data::text, moved_to::text) FROM threadline.audit_as_of('orders', 2, clock_timestamp())"), r#"deleted {"id": "3"}"#);
    assert_eq!(s.column("SELECT op FROM threadline.audit_history('orders', 3)"), ["update", "insert"]);
    assert_eq!(
        s.one("SELECT status || (row_data ->> 'state') FROM threadline.audit_as_of('orders', 3, 'infinity')"),
        "presentnew"
    );
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_as_of(NULL::orders, 'infinity')"), 1);
    for query in [
        "audit_as_of('orders', 3, clock_timestamp() + interval '1 day')",
        "audit_as_of(NULL::orders, clock_timestamp() + interval '1 day')",
    ] {
        s.refused(&format!("SELECT * FROM threadline.{query}"), &["22023"]);
    }
}

#[test]
fn a_past_time_is_unsettled_while_a_writer_of_then_is_in_flight() {
    let Story { db, mut s, .. } = story("his_settled");
    let mut writer = db.session();
    writer.run("BEGIN; INSERT INTO orders VALUES (50, 'open', 1)");
    let during = s.one("SELECT clock_timestamp()");
    let complete =
        |s: &mut Session| s.one(&format!("SELECT complete FROM threadline.audit_as_of('orders', 2, '{during}')"));
    assert_eq!(complete(&mut s), "f");
    writer.run("COMMIT");
    assert_eq!(complete(&mut s), "t");
    assert_eq!(
        s.one(&format!("SELECT status FROM threadline.audit_as_of('orders', 50, '{during}')")),
        "never_seen",
        "it committed later"
    );
}

#[test]
fn changes_of_a_transaction_oldest_first() {
    let Story { db: _db, mut s, .. } = story("his_tx");
    s.run("BEGIN; INSERT INTO orders VALUES (10, 'a', 1), (11, 'a', 1); UPDATE orders SET state = 'b' WHERE id = 10; DELETE FROM orders WHERE id = 10; COMMIT");
    let id = s.one("SELECT id FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1");
    assert_eq!(
        s.column(&format!(
            "SELECT op || ' ' || (table_pk ->> 'id') FROM threadline.audit_changes_for_transaction('{id}')"
        )),
        ["insert 10", "insert 11", "update 10", "delete 10"]
    );
    let nobody = "00000000-0000-0000-0000-000000000123";
    assert_eq!(s.number(&format!("SELECT count(*) FROM threadline.audit_changes_for_transaction('{nobody}')")), 0);
    assert_eq!(s.one(&format!("SELECT threadline.incident_bundle('{nobody}')")), "NULL");
}

#[test]
fn a_transaction_sees_its_own_changes_at_once() {
    let Story { db: _db, mut s, .. } = story("his_own");
    s.run("BEGIN; INSERT INTO orders VALUES (10, 'a', 1)");
    let own = "SELECT op FROM threadline.audit_changes_for_transaction(threadline.current_audit_transaction_id())";
    assert_eq!(s.column(own), ["insert"]);
    s.run("UPDATE orders SET state = 'b' WHERE id = 10");
    assert_eq!(s.column(own), ["insert", "update"]);
}

#[test]
fn actor_history_filters() {
    let Story { db: _db, mut s, moments, .. } = story("his_actor");
    let of = |s: &mut Session, args: &str| s.number(&format!("SELECT count(*) FROM threadline.actor_history({args})"));
    let (ann, nobody) = ("'{\"type\": \"user\", \"id\": \"ann\"}'", "'{\"type\": \"user\", \"id\": \"nobody\"}'");
    assert_eq!(of(&mut s, ann), 2);
    assert_eq!(of(&mut s, nobody), 0);
    assert_eq!(of(&mut s, "'{\"type\": \"user\"}'"), 4, "containment");
    assert_eq!(of(&mut s, &format!("{ann}, since => '{}'", moments[2])), 1);
    assert_eq!(of(&mut s, &format!("{ann}, until => '{}'", moments[2])), 1);
    assert_eq!(of(&mut s, &format!("{ann}, max_rows => 1")), 1);
    let times = s.column(&format!("SELECT occurred_at FROM threadline.actor_history({ann})"));
    assert!(times[0] > times[1], "newest first: {times:?}");
}

fn diff(s: &mut Session, op: &str, args: &str) -> (String, String) {
    let call = format!(
        "threadline.change_diff((SELECT id FROM threadline.audit_changes WHERE op = '{op}' ORDER BY id LIMIT 1){args})"
    );
    (
        s.one(&format!("SELECT {call} - '{{id,transaction_id,captured_at}}'::text[]")),
        s.one(&format!("SELECT {call} -> 'field_changes'")),
    )
}

#[test]
fn change_diff_has_the_documented_shape() {
    let Story { db: _db, mut s, .. } = story("his_diff");
    let (insert, fields) = diff(&mut s, "insert", "");
    assert_eq!(fields, "[]");
    for part in [
        r#""schema_version": 1"#,
        r#""before_values": "none""#,
        r#""op": "INSERT""#,
        r#""table_schema": "public""#,
        r#""table_name": "orders""#,
        r#""table_pk": {"id": "1"}"#,
    ] {
        assert!(insert.contains(part), "{part} in {insert}");
    }
    let (_, expanded) = diff(&mut s, "insert", ", expand_insert_fields => true");
    assert_eq!(
        expanded,
        r#"[{"kind": "set", "name": "id", "after": 1}, {"kind": "set", "name": "state", "after": "new"}, {"kind": "set", "name": "total", "after": 10.00}]"#
    );
    let (update, fields) = diff(&mut s, "update", "");
    assert!(update.contains(r#""before_values": "sparse""#), "{update}");
    assert_eq!(
        fields,
        r#"[{"name": "state", "after": "paid", "before": "new"}, {"name": "total", "after": 12.50, "before": 10.00}]"#
    );
    let (delete, fields) = diff(&mut s, "delete", "");
    assert_eq!(fields, "[]");
    assert!(delete.contains(r#""data_after": null"#), "{delete}");
    let (compat, _) = diff(&mut s, "insert", ", format => 'export_compat'");
    for part in [r#""op": "insert""#, r#""changed_fields": []"#, r#""changed_from": {}"#] {
        assert!(compat.contains(part), "{part} in {compat}");
    }
    assert_eq!(s.one("SELECT threadline.change_diff(-1)"), "NULL");
    s.refused("SELECT threadline.change_diff(id, format => 'v99') FROM threadline.audit_changes LIMIT 1", &["22023"]);
}

#[test]
fn change_diff_follows_json_to_what_changed_in_it() {
    let db = Database::new("his_paths");
    let mut s = db.session();
    s.run(
        "CREATE TABLE d (id int PRIMARY KEY, doc jsonb, tags text[], kind jsonb); SELECT threadline.audit_enable('d')",
    );
    let list = |change: &str| {
        format!(
            "jsonb_build_object('a', jsonb_build_object('b', 1.0, 'same', true, 'gone', null), 'list', (SELECT jsonb_agg({change} ORDER BY g) FROM generate_series(0, 11) g))"
        )
    };
    s.run(&format!("INSERT INTO d VALUES (1, {}, '{{x,y}}', '{{}}')", list("g")));
    s.run(&format!(
        "UPDATE d SET doc = ({} #- '{{a,gone}}') || '{{\"new\": [1]}}' || '{{\"a\": {{\"b\": 1.00, \"same\": true}}}}', tags = '{{x,z,w}}', kind = '[]'",
        list("CASE WHEN g IN (2, 10) THEN -g ELSE g END")
    ));
    let paths = s.column(
        "SELECT concat_ws(' ', f ->> 'name', p ->> 'path', p ->> 'kind', p -> 'before', p -> 'after')
         FROM threadline.audit_changes c, jsonb_array_elements(threadline.change_diff(c.id) -> 'field_changes') f
         LEFT JOIN LATERAL jsonb_array_elements(f -> 'paths') p ON true WHERE c.op = 'update'",
    );
    assert_eq!(
        paths,
        [
            r#"doc ["a", "b"] changed 1.0 1.00"#,
            r#"doc ["a", "gone"] removed null"#,
            r#"doc ["list", "2"] changed 2 -2"#,
            r#"doc ["list", "10"] changed 10 -10"#,
            r#"doc ["new"] added [1]"#,
            "kind",
            r#"tags ["1"] changed "y" "z""#,
            r#"tags ["2"] added "w""#,
        ]
    );
    let keys = |s: &mut Session, op: &str| {
        s.one(&format!(
            "SELECT string_agg(k, ',' ORDER BY k) FROM threadline.audit_changes c, jsonb_object_keys(threadline.change_diff(c.id, format => 'export_compat')) k WHERE c.op = '{op}'"
        ))
    };
    let flat =
        "captured_at,changed_fields,changed_from,data_after,id,op,table_name,table_pk,table_schema,transaction_id";
    assert_eq!((keys(&mut s, "insert").as_str(), keys(&mut s, "update").as_str()), (flat, flat));
    s.run("DELETE FROM d");
    assert_eq!(
        s.one("SELECT d - '{id,transaction_id,captured_at}'::text[] #- '{changed_from,doc}' FROM threadline.audit_changes c, threadline.change_diff(c.id, format => 'export_compat') d WHERE c.op = 'delete'"),
        r#"{"op": "delete", "table_pk": {"id": "1"}, "data_after": null, "table_name": "d", "changed_from": {"id": 1, "kind": [], "tags": ["x", "z", "w"]}, "table_schema": "public", "changed_fields": []}"#
    );
}

#[test]
fn a_bundle_holds_the_transaction_and_is_the_same_every_time() {
    let Story { db, mut s, .. } = story("his_bundle");
    let id = s.one("SELECT transaction_id FROM threadline.audit_changes WHERE op = 'update'");
    let bundle = s.one(&format!("SELECT threadline.incident_bundle('{id}')"));
    let part = |s: &mut Session, path: &str| s.one(&format!("SELECT threadline.incident_bundle('{id}') {path}"));
    assert_eq!(part(&mut s, "#>> '{transaction,id}'"), id);
    assert_eq!(part(&mut s, "#>> '{transaction,actor_ref,id}'"), "bob");
    assert_eq!(part(&mut s, "#>> '{actions,0,job_id}'"), "job-bob");
    assert_eq!(s.one(&format!("SELECT jsonb_array_length(threadline.incident_bundle('{id}') -> 'changes')")), "1");
    assert!(bundle.contains("field_changes") && bundle.contains("coverage"), "{bundle}");
    s.run("INSERT INTO orders VALUES (60, 'later', 1)");
    let mut other = db.session();
    other.run("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'");
    assert_eq!(
        other.one(&format!("SELECT threadline.incident_bundle('{id}')")),
        bundle,
        "the same bytes, whoever asks"
    );
}

#[test]
fn reading_needs_no_transaction_id() {
    let Story { db: _db, mut s, moments, .. } = story("his_readonly");
    let id = s.one("SELECT transaction_id FROM threadline.audit_changes WHERE op = 'update'");
    s.run("BEGIN READ ONLY");
    for query in [
        "SELECT * FROM threadline.audit_changes".to_string(),
        "SELECT * FROM threadline.audit_transactions".into(),
        "SELECT * FROM threadline.audit_actions".into(),
        "SELECT * FROM threadline.audit_tables".into(),
        "SELECT * FROM threadline.audit_schema_versions".into(),
        "SELECT * FROM threadline.audit_gaps".into(),
        "SELECT * FROM threadline.audit_status()".into(),
        "SELECT * FROM threadline.audit_cost()".into(),
        "SELECT * FROM threadline.audit_history('orders', 1)".into(),
        format!("SELECT * FROM threadline.audit_as_of('orders', 1, '{}')", moments[2]),
        format!("SELECT * FROM threadline.audit_as_of(NULL::orders, '{}')", moments[2]),
        format!("SELECT * FROM threadline.audit_changes_for_transaction('{id}')"),
        "SELECT * FROM threadline.actor_history('{\"type\": \"user\"}')".into(),
        "SELECT * FROM threadline.audit_timeline('orders', '{\"type\": \"user\"}')".into(),
        format!("SELECT * FROM threadline.audit_diff('orders', '{}', 'infinity')", moments[1]),
        "SELECT threadline.audit_export('csv')".into(),
        "SELECT threadline.incident_bundle_for(job_id => 'job-ann')".into(),
        "SELECT threadline.change_diff(id) FROM threadline.audit_changes".into(),
        format!("SELECT threadline.incident_bundle('{id}')"),
        "SELECT threadline.replay_check('orders'::regclass)".into(),
        "SELECT threadline.get_context()".into(),
    ] {
        s.rows(&query);
    }
    assert_eq!(s.one("SELECT pg_current_xact_id_if_assigned()"), "NULL");
    s.run("COMMIT");
}

#[test]
fn the_views_have_the_documented_columns() {
    let Story { db: _db, mut s, .. } = story("his_views");
    for (view, columns) in [
        (
            "audit_changes",
            "id bigint, transaction_id uuid, table_schema text, table_name text, table_pk jsonb, old_pk jsonb, op text, changed_fields text[], changed_from jsonb, data_after jsonb, captured_at timestamp with time zone, statement_no integer, schema_version integer",
        ),
        (
            "audit_transactions",
            "id uuid, commit_no bigint, xid xid8, started_at timestamp with time zone, occurred_at timestamp with time zone, committed_at timestamp with time zone, actor_ref jsonb, action_id uuid, correlation_id text, request_id text, job_id text, source text, context jsonb, session_user_name text, current_user_name text, application_name text, client_addr inet, backend_pid integer, snapshot pg_snapshot, change_count bigint, statements jsonb, origin bigint",
        ),
        (
            "audit_actions",
            "id uuid, name text, status text, verb text, category text, reason text, comment text, actor_ref jsonb, correlation_id text, request_id text, job_id text, inserted_at timestamp with time zone",
        ),
    ] {
        let found = s.one(&format!(
            "SELECT string_agg(attname || ' ' || replace(format_type(atttypid, atttypmod), 'name', 'text'), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'threadline.{view}'::regclass AND attnum > 0 AND NOT attisdropped"
        ));
        assert_eq!(found, columns, "{view}");
    }
    let kinds = s.column("SELECT relname FROM pg_class WHERE relnamespace = 'threadline'::regnamespace AND relkind = 'v' AND relname IN ('audit_changes', 'audit_transactions', 'audit_actions', 'audit_tables', 'audit_schema_versions', 'audit_gaps')");
    assert_eq!(kinds.len(), 6, "{kinds:?}");
    let version = s.one("SELECT schema_version FROM threadline.audit_changes ORDER BY id LIMIT 1");
    s.run("ALTER TABLE orders ADD COLUMN note text; UPDATE orders SET note = 'x'");
    assert_ne!(s.one("SELECT schema_version FROM threadline.audit_changes ORDER BY id DESC LIMIT 1"), version);
    assert!(s.number("SELECT count(*) FROM threadline.audit_schema_versions WHERE table_name = 'orders'") >= 2);
}

#[test]
fn status_is_the_first_thing_to_type() {
    let Story { db: _db, mut s, .. } = story("his_status");
    let found = s.rows("SELECT table_schema, table_name, changes, complete, last_change IS NOT NULL, since IS NOT NULL, size IS NOT NULL FROM threadline.audit_status()");
    let expected = ["public", "orders", "4", "t", "t", "t", "t"];
    assert_eq!(found, [expected.map(|v| Some(v.to_string())).to_vec()]);
}

#[test]
fn every_function_is_documented() {
    let Story { db: _db, mut s, .. } = story("his_comments");
    let silent = s.column(
        "SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'threadline'::regnamespace AND p.prorettype <> 'trigger'::regtype
         AND (p.proname ~ '^(audit_|replay_|incident_|change_|actor_|record_action|set_actor|put_context|get_context|current_)') AND obj_description(p.oid, 'pg_proc') IS NULL",
    );
    assert_eq!(silent, Vec::<String>::new());
}
