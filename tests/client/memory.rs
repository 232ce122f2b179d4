//! Capture's memory: it does not grow with a session's statements, with the tables it has seen, or with a statement's
//! rows. The server runs on this machine, so its processes' memory is read from /proc.
//!
//! THREADLINE_STATEMENTS, THREADLINE_TABLES and THREADLINE_ROWS ask for longer runs than the usual ones.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Database, Session};

fn scale(variable: &str, usual: i64) -> i64 {
    std::env::var(variable)
        .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

/// A line of a process's /proc/PID/status, in bytes.
pub fn process_memory(pid: i64, line: &str) -> i64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the server runs on this machine");
    let field = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')).expect("Linux tells it");
    field.trim().trim_end_matches(" kB").parse::<i64>().expect("a number of kB") * 1024
}

/// What a session holds.
#[derive(Debug)]
struct Held {
    /// All memory contexts, and of them those that live as long as the session.
    all: i64,
    top: i64,
    cache: i64,
    ours: i64,
    our_contexts: i64,
    /// What the process has of its own: the library's own allocations are in no memory context.
    process: i64,
    plans: i64,
    prepared: i64,
}

fn held(s: &mut Session) -> Held {
    let contexts = s.rows(
        "SELECT sum(total_bytes), sum(total_bytes) FILTER (WHERE name = 'TopMemoryContext'),
                sum(total_bytes) FILTER (WHERE name = 'CacheMemoryContext'), sum(total_bytes) FILTER (WHERE name LIKE 'threadline%'),
                count(*) FILTER (WHERE name LIKE 'threadline%'), count(*) FILTER (WHERE name LIKE 'CachedPlan%')
         FROM pg_backend_memory_contexts",
    );
    let number = |place: usize| contexts[0][place].as_ref().map_or(0, |text| text.parse().expect("a number"));
    Held {
        all: number(0),
        top: number(1),
        cache: number(2),
        ours: number(3),
        our_contexts: number(4),
        process: process_memory(s.number("SELECT pg_backend_pid()"), "RssAnon"),
        plans: number(5),
        prepared: s.number("SELECT count(*) FROM pg_prepared_statements"),
    }
}

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('fine', 'so-so');
    CREATE TYPE pair AS (name text, n int);
    CREATE DOMAIN note AS json;
    CREATE TABLE a (id int PRIMARY KEY, label text, n int, doc jsonb, at timestamptz DEFAULT now());
    CREATE TABLE b (x int, y text, moods mood[], one pair, said note, span interval, price money, PRIMARY KEY (x, y));
    CREATE TABLE c (id uuid PRIMARY KEY, amount numeric, float8s float8[], raw json, spot point, net inet, during tstzrange);
    CREATE TABLE p (id int, part int, t text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
    SELECT threadline.audit_enable(t::regclass) FROM unnest(ARRAY['a', 'b', 'c', 'p']) t";

/// Statements in a round of `round`, ROLLBACK TO and the like included.
const PER_ROUND: i64 = 25;

fn round(n: i64) -> String {
    let end = if n % 7 == 0 { "ROLLBACK" } else { "COMMIT" };
    format!(
        "BEGIN;
         SELECT set_config('threadline.actor_ref', '{{\"type\": \"user\", \"id\": \"{n}\"}}', true);
         INSERT INTO a VALUES ({n}, 'row {n}', 0, '{{\"tags\": [1, 2, {{\"n\": {n}}}]}}');
         UPDATE a SET n = n + 1 WHERE id = {n};
         INSERT INTO b VALUES ({n}, 'y', '{{fine,so-so,NULL}}', ('x', {n}), '{{\"a\":  1}}', '1 day {n} s', {n}.5);
         SAVEPOINT one;
         UPDATE b SET y = 'z', one = ('y', 2) WHERE x = {n};
         INSERT INTO c VALUES (md5('{n}')::uuid, {n}.00, '{{1.5,NaN,{n}}}', '[1,  2]', '(1,2)', '10.0.0.1', '[2020-01-01,2020-01-02)');
         SAVEPOINT two;
         DELETE FROM b WHERE x = {n};
         ROLLBACK TO two;
         UPDATE c SET amount = amount + 1, raw = '{{\"n\": {n}}}' WHERE id = md5('{n}')::uuid;
         RELEASE two;
         RELEASE one;
         INSERT INTO p VALUES ({n}, 1, 'in one');
         UPDATE p SET part = 2 WHERE id = {n};
         SAVEPOINT three;
         DO $$ BEGIN INSERT INTO a VALUES ({n}); EXCEPTION WHEN unique_violation THEN UPDATE a SET label = 'again' WHERE id = {n}; END $$;
         UPDATE p SET part = 1, t = 'back' WHERE id = {n};
         RELEASE three;
         UPDATE a SET id = -id WHERE id = {n};
         DELETE FROM a WHERE id = -{n};
         DELETE FROM b WHERE x = {n};
         DELETE FROM c WHERE id = md5('{n}')::uuid;
         DELETE FROM p WHERE id = {n};
         {end}"
    )
}

#[test]
fn a_session_does_not_grow_with_its_statements() {
    let db = Database::new("memory_session");
    let mut s = db.session();
    s.run(TABLES);
    let rounds = scale("THREADLINE_STATEMENTS", 20_000) / PER_ROUND;
    let warm_up = (rounds / 10).max(100);
    (1..=warm_up).for_each(|n| {
        s.run(&round(n));
    });
    held(&mut s);
    let before = held(&mut s);
    (warm_up + 1..=warm_up + rounds).for_each(|n| {
        s.run(&round(n));
    });
    let after = held(&mut s);
    assert!(s.number("SELECT count(*) FROM threadline.audit_changes") > rounds * 10);
    let said = format!("{rounds} rounds of {PER_ROUND} statements:\nbefore {before:?}\nafter  {after:?}");
    // After the warm-up there is nothing left to learn, so nothing grows. Allowed are the odd blocks that the server's
    // own caches and the C library may take: 3 bytes a statement lost in a context would show, and 50 outside of one.
    let contexts = 64 << 10;
    assert!(after.all - before.all <= contexts, "memory contexts grew in {said}");
    assert!(after.top - before.top <= contexts, "TopMemoryContext grew in {said}");
    assert!(after.cache - before.cache <= contexts, "CacheMemoryContext grew in {said}");
    assert_eq!((after.ours, after.our_contexts), (before.ours, before.our_contexts), "our contexts grew in {said}");
    assert!(after.process - before.process <= 1 << 20, "the process grew in {said}");
    assert_eq!((after.plans, after.prepared), (before.plans, before.prepared), "plans were left in {said}");
}

/// What is known of the log's tables is made anew when something of them may have changed: with caches full or empty, alike.
#[test]
fn what_is_known_of_the_log_is_as_large_whenever_it_is_made() {
    let db = Database::new("memory_anew");
    db.session().run("CREATE TABLE t (id int PRIMARY KEY); SELECT threadline.audit_enable('t')");
    let mut s = db.session();
    s.run("INSERT INTO t VALUES (1)");
    let ours = |s: &mut Session| {
        s.one("SELECT string_agg(concat_ws(' ', name, used_bytes), ', ' ORDER BY name, used_bytes) FROM pg_backend_memory_contexts WHERE name LIKE 'threadline%'")
    };
    let first = ours(&mut s);
    s.run("ANALYZE; INSERT INTO t VALUES (2)");
    assert_eq!(ours(&mut s), first);
    // More messages than are kept for who does not read them: all caches go.
    db.session().run("DO $$ BEGIN FOR n IN 1 .. 1500 LOOP CREATE TABLE gone (id int PRIMARY KEY); DROP TABLE gone; COMMIT; END LOOP; END $$");
    s.run("INSERT INTO t VALUES (3)");
    assert_eq!(ours(&mut s), first);
}

#[test]
fn a_session_forgets_tables_that_are_dropped() {
    let db = Database::new("memory_dropped");
    let mut s = db.session();
    let columns: Vec<String> = (1..=40).map(|n| format!("column_with_a_long_name_{n:0>30} int")).collect();
    let columns = columns.join(", ");
    let life = |s: &mut Session, n: i64| {
        s.run(&format!(
            "CREATE TYPE e{n} AS ENUM ('x'); CREATE TYPE c{n} AS (e e{n}); CREATE TABLE t{n} (id int PRIMARY KEY, e e{n}, c c{n}, cs c{n}[], {columns})"
        ));
        s.run(&format!("SELECT threadline.audit_enable('t{n}')"));
        s.run(&format!("INSERT INTO t{n} VALUES (1, 'x', ROW('x'), ARRAY[ROW('x')::c{n}]); UPDATE t{n} SET e = NULL"));
        s.run(&format!("DROP TABLE t{n}; DROP TYPE c{n}; DROP TYPE e{n}"));
    };
    let tables = scale("THREADLINE_TABLES", 150);
    (0..20).for_each(|n| life(&mut s, n));
    held(&mut s);
    let before = held(&mut s);
    (20..20 + tables).for_each(|n| life(&mut s, n));
    let after = held(&mut s);
    assert_eq!(s.number("SELECT count(*) FROM threadline.change_log"), 2 * (20 + tables));
    let said = format!("{tables} tables:\nbefore {before:?}\nafter  {after:?}");
    // The server's own caches keep about 13 kB a table with such types, captured or not, so the sum is no measure. A plan
    // takes 20 kB outside of them, and prepared functions 1 kB.
    assert!(after.process - after.all <= before.process - before.all + (1 << 20), "plans were kept in {said}");
    assert!(after.top - before.top <= 64 << 10, "TopMemoryContext grew in {said}");
    assert!(after.our_contexts <= before.our_contexts, "our contexts were kept in {said}");
    assert!((after.plans, after.prepared) <= (before.plans, before.prepared), "plans were left in {said}");
}

/// The most memory of its own that the session's process has while the statement runs. What it has of the shared
/// buffers counts as shared, and there capture has more only because it writes more.
pub fn peak_of(s: &mut Session, statement: &str) -> i64 {
    let pid = s.number("SELECT pg_backend_pid()");
    let running = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut peak = 0;
            while running.load(Ordering::Relaxed) {
                peak = peak.max(process_memory(pid, "RssAnon"));
                std::thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        s.run(statement);
        running.store(false, Ordering::Relaxed);
        sampler.join().expect("the sampler ends")
    })
}

#[test]
fn a_statement_takes_no_more_memory_for_many_rows() {
    let db = Database::new("memory_rows");
    let rows = scale("THREADLINE_ROWS", 300_000);
    db.session().run(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TABLE plain (id int PRIMARY KEY, label text, n int);
         CREATE TRIGGER nothing AFTER INSERT OR UPDATE OR DELETE ON plain FOR EACH ROW EXECUTE FUNCTION nothing();
         CREATE TABLE captured (LIKE plain INCLUDING ALL); SELECT threadline.audit_enable('captured')",
    );
    for statement in [
        format!("INSERT INTO TABLE SELECT g, 'label of row ' || g, g FROM generate_series(1, {rows}) g"),
        "UPDATE TABLE SET id = -id, n = n + 1".into(),
        "BEGIN; SAVEPOINT s; DELETE FROM TABLE; RELEASE s; COMMIT".into(),
    ] {
        // The queue of events that the server keeps for any AFTER ROW trigger is not ours.
        let peak = |table: &str| peak_of(&mut db.session(), &statement.replace("TABLE", table));
        let (plain, captured) = (peak("plain"), peak("captured"));
        assert!(
            captured - plain <= 64 << 20,
            "{rows} rows, {statement}: {captured} bytes, and {plain} with an empty trigger"
        );
    }
    assert!(db.session().number("SELECT count(*) FROM threadline.change_log") > 4 * rows);
}

#[test]
fn a_large_row_leaves_nothing_behind() {
    let db = Database::new("memory_large_row");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, doc text); SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (0, 'x')");
    let before = held(&mut s);
    s.run("INSERT INTO t VALUES (1, repeat('x', 60000000)); UPDATE t SET doc = 'small' WHERE id = 1");
    let after = held(&mut s);
    let said = format!("a row of 60 MB:\nbefore {before:?}\nafter  {after:?}");
    assert!(after.process - before.process <= 8 << 20, "the process kept {said}");
}
