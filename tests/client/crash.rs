//! kill -9 of the whole server under load: a committed write has its change, an aborted one has none.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::support::{Database, Failure};

const WRITERS: u32 = 4;

/// Writes until the server dies; the tags whose COMMIT was acknowledged, and the one that was under way.
fn write_until_killed(db: &Database, round: u32, writer: u32) -> (Vec<String>, Option<String>) {
    let mut acknowledged = Vec::new();
    let mut s = db.session();
    for n in 0.. {
        let tag = format!("r{round}w{writer}n{n}");
        let id = (round * 10 + writer) * 1_000_000 + n;
        let sql = match n % 4 {
            0 => format!("INSERT INTO t VALUES ({id}, '{tag}')"),
            1 => format!(
                "INSERT INTO t VALUES ({id}, '{tag}'); UPDATE u SET n = n + 1, tag = '{tag}' WHERE id = {writer}"
            ),
            2 => format!(
                "BEGIN; INSERT INTO t SELECT {id}::bigint * 100 + g, '{tag}' FROM generate_series(1, 50) g; SAVEPOINT p; UPDATE u SET tag = 'DOOMED' WHERE id = {writer}; ROLLBACK TO p; COMMIT"
            ),
            _ => format!(
                "BEGIN; INSERT INTO t VALUES ({id}, 'DOOMED'); ROLLBACK; UPDATE t SET tag = '{tag}' WHERE id = {}",
                id - 2
            ),
        };
        match s.try_run(&sql) {
            Ok(_) => acknowledged.push(tag),
            // A report means the server is still there: only losing it may end the run.
            Err(e) if e.as_db_error().is_some_and(|d| !d.code().code().starts_with("57P")) => panic!("{sql}: {e:?}"),
            Err(_) => return (acknowledged, Some(tag)),
        }
    }
    unreachable!("the server is killed before numbers run out")
}

#[test]
fn killed_under_load() {
    let cluster = Cluster::start("crash", &["shared_buffers=16MB", "max_wal_size=64MB", "checkpoint_timeout=30s"]);
    let db = Database::bare(&cluster.at, "crash");
    let mut s = db.session();
    s.run("CREATE EXTENSION threadline_forensics; CREATE TABLE t (id bigint PRIMARY KEY, tag text); CREATE TABLE u (id int PRIMARY KEY, n int, tag text);
           SELECT threadline.audit_enable('t'); INSERT INTO u SELECT g, 0, 'start' FROM generate_series(0, 3) g; SELECT threadline.audit_enable('u')");
    drop(s);
    let mut acknowledged = BTreeSet::new();
    let mut in_doubt = BTreeSet::new();
    for round in 1..=3 {
        let logs = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (db, logs) = (&db, &logs);
                scope.spawn(move || {
                    let log = write_until_killed(db, round, writer);
                    logs.lock().unwrap().push(log);
                });
            }
            std::thread::sleep(Duration::from_millis(1500));
            if round == 2 {
                db.session().run("CHECKPOINT");
            }
            cluster.kill();
        });
        for (done, doubt) in logs.into_inner().unwrap() {
            assert!(!done.is_empty(), "round {round}: a writer got nothing done");
            acknowledged.extend(done);
            in_doubt.extend(doubt);
        }
        cluster.up();
        let mut s = db.session();
        s.assert_log_indexes_are_sound();
        for table in ["t", "u"] {
            s.assert_replay_holds(table);
        }
        let found: BTreeSet<String> = s.column("SELECT DISTINCT coalesce(data_after ->> 'tag', '') FROM threadline.audit_changes WHERE op IN ('insert', 'update')").into_iter().collect();
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "round {round}: committed writes without a change: {lost:?}");
        let invented: Vec<_> =
            found.iter().filter(|tag| !acknowledged.contains(*tag) && !in_doubt.contains(*tag)).collect();
        assert!(invented.is_empty(), "round {round}: changes of writes that never committed: {invented:?}");
        let torn = s.rows(
            "SELECT x.id, x.change_count, count(c.id) FROM threadline.audit_transactions x FULL JOIN threadline.audit_changes c ON c.transaction_id = x.id
             GROUP BY x.id, x.change_count HAVING x.id IS NULL OR x.change_count <> count(c.id)",
        );
        assert_eq!(torn.len(), 0, "round {round}: {torn:?}");
        assert_eq!(s.one("SELECT count(*) = count(DISTINCT id) FROM threadline.audit_changes"), "t");
    }
}

#[test]
fn a_killed_backend_leaves_nothing_of_its_transaction() {
    let db = Database::new("crash_backend");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY); SELECT threadline.audit_enable('t')");
    let mut victim = db.session();
    let pid = victim.one("SELECT pg_backend_pid()");
    victim.run("BEGIN; INSERT INTO t SELECT g FROM generate_series(1, 100) g");
    s.run(&format!("SELECT pg_terminate_backend({pid})"));
    while s.number(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")) > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    s.run("INSERT INTO t VALUES (1000)");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), 1);
    assert_eq!(s.one("SELECT change_count FROM threadline.audit_transactions WHERE change_count > 0"), "1");
    s.assert_replay_holds("t");
}

#[test]
fn a_full_disk_fails_the_write_and_leaves_nothing_of_it() {
    let cluster = Cluster::start("disk_full", &[]);
    let db = Database::bare(&cluster.at, "disk_full");
    db.session().run("CREATE EXTENSION threadline_forensics; CREATE TABLE t (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('t')");
    // Above a segment of WAL, which is written whole.
    cluster.limit_files(&(20 << 20).to_string());
    let mut s = db.session();
    let write = |n: i64| {
        format!(
            "INSERT INTO t SELECT g, repeat(md5(g::text), 20) FROM generate_series({n} * 1000 + 1, {n} * 1000 + 1000) g"
        )
    };
    let mut written = 0;
    let failure = loop {
        match s.try_run(&write(written)) {
            Ok(_) => written += 1,
            Err(error) => break Failure::of(&error),
        }
        assert!(written < 100, "the limit is reached");
    };
    // The log grows faster than the table.
    assert!(failure.message.contains("could not extend") || failure.message.contains("could not write"), "{failure:?}");
    assert!(written > 2, "{failure:?}");
    for session in [&mut s, &mut db.session()] {
        assert_eq!(session.number("SELECT count(*) FROM t"), written * 1000);
        assert_eq!(session.number("SELECT count(*) FROM threadline.audit_changes"), written * 1000);
        session.assert_replay_holds("t");
    }
    cluster.limit_files("unlimited");
    db.session().run(&write(written));
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), (written + 1) * 1000);
    s.assert_replay_holds("t");
}
