//! Writes made by other triggers, foreign keys and sub-transactions, beside and inside captured statements.

use crate::support::{CANONICAL, Database, Session};

fn session(stem: &str, setup: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(setup);
    (db, s)
}

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0); CREATE TABLE side (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
    SELECT threadline.audit_enable('t'); SELECT threadline.audit_enable('side')";

fn total(s: &mut Session) -> (i64, i64) {
    let changes = s.number("SELECT count(*) FROM threadline.audit_changes");
    (changes, s.number("SELECT coalesce(sum(change_count), 0) FROM threadline.audit_transactions"))
}

#[test]
fn a_trigger_on_one_row_that_updates_another_of_the_same_statement() {
    let (_db, mut s) = session("trg_nested", T);
    s.run(
        "CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET n = n + 100 WHERE id = 2; RETURN NULL; END $$;
         CREATE TRIGGER aaa_bump AFTER UPDATE ON t FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION bump();
         CREATE TRIGGER zzz_bump AFTER UPDATE ON t FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION bump()",
    );
    s.run("INSERT INTO t (id) VALUES (1), (2), (3)");
    s.run("UPDATE t SET n = n + 1");
    let order = s.column("SELECT (changed_from ->> 'n') || '>' || (data_after ->> 'n') FROM threadline.audit_changes WHERE table_pk = '{\"id\": \"2\"}' AND op = 'update' ORDER BY statement_no, id");
    assert_eq!(order, ["0>1", "1>101", "101>201"]);
    let history = s.column("SELECT data_after ->> 'n' FROM threadline.audit_history('t', 2)");
    assert_eq!(history, ["201", "101", "1", "0"], "history knows the order in which they happened");
    assert_eq!(s.one("SELECT row_data ->> 'n' FROM threadline.audit_as_of('t', 2, clock_timestamp())"), "201");
    assert_eq!(s.one("SELECT n FROM threadline.audit_as_of(NULL::t, clock_timestamp()) WHERE id = 2"), "201");
    let replayed = s.column("SELECT data_after ->> 'n' FROM threadline.audit_changes_for_transaction((SELECT transaction_id FROM threadline.audit_changes ORDER BY id DESC LIMIT 1)) WHERE table_pk = '{\"id\": \"2\"}'");
    assert_eq!(replayed, ["1", "101", "201"], "oldest first is the order in which they happened");
    s.assert_replay_holds("t");
}

#[test]
fn an_exception_block_that_fails_after_writing_takes_only_its_own() {
    let (_db, mut s) = session("trg_exception", T);
    s.run(
        "CREATE FUNCTION risky() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             BEGIN INSERT INTO side (note) VALUES ('DOOMED ' || NEW.id); UPDATE t SET v = 'DOOMED' WHERE id = 1000; RAISE EXCEPTION 'never mind';
             EXCEPTION WHEN raise_exception THEN NULL; END;
             RETURN NULL; END $$;
         CREATE TRIGGER aaa_risky AFTER INSERT OR UPDATE ON t FOR EACH ROW WHEN (NEW.id < 1000) EXECUTE FUNCTION risky();
         CREATE TRIGGER zzz_risky AFTER INSERT OR UPDATE ON t FOR EACH ROW WHEN (NEW.id < 1000) EXECUTE FUNCTION risky();
         INSERT INTO t (id) VALUES (1000)",
    );
    s.run("INSERT INTO t SELECT g, 'ok' FROM generate_series(1, 50) g");
    s.run("BEGIN; UPDATE t SET v = 'fine' WHERE id < 1000; UPDATE t SET n = 1 WHERE id = 7; COMMIT");
    assert_eq!(total(&mut s), (102, 102));
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes x WHERE x::text LIKE '%DOOMED%'"), 0);
    s.assert_replay_holds("t");
    s.assert_replay_holds("side");
}

#[test]
fn an_exception_block_that_succeeds_keeps_its_writes() {
    let (_db, mut s) = session("trg_kept", T);
    s.run(
        "CREATE FUNCTION careful() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             BEGIN INSERT INTO side (note) VALUES ('kept'); EXCEPTION WHEN OTHERS THEN RAISE WARNING 'not reached'; END;
             BEGIN INSERT INTO t VALUES (NEW.id, 'DOOMED'); EXCEPTION WHEN unique_violation THEN INSERT INTO side (note) VALUES ('handler'); END;
             RETURN NULL; END $$;
         CREATE TRIGGER careful AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION careful()",
    );
    s.run("INSERT INTO t SELECT g, 'ok' FROM generate_series(1, 40) g");
    assert_eq!(total(&mut s), (120, 120));
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes WHERE data_after ->> 'note' = 'handler'"), 40);
    for table in ["t", "side"] {
        s.assert_replay_holds(table);
    }
}

#[test]
fn nested_blocks_in_plpgsql_with_released_and_rolled_back_parts() {
    let (_db, mut s) = session("trg_blocks", T);
    s.run(
        "DO $$ BEGIN
             INSERT INTO t VALUES (1, 'outer');
             FOR i IN 2..30 LOOP
                 BEGIN
                     INSERT INTO t VALUES (i, 'middle');
                     BEGIN
                         UPDATE t SET v = 'DOOMED' WHERE id = 1; INSERT INTO t VALUES (100 + i, 'inner');
                         IF i % 3 <> 0 THEN RAISE EXCEPTION 'inner'; END IF;
                         UPDATE t SET v = 'inner kept' WHERE id = 1;
                     EXCEPTION WHEN raise_exception THEN UPDATE t SET v = 'handled' WHERE id = i; END;
                     IF i % 5 = 0 THEN RAISE EXCEPTION 'middle'; END IF;
                 EXCEPTION WHEN raise_exception THEN NULL; END;
             END LOOP; END $$",
    );
    let (changes, counted) = total(&mut s);
    assert_eq!(changes, counted);
    // 1 outer; i in 2..30 not divisible by 5: 1 middle, then 3 when divisible by 3, else 1.
    let expected: i64 = 1 + (2..=30).filter(|i| i % 5 != 0).map(|i| if i % 3 == 0 { 4 } else { 2 }).sum::<i64>();
    assert_eq!(changes, expected);
    s.assert_replay_holds("t");
}

#[test]
fn a_savepoint_inside_a_function_of_the_running_statement() {
    let (_db, mut s) = session("trg_function", T);
    s.run(
        "CREATE FUNCTION maybe(i int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO side (note) VALUES ('try ' || i); IF i % 2 = 0 THEN RAISE EXCEPTION 'even'; END IF; RETURN 'yes';
             EXCEPTION WHEN raise_exception THEN RETURN 'no'; END $$",
    );
    s.run("INSERT INTO t SELECT g, maybe(g) FROM generate_series(1, 200) g");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes WHERE table_name = 'side'"), 100);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes WHERE table_name = 't'"), 200);
    assert_eq!(total(&mut s), (300, 300));
    s.assert_replay_holds("side");
}

#[test]
fn foreign_key_actions_are_captured() {
    let (_db, mut s) = session(
        "trg_fk",
        "CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
         CREATE TABLE loose (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE SET NULL ON UPDATE SET DEFAULT);
         SELECT threadline.audit_enable(r) FROM unnest('{parent,child,loose}'::regclass[]) r;
         INSERT INTO parent SELECT g, 'p' FROM generate_series(1, 3) g; INSERT INTO child SELECT g, g % 3 + 1 FROM generate_series(1, 30) g; INSERT INTO loose SELECT g, 1 FROM generate_series(1, 5) g",
    );
    s.run("DELETE FROM parent WHERE id = 1");
    s.run("UPDATE parent SET id = 20 WHERE id = 2");
    let of = |s: &mut Session, table: &str, op: &str| {
        s.number(&format!("SELECT count(*) FROM threadline.audit_changes WHERE table_name = '{table}' AND op = '{op}'"))
    };
    assert_eq!(
        (of(&mut s, "parent", "delete"), of(&mut s, "child", "delete"), of(&mut s, "loose", "update")),
        (1, 10, 5)
    );
    assert_eq!(of(&mut s, "child", "update"), 10);
    assert_eq!(s.one("SELECT string_agg(change_count::text, ' ' ORDER BY commit_no) FROM threadline.audit_transactions WHERE change_count > 0"), "38 16 11");
    for table in ["parent", "child", "loose"] {
        s.assert_replay_holds(table);
    }
}

#[test]
fn a_deferred_trigger_writes_at_commit() {
    let (_db, mut s) = session("trg_deferred", T);
    s.run(
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO side (note) VALUES ('late ' || NEW.id); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()",
    );
    s.run("BEGIN; INSERT INTO t SELECT g FROM generate_series(1, 20) g; SELECT threadline.set_actor('user', 'deferred'); COMMIT");
    assert_eq!(total(&mut s), (40, 40));
    assert_eq!(s.one("SELECT DISTINCT x.actor_ref ->> 'id' FROM threadline.audit_transactions x JOIN threadline.audit_changes c ON c.transaction_id = x.id"), "deferred");
    s.run("BEGIN; INSERT INTO t VALUES (30); ROLLBACK");
    assert_eq!(total(&mut s), (40, 40));
    s.assert_replay_holds("side");
}

#[test]
fn what_a_before_trigger_makes_of_the_row_is_what_is_stored() {
    let (db, mut s) = session("trg_before", T);
    s.run(
        "CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v = 'skip' THEN RETURN NULL; END IF; NEW.v := upper(NEW.v); RETURN NEW; END $$;
         CREATE TRIGGER tidy BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION tidy()",
    );
    s.run("INSERT INTO t VALUES (1, 'a'), (2, 'skip'); UPDATE t SET v = 'skip'; UPDATE t SET v = 'b'");
    assert_eq!(
        s.column("SELECT op || ' ' || (data_after ->> 'v') FROM threadline.audit_changes ORDER BY id"),
        ["insert A", "update B"]
    );
    let mut canonical = db.session();
    canonical.run(CANONICAL);
    assert_eq!(
        canonical.one("SELECT to_jsonb(t) FROM public.t"),
        s.one("SELECT data_after FROM threadline.audit_changes ORDER BY id DESC LIMIT 1")
    );
}

#[test]
fn views_functions_and_cursors_write_through() {
    let (_db, mut s) = session("trg_through", T);
    s.run(
        "CREATE VIEW simple AS SELECT id, v FROM t; CREATE VIEW odd AS SELECT id AS other, v FROM t;
         CREATE FUNCTION redirect() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (NEW.other, NEW.v); RETURN NEW; END $$;
         CREATE TRIGGER redirect INSTEAD OF INSERT ON odd FOR EACH ROW EXECUTE FUNCTION redirect();
         CREATE RULE log AS ON INSERT TO side DO ALSO UPDATE t SET n = n + 1",
    );
    s.run("INSERT INTO simple VALUES (1, 'view')");
    s.run("INSERT INTO odd VALUES (2, 'instead')");
    s.run("INSERT INTO side (note) VALUES ('rule')");
    s.run("DO $$ DECLARE c CURSOR FOR SELECT * FROM t FOR UPDATE; r record; BEGIN FOR r IN c LOOP UPDATE t SET v = 'cursor' WHERE CURRENT OF c; END LOOP; END $$");
    assert_eq!(
        s.column("SELECT table_name || ' ' || op FROM threadline.audit_changes ORDER BY id"),
        ["t insert", "t insert", "side insert", "t update", "t update", "t update", "t update"]
    );
    s.assert_replay_holds("t");
}

#[test]
fn a_trigger_that_reads_the_log_sees_what_came_before() {
    let (_db, mut s) = session("trg_reads", T);
    s.run(
        "CREATE FUNCTION looks() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO side (note) SELECT count(*) FROM threadline.audit_changes WHERE table_name = 't'; RETURN NULL; END $$;
         CREATE TRIGGER zzz_looks AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION looks()",
    );
    s.run("INSERT INTO t VALUES (1, 'a'), (2, 'a')");
    s.run("INSERT INTO t VALUES (3, 'a')");
    assert_eq!(s.number("SELECT count(*) FROM side"), 2);
    assert_eq!(total(&mut s), (5, 5));
    s.assert_replay_holds("side");
}

#[test]
fn a_failing_trigger_fails_the_statement_and_leaves_nothing() {
    let (_db, mut s) = session("trg_fails", T);
    s.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 90 THEN RAISE EXCEPTION 'no' USING ERRCODE = 'TL001'; END IF; RETURN NULL; END $$;
         CREATE TRIGGER zzz_refuse AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    s.run("BEGIN; INSERT INTO t VALUES (500); SAVEPOINT p");
    assert_eq!(
        s.failure("INSERT INTO t SELECT g FROM generate_series(1, 100) g").code,
        "TL001",
        "another trigger's error arrives as it is"
    );
    s.run("ROLLBACK TO p; INSERT INTO t VALUES (501); COMMIT");
    assert_eq!(s.column("SELECT table_pk ->> 'id' FROM threadline.audit_changes ORDER BY id"), ["500", "501"]);
}

#[test]
fn many_savepoints_in_one_transaction() {
    let (_db, mut s) = session("trg_many", T);
    let mut script = String::from("BEGIN;");
    for i in 0..400 {
        script.push_str(&format!("SAVEPOINT s{i}; INSERT INTO t VALUES ({i}, 'x');"));
        match i % 4 {
            0 => script.push_str(&format!("ROLLBACK TO s{i};")),
            1 => script.push_str(&format!("RELEASE s{i};")),
            _ => {}
        }
    }
    script.push_str("COMMIT");
    s.run(&script);
    assert_eq!(total(&mut s), (300, 300));
    s.assert_replay_holds("t");
}
