//! Option `fires`: whether sessions of the replica role, logical replication's among them, are recorded.

use std::time::{Duration, Instant};

use crate::support::{Database, Session, unique};

const ALWAYS: &str = r#"options => '{"fires": "always"}'"#;

/// The firing states of our triggers, by table.
fn firing(s: &mut Session) -> Vec<String> {
    s.column("SELECT tgrelid::regclass || ' ' || string_agg(tgenabled::text, '' ORDER BY tgname) FROM pg_trigger
              WHERE tgfoid IN ('threadline.capture_row()'::regprocedure, 'threadline.capture_truncate()'::regprocedure) GROUP BY tgrelid ORDER BY tgrelid::regclass::text")
}

fn findings(s: &mut Session) -> String {
    s.one("SELECT string_agg(DISTINCT f ->> 'finding', ' ') FROM threadline.audit_policy(), jsonb_array_elements(detail -> 'findings') f")
}

#[test]
fn a_session_that_takes_the_replica_role_is_recorded() {
    let db = Database::new("fires_session");
    let mut s = db.session();
    s.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE o (id int PRIMARY KEY, v text);
           SELECT threadline.audit_enable('t', {ALWAYS}); SELECT threadline.audit_enable('o')"
    ));
    s.run("SET session_replication_role = replica; INSERT INTO t VALUES (1, 'a'); INSERT INTO o VALUES (1, 'a'); UPDATE t SET v = 'b'; TRUNCATE t; RESET session_replication_role");
    assert_eq!(
        s.column("SELECT table_name || ' ' || op FROM threadline.audit_changes ORDER BY id"),
        ["t insert", "t update", "t truncate"]
    );
    s.assert_replay_holds("t");
    assert_eq!(
        s.one("SELECT threadline.replay_check('o'::regclass) ->> 'verdict'"),
        "violated",
        "what went unrecorded shows"
    );
}

#[test]
fn triggers_follow_the_option_there_and_back() {
    let db = Database::new("fires_option");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10); SELECT threadline.audit_enable('t')");
    assert_eq!(firing(&mut s), ["t OO", "t1 OO"]);
    s.run(&format!("SELECT threadline.audit_enable('t', {ALWAYS})"));
    assert_eq!(firing(&mut s), ["t AA", "t1 AA"]);
    s.run("CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20); CREATE TABLE t3 (id int PRIMARY KEY); ALTER TABLE t ATTACH PARTITION t3 FOR VALUES FROM (20) TO (30); SELECT threadline.audit_maintain()");
    assert_eq!(firing(&mut s), ["t AA", "t1 AA", "t2 AA", "t3 AA"]);
    s.run("SET session_replication_role = replica; INSERT INTO t VALUES (1), (11), (21); TRUNCATE t2; RESET session_replication_role");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), 4);
    s.assert_replay_holds("t");
    s.run("SELECT threadline.audit_enable('t')");
    assert_eq!(findings(&mut s), "NULL", "a rerun keeps the option");
    let baselines = s.number("SELECT count(*) FROM threadline.baseline");
    s.run("SELECT threadline.audit_enable('t', options => '{}')");
    assert_eq!(firing(&mut s), ["t OO", "t1 OO", "t2 OO", "t3 OO"]);
    assert_eq!(s.number("SELECT count(*) FROM threadline.baseline"), baselines, "nothing was lost in between");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_gaps WHERE reason <> 'not_yet_enabled'"), 0);
    s.refused("SELECT threadline.audit_enable('t', options => '{\"fires\": \"never\"}')", &["22023"]);
    assert_eq!(firing(&mut s)[0], "t OO");
}

#[test]
fn partitions_get_triggers_that_fire_always() {
    let db = Database::new("fires_partitions");
    let mut s = db.session();
    let new = |name: &str, from: i32| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY); ALTER TABLE t ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({})",
            from + 10
        )
    };
    s.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id); SELECT threadline.audit_enable('t', {ALWAYS})"
    ));
    // Noted by its first row, which keeps its triggers from being altered: TRUNCATE would be a gap.
    s.run(&format!("BEGIN; {}; INSERT INTO t VALUES (1); COMMIT", new("t1", 0)));
    assert_eq!(firing(&mut s), ["t AA", "t1 A"]);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_coverage() WHERE findings @> '[{\"finding\": \"truncate_of_partition_unseen\"}]'"), 1);
    s.run("SELECT threadline.audit_enable_schema('public', future => true)");
    s.run(&new("t2", 10));
    s.run("CREATE TABLE t3 PARTITION OF t FOR VALUES FROM (20) TO (30)");
    assert_eq!(firing(&mut s), ["t AA", "t1 AA", "t2 AA", "t3 AA"]);
    s.run("SET session_replication_role = replica; INSERT INTO t VALUES (11), (21); TRUNCATE t1; TRUNCATE t2; RESET session_replication_role");
    assert_eq!(
        s.column("SELECT op || ' ' || (table_pk ->> 'id') FROM threadline.audit_changes ORDER BY id"),
        ["insert 1", "insert 11", "insert 21", "truncate 1", "truncate 11"]
    );
    s.assert_replay_holds("t");
    // A row trigger that is made again fires as the option says, too.
    s.run("ALTER TABLE t DISABLE TRIGGER ALL; SELECT threadline.audit_enable('t')");
    assert_eq!(firing(&mut s), ["t AA", "t1 AA", "t2 AA", "t3 AA"]);
}

#[test]
fn triggers_that_are_not_as_the_option_says_are_drift() {
    let db = Database::new("fires_drift");
    let mut s = db.session();
    s.run(&format!("CREATE TABLE t (id int PRIMARY KEY); SELECT threadline.audit_enable('t', {ALWAYS}); CREATE TABLE o (id int PRIMARY KEY); SELECT threadline.audit_enable('o')"));
    assert_eq!(findings(&mut s), "NULL");
    s.run("ALTER TABLE o ENABLE ALWAYS TRIGGER threadline_capture");
    assert_eq!(findings(&mut s), "trigger_fires_always");
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.audit_gaps WHERE reason = 'replica_role'"),
        0,
        "which loses nothing"
    );
    s.run("SELECT threadline.audit_enable('o'); ALTER TABLE t ENABLE TRIGGER threadline_capture");
    assert_eq!(findings(&mut s), "trigger_origin_only");
    assert_eq!(
        s.one("SELECT status || ': ' || reason FROM threadline.audit_coverage() WHERE table_name = 't'"),
        "uncovered: the row trigger on public.t does not fire in sessions of the replica role"
    );
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.audit_gaps WHERE table_name = 't' AND reason = 'replica_role'"),
        1
    );
    s.run("SELECT threadline.audit_enable('t')");
    assert_eq!(firing(&mut s), ["o OO", "t AA"]);
    assert_eq!(findings(&mut s), "NULL");
    s.run(&format!("ALTER DATABASE {} SET session_replication_role = replica", db.name));
    let severity =
        |s: &mut Session| s.one("SELECT severity FROM threadline.audit_health() WHERE check_name = 'replica_role'");
    assert_eq!(severity(&mut s), "critical");
    s.run(&format!("SELECT threadline.audit_enable('o', {ALWAYS})"));
    assert_eq!(severity(&mut s), "ok", "whom it does not keep from being recorded");
}

#[test]
fn what_logical_replication_applies() {
    let publisher = Database::new("fires_publisher");
    let subscriber = Database::new("fires_subscriber");
    let (mut p, mut s) = (publisher.session(), subscriber.session());
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE o (id int PRIMARY KEY, v text)";
    p.run(&format!("{tables}; SELECT threadline.audit_enable('t'); SELECT threadline.audit_enable('o'); CREATE PUBLICATION p FOR TABLE t, o"));
    s.run(&format!("{tables}; SELECT threadline.audit_enable('t', {ALWAYS}); SELECT threadline.audit_enable('o')"));
    let slot = unique("slot");
    p.run(&format!("SET statement_timeout = '120s'; SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    s.run(&format!(
        "CREATE SUBSCRIPTION {slot} CONNECTION 'host={} port={} user={} dbname={}' PUBLICATION p WITH (create_slot = false, copy_data = false)",
        publisher.at.socket_dir, publisher.at.port, publisher.at.user, publisher.name
    ));
    p.run("BEGIN; SELECT threadline.set_actor('user', 'u-7'); INSERT INTO t VALUES (1, 'a'); INSERT INTO o VALUES (1, 'a'); COMMIT");
    p.run("BEGIN; UPDATE t SET v = 'b'; UPDATE o SET v = 'b'; COMMIT");
    let deadline = Instant::now() + Duration::from_secs(60);
    while s.one("SELECT string_agg(v, '') FROM o") != "b" {
        assert!(Instant::now() < deadline, "the subscription does not catch up");
        std::thread::sleep(Duration::from_millis(50));
    }
    s.run(&format!("DROP SUBSCRIPTION {slot}"));
    let changes = "SELECT concat_ws(' ', table_name, op, data_after ->> 'v') FROM threadline.audit_changes ORDER BY id";
    assert_eq!(p.column(changes), ["t insert a", "o insert a", "t update b", "o update b"]);
    assert_eq!(s.column(changes), ["t insert a", "t update b"], "of the origin's own role only, o is not recorded");
    s.assert_replay_holds("t");
    assert_eq!(
        s.one("SELECT threadline.replay_check('o'::regclass) ->> 'verdict'"),
        "violated",
        "the table has a row that its history lacks"
    );
    // Each record is a transaction of its own: what the publisher knows of who and why is not replicated with the rows.
    let who = "SELECT actor_ref ->> 'id' FROM threadline.audit_transactions WHERE change_count > 0 ORDER BY commit_no LIMIT 1";
    assert_eq!(p.one(who), "u-7");
    assert_eq!(s.one(who), "NULL");
    let ids = "SELECT id FROM threadline.audit_transactions";
    let theirs = p.column(ids);
    assert!(s.column(ids).iter().all(|id| !theirs.contains(id)));
}
