//! `replay_check` of larger tables: it goes by sums of images, and looks closely at rows whose sums do not come out. What it says must be
//! what the close look at every row says.

use crate::support::{Database, Session};

/// A table of many rows with many versions, among changes of its shape, of keys, and a TRUNCATE that stands for every row.
fn large(stem: &str, rows: i64) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v text, f float8, gone int, doc json); SELECT threadline.audit_enable('t', options => '{\"truncate\": \"mark\"}')");
    let fill = format!(
        "INSERT INTO t SELECT g, 'a ' || g, '-0', g, '{{\"b\": 1,  \"a\": 1}}' FROM generate_series(1, {rows}) g"
    );
    s.run(&format!("{fill}; TRUNCATE t; {fill}"));
    s.run("UPDATE t SET v = v || '!'");
    s.run("BEGIN; UPDATE t SET f = f + 1 WHERE id % 2 = 0; UPDATE t SET f = '-0', doc = '[]' WHERE id % 4 = 0; DELETE FROM t WHERE id % 100 = 7; COMMIT");
    s.run(
        "ALTER TABLE t ADD COLUMN n int DEFAULT 7; ALTER TABLE t RENAME COLUMN v TO w; ALTER TABLE t DROP COLUMN gone",
    );
    s.run(&format!("UPDATE t SET id = id + {rows} WHERE id % 3 = 0"));
    s.run("UPDATE t SET n = id, w = upper(w) WHERE id % 2 = 1");
    s.run("INSERT INTO t (id, w) SELECT g, 'again' FROM generate_series(7, 1000, 100) g");
    (db, s)
}

/// The answer with every row looked at closely, violations without their places in the list.
const CLOSELY: &str = "
    DO $$
    DECLARE
        d text := pg_get_functiondef('threadline.replay_check(regclass)'::regprocedure);
    BEGIN
        d := replace(replace(d, 'threadline.replay_check(', 'public.checked_closely('), 'replay_check.target', 'checked_closely.target');
        d := regexp_replace(d, 'SELECT s\\.\\* INTO STRICT v_sums FROM threadline\\.compared_sums[^;]*;', 'SELECT NULL::text[] AS suspects INTO v_sums;');
        IF d ~ 'compared_sums' THEN
            RAISE 'the check is otherwise than this test knows it';
        END IF;
        EXECUTE d;
    END
    $$";

/// The check says, to the last letter, what a close look says; and that is so many violations.
fn assert_agrees(s: &mut Session, table: &str, violations: i64) {
    s.run("SET client_min_messages = warning; DROP FUNCTION IF EXISTS public.checked_closely(regclass)");
    s.run(CLOSELY);
    let [found, closely] = ["threadline.replay_check", "public.checked_closely"]
        .map(|function| s.one(&format!("SELECT jsonb_pretty({function}('{table}'::regclass))")));
    for (found, closely) in found.lines().zip(closely.lines()) {
        assert_eq!(found, closely);
    }
    assert_eq!(found, closely);
    assert!(
        found.contains(&format!("\"violations_total\": {violations},"))
            || found.contains(&format!("\"violations_total\": {violations}\n")),
        "{found}"
    );
}

/// How many keys the sums leave to the close look; -1 for the whole table.
fn suspects(s: &mut Session, table: &str) -> i64 {
    s.number(&format!(
        "SELECT coalesce(cardinality(c.suspects), -1) FROM threadline.state_base(threadline.table_lookup('{table}'), NULL) b
         CROSS JOIN LATERAL threadline.compared_sums(threadline.table_lookup('{table}'), '{table}', b.first_change_id, true) c"
    ))
}

fn behind_its_back(db: &Database, sql: &str) {
    db.session().run(&format!("SET session_replication_role = replica; {sql}"));
}

#[test]
fn honest_history_needs_no_close_look() {
    let (_db, mut s) = large("rtab_honest", 50_000);
    s.assert_replay_holds("t");
    assert_eq!(suspects(&mut s, "t"), 0);
    s.run("BEGIN; UPDATE t SET w = 'own' WHERE id < 100; DELETE FROM t WHERE id = 1");
    assert_eq!(suspects(&mut s, "t"), 0);
    assert_agrees(&mut s, "t", 0);
    s.run("ROLLBACK");
}

#[test]
fn every_kind_of_difference_is_found() {
    const ROWS: i64 = 50_000;
    let (db, mut s) = large("rtab_every", ROWS);
    behind_its_back(
        &db,
        &format!(
            "DELETE FROM t WHERE id IN (1, 2); INSERT INTO t (id, w) VALUES (-1, 'smuggled'); UPDATE t SET w = w || '.' WHERE id IN (4, 5, {0});
             UPDATE t SET f = 0.0 WHERE id = 8; UPDATE t SET doc = '{{\"b\":1,\"a\":1}}' WHERE id = 10; INSERT INTO t (id) VALUES (107 + 1000);
             UPDATE t SET n = NULL WHERE id = 11",
            ROWS + 3
        ),
    );
    assert_agrees(&mut s, "t", 10);
    // Covered by what is recorded later, or by a change of key.
    behind_its_back(
        &db,
        &format!(
            "UPDATE t SET f = 9 WHERE id IN (13, {0}); DELETE FROM t WHERE id IN (14, 16); INSERT INTO t (id) VALUES (3)",
            ROWS + 6
        ),
    );
    s.run(&format!("UPDATE t SET f = 8 WHERE id = 13; UPDATE t SET id = 6 WHERE id = {0}; INSERT INTO t (id) VALUES (14); DELETE FROM t WHERE id = 3", ROWS + 6));
    assert_agrees(&mut s, "t", 15);
    assert!((15..20).contains(&suspects(&mut s, "t")), "{}", suspects(&mut s, "t"));
    let mut other = db.session();
    other.run("BEGIN; UPDATE t SET w = 'in flight' WHERE id = 20");
    s.run("UPDATE t SET w = 'meanwhile' WHERE id = 22");
    other.run("COMMIT");
    assert_agrees(&mut s, "t", 15);
}

#[test]
fn what_sums_cannot_compare_is_looked_at() {
    let (db, mut s) = large("rtab_other", 15_000);
    s.run("CREATE TYPE mood AS ENUM ('fine', 'so-so'); ALTER TABLE t ADD COLUMN m mood DEFAULT 'fine'");
    s.run("UPDATE t SET m = 'so-so' WHERE id <= 2000");
    s.run("ALTER TABLE t ALTER COLUMN n TYPE bigint; ALTER TYPE mood RENAME VALUE 'so-so' TO 'middling'; UPDATE t SET n = n + 1 WHERE id <= 1000");
    // Most rows are of an older type: all of the table is looked at.
    assert_eq!(suspects(&mut s, "t"), -1);
    assert_agrees(&mut s, "t", 0);
    behind_its_back(&db, "UPDATE t SET n = n + 1 WHERE id IN (5, 1501, 14501)");
    assert_agrees(&mut s, "t", 3);
    s.run("SELECT threadline.audit_disable('t'); SELECT threadline.audit_enable('t', mask => '{w}')");
    s.run("UPDATE t SET n = n + 1 WHERE id <= 300");
    assert_eq!(suspects(&mut s, "t"), 0);
    assert_agrees(&mut s, "t", 0);
    s.run("SELECT threadline.audit_enable('t', mask => '{w,f}')");
    s.run("UPDATE t SET n = n + 1 WHERE id <= 30");
    behind_its_back(&db, "UPDATE t SET n = n + 1 WHERE id IN (25, 47, 14503)");
    assert_agrees(&mut s, "t", 3);
}

/// Ids of one transaction's changes need not be in the order of the changes.
#[test]
fn changes_out_of_order_are_put_in_order() {
    let db = Database::new("rtab_order");
    let mut s = db.session();
    s.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('t');
         CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET v = 'inner' WHERE id = NEW.id + 1; RETURN NULL; END $$;
         CREATE TRIGGER a_trap AFTER UPDATE ON t FOR EACH ROW WHEN (NEW.id % 2 = 1 AND NEW.v = 'trap') EXECUTE FUNCTION trap()",
    );
    s.run("INSERT INTO t SELECT g, 'a' FROM generate_series(1, 1000) g; UPDATE t SET v = 'trap'");
    s.run("UPDATE t SET v = 'b' WHERE id < 5; BEGIN; UPDATE t SET v = 'c' WHERE id < 5; UPDATE t SET v = 'trap' WHERE id < 9");
    assert!(suspects(&mut s, "t") > 0);
    assert_agrees(&mut s, "t", 0);
    s.run("COMMIT");
    assert_agrees(&mut s, "t", 0);
    behind_its_back(&db, "UPDATE t SET v = 'forged' WHERE id = 2");
    assert_agrees(&mut s, "t", 1);
}

/// Of a history that does not go back to the beginning nothing is said of rows that it does not name.
#[test]
fn rows_that_were_never_recorded_are_counted() {
    let db = Database::new("rtab_partly");
    let mut s = db.session();
    s.run("CREATE TABLE t (id text PRIMARY KEY, v text); INSERT INTO t SELECT g, 'a' FROM generate_series(1, 20000) g; SELECT threadline.audit_enable('t', baseline => false)");
    s.run("UPDATE t SET v = 'b' WHERE id <= '2'; DELETE FROM t WHERE id = '1'; INSERT INTO t VALUES ('new', 'n')");
    assert_agrees(&mut s, "t", 0);
    behind_its_back(&db, "UPDATE t SET v = 'forged' WHERE id IN ('10', '3'); DELETE FROM t WHERE id = 'new'");
    assert_agrees(&mut s, "t", 2);
}

/// The rows whose sums do not come out may be nearly all.
#[test]
fn a_table_that_is_otherwise_is_looked_at_as_a_whole() {
    let (db, mut s) = large("rtab_all", 20_000);
    behind_its_back(&db, "UPDATE t SET w = 'forged' WHERE id > 5000");
    assert_eq!(suspects(&mut s, "t"), -1);
    let found = s.one("SELECT concat_ws(' ', r ->> 'verdict', (r ->> 'violations_total')::int = (SELECT count(*) FROM t WHERE id > 5000), jsonb_array_length(r -> 'violations')) FROM threadline.replay_check('t'::regclass) r");
    assert_eq!(found, "violated t 1000");
}
