//! Delta images tell the same story as whole ones: every test makes the same changes to a table of each kind.

use crate::support::{Database, Session};

const COLUMNS: &str = "id int PRIMARY KEY, a int, b text, c numeric, d jsonb";

fn twins(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(&format!("CREATE TABLE whole ({COLUMNS}); CREATE TABLE delta ({COLUMNS})"));
    both(&mut s, "INSERT INTO @ SELECT g, g, repeat('x', 50), g / 3.0, '{}' FROM generate_series(1, 5) g");
    s.run("SELECT threadline.audit_enable('whole'); SELECT threadline.audit_enable('delta', options => '{\"image\": \"delta\"}')");
    (db, s)
}

fn both(s: &mut Session, sql: &str) {
    for table in ["whole", "delta"] {
        s.run(&sql.replace('@', table));
    }
}

fn deltas(s: &mut Session) -> i64 {
    s.number("SELECT count(*) FROM threadline.change_log l JOIN threadline.captured_table t USING (table_id) WHERE t.table_name = 'delta' AND l.op = 6")
}

fn assert_same_story(s: &mut Session) {
    let story = |table: &str| {
        format!(
            "SELECT concat_ws(' ', table_pk, old_pk, op, changed_fields, changed_from, data_after, dense_rank() OVER (ORDER BY transaction_id, statement_no)) \
             FROM threadline.audit_changes WHERE table_name = '{table}' ORDER BY table_pk ->> 'id', transaction_id, statement_no, op, id"
        )
    };
    let (whole, delta) = (s.column(&story("whole")), s.column(&story("delta")));
    assert!(whole.len() > 5);
    assert_eq!(whole, delta);
    for table in ["whole", "delta"] {
        s.assert_replay_holds(table);
    }
    let now =
        |table: &str| format!("SELECT r::text FROM threadline.audit_as_of(NULL::{table}, 'infinity') r ORDER BY id");
    assert_eq!(s.column(&now("delta")), s.column("SELECT delta::text FROM delta ORDER BY id"));
    assert_eq!(s.column(&now("delta")), s.column(&now("whole")));
}

#[test]
fn many_updates_of_a_few_columns() {
    let (_db, mut s) = twins("del_many");
    for turn in 0..60 {
        let sql = match turn % 6 {
            0 => "UPDATE @ SET a = a + 1",
            1 => "UPDATE @ SET b = b || 'y', c = c * 1.10 WHERE id % 2 = 0",
            2 => "UPDATE @ SET d = d || jsonb_build_object('n', a) WHERE id < 4",
            3 => "UPDATE @ SET a = a WHERE id = 3",
            4 => "UPDATE @ SET b = NULL, d = NULL WHERE id = 5",
            _ => "UPDATE @ SET d = '{}', b = 'back' WHERE id = 5",
        };
        both(&mut s, sql);
    }
    assert!(deltas(&mut s) > 80, "{}", deltas(&mut s));
    assert_same_story(&mut s);
    let past = |table: &str| {
        format!(
            "SELECT row_data FROM threadline.audit_as_of('{table}', 2, (SELECT x.committed_at FROM threadline.audit_transactions x \
             JOIN threadline.audit_changes c ON c.transaction_id = x.id WHERE c.table_name = '{table}' AND c.table_pk ->> 'id' = '2' ORDER BY c.id OFFSET 20 LIMIT 1))"
        )
    };
    assert_eq!(s.one(&past("delta")), s.one(&past("whole")));
}

#[test]
fn deleted_and_moved_rows_start_anew() {
    let (_db, mut s) = twins("del_anew");
    both(
        &mut s,
        "UPDATE @ SET a = 10 WHERE id = 1; DELETE FROM @ WHERE id = 1; INSERT INTO @ VALUES (1, 1, 'new', 1, NULL); UPDATE @ SET a = 11 WHERE id = 1; UPDATE @ SET a = 12 WHERE id = 1",
    );
    both(
        &mut s,
        "UPDATE @ SET id = 20 WHERE id = 2; UPDATE @ SET a = 21 WHERE id = 20; UPDATE @ SET id = 2, b = 'home' WHERE id = 20; UPDATE @ SET c = 0.00 WHERE id = 2",
    );
    both(
        &mut s,
        "BEGIN; DELETE FROM @ WHERE id = 3; INSERT INTO @ VALUES (3); UPDATE @ SET a = 1 WHERE id = 3; UPDATE @ SET b = 'q' WHERE id = 3; COMMIT; TRUNCATE @; INSERT INTO @ VALUES (3); UPDATE @ SET a = 7",
    );
    assert_same_story(&mut s);
}

#[test]
fn savepoints_and_the_changes_of_one_transaction() {
    let (_db, mut s) = twins("del_savepoint");
    both(&mut s, "UPDATE @ SET a = 0");
    both(
        &mut s,
        "BEGIN; UPDATE @ SET a = 1; SAVEPOINT p; UPDATE @ SET b = 'doomed'; ROLLBACK TO p; UPDATE @ SET c = 5; SAVEPOINT q; UPDATE @ SET b = 'kept'; RELEASE q; UPDATE @ SET a = 2; COMMIT",
    );
    s.run("BEGIN; UPDATE delta SET a = 3; SAVEPOINT p; UPDATE delta SET b = 'inner'");
    assert_eq!(
        s.column("SELECT data_after ->> 'a' || (data_after ->> 'b') FROM threadline.audit_changes WHERE transaction_id = threadline.current_audit_transaction_id() AND table_pk ->> 'id' = '4' ORDER BY id"),
        ["3kept", "3inner"],
        "before any of it is written"
    );
    s.run("ROLLBACK");
    assert!(deltas(&mut s) > 10);
    assert_same_story(&mut s);
}

/// The nested update is captured first although it comes second.
#[test]
fn a_trigger_on_one_row_that_updates_another_of_the_same_statement() {
    let (_db, mut s) = twins("del_order");
    for table in ["whole", "delta"] {
        s.run(&format!(
            "CREATE FUNCTION f_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
               IF NEW.id = 1 AND pg_trigger_depth() = 1 THEN UPDATE {table} SET b = 'nested', a = a + 100 WHERE id = 2; END IF; RETURN NULL; END $$; \
             CREATE TRIGGER a_first AFTER UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION f_{table}()"
        ));
    }
    for _ in 0..20 {
        both(&mut s, "UPDATE @ SET a = a + 1 WHERE id IN (1, 2)");
        both(&mut s, "UPDATE @ SET c = c + 1 WHERE id IN (2, 1)");
    }
    assert!(deltas(&mut s) > 40);
    assert_same_story(&mut s);
}

/// What an ALTER TABLE puts into rows is in no delta: the first update afterwards stores the whole row.
#[test]
fn a_new_shape_starts_with_whole_images() {
    let (_db, mut s) = twins("del_shape");
    let changes = [
        "ALTER TABLE @ ADD COLUMN e int DEFAULT 5",
        "ALTER TABLE @ ADD COLUMN f text DEFAULT md5(random()::text)",
        "ALTER TABLE @ ALTER COLUMN a TYPE bigint USING a * 10",
        "BEGIN; SAVEPOINT p; ALTER TABLE @ ADD COLUMN g float8 DEFAULT random(); UPDATE @ SET b = 'same transaction'; RELEASE p; COMMIT",
        "ALTER TABLE @ RENAME COLUMN b TO bb",
        "ALTER TABLE @ DROP COLUMN c",
    ];
    for change in changes {
        s.run(&change.replace('@', "delta"));
        for turn in 0..4 {
            s.run(&format!("UPDATE delta SET a = a + {turn}"));
        }
        s.assert_replay_holds("delta");
        let stale = "SELECT count(*) FROM delta t, threadline.audit_as_of('delta', t.id, 'infinity') s WHERE s.row_data IS DISTINCT FROM to_jsonb(t)";
        assert_eq!(s.number(stale), 0, "after {change}");
    }
    assert!(deltas(&mut s) > 40);
}

#[test]
fn capture_switched_off_in_between() {
    let (_db, mut s) = twins("del_off");
    for baseline in ["true", "false"] {
        both(&mut s, "UPDATE @ SET a = a + 1");
        both(&mut s, &format!("SELECT threadline.audit_disable('@'); UPDATE @ SET b = 'unseen {baseline}', c = 99"));
        both(
            &mut s,
            &format!(
                "SELECT threadline.audit_enable('@', baseline => {baseline}); UPDATE @ SET a = a + 1; UPDATE @ SET a = a + 1"
            ),
        );
        let last = "SELECT string_agg(data_after::text, ' ' ORDER BY id) FROM (SELECT * FROM threadline.audit_changes WHERE table_name = '@' ORDER BY id DESC LIMIT 10) l";
        assert_eq!(s.one(&last.replace('@', "delta")), s.one(&last.replace('@', "whole")), "baseline {baseline}");
    }
}

#[test]
fn purging_a_whole_image_leaves_its_deltas_whole() {
    let (_db, mut s) = twins("del_purge");
    for _ in 0..5 {
        both(&mut s, "UPDATE @ SET a = a + 1; UPDATE @ SET b = b || 'z' WHERE id < 4");
    }
    let cutoff = s.one("SELECT clock_timestamp()");
    for _ in 0..3 {
        both(&mut s, "UPDATE @ SET a = a + 1; UPDATE @ SET c = c + 0.10 WHERE id > 2");
    }
    s.run("SELECT threadline.audit_set_retention(keep => '1 microsecond', enabled => true)");
    s.run(&format!("CALL threadline.audit_purge(dry_run => false, cutoff => '{cutoff}', batch_size => 7)"));
    let left = |table: &str| {
        format!(
            "SELECT concat_ws(' ', table_pk, changed_from, data_after) FROM threadline.audit_changes WHERE table_name = '{table}' ORDER BY table_pk ->> 'id', id"
        )
    };
    let (whole, delta) = (s.column(&left("whole")), s.column(&left("delta")));
    assert_eq!(whole.len(), 24, "{whole:?}");
    assert_eq!(whole, delta);
    assert!(deltas(&mut s) > 5);
}
