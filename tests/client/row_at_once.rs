//! One row as of a time, read straight from the log: it answers what the query does, and leaves to the query what is unusual.

use crate::cluster::Cluster;
use crate::support::{Database, Session};

/// A server where nobody else writes: what may be in flight anywhere in a cluster leaves recent times open.
fn alone(stem: &str) -> (Cluster, Database) {
    let cluster = Cluster::start(stem, &["max_prepared_transactions=5"]);
    let db = Database::bare(&cluster.at, stem);
    db.session().run(
        "CREATE EXTENSION threadline_forensics;
         CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE witness (id serial PRIMARY KEY);
         INSERT INTO t SELECT g, 'first' FROM generate_series(1, 5) g;
         SELECT threadline.audit_enable('t'), threadline.audit_enable('witness')",
    );
    (cluster, db)
}

/// A time, and a transaction that started later.
fn now(s: &mut Session) -> String {
    let at = s.one("SELECT clock_timestamp()");
    s.run("INSERT INTO witness DEFAULT VALUES");
    at
}

fn at_once(s: &mut Session, table: &str, key: &str, at: &str) -> String {
    s.one(&format!("SELECT (threadline.row_state_at_once('{table}', '{key}', '{at}')).status"))
}

#[test]
fn both_ways_answer_the_same() {
    let (_cluster, db) = alone("at_once");
    let mut s = db.session();
    // While its first row is updated, a trigger updates the second, whose own change by the statement is recorded later.
    s.run(
        "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET v = 'inner' WHERE id = 2; RETURN NULL; END $$;
         CREATE TRIGGER a_trap AFTER UPDATE ON t FOR EACH ROW WHEN (NEW.id = 1 AND NEW.v = 'trap') EXECUTE FUNCTION trap()",
    );
    let mut times = vec![now(&mut s)];
    for sql in [
        "UPDATE t SET v = 'trap' WHERE id < 3",
        "UPDATE t SET v = 'a' WHERE id = 1",
        "BEGIN; UPDATE t SET v = 'b' WHERE id = 1; UPDATE t SET v = 'c' WHERE id < 3; UPDATE t SET v = 'd' WHERE id = 1; COMMIT",
        "DELETE FROM t WHERE id = 2",
        "BEGIN; DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (3, 'again'); COMMIT",
        "BEGIN; INSERT INTO t VALUES (2, 'back'); UPDATE t SET v = v || '!'; COMMIT",
        "BEGIN; UPDATE t SET v = 'undone'; ROLLBACK",
        "BEGIN; SAVEPOINT a; DELETE FROM t; ROLLBACK TO a; UPDATE t SET v = repeat(md5(v), 1000) WHERE id = 4; COMMIT",
        "TRUNCATE t",
        "INSERT INTO t VALUES (1, NULL)",
        "UPDATE t SET v = 'last'",
    ] {
        s.run(sql);
        times.push(now(&mut s));
    }
    let mut read = 0;
    for at in &times {
        for key in 1..=5 {
            let same = s.one(&format!(
                "SELECT o IS NULL OR o::text = threadline.row_state_by_query('t', '{key}', '{at}')::text FROM threadline.row_state_at_once('t', '{key}', '{at}') o"
            ));
            assert_eq!(same, "t", "row {key} at {at}");
            read += i32::from(at_once(&mut s, "t", &key.to_string(), at) != "NULL");
        }
    }
    assert_eq!(read, 5 * times.len() as i32, "every one is usual");
}

#[test]
fn what_is_unusual_is_left_to_the_query() {
    let (_cluster, db) = alone("at_once_left");
    let mut s = db.session();
    s.run(
        "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF parts DEFAULT;
         CREATE TABLE loose (id int); CREATE TABLE deltas (id int PRIMARY KEY, v text, w text);
         SELECT threadline.audit_enable('parts'), threadline.audit_enable('loose', options => '{\"key\": \"full_row\"}'),
                threadline.audit_enable('deltas', options => '{\"image\": \"delta\"}');
         INSERT INTO parts VALUES (1); INSERT INTO loose VALUES (1); INSERT INTO deltas VALUES (1, 'a', 'b'), (2, 'a', 'b')",
    );
    s.run("UPDATE deltas SET v = 'c' WHERE id = 1");
    s.run("UPDATE deltas SET v = 'd' WHERE id = 1");
    let at = now(&mut s);
    let digest = s.one("SELECT table_pk ->> 'full_row' FROM threadline.audit_changes WHERE table_name = 'loose'");
    assert_eq!(at_once(&mut s, "t", "1", &at), "present");
    assert_eq!(at_once(&mut s, "deltas", "2", &at), "present", "a whole image");
    for (table, key) in [("parts", "1"), ("loose", digest.as_str()), ("deltas", "1"), ("t", "99")] {
        assert_eq!(at_once(&mut s, table, key, &at), "NULL", "{table} {key}");
    }
    assert_eq!(at_once(&mut s, "t", "1", "infinity"), "present", "the latest state is open for nobody");
    assert_eq!(at_once(&mut s, "t", "1", "2100-01-01"), "NULL");
    assert_eq!(at_once(&mut s, "t", "1", "2000-01-01"), "NULL");

    s.run("UPDATE t SET id = 50 WHERE id = 5");
    let moved = now(&mut s);
    assert_eq!(at_once(&mut s, "t", "5", &moved), "NULL", "it moved");
    assert_eq!(at_once(&mut s, "t", "50", &moved), "present");

    s.run("BEGIN; UPDATE t SET v = 'own' WHERE id = 1");
    assert_eq!(at_once(&mut s, "t", "1", &at), "NULL", "the transaction has changes of its own");
    s.run("ROLLBACK");

    let mut other = db.session();
    other.run("BEGIN; UPDATE t SET v = 'in flight' WHERE id = 2");
    let beside = now(&mut s);
    assert_eq!(at_once(&mut s, "t", "1", &beside), "NULL", "somebody may still be stamped before");
    assert_eq!(at_once(&mut s, "t", "1", &at), "present", "who was in flight started later");
    other.run("COMMIT");
    assert_eq!(at_once(&mut s, "t", "1", &beside), "present");

    other.run("BEGIN; UPDATE t SET v = 'early' WHERE id = 3");
    s.run("BEGIN; UPDATE t SET v = 'stamped' WHERE id = 1; PREPARE TRANSACTION 'y'");
    let open = s.one("SELECT clock_timestamp()");
    other.run("COMMIT");
    assert_eq!(at_once(&mut s, "t", "4", &open), "NULL", "who ended since began before, as did who is prepared");
    s.run("ROLLBACK PREPARED 'y'");

    let [between, later] = {
        s.run("BEGIN; UPDATE t SET v = 'two phases' WHERE id = 1; PREPARE TRANSACTION 'x'");
        let between = s.one("SELECT clock_timestamp()");
        s.run("COMMIT PREPARED 'x'");
        s.run("SELECT threadline.audit_maintain()");
        [between, now(&mut s)]
    };
    assert_eq!(at_once(&mut s, "t", "1", &between), "NULL", "nobody saw it");
    assert_eq!(at_once(&mut s, "t", "1", &later), "present");

    s.run("ALTER TABLE t DISABLE TRIGGER USER");
    assert_eq!(at_once(&mut s, "t", "1", &later), "NULL", "nothing is recorded");
    s.run("SELECT threadline.audit_maintain()");
    s.run("ALTER TABLE t ENABLE TRIGGER USER");
    s.run("SELECT threadline.audit_maintain()");
    assert_eq!(at_once(&mut s, "t", "1", &at), "present", "the gap came later");
    let in_gap = now(&mut s);
    assert_eq!(at_once(&mut s, "t", "1", &in_gap), "NULL", "since the last change there was a gap");
    s.run("SELECT threadline.audit_enable('t', options => '{\"truncate\": \"mark\"}', baseline => true)");
    let recorded_anew = now(&mut s);
    assert_eq!(at_once(&mut s, "t", "1", &recorded_anew), "present");
    s.run("TRUNCATE t; INSERT INTO t VALUES (1, 'after')");
    let truncated = now(&mut s);
    assert_eq!(at_once(&mut s, "t", "1", &truncated), "NULL", "a TRUNCATE in one mark");
}

#[test]
fn nobody_reads_more_than_the_views_show() {
    let (_cluster, db) = alone("at_once_rights");
    let mut s = db.session();
    s.run("CREATE ROLE stranger LOGIN; GRANT USAGE ON SCHEMA threadline TO stranger; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA threadline TO stranger");
    let at = now(&mut s);
    let mut stranger = db.session_as("stranger");
    assert_eq!(at_once(&mut stranger, "t", "1", &at), "NULL");
    s.run("GRANT SELECT ON t TO stranger");
    assert_eq!(at_once(&mut stranger, "t", "1", &at), "present");
    s.run("ALTER TABLE t ENABLE ROW LEVEL SECURITY");
    assert_eq!(at_once(&mut stranger, "t", "1", &at), "NULL");
}
