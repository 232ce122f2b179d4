//! `audit_policy` and `audit_health`: each verdict both ways.

use crate::cluster::Cluster;
use crate::support::{Database, Session, unique};

fn policy(s: &mut Session) -> String {
    s.one("SELECT string_agg(state || coalesce((SELECT ' ' || string_agg(f ->> 'finding', ' ') FROM jsonb_array_elements(detail -> 'findings') f), ''), '; ') FROM threadline.audit_policy()")
}

#[test]
fn a_policy_drifts_when_what_it_names_changes() {
    let db = Database::new("hlt_policy");
    let mut s = db.session();
    let fresh = "DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, ssn text, notes text, v int); SELECT threadline.audit_enable('t', exclude => '{notes}', mask => '{ssn}'); INSERT INTO t VALUES (1, 'SECRET', 'SECRET', 1)";
    for (change, finding) in [
        ("ALTER TABLE t DROP COLUMN notes", "column_dropped"),
        ("ALTER TABLE t RENAME ssn TO tax_number", "column_renamed"),
        ("ALTER TABLE t RENAME ssn TO tax_number; INSERT INTO t VALUES (2)", "column_renamed"),
        ("ALTER TABLE t ALTER ssn TYPE varchar(20)", "column_retyped"),
        ("ALTER TABLE t DROP CONSTRAINT t_pkey", "key_not_unique"),
        ("ALTER TABLE t DROP COLUMN id", "column_dropped"),
        ("ALTER TABLE t DISABLE TRIGGER threadline_capture", "trigger_disabled"),
    ] {
        s.run(fresh);
        assert_eq!(policy(&mut s), "config_matches_deployed", "before {change}");
        s.run("ALTER TABLE t ADD COLUMN more text; ALTER TABLE t RENAME v TO w");
        assert_eq!(policy(&mut s), "config_matches_deployed", "columns it does not name");
        s.run(change);
        assert_eq!(policy(&mut s), format!("drift_detected {finding}"), "{change}");
        assert!(!s.one("SELECT array_agg(p)::text FROM threadline.audit_policy() p").contains("SECRET"));
        s.run("DROP TABLE t");
        assert_eq!(policy(&mut s), "could_not_introspect table_dropped");
        s.run("SELECT threadline.audit_maintain()");
        assert_eq!(s.number("SELECT count(*) FROM threadline.audit_policy()"), 0, "its identity has ended");
    }
    s.run(fresh);
    s.run("ALTER TABLE t RENAME ssn TO tax_number; SELECT threadline.audit_maintain()");
    assert_eq!(policy(&mut s), "config_matches_deployed", "the new name was taken over");
    assert_eq!(s.one("SELECT mask FROM threadline.audit_policy()"), "{tax_number}");
}

const CHECKS: [&str; 18] = [
    "capture_triggers",
    "gaps",
    "lost_changes",
    "coverage",
    "new_tables",
    "policy",
    "restored_tables",
    "maintenance",
    "partitions_ahead",
    "default_partition",
    "indexes",
    "log_size",
    "retention",
    "prepared_transactions",
    "malformed_context",
    "replica_role",
    "track_commit_timestamp",
    "extension_version",
];

/// What is not ok, as `name severity`.
fn complaints(s: &mut Session) -> Vec<String> {
    let names = s.column("SELECT check_name FROM threadline.audit_health()");
    assert_eq!(names, CHECKS, "every check, always");
    let mute = s.number("SELECT count(*) FROM threadline.audit_health() WHERE (severity <> 'ok') <> (coalesce(hint, '') <> '') OR coalesce(detail, '') = ''");
    assert_eq!(mute, 0, "a hint with what is wrong, and only there");
    s.column("SELECT check_name || ' ' || severity FROM threadline.audit_health() WHERE severity <> 'ok' AND check_name <> 'track_commit_timestamp'")
}

#[test]
fn each_check_can_say_both() {
    let db = Database::new("hlt_checks");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1, 'a')");
    assert_eq!(complaints(&mut s), [""; 0]);
    let month = s.one("SELECT to_char((now() AT TIME ZONE 'UTC') + interval '1 month', 'YYYY_MM')");
    let cases: Vec<(String, &[&str], String)> = vec![
        ("ALTER TABLE t DISABLE TRIGGER threadline_capture".into(), &["capture_triggers critical", "coverage warning", "policy warning"], "SELECT threadline.audit_enable('t')".into()),
        ("SELECT threadline.audit_disable('t'); CREATE TABLE u (id int PRIMARY KEY); SELECT threadline.audit_enable('u')".into(), &["gaps warning", "coverage warning"], "SELECT threadline.audit_enable('t')".into()),
        ("ALTER TABLE t DISABLE TRIGGER threadline_capture; SELECT threadline.audit_maintain(); ALTER TABLE t ENABLE TRIGGER threadline_capture".into(), &["gaps critical"], "SELECT threadline.audit_maintain()".into()),
        ("CREATE TABLE keyless (id int)".into(), &["coverage warning"], "SELECT threadline.audit_expect_uncovered('keyless', 'scratch')".into()),
        ("SELECT threadline.audit_enable_schema('public', future => true); ALTER EVENT TRIGGER threadline_after_ddl DISABLE".into(), &["new_tables critical"], "SELECT threadline.audit_maintain()".into()),
        ("CREATE TABLE k (id int PRIMARY KEY, v int); SELECT threadline.audit_enable('k'); ALTER TABLE k DROP COLUMN id".into(), &["coverage warning", "policy critical"], "DROP TABLE k; SELECT threadline.audit_maintain()".into()),
        ("UPDATE threadline.captured_table SET origin = 7 WHERE table_name = 't'".into(), &["restored_tables warning"], "SELECT threadline.audit_maintain()".into()),
        ("UPDATE threadline.trigger_check SET intact_at = now() - interval '5 days'".into(), &["maintenance warning"], "SELECT threadline.audit_maintain()".into()),
        (format!("DROP TABLE threadline.change_log_{month}"), &["partitions_ahead warning"], "SELECT threadline.audit_maintain()".into()),
        ("INSERT INTO threadline.change_log_default SELECT id, '2001-01-01', row_key, transaction_id, table_id, statement_no, schema_version, op, key FROM threadline.change_log LIMIT 1".into(), &["default_partition warning"], "SELECT threadline.audit_maintain()".into()),
        ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'threadline.action_log_inserted_idx'::regclass".into(), &["indexes warning"], "REINDEX INDEX CONCURRENTLY threadline.action_log_inserted_idx".into()),
        ("SELECT threadline.audit_set_retention(keep => '90 days', enabled => true)".into(), &["retention warning"], "CALL threadline.audit_purge(dry_run => false)".into()),
        ("INSERT INTO threadline.purge_run (started_at, finished_at, status, dry_run, run_by, error_message) VALUES (now(), now(), 'failed', false, 'x', 'boom')".into(), &["retention critical"], "CALL threadline.audit_purge(dry_run => false)".into()),
        ("SELECT threadline.audit_set_retention(enabled => false); INSERT INTO t SELECT g, repeat(md5(g::text), 40) FROM generate_series(10, 14000) g; TRUNCATE t".into(), &["log_size warning"], "SELECT threadline.audit_set_retention(enabled => true)".into()),
        (format!("BEGIN; INSERT INTO t VALUES (3); PREPARE TRANSACTION '{}'", db.name), &["prepared_transactions warning"], format!("ROLLBACK PREPARED '{}'", db.name)),
        ("BEGIN; SET LOCAL threadline.actor_ref = 'nonsense'; INSERT INTO t VALUES (4); COMMIT".into(), &["malformed_context warning"], "UPDATE threadline.transaction_log SET context = NULL".into()),
        (format!("ALTER DATABASE {} SET session_replication_role = replica", db.name), &["replica_role critical"], format!("ALTER DATABASE {} RESET session_replication_role", db.name)),
        ("UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'threadline_forensics'".into(), &["extension_version critical"], "UPDATE pg_extension SET extversion = threadline.library_version() WHERE extname = 'threadline_forensics'".into()),
    ];
    for (harm, expected, remedy) in cases {
        for statement in harm.split("; ") {
            s.run(statement);
        }
        assert_eq!(complaints(&mut s), expected, "{harm}");
        let worst = if expected.iter().any(|e| e.ends_with("critical")) { "critical" } else { "warning" };
        assert_eq!(s.one("SELECT threadline.audit_health_json() ->> 'status'"), worst, "{harm}");
        for statement in remedy.split("; ") {
            s.run(statement);
        }
        assert_eq!(complaints(&mut s), [""; 0], "after {remedy}");
    }
}

#[test]
fn commit_timestamps_are_asked_for_where_transactions_can_be_prepared() {
    let severity = |settings: &[&str]| {
        let cluster = Cluster::start(&unique("hlt"), settings);
        let db = Database::bare(&cluster.at, "hlt_setting");
        let mut s = db.session();
        s.run("CREATE EXTENSION threadline_forensics");
        s.one("SELECT severity FROM threadline.audit_health() WHERE check_name = 'track_commit_timestamp'")
    };
    assert_eq!(severity(&["track_commit_timestamp=off", "max_prepared_transactions=5"]), "warning");
    assert_eq!(severity(&["track_commit_timestamp=on", "max_prepared_transactions=5"]), "ok");
}
