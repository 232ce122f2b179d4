//! How a transaction runs and ends: savepoints, two phases, isolation levels, timeouts and cancels.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Path, WritePath};
use crate::support::{Failure, Session, unique};

pub const PATHS: &[WritePath] = &[
    ("savepoints: released, rolled back, nested", |p| {
        p.t("(1, 'a')");
        p.run(
            "BEGIN; UPDATE t SET v = 'b'; SAVEPOINT x; INSERT INTO t VALUES (2, 'gone'); SAVEPOINT y; UPDATE t SET v = 'gone'; RELEASE y; ROLLBACK TO x;
             INSERT INTO t VALUES (3, 'c'); SAVEPOINT z; INSERT INTO t VALUES (4, 'd'); RELEASE z; UPDATE t SET v = 'e' WHERE id = 4; COMMIT",
        );
        p.recorded(&["~t 1 v:a>b | +t 3 c | +t 4 d | ~t 4 v:d>e"])
    }),
    ("PL/pgSQL EXCEPTION blocks: kept, undone, handler writes", |p| {
        p.t("(1, 'a')");
        p.run(
            "DO $$ BEGIN
                 BEGIN UPDATE t SET v = 'kept'; EXCEPTION WHEN OTHERS THEN NULL; END;
                 BEGIN UPDATE t SET v = 'gone'; PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN INSERT INTO t VALUES (2, 'handler'); END; END $$",
        );
        p.recorded(&["~t 1 v:a>kept | +t 2 handler"])
    }),
    ("function with an EXCEPTION block called for each row of the writing statement", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)");
        p.run(
            "CREATE FUNCTION try(i int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO u VALUES (i);
                 IF i = 2 THEN RAISE EXCEPTION 'no'; END IF; RETURN 'yes'; EXCEPTION WHEN raise_exception THEN RETURN 'no'; END $$;
             INSERT INTO t SELECT g, try(g) FROM generate_series(1, 3) g",
        );
        p.recorded(&["+t 1 yes; +t 2 no; +t 3 yes | +u 1 | +u 3"])
    }),
    ("procedure with COMMIT and ROLLBACK inside", |p| {
        p.t("");
        p.run(
            "CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO t VALUES (1, 'one'); COMMIT; INSERT INTO t VALUES (2, 'gone'); ROLLBACK;
                 FOR i IN 3..4 LOOP INSERT INTO t VALUES (i, 'loop'); COMMIT; END LOOP; UPDATE t SET v = 'last' WHERE id = 1; END $$; ",
        );
        p.run("CALL work()");
        p.recorded(&["+t 1 one", "+t 3 loop", "+t 4 loop", "~t 1 v:one>last"])
    }),
    ("ROLLBACK, and what follows it", |p| {
        p.t("(1, 'a')");
        p.run("BEGIN; DELETE FROM t; ROLLBACK; UPDATE t SET v = 'b'");
        p.recorded(&["~t 1 v:a>b"])
    }),
    ("COMMIT AND CHAIN, ROLLBACK AND CHAIN", |p| {
        p.t("(1, 'a')");
        p.run("BEGIN; UPDATE t SET v = 'b'; COMMIT AND CHAIN; DELETE FROM t; ROLLBACK AND CHAIN; UPDATE t SET v = 'c'; COMMIT");
        p.recorded(&["~t 1 v:a>b", "~t 1 v:b>c"])
    }),
    ("PREPARE TRANSACTION, COMMIT PREPARED by another session", |p| {
        p.t("(1, 'a')");
        let gid = unique("gid");
        p.run(&format!("BEGIN; UPDATE t SET v = 'b'; SAVEPOINT s; INSERT INTO t VALUES (2, 'x'); RELEASE s; PREPARE TRANSACTION '{gid}'"));
        p.run("INSERT INTO t VALUES (3, 'between')");
        assert_eq!(p.changes(), ["+t 3 between"], "nothing is seen of it before it is committed");
        p.session().run(&format!("COMMIT PREPARED '{gid}'"));
        // Its place in commit order is that of the PREPARE.
        p.recorded(&["~t 1 v:a>b | +t 2 x", "+t 3 between"])
    }),
    ("PREPARE TRANSACTION, ROLLBACK PREPARED", |p| {
        p.t("(1, 'a')");
        let gid = unique("gid");
        p.run(&format!("BEGIN; DELETE FROM t; PREPARE TRANSACTION '{gid}'"));
        p.run(&format!("ROLLBACK PREPARED '{gid}'"));
        p.run("UPDATE t SET v = 'b'");
        p.recorded(&["~t 1 v:a>b"])
    }),
    ("READ COMMITTED: an UPDATE that waits for another and rechecks the row", |p| {
        p.t("(1, 'a')");
        p.run("BEGIN; UPDATE t SET v = v || '1'");
        let mut other = p.session();
        let waiting = std::thread::spawn(move || other.run("UPDATE t SET v = v || '2'"));
        wait_for(p, "wait_event_type = 'Lock' AND query LIKE 'UPDATE t%2%'");
        p.run("COMMIT");
        waiting.join().expect("the second update");
        p.recorded(&["~t 1 v:a>a1", "~t 1 v:a1>a12"])
    }),
    ("REPEATABLE READ: refused with 40001, then retried", |p| {
        p.t("(1, 'a')");
        p.run("BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO t VALUES (2, 'mine')");
        p.session().run("UPDATE t SET v = 'theirs' WHERE id = 1");
        assert_eq!(p.s.failure("UPDATE t SET v = 'mine' WHERE id = 1").code, "40001");
        p.run("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO t VALUES (2, 'mine'); UPDATE t SET v = 'mine' WHERE id = 1; COMMIT");
        p.recorded(&["~t 1 v:a>theirs", "+t 2 mine | ~t 1 v:theirs>mine"])
    }),
    ("SERIALIZABLE: write skew refused with 40001, then retried", |p| {
        p.t("(1, 'on'), (2, 'on')");
        let mut other = p.session();
        let skew =
            |id: i32| format!("UPDATE t SET v = 'off' WHERE id = {id} AND (SELECT count(*) FROM t WHERE v = 'on') > 1");
        p.run(&format!("BEGIN ISOLATION LEVEL SERIALIZABLE; {}", skew(1)));
        other.run(&format!("BEGIN ISOLATION LEVEL SERIALIZABLE; {}", skew(2)));
        p.run("COMMIT");
        assert_eq!(other.failure("COMMIT").code, "40001");
        other.run(&format!("BEGIN ISOLATION LEVEL SERIALIZABLE; {}; COMMIT", skew(2)));
        p.recorded(&["~t 1 v:on>off"])
    }),
    ("deadlock: the victim leaves nothing", |p| {
        p.t("(1, 'a'), (2, 'b')");
        p.run("SET deadlock_timeout = '10s'; BEGIN; UPDATE t SET v = 'first' WHERE id = 1");
        let mut other = p.session();
        other.run("SET deadlock_timeout = '100ms'; BEGIN; UPDATE t SET v = 'second' WHERE id = 2");
        let waiting =
            std::thread::spawn(move || other.failure("UPDATE t SET v = 'second' WHERE id = 1 /* deadlock */"));
        wait_for(p, "wait_event_type = 'Lock' AND query LIKE '%/* deadlock */'");
        p.run("UPDATE t SET v = 'first' WHERE id = 2; COMMIT");
        assert_eq!(waiting.join().expect("the victim").code, "40P01");
        p.recorded(&["~t 1 v:a>first | ~t 2 v:b>first"])
    }),
    ("statement_timeout in mid-statement", |p| {
        p.t("(1, 'a')");
        p.run("SET statement_timeout = '100ms'");
        assert_eq!(p.s.failure(SLOW).code, "57014");
        p.run("RESET statement_timeout; UPDATE t SET v = 'after'");
        p.recorded(&["~t 1 v:a>after"])
    }),
    ("statement_timeout in mid-statement, inside a savepoint", |p| {
        p.t("(1, 'a')");
        p.run("BEGIN; UPDATE t SET v = 'before'; SAVEPOINT s; SET LOCAL statement_timeout = '100ms'");
        assert_eq!(p.s.failure(SLOW).code, "57014");
        p.run("ROLLBACK TO s; INSERT INTO t VALUES (2, 'after'); COMMIT");
        p.recorded(&["~t 1 v:a>before | +t 2 after"])
    }),
    ("cancelled in mid-statement", |p| {
        p.t("(1, 'a')");
        assert_eq!(interrupted(p, "pg_cancel_backend", false).code, "57014");
        p.run("UPDATE t SET v = 'after'");
        p.recorded(&["~t 1 v:a>after"])
    }),
    ("cancelled in mid-statement, inside a savepoint", |p| {
        p.t("(1, 'a')");
        p.run("BEGIN; UPDATE t SET v = 'before'; SAVEPOINT s");
        assert_eq!(interrupted(p, "pg_cancel_backend", true).code, "57014");
        p.run("ROLLBACK TO s; INSERT INTO t VALUES (2, 'after'); COMMIT");
        p.recorded(&["~t 1 v:a>before | +t 2 after"])
    }),
    ("cancelled while capture runs, in the triggers of a large statement", |p| {
        p.t("");
        p.run(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
             CREATE TRIGGER slow AFTER INSERT ON t FOR EACH ROW WHEN (NEW.id = 3000) EXECUTE FUNCTION slow(); SET statement_timeout = '300ms'",
        );
        assert_eq!(p.s.failure("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 4000) g").code, "57014");
        p.run("RESET statement_timeout; INSERT INTO t VALUES (1, 'after')");
        p.recorded(&["+t 1 after"])
    }),
    ("session terminated in mid-statement, in the triggers of a large one", |p| {
        p.t("(1, 'a')");
        p.run(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
             CREATE TRIGGER slow AFTER INSERT ON t FOR EACH ROW WHEN (NEW.id = 3000) EXECUTE FUNCTION slow()",
        );
        let mut other = p.session();
        let pid = other.one("SELECT pg_backend_pid()");
        let written = std::thread::spawn(move || {
            other.try_run("INSERT INTO t SELECT g, 'gone' FROM generate_series(2, 4000) g").is_ok()
        });
        wait_for(p, &format!("pid = {pid} AND wait_event = 'PgSleep'"));
        p.run(&format!("SELECT pg_terminate_backend({pid}, 30000)"));
        assert!(!written.join().expect("the writer"), "it lost its session");
        p.run("UPDATE t SET v = 'after'");
        p.recorded(&["~t 1 v:a>after"])
    }),
    ("session terminated in mid-transaction", |p| {
        p.t("(1, 'a')");
        let mut other = p.session();
        other.run("BEGIN; UPDATE t SET v = 'gone'");
        let pid = other.one("SELECT pg_backend_pid()");
        p.run(&format!("SELECT pg_terminate_backend({pid}, 30000)"));
        p.run("UPDATE t SET v = 'after'");
        p.recorded(&["~t 1 v:a>after"])
    }),
    ("session disconnects in mid-transaction", |p| {
        p.t("(1, 'a')");
        let mut other = p.session();
        other.run("BEGIN; UPDATE t SET v = 'gone'");
        drop(other);
        p.run("UPDATE t SET v = 'after'");
        p.recorded(&["~t 1 v:a>after"])
    }),
];

/// Writes a few rows, then sleeps.
const SLOW: &str =
    "INSERT INTO t SELECT g, CASE WHEN g < 150 THEN 'x' ELSE pg_sleep(60)::text END FROM generate_series(100, 200) g";

/// Runs SLOW in the path's session until `function` of another session ends it.
fn interrupted(p: &mut Path, function: &str, in_block: bool) -> Failure {
    let pid = p.s.one("SELECT pg_backend_pid()");
    let mut other: Session = p.session();
    let function = function.to_string();
    let enders = std::thread::spawn(move || {
        until(|| {
            other.one(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'"))
                == "1"
        });
        other.run(&format!("SELECT {function}({pid})"));
    });
    let failure = p.s.failure(SLOW);
    enders.join().expect("the other session");
    assert!(in_block || p.s.one("SELECT 1") == "1", "the session goes on");
    failure
}

/// Waits until some session of the database is in the state described.
fn wait_for(p: &Path, condition: &str) {
    let mut watcher = p.session();
    until(|| {
        watcher.number(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
        )) > 0
    });
}

fn until(mut arrived: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !arrived() {
        assert!(Instant::now() < deadline, "waited a minute");
        sleep(Duration::from_millis(20));
    }
}
