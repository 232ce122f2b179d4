//! `audit_enable_schema`: a schema's tables and, with `future`, those to come, whoever makes them.

use crate::cluster::Cluster;
use crate::support::{Address, Database, Session, unique};

struct Role(String);

impl Role {
    fn new() -> Self {
        let at = Address::from_env();
        let name = unique("maker");
        at.connect("postgres", &at.user).run(&format!("CREATE ROLE {name} LOGIN"));
        Role(name)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let at = Address::from_env();
        // A failed test keeps its database, and with it what the role owns there.
        let _ = at.connect("postgres", &at.user).try_run(&format!("DROP ROLE {}", self.0));
    }
}

/// A database whose schema public is under capture, present and future, and a role that may create tables there.
fn future(stem: &str, role: &Role) -> (Database, Session, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(&format!(
        "GRANT CREATE ON SCHEMA public TO {}; SELECT threadline.audit_enable_schema('public', future => true)",
        role.0
    ));
    let plain = db.session_as(&role.0);
    (db, s, plain)
}

fn captured(s: &mut Session) -> String {
    s.one("SELECT coalesce(string_agg(table_name, ' ' ORDER BY table_name), '') FROM threadline.audit_tables WHERE enabled")
}

fn assert_silent(session: &Session) {
    let notices = session.notices.lock().unwrap();
    assert!(notices.iter().all(|n| !n.starts_with("WARNING")), "{notices:?}");
}

#[test]
fn all_tables_but_those_that_cannot_be_or_are_not_to_be() {
    let db = Database::new("sch_all");
    let mut s = db.session();
    s.run(
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1); CREATE TABLE keyless (id int); CREATE TABLE skipped (id int PRIMARY KEY);
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE TABLE noted (id int PRIMARY KEY); SELECT threadline.audit_expect_uncovered('noted', 'scratch');
         CREATE VIEW v AS SELECT 1; CREATE TEMP TABLE tmp (id int PRIMARY KEY)",
    );
    let all = "SELECT * FROM threadline.audit_enable_schema('public', except_tables => '{skipped}')";
    assert_eq!(s.column(all), ["a", "p"]);
    assert_eq!(s.column(all), ["a", "p"], "again");
    s.run("INSERT INTO a VALUES (2); INSERT INTO p VALUES (3)");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes WHERE op = 'insert'"), 2);
    assert_eq!(s.number("SELECT count(*) FROM pg_event_trigger"), 0, "only future needs them");
    s.run("CREATE TABLE later (id int PRIMARY KEY)");
    assert_eq!(captured(&mut s), "a p");
    s.refused("SELECT threadline.audit_enable_schema('nowhere')", &["3F000"]);
    s.refused("SELECT threadline.audit_enable_schema(NULL)", &["22004"]);
    s.refused("SELECT threadline.audit_enable_schema('threadline')", &["42809"]);
    s.refused("SELECT threadline.audit_enable_schema('pg_catalog')", &["42809"]);
    s.refused("SELECT threadline.audit_enable_schema('public', except_tables => '{misspelt}')", &["42P01"]);
}

#[test]
fn tables_that_an_ordinary_user_makes_are_captured() {
    let role = Role::new();
    let (_db, mut s, mut plain) = future("sch_plain", &role);
    plain.run("CREATE TABLE made (id int PRIMARY KEY, v text); INSERT INTO made VALUES (1, 'a')");
    plain.run("BEGIN; CREATE TABLE undone (id int PRIMARY KEY); ROLLBACK");
    plain.run("BEGIN; CREATE TABLE pair (id int PRIMARY KEY); INSERT INTO pair VALUES (1); COMMIT");
    plain.run("CREATE TABLE keyless AS SELECT g AS id FROM generate_series(1, 3) g; CREATE TEMP TABLE tmp (id int PRIMARY KEY)");
    assert_eq!(captured(&mut s), "made pair");
    plain.run("ALTER TABLE keyless ADD PRIMARY KEY (id); INSERT INTO keyless VALUES (4)");
    plain.run("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); INSERT INTO p VALUES (1)");
    assert_eq!(captured(&mut s), "keyless made p pair");
    for (table, changes) in [("made", 1), ("pair", 1), ("keyless", 4), ("p", 1)] {
        assert_eq!(
            s.number(&format!("SELECT count(*) FROM threadline.audit_changes WHERE table_name = '{table}'")),
            changes,
            "{table}"
        );
        s.assert_replay_holds(table);
    }
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_coverage() WHERE status <> 'covered'"), 0);
    assert_silent(&plain);
    assert_eq!(plain.failure("SELECT count(*) FROM threadline.future_schema").code, "42501");
    assert_eq!(plain.failure("SELECT threadline.audit_enable_schema('public')").code, "42501");
}

#[test]
fn an_admin_takes_only_schemas_it_owns() {
    let role = Role::new();
    let (_db, mut s, mut admin) = future("sch_admin", &role);
    s.run(&format!("SELECT threadline.audit_grant('{0}', 'admin'); CREATE SCHEMA own AUTHORIZATION {0}", role.0));
    admin.refused("SELECT threadline.audit_enable_schema('public')", &["42501"]);
    admin.run("CREATE TABLE own.t (id int PRIMARY KEY)");
    assert_eq!(admin.column("SELECT * FROM threadline.audit_enable_schema('own', future => true)"), ["own.t"]);
    admin.run("CREATE TABLE own.u (id int PRIMARY KEY)");
    assert_eq!(captured(&mut s), "t u");
}

#[test]
fn a_key_that_comes_goes_and_changes() {
    let role = Role::new();
    let (_db, mut s, mut plain) = future("sch_key", &role);
    plain.run("CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL); INSERT INTO t VALUES (1, 'a')");
    // Without its key nothing tells rows apart: writes go on unrecorded, and everybody may know.
    plain.run("ALTER TABLE t DROP CONSTRAINT t_pkey; INSERT INTO t VALUES (1, 'twin')");
    assert_eq!(captured(&mut s), "");
    assert_eq!(s.one("SELECT detail ->> 'key' FROM threadline.audit_gaps WHERE until_at = 'infinity'"), "dropped");
    assert_eq!(
        s.one("SELECT status || ': ' || reason FROM threadline.audit_coverage()"),
        "uncovered: it has no primary key: audit_enable needs key_columns or options {\"key\": \"full_row\"}"
    );
    plain.run("DELETE FROM t WHERE code = 'twin'; ALTER TABLE t ADD PRIMARY KEY (id)");
    assert_eq!(captured(&mut s), "t");
    plain.run("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (code); UPDATE t SET id = 2");
    assert_eq!(s.one("SELECT key_columns FROM threadline.audit_tables"), "{code}");
    s.assert_replay_holds("t");
    plain.run("ALTER TABLE t DROP COLUMN code; INSERT INTO t VALUES (7)");
    assert_eq!(captured(&mut s), "");
    // A type that goes takes the column and its key along.
    plain.run("CREATE DOMAIN number AS int; CREATE TABLE d (id number PRIMARY KEY, v int)");
    assert_eq!(captured(&mut s), "d");
    plain.run("DROP DOMAIN number CASCADE; INSERT INTO d VALUES (1)");
    assert_eq!(captured(&mut s), "");
    assert_silent(&plain);
}

#[test]
fn a_table_named_by_hand_keeps_refusing_writes_without_its_key() {
    let role = Role::new();
    let (_db, mut s, _plain) = future("sch_named", &role);
    s.run(
        "CREATE TABLE t (id int PRIMARY KEY, v int); SELECT threadline.audit_enable('t'); ALTER TABLE t DROP COLUMN id",
    );
    s.refused("INSERT INTO t VALUES (1)", &["42703"]);
    assert_eq!(captured(&mut s), "t");
}

#[test]
fn attached_and_detached_partitions_change_hands() {
    let role = Role::new();
    let (_db, mut s, mut plain) = future("sch_attach", &role);
    plain.run(
        "CREATE TABLE p (id int, r text, PRIMARY KEY (id, r)) PARTITION BY LIST (r); CREATE TABLE pa PARTITION OF p FOR VALUES IN ('a'); INSERT INTO p VALUES (1, 'a');
         CREATE TABLE pb (id int, r text, PRIMARY KEY (id, r)); CREATE TABLE pc (LIKE p INCLUDING ALL) PARTITION BY LIST (r); CREATE TABLE pd (LIKE p INCLUDING ALL); INSERT INTO pd VALUES (1, 'd')",
    );
    assert_eq!(captured(&mut s), "p pb pc pd");
    plain.run("ALTER TABLE p ATTACH PARTITION pb FOR VALUES IN ('b'); INSERT INTO p VALUES (2, 'b'); ALTER TABLE p ATTACH PARTITION pc FOR VALUES IN ('c')");
    assert_eq!(captured(&mut s), "p pd");
    assert_eq!(s.column("SELECT table_name FROM threadline.audit_changes ORDER BY id DESC LIMIT 1"), ["p"]);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes WHERE data_after ->> 'r' = 'b'"), 1, "once");
    s.assert_replay_holds("p");
    plain.run("ALTER TABLE p ATTACH PARTITION pd FOR VALUES IN ('d')");
    assert_eq!(
        s.one("SELECT concat_ws(' ', table_name, op) FROM threadline.audit_changes ORDER BY id DESC LIMIT 1"),
        "p insert"
    );
    s.assert_replay_holds("p");
    plain.run("ALTER TABLE p DETACH PARTITION pa; INSERT INTO pa VALUES (3, 'a'); ALTER TABLE p DETACH PARTITION pb; INSERT INTO pb VALUES (4, 'b')");
    assert_eq!(captured(&mut s), "p pa pb");
    s.assert_replay_holds("p");
    s.assert_replay_holds("pa");
    s.assert_replay_holds("pb");
    assert_silent(&plain);
}

#[test]
fn a_gap_opens_and_closes_with_the_command_that_makes_it() {
    let role = Role::new();
    let (_db, mut s, mut plain) = future("sch_witness", &role);
    plain.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let trigger = s.one("SELECT quote_ident(tgname) FROM pg_trigger WHERE tgname LIKE 'threadline_capture%'");
    for (off, on) in [
        ("ALTER TABLE t DISABLE TRIGGER ALL".to_string(), "ALTER TABLE t ENABLE TRIGGER ALL".to_string()),
        (format!("DROP TRIGGER {trigger} ON t"), "CREATE TRIGGER mine AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION threadline.capture_row()".to_string()),
    ] {
        let before = s.one("SELECT clock_timestamp()");
        plain.run(&off);
        plain.run("SELECT pg_sleep(0.02)");
        plain.run(&on);
        let after = s.one("SELECT clock_timestamp()");
        assert_eq!(s.number(&format!("SELECT count(*) FROM threadline.gap WHERE since_at > '{before}' AND until_at < '{after}' AND until_at > since_at")), 1, "{off}");
    }
    plain.run("ALTER TABLE t ADD COLUMN v int; ALTER TABLE t ALTER COLUMN v SET STATISTICS 7");
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.gap WHERE reason <> 'not_yet_enabled'"),
        2,
        "other commands open none"
    );
    let before = s.one("SELECT clock_timestamp()");
    plain.run("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY)");
    assert_eq!(s.column(&format!("SELECT enabled || ' ' || coalesce((disabled_at > '{before}')::text, '-') FROM threadline.captured_table ORDER BY table_id")), ["false true", "true -"]);
}

#[test]
fn schemas_made_renamed_and_moved_into() {
    let role = Role::new();
    let (_db, mut s, _plain) = future("sch_schemas", &role);
    s.run("CREATE SCHEMA app; SELECT threadline.audit_enable_schema('app', future => true, except_tables => '{log}')");
    s.run("CREATE TABLE app.log (id int PRIMARY KEY); CREATE TABLE app.a (id int PRIMARY KEY); CREATE SCHEMA other; CREATE TABLE other.moved (id int PRIMARY KEY)");
    assert_eq!(captured(&mut s), "a");
    s.run("ALTER TABLE other.moved SET SCHEMA app; ALTER SCHEMA app RENAME TO app2; CREATE TABLE app2.b (id int PRIMARY KEY)");
    assert_eq!(captured(&mut s), "a b moved");
    s.run("DROP SCHEMA app2 CASCADE; CREATE SCHEMA app2 CREATE TABLE c (id int PRIMARY KEY)");
    assert_eq!(captured(&mut s), "c", "the name stays registered");
    s.run("SELECT threadline.audit_enable_schema('app2')");
    assert!(s.notices.lock().unwrap().iter().any(|n| n.contains("no longer")), "it is said");
    s.run("CREATE TABLE app2.d (id int PRIMARY KEY)");
    assert_eq!(captured(&mut s), "c");
    assert_eq!(s.number("SELECT count(*) FROM pg_event_trigger"), 3, "public still needs them");
    s.run("SELECT threadline.audit_enable_schema('public')");
    assert_eq!(s.number("SELECT count(*) FROM pg_event_trigger"), 0);
}

#[test]
fn upkeep_makes_up_for_event_triggers_that_were_away() {
    let role = Role::new();
    let (_db, mut s, _plain) = future("sch_missed", &role);
    s.run("DROP EVENT TRIGGER threadline_after_ddl; CREATE TABLE missed (id int PRIMARY KEY)");
    assert_eq!(captured(&mut s), "");
    assert_eq!(s.one("SELECT threadline.audit_maintain() -> 'captured'"), r#"["public.missed"]"#);
    s.run("CREATE TABLE seen (id int PRIMARY KEY)");
    assert_eq!(captured(&mut s), "missed seen");
}

#[test]
fn ddl_goes_on_when_capture_cannot() {
    let role = Role::new();
    let (_db, mut s, mut plain) = future("sch_fails", &role);
    s.run("ALTER TABLE threadline.captured_table ADD CONSTRAINT never CHECK (table_name <> 'unlucky')");
    plain.run("CREATE TABLE unlucky (id int PRIMARY KEY); INSERT INTO unlucky VALUES (1)");
    assert_eq!(captured(&mut s), "");
    let notices = plain.notices.lock().unwrap().clone();
    assert!(notices.iter().any(|n| n.starts_with("WARNING") && n.contains("public.unlucky")), "{notices:?}");
    assert_eq!(s.one("SELECT status FROM threadline.audit_coverage()"), "uncovered");
}

#[test]
fn a_restored_copy_goes_on_by_itself() {
    let role = Role::new();
    let (db, mut s, mut plain) = future("sch_dump", &role);
    plain.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)");
    s.run(&format!("CREATE SCHEMA app; SELECT threadline.audit_enable_schema('app', future => true); ALTER SCHEMA app RENAME TO app2; REASSIGN OWNED BY {} TO CURRENT_USER; DROP OWNED BY {}", role.0, role.0));
    let cluster = Cluster::start("sch_dump", &[]);
    let copy = Database::bare(&cluster.at, "sch_dump");
    crate::dump::dump_restore(&db, &copy, true);
    let mut new = copy.session();
    assert_eq!(captured(&mut new), "p t");
    assert_eq!(new.number("SELECT count(*) FROM threadline.captured_table"), 2);
    new.run("CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE app2.v (id int PRIMARY KEY); INSERT INTO t VALUES (2); INSERT INTO u VALUES (1)");
    assert_eq!(captured(&mut new), "p t u v");
    new.run("SELECT threadline.audit_maintain()");
    assert_eq!(new.number("SELECT count(*) FROM threadline.audit_coverage() WHERE status <> 'covered'"), 0);
    for table in ["t", "u", "p"] {
        new.assert_replay_holds(table);
    }
}

#[test]
fn the_extension_goes_with_its_event_triggers() {
    let role = Role::new();
    let (_db, mut s, mut plain) = future("sch_drop", &role);
    plain.run("CREATE TABLE t (id int PRIMARY KEY)");
    assert_eq!(s.failure("DROP EXTENSION threadline_forensics").code, "2BP01");
    s.run("DROP EXTENSION threadline_forensics CASCADE");
    assert_eq!(s.number("SELECT count(*) FROM pg_event_trigger"), 0);
    plain.run("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO t VALUES (1); DROP TABLE t");
}

#[test]
fn tables_of_extensions_are_left_alone() {
    let role = Role::new();
    let (_db, mut s, _plain) = future("sch_extension", &role);
    s.run("CREATE TABLE theirs (id int); ALTER EXTENSION plpgsql ADD TABLE theirs; ALTER TABLE theirs ADD PRIMARY KEY (id); CREATE TABLE mine (id int PRIMARY KEY)");
    assert_eq!(captured(&mut s), "mine");
    assert_eq!(
        s.one("SELECT reason FROM threadline.audit_coverage() WHERE status = 'uncovered'"),
        "it belongs to extension plpgsql"
    );
}

#[test]
fn an_open_ddl_transaction_holds_up_nobody() {
    let role = Role::new();
    let (db, mut s, mut plain) = future("sch_open", &role);
    plain.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    plain.run(
        "BEGIN; CREATE TABLE slow (id int PRIMARY KEY); INSERT INTO slow VALUES (1); ALTER TABLE slow ADD COLUMN v int",
    );
    let mut other = db.session_as(&role.0);
    other.run("SET statement_timeout = '20s'; INSERT INTO t VALUES (2); CREATE TABLE quick (id int PRIMARY KEY); ALTER TABLE t ADD COLUMN v int; INSERT INTO t VALUES (3)");
    s.run("SET statement_timeout = '20s'; SELECT threadline.audit_maintain()");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_history('t', 3)"), 1);
    assert_eq!(captured(&mut s), "quick t");
    plain.run("COMMIT");
    assert_eq!(captured(&mut s), "quick slow t");
    for table in ["t", "slow", "quick"] {
        s.assert_replay_holds(table);
    }
}
