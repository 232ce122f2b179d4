//! What a change looks like for each way of writing a row.

use crate::support::{CANONICAL, Database, Session};

fn captured(stem: &str, columns: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(&format!("CREATE TABLE t ({columns}); SELECT threadline.audit_enable('t')"));
    (db, s)
}

/// Every change of a table in order: op, key, old key, changed fields, old values, new image.
fn changes(s: &mut Session, table: &str) -> Vec<String> {
    s.column(&format!(
        "SELECT concat_ws(' ', op, table_pk, 'old_pk=' || old_pk::text, changed_fields, 'from=' || changed_from::text, 'after=' || data_after::text)
         FROM threadline.audit_changes WHERE table_name = '{table}' ORDER BY id"
    ))
}

fn count(s: &mut Session, condition: &str) -> i64 {
    s.number(&format!("SELECT count(*) FROM threadline.audit_changes WHERE {condition}"))
}

/// The newest image of each row that still lives must be what `to_jsonb` makes of it under the canonical settings.
fn assert_images_are_canonical(db: &Database, table: &str, key: &str) {
    let mut s = db.session();
    s.run(CANONICAL);
    let different = s.rows(&format!(
        "SELECT i.data_after, to_jsonb(t) FROM public.{table} t LEFT JOIN (
            SELECT DISTINCT ON (table_pk) table_pk, data_after FROM threadline.audit_changes WHERE table_name = '{table}' ORDER BY table_pk, id DESC) i
         ON i.table_pk ->> '{key}' = t.{key}::text WHERE i.data_after::text IS DISTINCT FROM to_jsonb(t)::text LIMIT 3"
    ));
    assert_eq!(different, Vec::<Vec<Option<String>>>::new());
}

#[test]
fn insert_update_delete() {
    let (_db, mut s) = captured("cap_iud", "id int PRIMARY KEY, z text, a numeric, n int");
    s.run("INSERT INTO t VALUES (1, 'x', 1.50, NULL)");
    s.run("UPDATE t SET z = 'y', a = NULL, n = 3");
    s.run("UPDATE t SET z = z");
    s.run("UPDATE t SET a = 1.0");
    s.run("UPDATE t SET a = 1.00");
    s.run("DELETE FROM t");
    assert_eq!(
        changes(&mut s, "t"),
        [
            r#"insert {"id": "1"} after={"a": 1.50, "n": null, "z": "x", "id": 1}"#,
            r#"update {"id": "1"} {a,n,z} from={"a": 1.50, "n": null, "z": "x"} after={"a": null, "n": 3, "z": "y", "id": 1}"#,
            r#"update {"id": "1"} after={"a": null, "n": 3, "z": "y", "id": 1}"#,
            r#"update {"id": "1"} {a} from={"a": null} after={"a": 1.0, "n": 3, "z": "y", "id": 1}"#,
            r#"update {"id": "1"} {a} from={"a": 1.0} after={"a": 1.00, "n": 3, "z": "y", "id": 1}"#,
            r#"delete {"id": "1"} from={"a": 1.00, "n": 3, "z": "y", "id": 1}"#,
        ]
    );
    let nulls = "changed_fields IS NULL AND changed_from IS NULL";
    assert_eq!(count(&mut s, &format!("op = 'insert' AND {nulls}")), 1);
    assert_eq!(count(&mut s, "op = 'delete' AND changed_fields IS NULL AND data_after IS NULL"), 1);
    assert_eq!(
        count(&mut s, &format!("op = 'update' AND {nulls}")),
        1,
        "an update without a difference is kept, its fields NULL"
    );
    assert_eq!(s.number("SELECT count(DISTINCT transaction_id) FROM threadline.audit_changes"), 6);
    s.assert_replay_holds("t");
}

#[test]
fn skip_noop_leaves_updates_without_a_difference_out() {
    let db = Database::new("cap_noop");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v numeric); SELECT threadline.audit_enable('t', options => '{\"skip_noop\": true}')");
    s.run("INSERT INTO t VALUES (1, 1.0); UPDATE t SET v = v; UPDATE t SET v = 1.00");
    assert_eq!(s.column("SELECT op FROM threadline.audit_changes ORDER BY id"), ["insert", "update"]);
    s.assert_replay_holds("t");
}

#[test]
fn copy_in_text_and_csv() {
    let (db, mut s) = captured("cap_copy", "id int PRIMARY KEY, v text, d date");
    let lines: String = (1..=3000).map(|i| format!("{i}\tline {i}\t2024-02-29\n")).collect();
    assert_eq!(s.copy_in("COPY t FROM STDIN", &lines).expect("copy"), 3000);
    s.copy_in("COPY t (id, v) FROM STDIN (FORMAT csv)", "4001,\"a,b\"\n4002,\n").expect("copy csv");
    assert_eq!(count(&mut s, "op = 'insert'"), 3002);
    assert_eq!(s.one("SELECT string_agg(change_count::text, ' ' ORDER BY commit_no) FROM threadline.audit_transactions WHERE change_count > 0"), "3000 2");
    assert_images_are_canonical(&db, "t", "id");
    let broken = s.copy_in("COPY t FROM STDIN", "5001\tok\t2024-01-01\n5002\tbad\tnot a date\n");
    assert!(broken.is_err());
    assert_eq!(count(&mut s, "table_pk = '{\"id\": \"5001\"}'"), 0, "nothing of a failed COPY");
    s.assert_replay_holds("t");
}

#[test]
fn on_conflict() {
    let (_db, mut s) = captured("cap_conflict", "id int PRIMARY KEY, n int");
    s.run("INSERT INTO t VALUES (1, 1)");
    s.run("INSERT INTO t VALUES (1, 9), (2, 2) ON CONFLICT DO NOTHING");
    s.run("INSERT INTO t AS x VALUES (2, 5), (3, 3) ON CONFLICT (id) DO UPDATE SET n = x.n + excluded.n");
    s.run("INSERT INTO t AS x VALUES (1, 0) ON CONFLICT (id) DO UPDATE SET n = 7 WHERE x.n > 100");
    assert_eq!(
        changes(&mut s, "t"),
        [
            r#"insert {"id": "1"} after={"n": 1, "id": 1}"#,
            r#"insert {"id": "2"} after={"n": 2, "id": 2}"#,
            r#"update {"id": "2"} {n} from={"n": 2} after={"n": 7, "id": 2}"#,
            r#"insert {"id": "3"} after={"n": 3, "id": 3}"#,
        ]
    );
    s.assert_replay_holds("t");
}

#[test]
fn merge() {
    let (_db, mut s) = captured("cap_merge", "id int PRIMARY KEY, n int");
    if s.version() < 150_000 {
        return;
    }
    s.run("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)");
    let tag = s.run(
        "MERGE INTO t USING (VALUES (1, 10), (2, 0), (4, 4)) AS x(id, n) ON t.id = x.id
         WHEN MATCHED AND x.n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = x.n WHEN NOT MATCHED THEN INSERT VALUES (x.id, x.n)",
    );
    assert_eq!(tag, 3);
    let mut found = changes(&mut s, "t").split_off(3);
    found.sort();
    assert_eq!(
        found,
        [
            r#"delete {"id": "2"} from={"n": 2, "id": 2}"#,
            r#"insert {"id": "4"} after={"n": 4, "id": 4}"#,
            r#"update {"id": "1"} {n} from={"n": 1} after={"n": 10, "id": 1}"#,
        ]
    );
    s.assert_replay_holds("t");
}

#[test]
fn prepared_statements_with_parameters() {
    let (_db, mut s) = captured("cap_params", "id bigint PRIMARY KEY, v text");
    let insert = s.client.prepare("INSERT INTO t VALUES ($1, $2)").expect("prepare");
    for i in 0..20_i64 {
        s.client.execute(&insert, &[&i, &format!("row {i}")]).expect("execute");
    }
    let mut tx = s.client.transaction().expect("begin");
    for i in 0..20_i64 {
        tx.execute("UPDATE t SET v = $2 WHERE id = $1", &[&i, &"new"]).expect("execute");
    }
    tx.commit().expect("commit");
    assert_eq!(count(&mut s, "op = 'insert'"), 20);
    assert_eq!(s.one("SELECT change_count FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1"), "20");
    s.assert_replay_holds("t");
}

#[test]
fn a_key_change_names_both_keys() {
    let (_db, mut s) = captured("cap_key", "a int, b text, n int, PRIMARY KEY (a, b)");
    s.run("INSERT INTO t VALUES (1, 'x', 0); UPDATE t SET b = 'y', n = 1; UPDATE t SET n = 2");
    assert_eq!(
        changes(&mut s, "t"),
        [
            r#"insert {"a": "1", "b": "x"} after={"a": 1, "b": "x", "n": 0}"#,
            r#"update {"a": "1", "b": "y"} old_pk={"a": "1", "b": "x"} {b,n} from={"b": "x", "n": 0} after={"a": 1, "b": "y", "n": 1}"#,
            r#"update {"a": "1", "b": "y"} {n} from={"n": 1} after={"a": 1, "b": "y", "n": 2}"#,
        ]
    );
    s.assert_replay_holds("t");
}

#[test]
fn keys_shifted_within_one_statement_and_swapped_within_a_transaction() {
    let (_db, mut s) = captured("cap_swap", "id int PRIMARY KEY, v text");
    s.run("INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')");
    s.run("BEGIN; UPDATE t SET id = -1 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = -1; COMMIT");
    let swapped = s.one("SELECT clock_timestamp()");
    // Rows are visited in the order 3, 1, 2: the second takes the key that the first one left.
    s.run("UPDATE t SET id = id + 2");
    s.run("BEGIN; UPDATE t SET id = id + 10; UPDATE t SET id = id - 10; COMMIT");
    s.assert_replay_holds("t");
    let then = s.one(&format!(
        "SELECT string_agg(r::text, ' ' ORDER BY id) FROM threadline.audit_as_of(NULL::t, '{swapped}') r"
    ));
    assert_eq!(then, "(1,two) (2,one) (3,three)");
    let now =
        s.one("SELECT string_agg(r::text, ' ' ORDER BY id) FROM threadline.audit_as_of(NULL::t, clock_timestamp()) r");
    assert_eq!(now, "(3,two) (4,one) (5,three)");
    let names =
        s.column("SELECT data_after ->> 'v' FROM threadline.audit_history('t', 3) WHERE data_after IS NOT NULL");
    assert_eq!(
        names.iter().filter(|v| *v == "two").count(),
        5,
        "every change of the row that bears the key now: {names:?}"
    );
}

#[test]
fn delete_and_insert_of_one_key_in_one_statement() {
    let (_db, mut s) = captured("cap_cte", "id int PRIMARY KEY, v text");
    s.run("INSERT INTO t VALUES (1, 'old')");
    s.run("WITH gone AS (DELETE FROM t RETURNING id) INSERT INTO t SELECT id, 'new' FROM gone");
    s.assert_replay_holds("t");
    assert_eq!(s.one("SELECT row_data ->> 'v' FROM threadline.audit_as_of('t', 1, clock_timestamp())"), "new");
}

#[test]
fn a_transaction_sees_its_own_changes_after_each_statement() {
    let (db, mut s) = captured("cap_own", "id int PRIMARY KEY, v text");
    s.run("BEGIN; INSERT INTO t VALUES (1, 'a'), (2, 'a')");
    assert_eq!(count(&mut s, "true"), 2);
    s.run("UPDATE t SET v = 'b' WHERE id = 1");
    assert_eq!(count(&mut s, "true"), 3);
    let own = s.rows("SELECT change_count, committed_at, commit_no FROM threadline.audit_transactions WHERE id = threadline.current_audit_transaction_id()");
    assert_eq!(own, [[Some("3".into()), None, None]]);
    assert_eq!(
        s.number(
            "SELECT count(*) FROM threadline.audit_changes_for_transaction(threadline.current_audit_transaction_id())"
        ),
        3
    );
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_history('t', 1)"), 2);
    let mut other = db.session();
    assert_eq!(count(&mut other, "true"), 0, "nobody else sees them before the commit");
    s.run("SAVEPOINT p; DELETE FROM t");
    assert_eq!(count(&mut s, "op = 'delete'"), 2);
    s.run("ROLLBACK TO p");
    assert_eq!(count(&mut s, "true"), 3);
    s.run("COMMIT");
    assert_eq!(count(&mut other, "true"), 3);
    assert_eq!(other.one("SELECT change_count FROM threadline.audit_transactions WHERE change_count > 0"), "3");
}

/// The changes of a transaction's last statements wait in memory: a reader of them sees what its snapshot may see.
#[test]
fn waiting_changes_keep_to_the_snapshot() {
    let (_db, mut s) = captured("cap_waiting", "id int PRIMARY KEY");
    s.run("BEGIN; INSERT INTO t VALUES (1)");
    s.run("DECLARE before CURSOR FOR SELECT table_pk ->> 'id' FROM threadline.audit_changes ORDER BY id");
    s.run("INSERT INTO t VALUES (2)");
    s.run("DECLARE after CURSOR FOR SELECT table_pk ->> 'id' FROM threadline.audit_changes ORDER BY id");
    assert_eq!(s.column("FETCH ALL after"), ["1", "2"]);
    assert_eq!(s.column("FETCH ALL before"), ["1"]);
    s.run("COMMIT");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), 2);
}

#[test]
fn many_savepoints_do_not_pile_changes_up_in_memory() {
    let (_db, mut s) = captured("cap_pile", "id int PRIMARY KEY, v text");
    s.run("BEGIN");
    s.run("DO $$ BEGIN FOR i IN 1..1000 LOOP BEGIN INSERT INTO t VALUES (i, 'x'); EXCEPTION WHEN OTHERS THEN RAISE; END; END LOOP; END $$");
    let waiting = s.number("SELECT count(*) FROM threadline.pending_changes()");
    assert!(waiting <= 128, "{waiting} changes wait");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), 1000);
    s.run("COMMIT");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), 1000);
    s.assert_replay_holds("t");
}

#[test]
fn a_transaction_knows_its_id_ranges() {
    let (db, mut s) = captured("cap_ranges", "id int PRIMARY KEY");
    let mut other = db.session();
    s.run("BEGIN");
    for turn in 0..7 {
        s.run(&format!("INSERT INTO t SELECT {turn} * 1000 + g FROM generate_series(1, 70) g"));
        other.run(&format!("INSERT INTO t VALUES (-{turn} - 1)"));
    }
    s.run("COMMIT");
    let ranges = s.one(
        "SELECT concat_ws(' ', (SELECT count(*) FROM unnest(l.change_ids)), record_image_eq(ROW(l.change_ids), ROW(l.change_ids::text::int8multirange))) \
         FROM threadline.transaction_log l WHERE l.change_count = 490",
    );
    let (count, same) = ranges.split_once(' ').unwrap();
    assert!(count.parse::<u32>().unwrap() > 4 && same == "t", "{ranges}");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_transactions x, threadline.audit_changes_for_transaction(x.id) WHERE x.change_count = 490"), 490);
}

#[test]
fn statements_are_numbered_in_order() {
    let (_db, mut s) = captured("cap_statement", "id int PRIMARY KEY, n int");
    s.run("BEGIN; INSERT INTO t VALUES (1, 0), (2, 0); UPDATE t SET n = 1; DELETE FROM t WHERE id = 2; COMMIT");
    let found = s.rows("SELECT op, count(*), count(DISTINCT statement_no), min(statement_no) FROM threadline.audit_changes GROUP BY op ORDER BY min(statement_no)");
    let ops: Vec<String> = found
        .iter()
        .map(|r| format!("{} {} {}", r[0].as_deref().unwrap(), r[1].as_deref().unwrap(), r[2].as_deref().unwrap()))
        .collect();
    assert_eq!(ops, ["insert 2 1", "update 2 1", "delete 1 1"]);
}

#[test]
fn a_rolled_back_savepoint_leaves_nothing() {
    let (_db, mut s) = captured("cap_savepoint", "id int PRIMARY KEY, v text");
    s.run("BEGIN; INSERT INTO t VALUES (1, 'kept'); SAVEPOINT a; INSERT INTO t VALUES (2, 'gone'); SAVEPOINT b; UPDATE t SET v = 'gone'; RELEASE b; ROLLBACK TO a;
           INSERT INTO t VALUES (3, 'kept'); SAVEPOINT c; UPDATE t SET v = 'kept too'; RELEASE c; COMMIT");
    assert_eq!(count(&mut s, "data_after ->> 'v' = 'gone'"), 0);
    assert_eq!(count(&mut s, "true"), 4);
    assert_eq!(s.one("SELECT change_count FROM threadline.audit_transactions WHERE change_count > 0"), "4");
    s.assert_replay_holds("t");
}

#[test]
fn a_failed_statement_leaves_nothing() {
    let (_db, mut s) = captured("cap_failed", "id int PRIMARY KEY, v text");
    s.run("INSERT INTO t VALUES (500, 'first')");
    assert_eq!(s.failure("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 1000) g").code, "23505");
    s.run("BEGIN; INSERT INTO t VALUES (2000, 'kept'); SAVEPOINT p");
    assert_eq!(s.failure("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 1000) g").code, "23505");
    s.run("ROLLBACK TO p; INSERT INTO t VALUES (2001, 'kept'); COMMIT");
    s.run("SET statement_timeout = '50ms'");
    assert_eq!(
        s.failure("INSERT INTO t SELECT g, pg_sleep(0.001)::text FROM generate_series(3000, 9000) g").code,
        "57014"
    );
    s.run("RESET statement_timeout; INSERT INTO t VALUES (2002, 'kept')");
    assert_eq!(
        s.column("SELECT table_pk ->> 'id' FROM threadline.audit_changes ORDER BY id"),
        ["500", "2000", "2001", "2002"]
    );
    s.assert_replay_holds("t");
}

#[test]
fn thousand_row_statements() {
    let (db, mut s) = captured("cap_thousand", "id int PRIMARY KEY, v text, w numeric, j jsonb");
    s.run("INSERT INTO t SELECT g, repeat('x', g % 40), g / 7.0, jsonb_build_object('g', g) FROM generate_series(1, 1000) g");
    s.run("UPDATE t SET w = w * 2, v = v || '!' WHERE id % 3 = 0");
    assert_images_are_canonical(&db, "t", "id");
    s.run("DELETE FROM t WHERE id % 2 = 0");
    assert_eq!(
        s.column("SELECT change_count FROM threadline.audit_transactions WHERE change_count > 0 ORDER BY commit_no"),
        ["1000", "333", "500"]
    );
    assert_eq!(count(&mut s, "true"), 1833);
    s.assert_replay_holds("t");
}

#[test]
fn statements_over_a_hundred_thousand_rows() {
    let (_db, mut s) = captured("cap_bulk", "id int PRIMARY KEY, n int, v text");
    s.run("INSERT INTO t SELECT g, 0, 'v' || g FROM generate_series(1, 120000) g");
    s.run("UPDATE t SET n = id % 10");
    s.run("DELETE FROM t WHERE id > 60000");
    assert_eq!(
        s.column("SELECT change_count FROM threadline.audit_transactions WHERE change_count > 0 ORDER BY commit_no"),
        ["120000", "120000", "60000"]
    );
    assert_eq!(s.one("SELECT count(*) || ' ' || count(DISTINCT id) FROM threadline.audit_changes"), "300000 300000");
    s.assert_replay_holds("t");
}

#[test]
fn toasted_values_an_update_does_not_touch() {
    let (db, mut s) = captured("cap_toast", "id int PRIMARY KEY, n int, big text, doc jsonb");
    s.run("ALTER TABLE t ALTER big SET STORAGE EXTERNAL");
    s.run("INSERT INTO t SELECT g, 0, repeat(md5(g::text), 3000), jsonb_build_object('k', repeat(md5(g::text), 500)) FROM generate_series(1, 5) g");
    s.run("UPDATE t SET n = 1");
    assert_eq!(count(&mut s, "op = 'update' AND changed_fields = '{n}' AND changed_from = '{\"n\": 0}'"), 5);
    assert_images_are_canonical(&db, "t", "id");
    s.run("UPDATE t SET big = big || 'x' WHERE id = 1");
    assert_eq!(
        count(
            &mut s,
            "changed_fields = '{big}' AND length(changed_from ->> 'big') = 96000 AND length(data_after ->> 'big') = 96001"
        ),
        1
    );
    s.run("DELETE FROM t WHERE id = 2");
    assert_eq!(count(&mut s, "op = 'delete' AND length(changed_from ->> 'big') = 96000"), 1);
    s.assert_replay_holds("t");
}

#[test]
fn wide_rows() {
    let columns: String =
        (1..=600).map(|i| format!(", c{i} {}", ["int", "text", "numeric", "timestamptz"][i % 4])).collect();
    let (db, mut s) = captured("cap_wide", &format!("id int PRIMARY KEY{columns}"));
    s.run("INSERT INTO t (id, c1, c3, c600) SELECT g, 'text', '2024-01-01', g FROM generate_series(1, 50) g");
    s.run("UPDATE t SET c1 = 'other', c599 = now(), c2 = 1.50");
    assert_eq!(count(&mut s, "op = 'update' AND changed_fields = '{c1,c2,c599}'"), 50);
    assert_images_are_canonical(&db, "t", "id");
    s.assert_replay_holds("t");
}

#[test]
fn awkward_names_generated_and_dropped_columns() {
    let db = Database::new("cap_names");
    let mut s = db.session();
    s.run(
        r#"CREATE SCHEMA "Odd Schema"; CREATE TABLE "Odd Schema"."Weird ""Table" ("from" int PRIMARY KEY, gone text, "ключ" text, "a'b" int, twice int GENERATED ALWAYS AS ("a'b" * 2) STORED);
           ALTER TABLE "Odd Schema"."Weird ""Table" DROP COLUMN gone;
           SELECT threadline.audit_enable('"Odd Schema"."Weird ""Table"'::regclass);
           INSERT INTO "Odd Schema"."Weird ""Table" ("from", "ключ", "a'b") VALUES (1, 'ü', 4);
           UPDATE "Odd Schema"."Weird ""Table" SET "a'b" = 5"#,
    );
    let found = s.rows(r#"SELECT table_schema, table_name, changed_fields, data_after FROM threadline.audit_changes ORDER BY id DESC LIMIT 1"#);
    let expected = ["Odd Schema", "Weird \"Table", "{a'b,twice}", r#"{"a'b": 5, "from": 1, "twice": 10, "ключ": "ü"}"#];
    assert_eq!(found, [expected.map(|v| Some(v.to_string())).to_vec()]);
    assert_eq!(s.number(r#"SELECT count(*) FROM threadline.audit_history('"Odd Schema"."Weird ""Table"', 1)"#), 2);
    s.assert_replay_holds(r#""Odd Schema"."Weird ""Table""#);
}

#[test]
fn truncate_is_captured() {
    let (_db, mut s) = captured("cap_truncate", "id int PRIMARY KEY, v text");
    s.run("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    let before = s.one("SELECT clock_timestamp()");
    s.run("TRUNCATE t");
    assert!(count(&mut s, "op = 'truncate'") >= 1);
    assert_eq!(s.one("SELECT status FROM threadline.audit_as_of('t', 1, clock_timestamp())"), "deleted");
    assert_eq!(s.number(&format!("SELECT count(*) FROM threadline.audit_as_of(NULL::t, '{before}')")), 2);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_as_of(NULL::t, clock_timestamp())"), 0);
    s.run("INSERT INTO t VALUES (1, 'again')");
    s.assert_replay_holds("t");
}

#[test]
fn a_baseline_records_the_rows_that_were_there() {
    let db = Database::new("cap_baseline");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'old' FROM generate_series(1, 1000) g; SELECT threadline.audit_enable('t')");
    assert_eq!(count(&mut s, "op = 'snapshot' AND data_after ->> 'v' = 'old'"), 1000);
    s.run("UPDATE t SET v = 'new' WHERE id <= 10; DELETE FROM t WHERE id = 11");
    assert_eq!(
        s.one(
            "SELECT status || coalesce(row_data ->> 'v', '') FROM threadline.audit_as_of('t', 12, clock_timestamp())"
        ),
        "presentold"
    );
    s.assert_replay_holds("t");
    s.run("CREATE TABLE bare (id int PRIMARY KEY); INSERT INTO bare VALUES (1); SELECT threadline.audit_enable('bare', baseline => false)");
    assert_eq!(count(&mut s, "table_name = 'bare'"), 0);
}

#[test]
fn enabling_again_changes_nothing_and_captures_once() {
    let (_db, mut s) = captured("cap_again", "id int PRIMARY KEY, v text");
    s.run("INSERT INTO t VALUES (1, 'a'); SELECT threadline.audit_enable('t'); SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (2, 'a')");
    assert_eq!(count(&mut s, "op = 'insert'"), 2);
    assert_eq!(count(&mut s, "true"), 2, "no second baseline");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_tables WHERE table_name = 't'"), 1);
    s.assert_replay_holds("t");
}

#[test]
fn disabling_keeps_history_and_records_the_gap() {
    let (_db, mut s) = captured("cap_disable", "id int PRIMARY KEY, v text");
    s.run("INSERT INTO t VALUES (1, 'a')");
    s.run("SELECT threadline.audit_disable('t'); INSERT INTO t VALUES (2, 'unseen')");
    assert_eq!(count(&mut s, "true"), 1);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_history('t', 1)"), 1, "history outlives capture");
    s.run("SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (3, 'seen')");
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.audit_gaps WHERE table_name = 't' AND reason = 'disabled'"),
        1
    );
    assert_eq!(count(&mut s, "op = 'insert'"), 2);
    s.assert_replay_holds("t");
}

#[test]
fn partitions_are_captured_once_under_their_root() {
    let db = Database::new("cap_parts");
    let mut s = db.session();
    s.run(
        "CREATE TABLE p (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu'); CREATE TABLE p_rest PARTITION OF p DEFAULT;
         INSERT INTO p VALUES (0, 'eu', 'before'); SELECT threadline.audit_enable('p');
         INSERT INTO p VALUES (1, 'eu', 'a'), (2, 'us', 'a'); INSERT INTO p_eu VALUES (3, 'eu', 'leaf'); UPDATE p_eu SET v = 'leaf' WHERE id = 1",
    );
    s.run(
        "CREATE TABLE p_asia PARTITION OF p FOR VALUES IN ('asia'); INSERT INTO p VALUES (4, 'asia', 'new partition')",
    );
    s.run("CREATE TABLE p_af (LIKE p INCLUDING ALL); ALTER TABLE p ATTACH PARTITION p_af FOR VALUES IN ('af'); INSERT INTO p_af VALUES (5, 'af', 'attached'); DELETE FROM p WHERE id = 2");
    assert_eq!(s.column("SELECT DISTINCT table_name FROM threadline.audit_changes"), ["p"]);
    assert_eq!(
        s.column("SELECT op || ' ' || (table_pk ->> 'id') FROM threadline.audit_changes ORDER BY id"),
        ["snapshot 0", "insert 1", "insert 2", "insert 3", "update 1", "insert 4", "insert 5", "delete 2"]
    );
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.audit_history('p_eu', '{\"id\": 1, \"region\": \"eu\"}')"),
        2,
        "a leaf finds its root's history"
    );
    s.assert_replay_holds("p");
}

#[test]
fn a_row_that_moves_between_partitions_keeps_its_history() {
    let db = Database::new("cap_move");
    let mut s = db.session();
    s.run(
        "CREATE TABLE p (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu'); CREATE TABLE p_us PARTITION OF p FOR VALUES IN ('us'); SELECT threadline.audit_enable('p')",
    );
    s.run("INSERT INTO p VALUES (1, 'eu', 'a')");
    s.run("UPDATE p SET region = 'us' WHERE id = 1");
    s.run("UPDATE p SET v = 'b' WHERE id = 1");
    s.assert_replay_holds("p");
    let status = |s: &mut Session, region: &str| {
        s.one(&format!("SELECT status || coalesce(' ' || moved_to::text, '') FROM threadline.audit_as_of('p', '{{\"id\": 1, \"region\": \"{region}\"}}', clock_timestamp())"))
    };
    assert_eq!(status(&mut s, "us"), "present");
    assert!(status(&mut s, "eu").starts_with("deleted"));
    let history = s.column("SELECT data_after ->> 'region' FROM threadline.audit_history('p', '{\"id\": 1, \"region\": \"us\"}') WHERE data_after IS NOT NULL");
    assert_eq!(history, ["us", "us", "eu"], "the history follows the row back to the partition it came from");
}

#[test]
fn unlogged_and_renamed_tables() {
    let db = Database::new("cap_rename");
    let mut s = db.session();
    s.run("CREATE UNLOGGED TABLE t (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1, 'a')");
    s.run("ALTER TABLE t RENAME TO t2; ALTER TABLE t2 RENAME COLUMN v TO w; ALTER TABLE t2 ADD COLUMN x int DEFAULT 5; CREATE SCHEMA elsewhere; ALTER TABLE t2 SET SCHEMA elsewhere");
    s.run("UPDATE elsewhere.t2 SET w = 'b'");
    let last = s.one("SELECT data_after || jsonb_build_object('from', changed_from) AS image FROM threadline.audit_changes ORDER BY id DESC LIMIT 1");
    assert_eq!(last, r#"{"w": "b", "x": 5, "id": 1, "from": {"w": "a"}}"#);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_history('elsewhere.t2', 1)"), 2);
    s.run("ALTER TABLE elsewhere.t2 DROP COLUMN x; UPDATE elsewhere.t2 SET w = 'c'; DELETE FROM elsewhere.t2");
    assert_eq!(
        s.one("SELECT changed_from FROM threadline.audit_changes WHERE op = 'delete'"),
        r#"{"w": "c", "id": 1}"#
    );
    s.assert_replay_holds("elsewhere.t2");
}

#[test]
fn two_tables_in_one_transaction_share_it() {
    let (_db, mut s) = captured("cap_two", "id int PRIMARY KEY");
    s.run("CREATE TABLE u (id int PRIMARY KEY); SELECT threadline.audit_enable('u')");
    s.run("BEGIN; INSERT INTO t VALUES (1); INSERT INTO u VALUES (1); DELETE FROM t; COMMIT");
    assert_eq!(s.number("SELECT count(DISTINCT transaction_id) FROM threadline.audit_changes"), 1);
    assert_eq!(
        s.column("SELECT table_name || ' ' || op FROM threadline.audit_changes ORDER BY id"),
        ["t insert", "u insert", "t delete"]
    );
}
