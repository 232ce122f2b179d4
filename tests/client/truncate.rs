//! A TRUNCATE recorded as one mark: every question about its rows is answered as if each had its change.

use crate::support::{Database, Session};

/// Rows 1 to 3, then 4 which was 40 before; all truncated by the transaction returned; then 2 anew.
fn marked(stem: &str) -> (Database, Session, String, String) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('t', options => '{\"truncate\": \"mark\"}')");
    s.run("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'), (40, 'd')");
    s.run("DELETE FROM t WHERE id = 3; UPDATE t SET id = 4 WHERE id = 40");
    let before = s.one("SELECT clock_timestamp()");
    s.run(
        "BEGIN; SELECT threadline.set_actor('user', 'wiper'); UPDATE t SET v = 'last' WHERE id = 1; TRUNCATE t; COMMIT",
    );
    let tx = s.one("SELECT transaction_id FROM threadline.audit_changes WHERE op = 'truncate'");
    s.run("INSERT INTO t VALUES (2, 'again')");
    (db, s, before, tx)
}

#[test]
fn a_mark_is_one_change_of_the_whole_table() {
    let (_db, mut s, _, tx) = marked("mark_shape");
    let mark = s.rows("SELECT table_name, table_pk, changed_from, data_after, changed_fields FROM threadline.audit_changes WHERE op = 'truncate'");
    assert_eq!(mark, [vec![Some("t".into()), None, None, None, None]]);
    assert_eq!(s.one(&format!("SELECT change_count FROM threadline.audit_transactions WHERE id = '{tx}'")), "2");
    let summary = s.one("SELECT threadline.change_summary(id) FROM threadline.audit_changes WHERE op = 'truncate'");
    assert_eq!(summary, "t: every row truncated by user:wiper");
}

#[test]
fn as_of_goes_by_the_mark() {
    let (_db, mut s, before, tx) = marked("mark_as_of");
    let at = s.one(&format!("SELECT committed_at FROM threadline.audit_transactions WHERE id = '{tx}'"));
    let rows = |s: &mut Session, at: &str| {
        s.one(&format!("SELECT string_agg(r::text, ' ' ORDER BY id) FROM threadline.audit_as_of(NULL::t, '{at}') r"))
    };
    assert_eq!(rows(&mut s, &before), "(1,a) (2,b) (4,d)");
    assert_eq!(rows(&mut s, &at), "NULL");
    assert_eq!(rows(&mut s, "infinity"), "(2,again)");
    let row = |s: &mut Session, key: i32, at: &str| {
        s.one(&format!(
            "SELECT concat_ws(' ', status, row_data ->> 'v', transaction_id = '{tx}') FROM threadline.audit_as_of('t', {key}, '{at}')"
        ))
    };
    assert_eq!(row(&mut s, 1, &before), "present a f");
    assert_eq!(row(&mut s, 1, &at), "deleted t");
    assert_eq!(row(&mut s, 2, &at), "deleted t");
    assert_eq!(row(&mut s, 2, "infinity"), "present again f");
    assert_eq!(row(&mut s, 3, "infinity"), "deleted f", "gone before the TRUNCATE");
    assert_eq!(row(&mut s, 4, "infinity"), "deleted t");
    assert_eq!(row(&mut s, 40, "infinity"), "deleted f", "it moved on before");
    assert_eq!(row(&mut s, 9, "infinity"), "never_seen");
    s.assert_replay_holds("t");
}

#[test]
fn a_history_shows_the_mark_where_the_row_fell_to_it() {
    let (_db, mut s, before, _) = marked("mark_history");
    let history = |s: &mut Session, key: i32, args: &str| {
        s.column(&format!("SELECT concat(op, ' ', table_pk ->> 'id') FROM threadline.audit_history('t', {key}{args})"))
    };
    assert_eq!(history(&mut s, 1, ""), ["truncate 1", "update 1", "insert 1"]);
    assert_eq!(history(&mut s, 2, ""), ["insert 2", "truncate 2", "insert 2"]);
    assert_eq!(history(&mut s, 3, ""), ["delete 3", "insert 3"]);
    assert_eq!(history(&mut s, 4, ""), ["truncate 4", "update 4", "insert 40"]);
    assert_eq!(history(&mut s, 40, ""), ["truncate 4", "update 4", "insert 40"]);
    assert_eq!(history(&mut s, 9, ""), Vec::<String>::new());
    assert_eq!(history(&mut s, 1, ", max_rows => 1"), ["truncate 1"]);
    assert_eq!(history(&mut s, 4, &format!(", since => '{before}'")), ["truncate 4"]);
    assert_eq!(history(&mut s, 4, &format!(", until => '{before}'")), ["update 4", "insert 40"]);
    let mark = s.one("SELECT id FROM threadline.audit_changes WHERE op = 'truncate'");
    assert_eq!(history(&mut s, 2, &format!(", before_change => {mark}")), ["insert 2"]);
    let again = s.one("SELECT max(id) FROM threadline.audit_changes");
    assert_eq!(history(&mut s, 2, &format!(", before_change => {again}")), ["truncate 2", "insert 2"]);
}

#[test]
fn a_bundle_lists_the_mark_and_finds_it_as_a_neighbour() {
    let (_db, mut s, _, tx) = marked("mark_bundle");
    let listed = s.column(&format!(
        "SELECT concat_ws(' ', c -> 'audit_change' ->> 'op', c -> 'change_diff' ->> 'op', c -> 'next_change' ->> 'op')
         FROM jsonb_array_elements(threadline.incident_bundle('{tx}') -> 'changes') AS c"
    ));
    assert_eq!(listed, ["update UPDATE truncate", "truncate TRUNCATE"]);
    assert_eq!(s.one(&format!("SELECT threadline.incident_bundle('{tx}') -> 'coverage' ->> 'complete'")), "true");
    let neighbours = |s: &mut Session, change: &str| {
        s.one(&format!(
            "SELECT concat_ws(' ', coalesce(c -> 'previous_change' ->> 'op', 'none'), coalesce(c -> 'next_change' ->> 'op', 'none'))
             FROM threadline.audit_changes x, jsonb_array_elements(threadline.incident_bundle(x.transaction_id) -> 'changes') AS c
             WHERE {change} AND c -> 'audit_change' ->> 'id' = x.id::text"
        ))
    };
    assert_eq!(neighbours(&mut s, "x.data_after ->> 'v' = 'b'"), "none truncate");
    assert_eq!(neighbours(&mut s, "x.data_after ->> 'v' = 'again'"), "truncate none");
    assert_eq!(neighbours(&mut s, "x.data_after ->> 'v' = 'c'"), "none delete");
}

#[test]
fn a_transaction_sees_its_own_mark() {
    let (_db, mut s, ..) = marked("mark_own");
    s.run("BEGIN; TRUNCATE t");
    assert_eq!(
        s.column("SELECT op FROM threadline.audit_history('t', 2)"),
        ["truncate", "insert", "truncate", "insert"]
    );
    s.assert_replay_holds("t");
    s.run("INSERT INTO t VALUES (1, 'new')");
    s.assert_replay_holds("t");
    s.run("ROLLBACK");
    assert_eq!(s.one("SELECT status FROM threadline.audit_as_of('t', 2, 'infinity')"), "present");
    s.assert_replay_holds("t");
}

#[test]
fn keys_of_several_columns_and_an_empty_text_key() {
    let db = Database::new("mark_keys");
    let mut s = db.session();
    s.run("CREATE TABLE t (a text, b text, PRIMARY KEY (a, b)); CREATE TABLE u (k text PRIMARY KEY, v int); CREATE TABLE w (k bigint PRIMARY KEY)");
    s.run(
        "SELECT threadline.audit_enable(r, options => '{\"truncate\": \"mark\"}') FROM unnest('{t,u,w}'::regclass[]) r",
    );
    s.run("INSERT INTO t VALUES ('', ''), ('x', 'y'); INSERT INTO u VALUES ('', 1), ('k', 2); INSERT INTO w VALUES (-9223372036854775808)");
    s.run("TRUNCATE t, u, w; INSERT INTO u VALUES ('', 3)");
    assert_eq!(
        s.column("SELECT op FROM threadline.audit_history('t', '{\"a\": \"\", \"b\": \"\"}')"),
        ["truncate", "insert"]
    );
    assert_eq!(s.column("SELECT op FROM threadline.audit_history('u', '')"), ["insert", "truncate", "insert"]);
    assert_eq!(s.column("SELECT op FROM threadline.audit_history('w', -9223372036854775808)"), ["truncate", "insert"]);
    for table in ["t", "u", "w"] {
        s.assert_replay_holds(table);
    }
}
