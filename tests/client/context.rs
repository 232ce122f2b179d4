//! Who did it and why: settings, actors, actions, and that none of it leaks into another transaction.

use crate::cluster::Cluster;
use crate::support::{Database, Session};

fn captured(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('t')");
    (db, s)
}

/// One column of the transaction that changed row `id` last.
fn of_row(s: &mut Session, id: i32, column: &str) -> String {
    s.one(&format!(
        "SELECT x.{column} FROM threadline.audit_transactions x
         WHERE x.id = (SELECT c.transaction_id FROM threadline.audit_changes c
                       WHERE c.table_name = 't' AND c.table_pk = '{{\"id\": \"{id}\"}}' ORDER BY c.id DESC LIMIT 1)"
    ))
}

#[test]
fn settings_of_the_transaction_are_stored() {
    let (_db, mut s) = captured("ctx_settings");
    s.run(
        r#"BEGIN; SET LOCAL threadline.actor_ref = '{"type":"user","id":"u-1"}'; SET LOCAL threadline.correlation_id = 'c-1';
           SET LOCAL threadline.request_id = 'r-1'; SET LOCAL threadline.job_id = 'j-1'; SET LOCAL threadline.source = 'web';
           SET LOCAL threadline.context = '{"tenant":7}'; INSERT INTO t VALUES (1, 'a'); COMMIT"#,
    );
    assert_eq!(of_row(&mut s, 1, "actor_ref = '{\"type\":\"user\",\"id\":\"u-1\"}'"), "t");
    for (column, value) in [("correlation_id", "c-1"), ("request_id", "r-1"), ("job_id", "j-1"), ("source", "web")] {
        assert_eq!(of_row(&mut s, 1, column), value, "{column}");
    }
    assert_eq!(of_row(&mut s, 1, "context ->> 'tenant'"), "7");
}

#[test]
fn nothing_set_is_null() {
    let (_db, mut s) = captured("ctx_null");
    s.run("BEGIN; SET LOCAL threadline.correlation_id = ''; INSERT INTO t VALUES (1, 'a'); COMMIT");
    for column in ["actor_ref", "correlation_id", "request_id", "job_id", "action_id"] {
        assert_eq!(of_row(&mut s, 1, column), "NULL", "{column}");
    }
}

#[test]
fn trusted_identity_is_recorded_beside_the_declared_one() {
    let (_db, mut s) = captured("ctx_trusted");
    s.run("SET application_name = 'billing'; BEGIN; INSERT INTO t VALUES (1, 'a')");
    let xid = s.one("SELECT pg_current_xact_id()");
    let pid = s.one("SELECT pg_backend_pid()");
    s.run("COMMIT");
    assert_eq!(of_row(&mut s, 1, "xid"), xid);
    assert_eq!(of_row(&mut s, 1, "backend_pid"), pid);
    assert_eq!(of_row(&mut s, 1, "application_name"), "billing");
    assert_eq!(of_row(&mut s, 1, "session_user_name = session_user AND current_user_name = current_user"), "t");
    assert_eq!(of_row(&mut s, 1, "started_at <= occurred_at AND occurred_at <= committed_at"), "t");
    assert_eq!(of_row(&mut s, 1, "commit_no IS NOT NULL AND snapshot IS NOT NULL AND origin IS NOT NULL"), "t");
}

#[test]
fn the_last_actor_wins_even_after_the_writes() {
    let (_db, mut s) = captured("ctx_after");
    s.run("BEGIN; SELECT threadline.set_actor('user', 'early'); INSERT INTO t VALUES (1, 'a'); SELECT threadline.set_actor('admin', 'late'); COMMIT");
    assert_eq!(of_row(&mut s, 1, "actor_ref ->> 'id'"), "late");
    s.run("BEGIN; INSERT INTO t VALUES (2, 'a'); SELECT threadline.set_actor('job', 9); COMMIT");
    assert_eq!(of_row(&mut s, 2, "actor_ref = '{\"type\":\"job\",\"id\":\"9\"}'"), "t");
}

#[test]
fn set_actor_returns_what_is_stored_and_refuses_what_is_no_actor() {
    let (_db, mut s) = captured("ctx_set_actor");
    assert_eq!(
        s.one(
            "SELECT threadline.set_actor('service_account', 'sa-1') = '{\"type\":\"service_account\",\"id\":\"sa-1\"}'"
        ),
        "t"
    );
    assert_eq!(s.one("SELECT threadline.set_actor('anonymous') = '{\"type\":\"anonymous\"}'"), "t");
    s.refused("SELECT threadline.set_actor('martian', '1')", &["22023"]);
    s.refused("SELECT threadline.set_actor('user')", &["22023"]);
    s.refused("SELECT threadline.set_actor('user', '')", &["22023"]);
}

#[test]
fn a_rolled_back_savepoint_takes_its_settings_along() {
    let (_db, mut s) = captured("ctx_savepoint");
    s.run(
        "BEGIN; SELECT threadline.set_actor('user', 'outer'); INSERT INTO t VALUES (1, 'a'); SAVEPOINT p;
         SELECT threadline.set_actor('user', 'inner'); SET LOCAL threadline.job_id = 'inner'; INSERT INTO t VALUES (2, 'a'); ROLLBACK TO p; COMMIT",
    );
    assert_eq!(of_row(&mut s, 1, "actor_ref ->> 'id'"), "outer");
    assert_eq!(of_row(&mut s, 1, "job_id"), "NULL");
    s.run("BEGIN; SAVEPOINT p; SELECT threadline.set_actor('user', 'kept'); RELEASE p; INSERT INTO t VALUES (3, 'a'); COMMIT");
    assert_eq!(of_row(&mut s, 3, "actor_ref ->> 'id'"), "kept");
}

#[test]
fn malformed_json_never_fails_the_write() {
    let (_db, mut s) = captured("ctx_malformed");
    for (id, raw) in [(1, "{\"type\":"), (2, "not json"), (3, "{\"type\":\"user\"}}"), (4, "\\x00")] {
        s.run(&format!("BEGIN; SET LOCAL threadline.actor_ref = '{raw}'; SET LOCAL threadline.context = '{{\"kept\":1}}'; INSERT INTO t VALUES ({id}, 'a'); COMMIT"));
        assert_eq!(of_row(&mut s, id, "actor_ref"), "NULL", "{raw}");
        assert_eq!(of_row(&mut s, id, "context ->> 'invalid_actor_ref'"), raw);
        assert_eq!(of_row(&mut s, id, "context ->> 'kept'"), "1", "{raw}");
    }
    s.run("BEGIN; SET LOCAL threadline.context = '{oops'; INSERT INTO t VALUES (5, 'a'); COMMIT");
    s.run("BEGIN; SET LOCAL threadline.context = '[1,2]'; SET LOCAL threadline.actor_ref = '42'; INSERT INTO t VALUES (6, 'a'); COMMIT");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes WHERE table_name = 't'"), 6);
}

#[test]
fn an_actor_of_another_size_or_script_survives() {
    let (_db, mut s) = captured("ctx_unicode");
    let id = "Zoë 日本 ".repeat(2000);
    s.run(&format!("BEGIN; SELECT threadline.set_actor('user', '{id}'); INSERT INTO t VALUES (1, 'a'); COMMIT"));
    assert_eq!(of_row(&mut s, 1, "actor_ref ->> 'id'"), id);
}

#[test]
fn context_is_merged_and_local_to_the_transaction() {
    let (_db, mut s) = captured("ctx_merge");
    s.run("BEGIN");
    assert_eq!(s.one("SELECT threadline.put_context('{\"a\":1,\"b\":1}') = '{\"a\":1,\"b\":1}'"), "t");
    assert_eq!(s.one("SELECT threadline.put_context('{\"b\":2}') = '{\"a\":1,\"b\":2}'"), "t");
    s.run("INSERT INTO t VALUES (1, 'a')");
    assert_eq!(s.one("SELECT threadline.get_context() @> '{\"a\":1,\"b\":2}'"), "t");
    s.run("COMMIT");
    assert_eq!(of_row(&mut s, 1, "context @> '{\"a\":1,\"b\":2}'"), "t");
    assert_eq!(s.one("SELECT coalesce(threadline.get_context() ? 'a', false)"), "f");
}

#[test]
fn actions_before_and_after_the_writes() {
    let (_db, mut s) = captured("ctx_action");
    s.run("BEGIN; SELECT threadline.set_actor('user', 'u-7'); SET LOCAL threadline.correlation_id = 'of the setting'");
    let before = s.one("SELECT threadline.record_action('invoice.open')");
    s.run("INSERT INTO t VALUES (1, 'a')");
    let after = s.one(
        "SELECT threadline.record_action('invoice.post', 'error', 'post', 'billing', 'month end', 'a comment', correlation_id => 'c-9', request_id => 'r-9', job_id => 'j-9')",
    );
    s.run("COMMIT");
    assert_ne!(before, after);
    assert_eq!(of_row(&mut s, 1, "action_id"), after);
    let action = s.rows(&format!(
        "SELECT name, status, verb, category, reason, comment, correlation_id, request_id, job_id, actor_ref ->> 'id' FROM threadline.audit_actions WHERE id = '{after}'"
    ));
    let expected = ["invoice.post", "error", "post", "billing", "month end", "a comment", "c-9", "r-9", "j-9", "u-7"];
    assert_eq!(action, [expected.map(|v| Some(v.to_string())).to_vec()]);
    assert_eq!(s.one(&format!("SELECT status FROM threadline.audit_actions WHERE id = '{before}'")), "ok");
    let bundle = s.one("SELECT jsonb_array_length(threadline.incident_bundle(transaction_id) -> 'actions') FROM threadline.audit_changes WHERE table_name = 't'");
    assert_eq!(bundle, "2", "all actions are in the bundle");
}

#[test]
fn an_action_without_a_write_has_its_transaction() {
    let (_db, mut s) = captured("ctx_action_only");
    s.run("BEGIN");
    let action = s.one("SELECT threadline.record_action('report.viewed')");
    let id = s.one("SELECT threadline.current_audit_transaction_id()");
    s.run("COMMIT");
    assert_eq!(
        s.rows(&format!("SELECT action_id, change_count FROM threadline.audit_transactions WHERE id = '{id}'")),
        [[Some(action), Some("0".into())]]
    );
}

#[test]
fn actions_of_what_was_rolled_back_are_gone() {
    let (_db, mut s) = captured("ctx_action_rollback");
    s.run("BEGIN; SELECT threadline.record_action('gone'); INSERT INTO t VALUES (1, 'a'); ROLLBACK; INSERT INTO t VALUES (1, 'b')");
    assert_eq!(of_row(&mut s, 1, "action_id"), "NULL");
    s.run("BEGIN");
    let kept = s.one("SELECT threadline.record_action('kept')");
    s.run(
        "SAVEPOINT p; SELECT threadline.record_action('undone'); ROLLBACK TO p; INSERT INTO t VALUES (2, 'a'); COMMIT",
    );
    assert_eq!(of_row(&mut s, 2, "action_id"), kept);
    assert_eq!(s.column("SELECT name FROM threadline.audit_actions"), ["kept"]);
}

#[test]
fn an_action_needs_a_name_and_a_known_status() {
    let (_db, mut s) = captured("ctx_action_bad");
    s.refused("SELECT threadline.record_action('x.y', 'perhaps')", &["22023", "23514"]);
    s.refused("SELECT threadline.record_action('')", &["22023", "23514"]);
    s.refused("SELECT threadline.record_action(NULL)", &["22023", "22004", "23502"]);
}

#[test]
fn the_transaction_id_is_stable_and_known_before_the_first_write() {
    let (_db, mut s) = captured("ctx_id");
    s.run("BEGIN");
    let id = s.one("SELECT threadline.current_audit_transaction_id()");
    s.run("SAVEPOINT p; INSERT INTO t VALUES (1, 'a')");
    assert_eq!(s.one("SELECT threadline.current_audit_transaction_id()"), id);
    s.run("ROLLBACK TO p");
    assert_eq!(s.one("SELECT threadline.current_audit_transaction_id()"), id);
    s.run("INSERT INTO t VALUES (2, 'a')");
    assert_eq!(s.column("SELECT DISTINCT transaction_id FROM threadline.audit_changes"), [id.as_str()]);
    s.run("COMMIT; INSERT INTO t VALUES (3, 'a')");
    assert_eq!(of_row(&mut s, 2, "id"), id);
    assert_ne!(of_row(&mut s, 3, "id"), id);
    s.run("BEGIN");
    let unused = s.one("SELECT threadline.current_audit_transaction_id()");
    s.run("COMMIT");
    assert_eq!(
        s.number(&format!("SELECT count(*) FROM threadline.audit_transactions WHERE id = '{unused}'")),
        0,
        "nothing happened, nothing is stored"
    );
}

#[test]
fn nothing_leaks_into_the_next_transaction_of_a_pooled_connection() {
    let (_db, mut s) = captured("ctx_pool");
    let set = "SELECT threadline.set_actor('user', 'first'); SET LOCAL threadline.correlation_id = 'first'; SELECT threadline.put_context('{\"first\":1}'); SELECT threadline.record_action('first')";
    for (id, end) in [(1, "COMMIT"), (2, "ROLLBACK"), (3, "SELECT 1/0")] {
        let _ = s.try_run(&format!("BEGIN; {set}; INSERT INTO t VALUES ({id}0, 'a'); {end}"));
        s.run("ROLLBACK");
        s.run(&format!("INSERT INTO t VALUES ({id}, 'a')"));
        for column in ["actor_ref", "correlation_id", "action_id", "context -> 'first'"] {
            assert_eq!(of_row(&mut s, id, column), "NULL", "{column} after {end}");
        }
        assert_eq!(of_row(&mut s, id, "change_count"), "1", "after {end}");
    }
}

#[test]
fn a_session_setting_lasts_until_it_is_reset() {
    let (_db, mut s) = captured("ctx_session");
    s.run("SET threadline.request_id = 'session'");
    s.run("INSERT INTO t VALUES (1, 'a')");
    s.run("BEGIN; SET LOCAL threadline.request_id = 'local'; INSERT INTO t VALUES (2, 'a'); COMMIT");
    s.run("INSERT INTO t VALUES (3, 'a')");
    s.run("DISCARD ALL");
    s.run("INSERT INTO t VALUES (4, 'a')");
    let found: Vec<String> = (1..=4).map(|id| of_row(&mut s, id, "request_id")).collect();
    assert_eq!(found, ["session", "local", "session", "NULL"]);
}

#[test]
fn settings_made_before_the_library_was_loaded_count() {
    let (db, mut s) = captured("ctx_lazy");
    let mut first = db.session();
    first.run("SET threadline.actor_ref = '{\"type\":\"user\",\"id\":\"early\"}'");
    first.run("INSERT INTO t VALUES (1, 'a')");
    let mut second = db.session();
    second.run("BEGIN; SET LOCAL threadline.actor_ref = '{\"type\":\"user\",\"id\":\"local\"}'; SET LOCAL threadline.job_id = 'j'; INSERT INTO t VALUES (2, 'a'); COMMIT");
    let mut third = db.session();
    third.run("BEGIN; SET LOCAL threadline.actor_ref = 'bad json'; INSERT INTO t VALUES (3, 'a'); COMMIT");
    assert_eq!(of_row(&mut s, 1, "actor_ref ->> 'id'"), "early");
    assert_eq!(of_row(&mut s, 2, "actor_ref ->> 'id' || job_id"), "localj");
    assert_eq!(of_row(&mut s, 3, "context ->> 'invalid_actor_ref'"), "bad json");
}

#[test]
fn two_phase_commit_keeps_transactions_apart() {
    let cluster = Cluster::start("prepared", &["max_prepared_transactions=5"]);
    let db = Database::bare(&cluster.at, "prepared");
    let mut s = db.session();
    s.run("CREATE EXTENSION threadline_forensics; CREATE TABLE t (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('t')");
    s.run("BEGIN; SELECT threadline.set_actor('user', 'prepared'); INSERT INTO t SELECT g, 'a' FROM generate_series(1, 100) g; UPDATE t SET v = 'b' WHERE id = 1");
    let prepared = s.one("SELECT threadline.current_audit_transaction_id()");
    s.run("PREPARE TRANSACTION 'one'");
    s.run("INSERT INTO t VALUES (200, 'plain')");
    assert_eq!(of_row(&mut s, 200, "actor_ref"), "NULL");
    assert_eq!(of_row(&mut s, 200, "change_count"), "1");
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.audit_changes WHERE table_name = 't'"),
        1,
        "not committed yet"
    );
    s.run("BEGIN; INSERT INTO t VALUES (300, 'never'); PREPARE TRANSACTION 'two'");
    let mut other = db.session();
    other.run("COMMIT PREPARED 'one'");
    other.run("ROLLBACK PREPARED 'two'");
    other.run("INSERT INTO t VALUES (201, 'after')");
    assert_eq!(of_row(&mut s, 1, "id"), prepared);
    assert_eq!(of_row(&mut s, 1, "change_count"), "101");
    assert_eq!(of_row(&mut s, 1, "actor_ref ->> 'id'"), "prepared");
    assert_ne!(of_row(&mut s, 201, "id"), prepared);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes WHERE table_name = 't'"), 103);
    s.assert_replay_holds("t");
}
