//! `replay_check` of a table: it holds over honest history and names each row that history cannot explain.

use crate::support::{Database, Session};

fn captured(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'a' FROM generate_series(1, 10) g; SELECT threadline.audit_enable('t')");
    s.run("UPDATE t SET v = 'b' WHERE id <= 5; DELETE FROM t WHERE id = 10");
    (db, s)
}

/// A write that capture does not see, as a restore or a careless superuser would make it.
fn behind_its_back(db: &Database, sql: &str) {
    let mut s = db.session();
    s.run(&format!("SET session_replication_role = replica; {sql}"));
}

#[test]
fn the_result_has_the_keys_of_the_contract() {
    let (_db, mut s) = captured("rep_keys");
    for call in ["replay_check('t')", "replay_check('t'::regclass)"] {
        let keys = s.one(&format!("SELECT string_agg(k, ' ' ORDER BY k) FROM jsonb_object_keys(threadline.{call}) k"));
        for key in [
            "verdict",
            "events_processed",
            "transactions",
            "final_state",
            "projections",
            "skipped",
            "complete",
            "violations",
        ] {
            assert!(keys.split(' ').any(|k| k == key), "{key} in {keys} of {call}");
        }
        assert_eq!(s.one(&format!("SELECT concat_ws(' ', r ->> 'verdict', r ->> 'complete', jsonb_array_length(r -> 'violations')) FROM (SELECT threadline.{call} r) x")), "holds true 0");
        assert!(s.number(&format!("SELECT threadline.{call} ->> 'events_processed'")) >= 6, "{call}");
    }
}

#[test]
fn a_missing_an_extra_and_a_different_row_are_violations() {
    let (db, mut s) = captured("rep_violated");
    behind_its_back(
        &db,
        "DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (77, 'smuggled'); UPDATE t SET v = 'forged' WHERE id = 2",
    );
    assert_eq!(s.one("SELECT threadline.replay_check('t') ->> 'verdict'"), "violated");
    let all = s.column(
        "SELECT (v ->> 'invariant') || ' ' || (v -> 'table_pk') FROM jsonb_array_elements(threadline.replay_check('t') -> 'violations') v ORDER BY (v -> 'table_pk' ->> 'id')::int",
    );
    assert_eq!(
        all,
        [
            r#"history_equals_table {"id": "1"}"#,
            r#"history_equals_table {"id": "2"}"#,
            r#"history_equals_table {"id": "77"}"#
        ]
    );
    let reasons = s.column(
        "SELECT v ->> 'failure_reason' FROM jsonb_array_elements(threadline.replay_check('t') -> 'violations') v",
    );
    assert!(reasons.iter().all(|r| r.len() > 5), "{reasons:?}");
}

#[test]
fn a_disabled_trigger_is_never_reported_as_holding() {
    let (_db, mut s) = captured("rep_disabled");
    s.run("ALTER TABLE t DISABLE TRIGGER USER");
    s.run("UPDATE t SET v = 'unseen' WHERE id = 3");
    s.run("ALTER TABLE t ENABLE TRIGGER USER");
    assert_eq!(s.one("SELECT threadline.replay_check('t') ->> 'verdict'"), "violated");
}

/// What a later recorded change of the same row covers up leaves no difference in the table, only a break in its history.
#[test]
fn an_unrecorded_change_is_found_though_a_later_one_covers_it() {
    let (db, mut s) = captured("rep_covered");
    let breaks = "SELECT concat_ws(' ', v ->> 'invariant', v ->> 'kind', v -> 'table_pk' ->> 'id', v -> 'event_at_failure' ->> 'op', v -> 'state_diff') FROM jsonb_array_elements(threadline.replay_check('t') -> 'violations') v";
    behind_its_back(&db, "UPDATE t SET v = 'covered' WHERE id = 1");
    s.run("UPDATE t SET v = 'c' WHERE id = 1");
    behind_its_back(&db, "DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (88, 'covered')");
    s.run("INSERT INTO t VALUES (2, 'again'); DELETE FROM t WHERE id = 88");
    behind_its_back(&db, "UPDATE t SET v = 'covered' WHERE id = 3");
    s.run("UPDATE t SET id = 303 WHERE id = 3");
    s.run("ALTER TABLE t ADD COLUMN n int DEFAULT 7; ALTER TABLE t RENAME COLUMN v TO w");
    behind_its_back(&db, "UPDATE t SET w = 'covered' WHERE id = 4");
    s.run("UPDATE t SET w = 'd', n = 8 WHERE id IN (4, 5)");
    let found = s.column(breaks);
    assert_eq!(
        found,
        [
            r#"history_is_continuous discontinuous 1 update [{"name": "v", "after": "covered", "before": "b"}]"#,
            r#"history_is_continuous discontinuous 2 insert [{"name": "id", "before": 2}, {"name": "v", "before": "b"}]"#,
            r#"history_is_continuous discontinuous 88 delete [{"name": "id", "after": 88}, {"name": "v", "after": "covered"}]"#,
            r#"history_is_continuous discontinuous 3 update [{"name": "v", "after": "covered", "before": "b"}]"#,
            r#"history_is_continuous discontinuous 4 update [{"name": "w", "after": "covered", "before": "b"}]"#,
        ]
    );
    assert_eq!(s.one("SELECT threadline.replay_check('t') ->> 'verdict'"), "violated");
    s.run("SELECT threadline.audit_disable('t'); SELECT threadline.audit_enable('t')");
    s.assert_replay_holds("t");
}

#[test]
fn a_fresh_baseline_after_a_gap_holds_again() {
    let (_db, mut s) = captured("rep_gap");
    s.run("SELECT threadline.audit_disable('t')");
    s.run("UPDATE t SET v = 'unseen'; DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (50, 'unseen')");
    s.run("SELECT threadline.audit_enable('t')");
    s.run("UPDATE t SET v = 'seen' WHERE id = 50");
    s.assert_replay_holds("t");
    assert_eq!(s.one("SELECT status FROM threadline.audit_as_of('t', 4, clock_timestamp())"), "deleted");
    let now = s.column("SELECT r::text FROM threadline.audit_as_of(NULL::t, clock_timestamp()) r ORDER BY 1");
    assert_eq!(now, s.column("SELECT t::text FROM t ORDER BY 1"));
}

#[test]
fn an_empty_table_holds() {
    let db = Database::new("rep_empty");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY); SELECT threadline.audit_enable('t')");
    s.assert_replay_holds("t");
    s.run("INSERT INTO t VALUES (1); DELETE FROM t");
    s.assert_replay_holds("t");
}

/// What JSON cannot tell apart is told apart as a change, and does not disturb the comparison with the table.
#[test]
fn values_json_cannot_tell_apart_are_changes() {
    let db = Database::new("rep_exact");
    let mut s = db.session();
    s.run(
        "CREATE TABLE t (id int PRIMARY KEY, f float8, j json, a int[], n jsonb); SELECT threadline.audit_enable('t')",
    );
    s.run(r#"INSERT INTO t VALUES (1, '-0', '{"b":1,  "a":1, "b":2}', '[0:1]={1,2}', 'null'), (2, 'NaN', 'null', '{}', NULL), (3, '-Infinity', NULL, NULL, '{}')"#);
    s.assert_replay_holds("t");
    s.run("UPDATE t SET f = 0, a = '{1,2}', n = NULL WHERE id = 1");
    assert_eq!(s.one("SELECT changed_fields FROM threadline.audit_changes WHERE op = 'update'"), "{a,f,n}");
    s.assert_replay_holds("t");
}

#[test]
fn a_table_altered_under_capture_holds() {
    let (_db, mut s) = captured("rep_alter");
    s.run("ALTER TABLE t ADD COLUMN n int");
    s.assert_replay_holds("t");
    s.run("UPDATE t SET n = id WHERE id < 4; ALTER TABLE t RENAME COLUMN v TO w");
    s.run("UPDATE t SET w = 'renamed' WHERE id = 6");
    s.assert_replay_holds("t");
    s.run("ALTER TABLE t DROP COLUMN n");
    s.assert_replay_holds("t");
    assert_eq!(
        s.column("SELECT r::text FROM threadline.audit_as_of(NULL::t, clock_timestamp()) r ORDER BY id"),
        s.column("SELECT t::text FROM t ORDER BY id")
    );
}
