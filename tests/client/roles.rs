//! Who may see and touch the log: nobody but the extension's owner, except as granted.

use crate::support::{Address, Database, Session, unique};

/// A login role, dropped with the test. Declare it before the database, so that the database goes first.
pub struct Role(pub String);

impl Role {
    pub fn new() -> Self {
        let at = Address::from_env();
        let name = unique("role");
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

/// `owner` owns table `mine`, captured by the superuser; the owner has no right on schema threadline.
fn owned(stem: &str, owner: &Role) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(&format!(
        "CREATE SCHEMA app AUTHORIZATION {0}; SET ROLE {0}; CREATE TABLE app.mine (id int PRIMARY KEY, v text); RESET ROLE; SELECT threadline.audit_enable('app.mine')",
        owner.0
    ));
    (db, s)
}

#[test]
fn a_writer_needs_no_right_on_the_log() {
    let owner = Role::new();
    let (db, mut s) = owned("rol_writer", &owner);
    let mut writer = db.session_as(&owner.0);
    writer.run("INSERT INTO app.mine VALUES (1, 'a'), (2, 'a'); UPDATE app.mine SET v = 'b'; DELETE FROM app.mine WHERE id = 2");
    writer.run("BEGIN; SELECT threadline.set_actor('user', 'u-1'); SELECT threadline.put_context('{\"k\": 1}'); INSERT INTO app.mine VALUES (3, 'c'); SELECT threadline.record_action('x.y'); SELECT threadline.current_audit_transaction_id(); COMMIT");
    writer.copy_in("COPY app.mine FROM STDIN", "4\td\n").expect("copy");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), 7);
    assert_eq!(
        s.one("SELECT DISTINCT session_user_name FROM threadline.audit_transactions WHERE change_count > 0"),
        owner.0
    );
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_transactions WHERE actor_ref ->> 'id' = 'u-1' AND action_id IS NOT NULL"), 1);
    s.assert_replay_holds("app.mine");
}

#[test]
fn a_writer_with_its_own_search_path_cannot_divert_capture() {
    let owner = Role::new();
    let (db, mut s) = owned("rol_path", &owner);
    let mut writer = db.session_as(&owner.0);
    writer.run(
        "CREATE FUNCTION app.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{}'::jsonb $$; CREATE FUNCTION app.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'epoch'::timestamptz $$;
         CREATE TABLE app.change_log (id int); CREATE TABLE app.audit_changes (id int);
         SET search_path = app, pg_temp, pg_catalog",
    );
    writer.run("INSERT INTO mine VALUES (1, 'a')");
    assert_eq!(s.one("SELECT data_after FROM threadline.audit_changes"), r#"{"v": "a", "id": 1}"#);
    assert_eq!(
        s.one(
            "SELECT started_at > now() - interval '1 hour' FROM threadline.audit_transactions WHERE change_count = 1"
        ),
        "t"
    );
}

#[test]
fn nobody_reads_or_changes_a_row_of_the_log() {
    let owner = Role::new();
    let (db, mut s) = owned("rol_log", &owner);
    s.run("INSERT INTO app.mine VALUES (1, 'a')");
    let relations = s.column("SELECT oid::regclass FROM pg_class WHERE relnamespace = 'threadline'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') ORDER BY 1");
    let sequences = s
        .column("SELECT oid::regclass FROM pg_class WHERE relnamespace = 'threadline'::regnamespace AND relkind = 'S'");
    let before = s.number("SELECT count(*) FROM threadline.audit_changes");
    let mut writer = db.session_as(&owner.0);
    for relation in &relations {
        for sql in [
            format!("SELECT * FROM {relation} LIMIT 1"),
            format!("DELETE FROM {relation}"),
            format!("INSERT INTO {relation} DEFAULT VALUES"),
            format!("TRUNCATE {relation}"),
            format!("DO $$ BEGIN LOCK TABLE {relation}; END $$"),
            format!("ALTER TABLE {relation} ADD COLUMN x int"),
            format!(
                "CREATE TRIGGER x BEFORE INSERT ON {relation} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
            ),
            format!("DROP TABLE {relation}"),
        ] {
            let code = writer.failure(&sql).code;
            // A view refuses some of these before privileges are looked at.
            let refused = if sql.starts_with("SELECT") {
                code == "42501"
            } else {
                ["42501", "42809", "55000"].contains(&code.as_str())
            };
            assert!(refused, "{sql}: {code}");
        }
    }
    for sequence in &sequences {
        assert_eq!(writer.failure(&format!("SELECT nextval('{sequence}')")).code, "42501");
        assert_eq!(writer.failure(&format!("SELECT setval('{sequence}', 1)")).code, "42501");
    }
    assert_eq!(writer.failure("CREATE TABLE threadline.mine (id int)").code, "42501");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), before);
}

#[test]
fn the_public_may_execute_what_applications_call_and_nothing_else() {
    let owner = Role::new();
    let (_db, mut s) = owned("rol_public", &owner);
    let names = s.column(&format!(
        "SELECT DISTINCT p.proname FROM pg_proc p WHERE p.pronamespace = 'threadline'::regnamespace AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
         AND has_function_privilege('{}', p.oid, 'EXECUTE') ORDER BY 1",
        owner.0
    ));
    assert_eq!(names, ["current_audit_transaction_id", "get_context", "put_context", "record_action", "set_actor"]);
    assert_eq!(s.one(&format!("SELECT has_schema_privilege('{0}', 'threadline', 'USAGE') AND NOT has_schema_privilege('{0}', 'threadline', 'CREATE')", owner.0)), "t");
    let loose = s.column(
        "SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'threadline'::regnamespace AND p.prosecdef
         AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c LIKE 'search_path=%')",
    );
    assert_eq!(loose, Vec::<String>::new(), "a definer function has a fixed search_path");
}

#[test]
fn admin_functions_are_refused() {
    let owner = Role::new();
    let (db, _s) = owned("rol_admin", &owner);
    let mut writer = db.session_as(&owner.0);
    writer.run("CREATE TABLE app.other (id int PRIMARY KEY)");
    for sql in [
        "SELECT threadline.audit_enable('app.other')",
        "SELECT threadline.audit_disable('app.mine')",
        "SELECT threadline.audit_enable('app.mine', exclude => '{v}')",
        "SELECT threadline.audit_set_retention(keep => '1 day', enabled => true)",
        "CALL threadline.audit_purge(dry_run => false)",
        "CALL threadline.audit_purge()",
        "SELECT threadline.audit_grant(current_user::name, 'admin')",
        "SELECT threadline.audit_revoke_role('postgres')",
        "SELECT * FROM threadline.audit_history('app.mine', 1)",
        "SELECT * FROM threadline.audit_as_of('app.mine', 1, now())",
        "SELECT * FROM threadline.audit_as_of(NULL::app.mine, now())",
        "SELECT threadline.replay_check('app.mine')",
        "SELECT threadline.incident_bundle(gen_random_uuid())",
        "SELECT * FROM threadline.audit_revert(gen_random_uuid())",
        "SELECT * FROM threadline.audit_restore('app.mine', 1, now())",
        "SELECT * FROM threadline.audit_status()",
        "SELECT * FROM threadline.audit_cost()",
    ] {
        assert_eq!(writer.failure(sql).code, "42501", "{sql}");
    }
}

#[test]
fn a_reader_sees_only_tables_it_may_select() {
    let (owner, reader) = (Role::new(), Role::new());
    let (db, mut s) = owned("rol_reader", &owner);
    s.run(&format!("CREATE TABLE secret (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('secret'); INSERT INTO secret VALUES (1, 'hush'); INSERT INTO app.mine VALUES (1, 'seen');
        GRANT USAGE ON SCHEMA app TO {0}; GRANT SELECT ON app.mine TO {0}; SELECT threadline.audit_grant('{0}', 'reader')", reader.0));
    let both = s.one("SELECT id FROM threadline.audit_transactions WHERE change_count = 2");
    let mut r = db.session_as(&reader.0);
    assert_eq!(r.column("SELECT DISTINCT table_name FROM threadline.audit_changes"), ["mine"]);
    assert_eq!(r.number("SELECT count(*) FROM threadline.audit_history('app.mine', 1)"), 1);
    assert_eq!(r.one("SELECT status FROM threadline.audit_as_of('app.mine', 1, now())"), "present");
    assert_eq!(r.number("SELECT count(*) FROM threadline.audit_as_of(NULL::app.mine, now())"), 1);
    assert_eq!(
        r.column(&format!("SELECT table_name FROM threadline.audit_changes_for_transaction('{both}')")),
        ["mine"]
    );
    assert!(!r.one(&format!("SELECT threadline.incident_bundle('{both}')")).contains("hush"));
    for sql in [
        "SELECT * FROM threadline.audit_history('secret', 1)",
        "SELECT * FROM threadline.audit_as_of('secret', 1, now())",
        "SELECT * FROM threadline.audit_as_of(NULL::secret, now())",
        "SELECT threadline.replay_check('secret'::regclass)",
        "SELECT threadline.audit_disable('app.mine')",
        "DELETE FROM threadline.audit_changes",
    ] {
        let failure = r.failure(sql);
        assert!(["42501", "55000"].contains(&failure.code.as_str()), "{sql}: {failure:?}");
        assert!(!format!("{failure:?}").contains("hush"));
    }
    for id in s.column("SELECT id FROM threadline.audit_changes WHERE table_name = 'secret'") {
        let seen = r.try_rows(&format!("SELECT threadline.change_diff({id})::text"));
        assert!(
            seen.is_err() || seen.is_ok_and(|rows| rows.iter().all(|row| row[0].is_none())),
            "a diff of a hidden change"
        );
    }
    s.run(&format!("SELECT threadline.audit_revoke_role('{}')", reader.0));
    assert_eq!(r.failure("SELECT * FROM threadline.audit_changes").code, "42501");
}

#[test]
fn a_leaky_function_in_a_filter_sees_no_hidden_row() {
    let (owner, reader) = (Role::new(), Role::new());
    let (db, mut s) = owned("rol_barrier", &owner);
    s.run(&format!("CREATE TABLE secret (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('secret'); INSERT INTO secret VALUES (1, 'hush');
        SELECT threadline.audit_grant('{0}', 'reader'); CREATE SCHEMA mine AUTHORIZATION {0}", reader.0));
    let mut r = db.session_as(&reader.0);
    r.run("CREATE FUNCTION mine.leak(jsonb) RETURNS bool LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$");
    assert_eq!(r.number("SELECT count(*) FROM threadline.audit_changes WHERE mine.leak(data_after)"), 0);
    let said = r.notices.lock().unwrap().join("\n");
    assert!(!said.contains("hush"), "{said}");
}

#[test]
fn row_security_hides_history_too() {
    let (owner, reader) = (Role::new(), Role::new());
    let (db, mut s) = owned("rol_rls", &owner);
    s.run(&format!("INSERT INTO app.mine VALUES (1, 'yours'), (2, 'hush'); GRANT USAGE ON SCHEMA app TO {0}; GRANT SELECT ON app.mine TO {0}; SELECT threadline.audit_grant('{0}', 'reader');
        ALTER TABLE app.mine ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON app.mine FOR SELECT TO {0} USING (id = 1)", reader.0));
    let mut r = db.session_as(&reader.0);
    assert_eq!(r.column("SELECT v FROM app.mine"), ["yours"]);
    assert_eq!(r.number("SELECT count(*) FROM threadline.audit_changes"), 0);
    for sql in [
        "SELECT x::text FROM threadline.audit_history('app.mine', 2) x",
        "SELECT x::text FROM threadline.audit_as_of('app.mine', 2, now()) x",
        "SELECT x::text FROM threadline.audit_as_of(NULL::app.mine, now()) x",
    ] {
        if let Ok(rows) = r.try_rows(sql) {
            assert!(!format!("{rows:?}").contains("hush"), "{sql}: {rows:?}");
        }
    }
}

#[test]
fn levels_include_each_other() {
    let (owner, admin) = (Role::new(), Role::new());
    let (db, mut s) = owned("rol_levels", &owner);
    s.run(&format!("SELECT threadline.audit_grant('{0}', 'admin'); GRANT {1} TO {0}; CREATE TABLE foreign_owned (id int PRIMARY KEY)", admin.0, owner.0));
    let mut a = db.session_as(&admin.0);
    a.run("SELECT threadline.audit_enable('app.mine', mask => '{v}')");
    a.run("INSERT INTO app.mine VALUES (1, 'x')");
    assert_eq!(a.one("SELECT data_after ->> 'v' FROM threadline.audit_changes"), "[REDACTED]");
    assert_eq!(
        a.failure("SELECT threadline.audit_enable('foreign_owned')").code,
        "42501",
        "an admin captures only what it owns"
    );
    a.run("SELECT threadline.audit_set_retention(keep => '1 year')");
    a.run("SELECT threadline.audit_disable('app.mine')");
    a.failure("DELETE FROM threadline.audit_changes");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), 1);
    s.run(&format!("SELECT threadline.audit_revoke_role('{0}'); REVOKE {1} FROM {0}", admin.0, owner.0));
    assert_eq!(a.failure("SELECT threadline.audit_enable('app.mine')").code, "42501");
}

/// A function of somebody else's may have written, in the reader's own session, what the reader may not see.
#[test]
fn a_reader_does_not_see_unwritten_changes_of_tables_it_may_not_read() {
    let (owner, reader) = (Role::new(), Role::new());
    let (db, mut s) = owned("rol_pending", &owner);
    s.run(&format!("SELECT threadline.audit_grant('{0}', 'reader'); GRANT USAGE ON SCHEMA app TO {0}", reader.0));
    let mut w = db.session_as(&owner.0);
    w.run("CREATE FUNCTION app.write() RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ INSERT INTO app.mine VALUES (1, 'secret') $$");
    let seen = "SELECT concat_ws(' ', (SELECT count(*) FROM threadline.pending_changes()), (SELECT count(*) FROM threadline.audit_changes))";
    let mut r = db.session_as(&reader.0);
    r.run("BEGIN; SELECT app.write()");
    assert_eq!(r.one(seen), "0 0");
    r.run("ROLLBACK");
    w.run(&format!("GRANT SELECT ON app.mine TO {}", reader.0));
    r.run("BEGIN; SELECT app.write()");
    assert_eq!(r.one(seen), "1 1");
    r.run("ROLLBACK");
    w.run("ALTER TABLE app.mine ENABLE ROW LEVEL SECURITY");
    r.run("BEGIN; SELECT app.write()");
    assert_eq!(r.one(seen), "0 0");
}

#[test]
fn trigger_functions_are_only_for_triggers() {
    let owner = Role::new();
    let (db, mut s) = owned("rol_trigger", &owner);
    let functions = s.column("SELECT oid::regproc FROM pg_proc WHERE pronamespace = 'threadline'::regnamespace AND prorettype = 'trigger'::regtype AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'c') ORDER BY 1");
    assert!(functions.len() >= 2, "{functions:?}");
    for function in &functions {
        assert_eq!(s.failure(&format!("SELECT {function}()")).code, "39P01", "{function}");
    }
    let mut writer = db.session_as(&owner.0);
    writer.run("CREATE TABLE app.plain (id int PRIMARY KEY, v text)");
    for (n, function) in functions.iter().enumerate() {
        for timing in [
            "AFTER INSERT OR UPDATE OR DELETE ON app.plain FOR EACH ROW",
            "BEFORE INSERT ON app.plain FOR EACH ROW",
            "AFTER INSERT ON app.plain FOR EACH STATEMENT",
            "BEFORE TRUNCATE ON app.plain FOR EACH STATEMENT",
        ] {
            writer.run(&format!("CREATE TRIGGER own_{n} {timing} EXECUTE FUNCTION {function}()"));
            let sql = if timing.contains("TRUNCATE") {
                "TRUNCATE app.plain"
            } else {
                "INSERT INTO app.plain VALUES (1, 'a')"
            };
            let failure = writer.failure(sql);
            assert!(
                ["39P01", "42501", "55000", "42704"].contains(&failure.code.as_str()),
                "{function} {timing}: {failure:?}"
            );
            assert!(!failure.hint.is_empty(), "{function} {timing}: {failure:?}");
            writer.run(&format!("DROP TRIGGER own_{n} ON app.plain"));
        }
    }
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), 0);
}

#[test]
fn an_owner_who_adds_our_trigger_again_is_not_captured_twice() {
    let owner = Role::new();
    let (db, mut s) = owned("rol_twice", &owner);
    let mut writer = db.session_as(&owner.0);
    writer.run("CREATE TRIGGER zzz_again AFTER INSERT OR UPDATE OR DELETE ON app.mine FOR EACH ROW EXECUTE FUNCTION threadline.capture_row()");
    if writer.try_run("INSERT INTO app.mine VALUES (1, 'a')").is_ok() {
        assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), 1, "a change is captured once");
    }
}

/// audit_enable reads the rows with the extension owner's rights; what a table's owner has written must not get them.
#[test]
fn a_baseline_does_not_lend_the_owners_rights_to_casts_of_the_table() {
    let owner = Role::new();
    let (db, mut s) = owned("rol_cast", &owner);
    s.run(&format!("SELECT threadline.audit_grant('{}', 'admin')", owner.0));
    let mut mine = db.session_as(&owner.0);
    mine.run(
        r#"SET search_path = app; CREATE TYPE mood AS ENUM ('a'); CREATE TABLE seen (who text); CREATE TABLE fancy (id int PRIMARY KEY, m mood);
         CREATE FUNCTION as_json(mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO app.seen VALUES (current_user); PERFORM set_config('search_path', 'nowhere', false); RETURN '"a"'; END $$;
         CREATE CAST (mood AS json) WITH FUNCTION as_json(mood);
         INSERT INTO fancy VALUES (1, 'a'); SELECT threadline.audit_enable('fancy')"#,
    );
    assert_eq!(s.column("SELECT who FROM app.seen"), [owner.0.as_str()], "the cast was called, by the table's owner");
    assert_eq!(mine.one("SHOW search_path"), "app", "what it set is put back");
    s.run("INSERT INTO app.fancy VALUES (2, 'a')");
    s.assert_replay_holds("app.fancy");
}
