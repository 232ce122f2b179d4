//! audit_cost(): what capture counts of itself is what it did, whoever did it and however short the session.

use std::time::Instant;

use crate::support::{Database, Session, unique};

/// changes, bytes, wal_bytes and capture_us of a table.
fn cost(s: &mut Session, table: &str) -> [i64; 4] {
    let rows = s.rows(&format!(
        "SELECT changes, bytes, wal_bytes, capture_us FROM threadline.audit_cost() WHERE table_schema = 'public' AND table_name = '{table}'"
    ));
    assert_eq!(rows.len(), 1, "{table}: {rows:?}");
    std::array::from_fn(|place| rows[0][place].as_ref().expect("no NULL").parse().expect("a number"))
}

fn rows_saved(s: &mut Session) -> i64 {
    s.number("SELECT count(*) FROM threadline.capture_cost")
}

/// A session is gone when its last transaction is done.
fn end(s: Session, witness: &mut Session) {
    let mut s = s;
    let pid = s.number("SELECT pg_backend_pid()");
    drop(s);
    while witness.number(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")) > 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A database with two empty tables under capture, `t` and `u`, and a session that has written nothing.
fn two_tables(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    db.session().run(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (LIKE t INCLUDING ALL);
         SELECT threadline.audit_enable('t'); SELECT threadline.audit_enable('u')",
    );
    let s = db.session();
    (db, s)
}

#[test]
fn counts_are_what_was_recorded() {
    let (db, mut s) = two_tables("cost_counts");
    s.run("INSERT INTO t SELECT g, 'value ' || g FROM generate_series(1, 200) g; UPDATE t SET id = -id WHERE id <= 10; DELETE FROM t WHERE id = 100");
    s.run("BEGIN; UPDATE t SET v = 'w' WHERE id = 101; SAVEPOINT p; INSERT INTO t VALUES (0, 'gone'); ROLLBACK TO p; INSERT INTO u VALUES (1, repeat('u', 1000)); COMMIT");
    let (t, u) = (cost(&mut s, "t"), cost(&mut s, "u"));
    assert_eq!((t[0], u[0]), (212, 1), "changes of t {t:?} and u {u:?}");
    // A row is its values, a tuple header of 24 bytes and a pointer of 4; helper rows of key changes are among them.
    let stored = |table: &str| {
        format!(
            "SELECT sum(28 + 54 + octet_length(key) + 4 + coalesce(octet_length(old_key) + 4, 0) + coalesce(pg_column_size(old_image), 0) + coalesce(pg_column_size(new_image), 0) + coalesce(pg_column_size(old_exact), 0) + coalesce(pg_column_size(new_exact), 0))
             FROM threadline.change_log WHERE abs(table_id) = (SELECT table_id FROM threadline.captured_table WHERE table_name = '{table}')"
        )
    };
    // What is stored has one-byte headers where they do, and none of these images is compressed.
    let on_disk = s.number(&stored("t"));
    assert!((t[1] - on_disk).abs() <= 2 * 3 * (212 + 20), "bytes of t {t:?}, stored {on_disk}");
    assert!(u[1] > 1000 && u[1] < 1300, "bytes of u {u:?}");
    // Indexes and the transactions' rows come on top; page images may.
    assert!(t[2] > t[1] && u[2] > u[1], "wal of t {t:?} and u {u:?}");
    assert!(t[3] > 0 && u[3] > 0, "time of t {t:?} and u {u:?}");
    // The next session finds the same: a session saves what is left when it ends.
    let mut witness = db.session();
    end(s, &mut witness);
    assert_eq!((cost(&mut witness, "t"), cost(&mut witness, "u")), (t, u));
}

#[test]
fn time_and_wal_are_no_more_than_all_there_was() {
    let (db, mut s) = two_tables("cost_bounds");
    let mut plain = db.session();
    plain.run("CREATE TABLE plain (LIKE t INCLUDING ALL)");
    let before = s.one("SELECT pg_current_wal_insert_lsn()");
    let begun = Instant::now();
    s.run("INSERT INTO t SELECT g, 'value ' || g FROM generate_series(1, 20000) g");
    let elapsed = begun.elapsed().as_micros() as i64;
    let all = s.number(&format!("SELECT pg_current_wal_insert_lsn() - '{before}'::pg_lsn"));
    let t = cost(&mut s, "t");
    assert_eq!(t[0], 20000);
    assert!(t[2] > 20000 * 100 && t[2] < all, "wal {t:?} of {all}");
    // Time is estimated from a sample; less than a tenth of a microsecond a row nobody can do.
    assert!(t[3] > 2000 && t[3] < elapsed * 3 / 2, "time {t:?} of {elapsed}");
}

#[test]
fn sessions_of_one_transaction_count_and_are_summed_up() {
    let (db, mut witness) = two_tables("cost_short");
    let saved = rows_saved(&mut witness);
    for n in 1..=20 {
        let mut s = db.session();
        s.run(&format!("INSERT INTO t VALUES ({n}, 'x')"));
        assert_eq!(rows_saved(&mut witness), saved + n, "the first transaction of a session is saved with it");
        end(s, &mut witness);
    }
    assert_eq!(rows_saved(&mut witness), saved + 20, "nothing was left to save");
    let before = cost(&mut witness, "t");
    assert_eq!(before[0], 20);
    witness.run("SELECT threadline.audit_maintain()");
    assert_eq!(rows_saved(&mut witness), 2, "one row a table");
    assert_eq!(cost(&mut witness, "t"), before);
}

#[test]
fn a_session_saves_seldom_and_at_its_end() {
    let (db, mut witness) = two_tables("cost_seldom");
    let saved = rows_saved(&mut witness);
    let begun = Instant::now();
    let mut s = db.session();
    (1..=100).for_each(|n| {
        s.run(&format!("INSERT INTO t VALUES ({n}, 'x')"));
    });
    // On a machine so slow that this took longer, the session may save every ten seconds.
    let may = 1 + begun.elapsed().as_secs() as i64 / 10;
    let now = rows_saved(&mut witness);
    assert!(now > saved && now <= saved + may, "{saved} rows, then {now}");
    assert!(cost(&mut witness, "t")[0] < 100);
    assert_eq!(cost(&mut s, "t")[0], 100, "a session sees all of its own");
    end(s, &mut witness);
    assert_eq!(cost(&mut witness, "t")[0], 100);
}

#[test]
fn what_a_rolled_back_transaction_wrote_is_counted_later() {
    let (db, mut s) = two_tables("cost_rollback");
    // More than fits a batch, so that some of it is written before the end.
    s.run("BEGIN; INSERT INTO t SELECT g FROM generate_series(1, 1000) g; ROLLBACK");
    let t = cost(&mut s, "t");
    assert!(t[0] > 0 && t[0] <= 1000 && t[2] > 0 && t[3] > 0, "{t:?}");
    // A prepared one is counted, and not with it: it may never be committed.
    let prepared = unique("cost");
    s.run(&format!("BEGIN; INSERT INTO u VALUES (1); PREPARE TRANSACTION '{prepared}'"));
    s.run(&format!("ROLLBACK PREPARED '{prepared}'"));
    s.run("INSERT INTO u VALUES (2)");
    assert_eq!(cost(&mut s, "u")[0], 2);
    let mut witness = db.session();
    end(s, &mut witness);
    assert_eq!(cost(&mut witness, "u")[0], 2);
    assert_eq!(cost(&mut witness, "t"), t);
}

#[test]
fn a_transaction_that_cannot_commit_does_not_lose_the_counts() {
    let (db, mut setup) = two_tables("cost_serializable");
    setup.run("INSERT INTO t VALUES (1), (2); SELECT threadline.audit_maintain()");
    let mut witness = db.session();
    let before = cost(&mut setup, "t");
    let (mut one, mut two) = (db.session(), db.session());
    for (s, reads, writes) in [(&mut one, 1, 2), (&mut two, 2, 1)] {
        s.run(&format!("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT * FROM t WHERE id = {reads}; UPDATE t SET v = 'x' WHERE id = {writes}"));
    }
    one.run("COMMIT");
    // Its pre-commit has written its changes and its counts before the conflict is found.
    assert_eq!(two.failure("COMMIT").code, "40001");
    end(one, &mut witness);
    end(two, &mut witness);
    drop(setup);
    assert!(cost(&mut witness, "t")[0] > before[0]);
    assert_eq!(witness.number("SELECT count(*) FROM threadline.audit_changes WHERE op = 'update'"), 1);
}

#[test]
fn counting_never_fails_a_write_nor_waits() {
    let (db, mut admin) = two_tables("cost_harmless");
    admin.run("BEGIN; LOCK TABLE threadline.capture_cost IN ACCESS EXCLUSIVE MODE");
    let mut s = db.session();
    s.run("SET statement_timeout = '20s'; INSERT INTO t VALUES (1)");
    admin.run("COMMIT");
    assert_eq!(cost(&mut s, "t")[0], 1, "counted, though not saved");
    admin.run("ALTER TABLE threadline.capture_cost ADD COLUMN more int");
    db.session().run("INSERT INTO t VALUES (2)");
    assert_eq!(admin.number("SELECT count(*) FROM threadline.audit_changes"), 2);
    end(s, &mut admin);
}

#[test]
fn readers_see_the_tables_they_may_read() {
    let (db, mut s) = two_tables("cost_reader");
    let (reader, writer) = (unique("reader"), unique("writer"));
    s.run(&format!(
        "CREATE ROLE {reader} LOGIN; CREATE ROLE {writer} LOGIN; GRANT SELECT ON t TO {reader}; GRANT INSERT ON t, u TO {writer};
         SELECT threadline.audit_grant('{reader}', 'reader')"
    ));
    let mut w = db.session_as(&writer);
    w.run("INSERT INTO t VALUES (1); INSERT INTO u VALUES (1)");
    assert_eq!(w.failure("SELECT * FROM threadline.audit_cost()").code, "42501");
    assert_eq!(w.failure("SELECT * FROM threadline.capture_cost").code, "42501");
    end(w, &mut s);
    let mut r = db.session_as(&reader);
    assert_eq!(r.column("SELECT table_name || ' ' || changes FROM threadline.audit_cost()"), ["t 1"]);
    assert_eq!(s.column("SELECT table_name || ' ' || changes FROM threadline.audit_cost()"), ["t 1", "u 1"]);
    drop(r);
    s.run(&format!("DROP OWNED BY {reader}, {writer}; DROP ROLE {reader}, {writer}"));
}
