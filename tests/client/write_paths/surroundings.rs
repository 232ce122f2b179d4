//! What surrounds the writes: roles, replication, kinds of tables, DDL and upkeep.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Path, WritePath};
use crate::support::{Database, Session, unique};

pub const PATHS: &[WritePath] = &[
    ("a role without any right on schema threadline", |p| {
        p.t("(1, 'a')");
        with_role(p, |p, role| {
            p.run(&format!(
                "GRANT USAGE ON SCHEMA {} TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON t TO {role}",
                p.schema
            ));
            p.run("REVOKE ALL ON SCHEMA threadline FROM PUBLIC");
            let mut theirs = p.db.session_as(role);
            theirs.run(&format!("SET search_path = {}; BEGIN; INSERT INTO t VALUES (2, 'b'); UPDATE t SET v = 'x' WHERE id = 1; COMMIT; TRUNCATE t", p.schema));
            drop(theirs);
            p.run("GRANT USAGE ON SCHEMA threadline TO PUBLIC");
            let who = p.s.column(&format!(
                "SELECT DISTINCT x.session_user_name FROM threadline.audit_transactions x JOIN threadline.audit_changes c ON c.transaction_id = x.id WHERE {} AND c.id > {}",
                p.ours(), p.prepared
            ));
            assert_eq!(who, [role]);
            p.recorded(&["+t 2 b | ~t 1 v:a>x", "!t 1 x; !t 2 b"])
        })
    }),
    ("SECURITY DEFINER function, row security, column rights", |p| {
        p.t("(1, 'a'), (2, 'b')");
        with_role(p, |p, role| {
            p.run(&format!(
                "CREATE FUNCTION work() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = {0} AS 'INSERT INTO t VALUES (3, $$definer$$)';
                 ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY only_one ON t USING (id = 1);
                 GRANT USAGE ON SCHEMA {0} TO {role}; GRANT SELECT, UPDATE (v) ON t TO {role}", p.schema
            ));
            let mut theirs = p.db.session_as(role);
            theirs.run(&format!("SET search_path = {}; BEGIN; SELECT work(); UPDATE t SET v = 'x'; COMMIT", p.schema));
            drop(theirs);
            p.recorded(&["+t 3 definer | ~t 1 v:a>x"])
        })
    }),
    ("SET ROLE and SET SESSION AUTHORIZATION", |p| {
        p.t("(1, 'a')");
        with_role(p, |p, role| {
            p.run(&format!("GRANT USAGE ON SCHEMA {} TO {role}; GRANT ALL ON t TO {role}", p.schema));
            p.run(&format!("SET ROLE {role}; UPDATE t SET v = 'b'; RESET ROLE; SET SESSION AUTHORIZATION {role}; UPDATE t SET v = 'c'; RESET SESSION AUTHORIZATION"));
            p.recorded(&["~t 1 v:a>b | ~t 1 v:b>c"])
        })
    }),
    ("session_replication_role = replica", |p| {
        p.t("(1, 'a'), (2, 'b')");
        p.run("SET session_replication_role = replica; UPDATE t SET v = 'x' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (3, 'c'); RESET session_replication_role");
        p.unrecorded("t")
    }),
    ("session_replication_role = replica, triggers ENABLE ALWAYS", |p| {
        p.t("(1, 'a')");
        always(&mut p.s, "t");
        p.run("SET session_replication_role = replica; UPDATE t SET v = 'x'; RESET session_replication_role");
        p.recorded(&["~t 1 v:a>x"])
    }),
    ("ALTER TABLE … DISABLE TRIGGER", |p| {
        p.t("(1, 'a')");
        p.run("ALTER TABLE t DISABLE TRIGGER threadline_capture; UPDATE t SET v = 'x'; ALTER TABLE t ENABLE TRIGGER threadline_capture");
        p.unrecorded("t")
    }),
    ("logical replication, applied", |p| {
        applied(p, false);
        p.unrecorded("t")
    }),
    ("logical replication, applied, triggers ENABLE ALWAYS", |p| {
        applied(p, true);
        p.recorded(&["+t 1 a | +t 2 b", "~t 1 v:a>x | -t 2 b", "!t 1 x | +t 3 c"])
    }),
    ("temporary table", |p| {
        p.run("CREATE TEMPORARY TABLE mine (id int PRIMARY KEY)");
        p.refused("SELECT threadline.audit_enable('mine')", "42809");
        "refused with 42809: cannot be put under capture".into()
    }),
    ("unlogged table", |p| {
        p.tables("CREATE UNLOGGED TABLE t (id int PRIMARY KEY, v text)");
        p.run("INSERT INTO t VALUES (1, 'a'); DELETE FROM t");
        p.recorded(&["+t 1 a | -t 1 a"])
    }),
    ("large objects referred to by an audited column", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, file oid)");
        p.run("SELECT lo_create(4242); INSERT INTO t VALUES (1, 4242)");
        p.run("SELECT lo_put(4242, 0, 'contents'), lo_unlink(4242)");
        p.recorded(&["+t 1 4242"])
    }),
    ("VACUUM FULL, CLUSTER, REINDEX, ANALYZE", |p| {
        p.t("(1, 'a'), (2, 'b')");
        for upkeep in [
            "VACUUM FULL t",
            "CLUSTER t USING t_pkey",
            "REINDEX TABLE t",
            "REINDEX TABLE CONCURRENTLY t",
            "VACUUM (FREEZE, ANALYZE) t",
        ] {
            p.run(upkeep);
        }
        assert_eq!(p.changes(), Vec::<String>::new());
        p.adds_up();
        p.run("UPDATE t SET v = 'x' WHERE id = 2");
        p.recorded(&["~t 2 v:b>x"]);
        "nothing to record, later writes are, replay holds".into()
    }),
    ("ALTER TABLE that rewrites: ADD COLUMN DEFAULT, ALTER TYPE", |p| {
        p.t("(1, '10'), (2, '20')");
        p.run("ALTER TABLE t ADD COLUMN n numeric DEFAULT random(); ALTER TABLE t ALTER v TYPE int USING v::int; ALTER TABLE t DROP n");
        p.run("UPDATE t SET v = v + 1 WHERE id = 1; INSERT INTO t VALUES (3, 30)");
        p.reshaped = true;
        p.recorded(&["~t 1 v:10>11 | +t 3 30"])
    }),
    ("ALTER TABLE between writes of one transaction", |p| {
        p.t("(1, 'a')");
        p.run("BEGIN; UPDATE t SET v = 'b'; ALTER TABLE t ADD COLUMN n int NOT NULL DEFAULT 5; UPDATE t SET n = 6; ALTER TABLE t RENAME v TO w; UPDATE t SET w = 'c'; COMMIT");
        p.reshaped = true;
        p.recorded(&["~t 1 v:a>b | ~t 1 n:5>6 | ~t 1 w:b>c"])
    }),
    ("table, schema and columns renamed between writes", |p| {
        p.t("(1, 'a')");
        let other = unique("path");
        p.run(&format!("ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME v TO w; CREATE SCHEMA {other}; ALTER TABLE u SET SCHEMA {other}"));
        p.run(&format!("UPDATE {other}.u SET w = 'b'; ALTER TABLE {other}.u SET SCHEMA {}; DELETE FROM u", p.schema));
        p.reshaped = true;
        p.recorded(&["~u 1 w:a>b | -u 1 b"])
    }),
    ("other people's event triggers", |p| {
        p.run(&format!(
            "CREATE TABLE {0}.ddl (n serial PRIMARY KEY, tag text);
             CREATE FUNCTION note_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO {0}.ddl (tag) VALUES (TG_TAG); END $$;
             SELECT threadline.audit_enable('ddl')", p.schema
        ));
        let name = unique("event");
        p.run(&format!("CREATE EVENT TRIGGER {name} ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE TRIGGER') EXECUTE FUNCTION {}.note_ddl()", p.schema));
        p.run("CREATE TABLE t (id int PRIMARY KEY, v text)");
        p.run("SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1, 'a')");
        p.run(&format!("DROP EVENT TRIGGER {name}"));
        p.recorded(&["+ddl 1 CREATE TABLE", "+ddl 2 CREATE TRIGGER | +ddl 3 CREATE TRIGGER | +t 1 a"])
    }),
    ("names that need quoting, keys of several columns", |p| {
        p.tables(r#"CREATE TABLE "T ""t" ("from" int, "b b" text, v text, PRIMARY KEY ("from", "b b"))"#);
        p.reshaped = true;
        p.run(
            r#"INSERT INTO "T ""t" VALUES (1, 'k', 'a'); UPDATE "T ""t" SET v = 'b', "b b" = 'l'; DELETE FROM "T ""t""#,
        );
        p.recorded(&[r#"+T "t k,1 a | ~T "t k,1>l,1 v:a>b | -T "t l,1 b"#])
    }),
];

/// Walks with a role of its own, which is dropped whatever happens.
fn with_role(p: &mut Path, walk: fn(&mut Path, &str) -> String) -> String {
    let role = unique("writer");
    p.run(&format!("CREATE ROLE {role} LOGIN"));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| walk(p, &role)));
    p.session().run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn always(s: &mut Session, table: &str) {
    s.run(&format!(r#"SELECT threadline.audit_enable('{table}', options => '{{"fires": "always"}}')"#));
}

/// Three transactions of another database, applied to the path's table `t` by a subscription.
fn applied(p: &mut Path, capture_always: bool) {
    p.t("");
    if capture_always {
        always(&mut p.s, "t");
    }
    let (schema, slot) = (p.schema.clone(), unique("slot"));
    let source = Database::bare(&p.db.at, "publisher");
    let mut s = source.session();
    s.run(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}; CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION p FOR TABLE t"));
    // Created beforehand: a subscription to its own cluster that made its slot would wait for itself.
    // Making one waits for every transaction of the cluster that writes now.
    s.run(&format!("SET statement_timeout = '120s'; SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    p.run(&format!(
        "CREATE SUBSCRIPTION {slot} CONNECTION 'host={} port={} user={} dbname={}' PUBLICATION p WITH (create_slot = false, copy_data = false)",
        p.db.at.socket_dir, p.db.at.port, p.db.at.user, source.name
    ));
    s.run("BEGIN; INSERT INTO t VALUES (1, 'a'), (2, 'b'); COMMIT");
    s.run("BEGIN; UPDATE t SET v = 'x' WHERE id = 1; DELETE FROM t WHERE id = 2; COMMIT");
    s.run("BEGIN; TRUNCATE t; INSERT INTO t VALUES (3, 'c'); COMMIT");
    let deadline = Instant::now() + Duration::from_secs(60);
    while p.s.one("SELECT string_agg(v, '') FROM t") != "c" {
        assert!(Instant::now() < deadline, "the subscription does not catch up");
        sleep(Duration::from_millis(50));
    }
    p.run(&format!("DROP SUBSCRIPTION {slot}"));
}
