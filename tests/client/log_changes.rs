//! The log's own tables and indexes change under a session that goes on writing: what it knows of them must follow.

use crate::support::{Database, Session};

fn writer(stem: &str) -> (Database, Session, Session) {
    let db = Database::new(stem);
    let mut dba = db.session();
    dba.run("CREATE TABLE t (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('t')");
    let mut writer = db.session();
    writer.run("INSERT INTO t VALUES (0, 'the session knows the log now')");
    (db, writer, dba)
}

/// The leaf that changes go to now.
fn leaf(s: &mut Session) -> String {
    s.one("SELECT tableoid::regclass FROM threadline.change_log ORDER BY id DESC LIMIT 1")
}

/// Every change must be found through each index and without any.
fn assert_indexed(s: &mut Session, expected: i64) {
    let count = "SELECT count(*) FROM threadline.change_log WHERE id > 0 AND op <> 3";
    let by_row = "SELECT count(*) FROM threadline.change_log WHERE table_id = 1 AND row_key >= 0 AND op <> 3";
    let by_time = "SELECT count(*) FROM threadline.change_log WHERE captured_at > '-infinity' AND op <> 3";
    s.run("SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off; SET enable_seqscan = on");
    assert_eq!(s.number(count), expected, "in the table");
    s.run("RESET enable_indexscan; RESET enable_indexonlyscan; SET enable_seqscan = off");
    assert_eq!(s.number(count), expected, "by id");
    assert_eq!(s.number(by_row), expected, "by row");
    s.run("RESET enable_bitmapscan; SET enable_indexscan = off");
    assert_eq!(s.number(by_time), expected, "by time");
    s.run("RESET enable_indexscan; RESET enable_seqscan");
}

#[test]
fn indexes_of_the_log_come_and_go() {
    let (_db, mut w, mut dba) = writer("log_indexes");
    let leaf = leaf(&mut dba);
    dba.run(&format!("CREATE INDEX made_meanwhile ON {leaf} (transaction_id)"));
    w.run("INSERT INTO t VALUES (1, 'a')");
    dba.run(&format!("CREATE INDEX CONCURRENTLY made_slowly ON {leaf} (schema_version)"));
    w.run("INSERT INTO t VALUES (2, 'b')");
    dba.run("SET enable_seqscan = off; SET enable_bitmapscan = off");
    for index in ["transaction_id IS NOT NULL", "schema_version = 1"] {
        assert_eq!(dba.number(&format!("SELECT count(*) FROM {leaf} WHERE {index}")), 3, "by {index}");
    }
    dba.run("RESET enable_seqscan; RESET enable_bitmapscan; DROP INDEX threadline.made_meanwhile");
    w.run("INSERT INTO t VALUES (3, 'c')");
    dba.run("DROP INDEX CONCURRENTLY threadline.made_slowly");
    dba.run(&format!("REINDEX TABLE {leaf}"));
    w.run("INSERT INTO t VALUES (4, 'd')");
    dba.run(&format!("REINDEX TABLE CONCURRENTLY {leaf}"));
    w.run("INSERT INTO t VALUES (5, 'e')");
    dba.run(&format!("VACUUM FULL {leaf}"));
    w.run("INSERT INTO t VALUES (6, 'f')");
    assert_indexed(&mut dba, 7);
    dba.assert_replay_holds("t");
}

#[test]
fn indexes_of_functions_and_of_rows_that_have_a_value_are_kept_up_and_others_are_refused() {
    let (_db, mut w, mut dba) = writer("log_partial");
    let leaf = leaf(&mut dba);
    dba.run(&format!("CREATE INDEX by_hash ON {leaf} (hashtext(key), id) WHERE old_key IS NOT NULL; CREATE INDEX by_name ON {leaf} (table_id, lower(key))"));
    w.run("INSERT INTO t SELECT g, 'row' FROM generate_series(1, 200) g; UPDATE t SET id = -id WHERE id > 150; UPDATE t SET v = 'other'");
    w.run("UPDATE t SET id = -id WHERE id = 7");
    dba.assert_log_indexes_are_sound();
    dba.run("SET enable_seqscan = off");
    let found = format!("SELECT count(*) FROM {leaf} WHERE old_key IS NOT NULL AND hashtext(key) = hashtext('-7')");
    assert!(dba.column(&format!("EXPLAIN {found}")).join(" ").contains("by_hash"));
    assert_eq!(dba.number(&found), 2, "the change and what stands where the row came from");
    dba.run("DROP INDEX threadline.by_hash, threadline.by_name");
    for index in [
        "(id) WHERE op = 4",
        "(id) WHERE key IS NULL",
        "(id) WHERE key IS NOT NULL AND op = 4",
        "(repeat(key, 2))",
        "((id + 1))",
        "(lower(upper(key)))",
    ] {
        dba.run(&format!("CREATE INDEX strange ON {leaf} {index}"));
        let failure = w.failure("INSERT INTO t VALUES (1000, 'refused')");
        assert_eq!(
            (failure.code.as_str(), failure.detail.contains("An index of it")),
            ("55000", true),
            "{index}: {failure:?}"
        );
        dba.run("DROP INDEX threadline.strange");
    }
    w.run("INSERT INTO t VALUES (1000, 'taken')");
    dba.assert_replay_holds("t");
}

#[test]
fn partitions_of_the_log_come_and_go() {
    let (_db, mut w, mut dba) = writer("log_partitions");
    let leaf = leaf(&mut dba);
    let bound = dba.one(&format!("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = '{leaf}'::regclass"));
    dba.run(&format!("ALTER TABLE threadline.change_log DETACH PARTITION {leaf}"));
    w.run("INSERT INTO t VALUES (1, 'goes to the default partition')");
    assert_eq!(dba.one("SELECT tableoid::regclass FROM threadline.change_log"), "threadline.change_log_default");
    dba.run(&format!(
        "WITH moved AS (DELETE FROM threadline.change_log_default RETURNING *) INSERT INTO {leaf} SELECT * FROM moved;
         ALTER TABLE threadline.change_log ATTACH PARTITION {leaf} {bound}"
    ));
    w.run("INSERT INTO t VALUES (2, 'goes where it belongs')");
    assert_eq!(dba.number("SELECT count(*) FROM threadline.change_log_default"), 0);
    dba.run(&format!("ALTER TABLE threadline.change_log DETACH PARTITION {leaf}; DROP TABLE {leaf}"));
    w.run("INSERT INTO t VALUES (3, 'goes to the default partition')");
    assert_eq!(dba.one("SELECT tableoid::regclass FROM threadline.change_log"), "threadline.change_log_default");
}

#[test]
fn a_write_that_the_log_refused_leaves_the_next_one_unharmed() {
    let (_db, mut w, mut dba) = writer("log_refuses");
    let leaf = leaf(&mut dba);
    dba.run(&format!("CREATE UNIQUE INDEX no_second ON {leaf} (table_id, statement_no)"));
    let failure = w.failure("INSERT INTO t VALUES (1, 'a')");
    assert_eq!(failure.code, "23505", "{failure:?}");
    assert_eq!(dba.number("SELECT count(*) FROM t"), 1, "a write without its record is none");
    dba.run("DROP INDEX threadline.no_second");
    for id in 2..5 {
        w.run(&format!("INSERT INTO t VALUES ({id}, 'b')"));
    }
    assert_indexed(&mut dba, 4);
    dba.assert_replay_holds("t");
}

/// Entries of one batch that lie side by side, far apart, between those of earlier batches, and on leaves that are full.
#[test]
fn entries_made_by_the_batch_are_where_the_server_expects_them() {
    let (db, mut w, mut dba) = writer("log_batches");
    dba.run("CREATE TABLE u (id uuid PRIMARY KEY, v int); SELECT threadline.audit_enable('u')");
    dba.run("CREATE TABLE pair (a bigint, b text, v int, PRIMARY KEY (a, b)); SELECT threadline.audit_enable('pair')");
    w.run("INSERT INTO t SELECT g, 'row' FROM generate_series(1, 3000) g");
    w.run("INSERT INTO pair SELECT -g, 'b' || g % 7, g FROM generate_series(1, 2000) g");
    for round in 0..12 {
        w.run(&format!("UPDATE t SET v = v || {round}"));
        w.run(&format!("INSERT INTO u SELECT gen_random_uuid(), {round} FROM generate_series(1, 300)"));
        w.run("UPDATE t SET v = 'some' WHERE id % 97 = 3; UPDATE pair SET v = v + 1 WHERE a % 5 = 0");
        w.run("DELETE FROM t WHERE id BETWEEN 500 AND 600; INSERT INTO t SELECT g, 'again' FROM generate_series(500, 600) g");
    }
    std::thread::scope(|scope| {
        for number in 0..4 {
            let db = &db;
            scope.spawn(move || {
                let mut w = db.session();
                for round in 0..6 {
                    w.run(&format!(
                        "INSERT INTO t SELECT {number} + 4 * g, 'at once' FROM generate_series({round}00 + 5000, {round}99 + 5000) g;
                         BEGIN; UPDATE pair SET v = v - 1 WHERE a % 4 = -{number}; SAVEPOINT s;
                         UPDATE pair SET v = 0 WHERE a % 4 = -{number}; ROLLBACK TO s; COMMIT"
                    ));
                }
            });
        }
    });
    dba.assert_log_indexes_are_sound();
    for table in ["t", "u", "pair"] {
        dba.assert_replay_holds(table);
    }
    let made: i64 = dba.number("SELECT sum(change_count) FROM threadline.audit_transactions");
    assert_eq!(dba.number("SELECT count(*) FROM threadline.audit_changes"), made);
}

#[test]
fn a_serializable_reader_of_the_log_and_a_writer_of_many_rows_depend_on_each_other() {
    let (db, mut w, mut dba) = writer("log_serializable");
    dba.run("CREATE TABLE seen (n bigint); INSERT INTO t SELECT g, 'row' FROM generate_series(1, 300) g");
    let mut r = db.session();
    r.run("SET enable_seqscan = off; SET enable_bitmapscan = off; BEGIN ISOLATION LEVEL SERIALIZABLE");
    r.run("INSERT INTO seen SELECT count(*) FROM threadline.change_log WHERE id > (SELECT max(id) - 5 FROM threadline.change_log)");
    w.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(w.number("SELECT count(*) FROM seen"), 0);
    w.run("INSERT INTO t SELECT g, 'row' FROM generate_series(1001, 1050) g");
    r.run("COMMIT");
    let failure = w.failure("COMMIT");
    assert_eq!(failure.code, "40001", "neither could have come first: {failure:?}");
}
