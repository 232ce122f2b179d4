//! Taking back transactions: modes, what later ones have to do with it, order, rehearsal, rights.

use crate::roles::Role;
use crate::support::{Database, Session};

/// The newest transaction that changed something.
pub fn last(s: &mut Session) -> String {
    s.one("SELECT id FROM threadline.audit_transactions WHERE change_count > 0 ORDER BY commit_no DESC LIMIT 1")
}

/// Runs statements as one transaction and returns its id.
pub fn did(s: &mut Session, sql: &str) -> String {
    s.run(&format!("BEGIN; {sql}; COMMIT"));
    last(s)
}

/// `status: statement` of each step.
pub fn steps(s: &mut Session, call: &str) -> Vec<String> {
    s.column(&format!("SELECT status || ': ' || coalesce(statement, '-') FROM threadline.{call}"))
}

pub fn details(s: &mut Session, call: &str) -> Vec<String> {
    s.column(&format!("SELECT concat_ws(' ', status, table_pk::text, detail) FROM threadline.{call}"))
}

pub fn dry(id: &str) -> String {
    format!("audit_revert('{id}')")
}

pub fn by_mode(id: &str, mode: &str) -> String {
    format!("audit_revert('{id}', '{mode}')")
}

pub fn apply(id: &str, mode: &str) -> String {
    format!("audit_revert('{id}', '{mode}', dry_run => false, confirm => true)")
}

pub fn rows(s: &mut Session, table: &str) -> Vec<String> {
    s.column(&format!("SELECT t::text FROM {table} t ORDER BY 1"))
}

/// Takes the transaction back, and that back too: both times the table must be what it was.
pub fn there_and_back(s: &mut Session, table: &str, before: &[String], id: &str) {
    let after = rows(s, table);
    let dry_run = steps(s, &dry(id));
    assert!(dry_run.iter().all(|step| step.starts_with("ok: ")), "{dry_run:?}");
    assert_eq!(rows(s, table), after, "a dry run changes nothing");
    let applied = steps(s, &apply(id, "nocascade"));
    assert_eq!(applied, dry_run.iter().map(|step| step.replacen("ok: ", "applied: ", 1)).collect::<Vec<_>>());
    assert_eq!(rows(s, table), before);
    s.assert_replay_holds(table);
    let revert = last(s);
    steps(s, &apply(&revert, "nocascade"));
    assert_eq!(rows(s, table), after, "the revert of the revert");
    s.assert_replay_holds(table);
}

fn accounts(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run("CREATE TABLE account (id int PRIMARY KEY, owner text UNIQUE, balance numeric(10,2), note text); SELECT threadline.audit_enable('account');
           INSERT INTO account VALUES (1, 'ann', 10, 'it''s'), (2, 'bob', 20, NULL), (3, 'cy', 30, E'a\\\\b')");
    (db, s)
}

#[test]
fn a_dry_run_shows_the_exact_statements_and_leaves_nothing() {
    let (_db, mut s) = accounts("rev_dry");
    let before = rows(&mut s, "account");
    let id = did(
        &mut s,
        "UPDATE account SET balance = 12.50 WHERE id = 1; DELETE FROM account WHERE id > 1; INSERT INTO account VALUES (4, 'dee', 1, NULL)",
    );
    let transactions = s.number("SELECT count(*) FROM threadline.audit_transactions");
    assert_eq!(
        steps(&mut s, &dry(&id)),
        [
            "ok: DELETE FROM public.account WHERE id = '4'::integer",
            r"ok: INSERT INTO public.account (id, owner, balance, note) VALUES ('3'::integer, 'cy'::text, '30.00'::numeric(10,2), E'a\\b'::text)",
            "ok: INSERT INTO public.account (id, owner, balance, note) VALUES ('2'::integer, 'bob'::text, '20.00'::numeric(10,2), NULL)",
            "ok: UPDATE public.account SET balance = '10.00'::numeric(10,2) WHERE id = '1'::integer",
        ]
    );
    assert_eq!(
        s.column(&format!("SELECT table_name || table_pk || step FROM threadline.{} WHERE step = 4", dry(&id))),
        [r#"public.account{"id": "1"}4"#]
    );
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.audit_transactions"),
        transactions,
        "a rehearsal leaves no trace"
    );
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_actions"), 0);
    there_and_back(&mut s, "account", &before, &id);
}

#[test]
fn it_is_applied_only_when_confirmed_and_recorded_like_any_write() {
    let (_db, mut s) = accounts("rev_apply");
    let before = rows(&mut s, "account");
    let id = did(&mut s, "UPDATE account SET balance = 0");
    let call = format!("audit_revert('{id}', dry_run => false)");
    let refused = s.refused(&format!("SELECT * FROM threadline.{call}"), &["22023"]);
    assert_eq!(
        refused.hint,
        format!(
            "SELECT * FROM threadline.audit_revert('{id}', mode => 'nocascade', dry_run => false, confirm => true);"
        )
    );
    assert_eq!(s.number("SELECT count(*) FROM account WHERE balance = 0"), 3);
    s.run(&format!(
        "BEGIN; SELECT threadline.set_actor('user', 'dba'); SELECT * FROM threadline.{}; ROLLBACK",
        apply(&id, "nocascade")
    ));
    assert_eq!(s.number("SELECT count(*) FROM account WHERE balance = 0"), 3, "the caller's transaction decides");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_actions"), 0);
    s.run(refused.hint.trim());
    assert_eq!(rows(&mut s, "account"), before);
    assert_eq!(
        s.rows("SELECT a.name, a.reason, x.change_count::text FROM threadline.audit_transactions x JOIN threadline.audit_actions a ON a.id = x.action_id"),
        [[Some("threadline.revert".into()), Some(format!("{id} (nocascade)")), Some("3".into())]]
    );
    s.assert_replay_holds("account");
}

#[test]
fn changes_of_one_row_make_one_statement() {
    let (_db, mut s) = accounts("rev_net");
    let before = rows(&mut s, "account");
    let id = did(
        &mut s,
        "UPDATE account SET balance = 11, note = 'x' WHERE id = 1; UPDATE account SET balance = 12, note = 'it''s' WHERE id = 1;
         DELETE FROM account WHERE id = 2; INSERT INTO account VALUES (2, 'bob', 21, 'new');
         INSERT INTO account VALUES (8, 'eve', 1, NULL); UPDATE account SET id = 9 WHERE id = 8; DELETE FROM account WHERE id = 9;
         UPDATE account SET id = 5 WHERE id = 3; UPDATE account SET id = 6, balance = 31 WHERE id = 5;
         INSERT INTO account VALUES (3, 'fay', 1, NULL)",
    );
    assert_eq!(
        steps(&mut s, &dry(&id)),
        [
            "ok: DELETE FROM public.account WHERE id = '3'::integer",
            "ok: UPDATE public.account SET id = '3'::integer, balance = '30.00'::numeric(10,2) WHERE id = '6'::integer",
            "ok: UPDATE public.account SET balance = '20.00'::numeric(10,2), note = NULL WHERE id = '2'::integer",
            "ok: UPDATE public.account SET balance = '10.00'::numeric(10,2) WHERE id = '1'::integer",
        ]
    );
    there_and_back(&mut s, "account", &before, &id);
    let nothing = did(
        &mut s,
        "UPDATE account SET note = 'x' WHERE id = 1; UPDATE account SET note = 'it''s' WHERE id = 1; INSERT INTO account VALUES (9, 'z', 1, ''); DELETE FROM account WHERE id = 9",
    );
    assert_eq!(steps(&mut s, &dry(&nothing)), Vec::<String>::new());
}

#[test]
fn a_row_changed_since_is_a_conflict_that_each_mode_settles_its_way() {
    for mode in ["nocascade", "nocascade_force", "nonconflict_only", "cascade"] {
        let (_db, mut s) = accounts(&format!("rev_mode_{mode}"));
        let before = rows(&mut s, "account");
        let id = did(&mut s, "UPDATE account SET balance = balance + 1, note = 'job'");
        let later =
            did(&mut s, "UPDATE account SET balance = 99 WHERE id = 1; UPDATE account SET owner = 'bill' WHERE id = 2");
        let conflicts = details(&mut s, &dry(&id));
        assert_eq!(
            conflicts,
            [
                r#"ok {"id": "3"}"#.to_string(),
                format!(
                    r#"conflict {{"id": "2"}} owner: was bob after this transaction, is bill now (changed by transaction {later})"#
                ),
                format!(
                    r#"conflict {{"id": "1"}} balance: was 11.00 after this transaction, is 99.00 now (changed by transaction {later})"#
                ),
            ]
        );
        let expected: Vec<String> = match mode {
            "nocascade" => {
                let refused = s.refused(&format!("SELECT * FROM threadline.{}", apply(&id, mode)), &["55000"]);
                assert!(
                    refused.message.contains(&id)
                        && refused.detail.contains("is bill now")
                        && refused.hint.contains("cascade"),
                    "{refused:?}"
                );
                continue;
            }
            // The columns that it changed, whoever changed them since; the others stay.
            "nocascade_force" => vec![before[0].clone(), "(2,bill,20.00,)".into(), before[2].clone()],
            "nonconflict_only" => vec!["(1,ann,99.00,job)".into(), "(2,bill,21.00,job)".into(), before[2].clone()],
            _ => before.clone(),
        };
        s.rows(&format!("SELECT * FROM threadline.{}", apply(&id, mode)));
        assert_eq!(rows(&mut s, "account"), expected, "{mode}");
        let reason = s.one("SELECT reason FROM threadline.audit_actions");
        assert_eq!(reason.contains(&later), mode == "cascade", "{reason}");
        s.assert_replay_holds("account");
        // Whatever it did, it can be taken back.
        let revert = last(&mut s);
        steps(&mut s, &apply(&revert, "nocascade"));
        assert_eq!(rows(&mut s, "account"), ["(1,ann,99.00,job)", "(2,bill,21.00,job)", r#"(3,cy,31.00,job)"#]);
    }
}

#[test]
fn rows_that_are_gone_and_values_that_are_taken_stay_in_every_mode_but_cascade() {
    let (_db, mut s) = accounts("rev_gone");
    let before = rows(&mut s, "account");
    let id = did(
        &mut s,
        "UPDATE account SET owner = 'one' WHERE id = 1; UPDATE account SET note = 'n' WHERE id = 2; UPDATE account SET note = 'n' WHERE id = 3; INSERT INTO account VALUES (4, 'dee', 4, NULL)",
    );
    let deleted = did(&mut s, "DELETE FROM account WHERE id = 2");
    let taken = did(&mut s, "INSERT INTO account VALUES (7, 'ann', 1, NULL)");
    let moved = did(&mut s, "UPDATE account SET id = 8 WHERE id = 3");
    let expected = [
        r#"ok {"id": "4"}"#.to_string(),
        format!(r#"conflict {{"id": "3"}} the row is {{"id": "8"}} now (its key was changed by transaction {moved})"#),
        format!(r#"conflict {{"id": "2"}} the row was deleted by transaction {deleted}"#),
        format!(
            r#"conflict {{"id": "1"}} another row has (owner) = (ann) now (account_owner_key: {{"id": "7"}}, written by transaction {taken})"#
        ),
    ];
    for mode in ["nocascade", "nocascade_force", "nonconflict_only"] {
        assert_eq!(details(&mut s, &by_mode(&id, mode)), expected, "{mode}");
    }
    assert_eq!(
        steps(&mut s, &apply(&id, "cascade")),
        [
            "applied: UPDATE public.account SET id = '3'::integer, note = E'a\\\\b'::text WHERE id = '8'::integer",
            "applied: DELETE FROM public.account WHERE id = '7'::integer",
            "applied: INSERT INTO public.account (id, owner, balance, note) VALUES ('2'::integer, 'bob'::text, '20.00'::numeric(10,2), NULL)",
            "applied: DELETE FROM public.account WHERE id = '4'::integer",
            "applied: UPDATE public.account SET owner = 'ann'::text WHERE id = '1'::integer",
        ]
    );
    assert_eq!(rows(&mut s, "account"), before);
}

#[test]
fn foreign_keys_order_the_statements_and_hold_rows() {
    let db = Database::new("rev_fk");
    let mut s = db.session();
    s.run("CREATE TABLE team (id int PRIMARY KEY, lead int); CREATE TABLE member (id int PRIMARY KEY, team int REFERENCES team ON DELETE CASCADE, boss int REFERENCES member);
           CREATE TABLE badge (id int, member int NOT NULL REFERENCES member); ALTER TABLE team ADD FOREIGN KEY (lead) REFERENCES member DEFERRABLE;
           SELECT threadline.audit_enable('team'); SELECT threadline.audit_enable('member')");
    let made = did(
        &mut s,
        "INSERT INTO team VALUES (1, NULL); INSERT INTO member VALUES (10, 1, NULL), (11, 1, 10), (12, 1, 11); UPDATE team SET lead = 12 WHERE id = 1",
    );
    let full = [rows(&mut s, "team"), rows(&mut s, "member")];
    assert_eq!(
        s.column(&format!("SELECT table_name || (table_pk ->> 'id') || status FROM threadline.{}", dry(&made))),
        ["public.team1ok", "public.member12ok", "public.member11ok", "public.member10ok", "public.team1ok"],
        "they refer to each other: change by change"
    );
    // The rows that a foreign key deletes are recorded, and come back after what they refer to.
    let unmade = did(&mut s, "UPDATE team SET lead = NULL; DELETE FROM team");
    assert_eq!(s.number("SELECT count(*) FROM member"), 0);
    assert_eq!(
        s.column(&format!(
            "SELECT table_name || (table_pk ->> 'id') || status FROM threadline.{}",
            apply(&unmade, "nocascade")
        )),
        [
            "public.team1applied",
            "public.member10applied",
            "public.member11applied",
            "public.member12applied",
            "public.team1applied"
        ]
    );
    let made = last(&mut s);
    assert_eq!([rows(&mut s, "team"), rows(&mut s, "member")], full);
    s.assert_replay_holds("member");

    // A captured and an uncaptured row that refer to what would go.
    let later = did(&mut s, "INSERT INTO team VALUES (2, 10)");
    let held = details(&mut s, &dry(&made));
    assert!(held.iter().any(|row| *row == format!(r#"conflict {{"id": "10"}} a row of public.team refers to it (team_lead_fkey: {{"id": "2"}}, written by transaction {later})"#)), "{held:?}");
    assert!(
        held.iter().any(|row| row.ends_with(r#"{"id": "1"} a row that must go back before it stays as it is"#)),
        "{held:?}"
    );
    s.refused(&format!("SELECT * FROM threadline.{}", apply(&made, "nocascade")), &["55000"]);
    s.run("BEGIN");
    s.rows(&format!("SELECT * FROM threadline.{}", apply(&made, "cascade")));
    assert_eq!(s.number("SELECT count(*) FROM team") + s.number("SELECT count(*) FROM member"), 0);
    s.run("ROLLBACK; DELETE FROM team WHERE id = 2; INSERT INTO badge VALUES (1, 11)");
    let held = details(&mut s, &by_mode(&made, "cascade"));
    assert!(
        held.contains(&r#"conflict {"id": "11"} a row of public.badge refers to it (badge_member_fkey)"#.into()),
        "{held:?}"
    );
    s.refused(&format!("SELECT * FROM threadline.{}", apply(&made, "cascade")), &["55000"]);
    s.run("DELETE FROM badge");

    // What a row that comes back refers to has gone since.
    let left = did(&mut s, "UPDATE member SET boss = NULL WHERE id = 12");
    let went = did(&mut s, "DELETE FROM member WHERE id = 11");
    assert_eq!(
        details(&mut s, &dry(&left)),
        [format!(
            r#"conflict {{"id": "12"}} the row of public.member that it would refer to is gone (member_boss_fkey, deleted by transaction {went})"#
        )]
    );
    assert_eq!(steps(&mut s, &apply(&left, "cascade")).len(), 2);
    assert_eq!([rows(&mut s, "team"), rows(&mut s, "member")], full);
}

#[test]
fn a_set_is_taken_back_as_one() {
    let (_db, mut s) = accounts("rev_set");
    let before = rows(&mut s, "account");
    let since = s.one("SELECT clock_timestamp()");
    s.run("BEGIN; SET LOCAL threadline.correlation_id = 'c-1'; SET LOCAL threadline.job_id = 'j-1'; UPDATE account SET balance = 1, note = 'a' WHERE id = 1; COMMIT");
    s.run("BEGIN; SELECT threadline.set_actor('job', 'cleaner'); SET LOCAL threadline.correlation_id = 'c-1'; UPDATE account SET balance = 2 WHERE id = 1; DELETE FROM account WHERE id = 2; COMMIT");
    s.run("BEGIN; SELECT threadline.record_action('x.y', correlation_id => 'c-1', request_id => 'r-1'); INSERT INTO account VALUES (2, 'bob', 5, NULL); COMMIT");
    let until = s.one("SELECT clock_timestamp()");
    s.run("INSERT INTO account VALUES (9, 'other', 9, NULL)");
    let one = format!("audit_revert_set(correlation_id => 'c-1', since => '{since}', until => '{until}'");
    assert_eq!(
        steps(&mut s, &format!("{one})")),
        [
            "ok: UPDATE public.account SET balance = '20.00'::numeric(10,2) WHERE id = '2'::integer",
            "ok: UPDATE public.account SET balance = '10.00'::numeric(10,2), note = 'it''s'::text WHERE id = '1'::integer",
        ]
    );
    for (filter, count) in [
        ("job_id => 'j-1'", "1"),
        ("request_id => 'r-1'", "1"),
        (r#"actor => '{"type": "job"}'"#, "2"),
        (&format!("since => '{until}'"), "1"),
        (&format!("since => '{since}', until => '{until}'"), "2"),
    ] {
        assert_eq!(s.one(&format!("SELECT count(*) FROM threadline.audit_revert_set({filter})")), count, "{filter}");
    }
    s.refused("SELECT * FROM threadline.audit_revert_set()", &["22023"]);
    s.refused(&format!("SELECT * FROM threadline.audit_revert_set(until => '{until}')"), &["22023"]);
    s.refused("SELECT * FROM threadline.audit_revert_set(job_id => 'none')", &["02000"]);
    let refused = s.refused(&format!("SELECT * FROM threadline.{one}, dry_run => false)"), &["22023"]);
    s.run(&refused.hint);
    s.run("DELETE FROM account WHERE id = 9");
    assert_eq!(rows(&mut s, "account"), before);
}

#[test]
fn what_cannot_be_taken_back_is_refused() {
    let (_db, mut s) = accounts("rev_errors");
    let id = last(&mut s);
    s.refused("SELECT * FROM threadline.audit_revert('00000000-0000-0000-0000-000000000123')", &["02000"]);
    s.refused("SELECT * FROM threadline.audit_revert(NULL)", &["02000"]);
    for mode in ["'cascading'", "NULL"] {
        let unknown = s.refused(&format!("SELECT * FROM threadline.audit_revert('{id}', {mode})"), &["22023"]);
        assert!(unknown.hint.contains("nonconflict_only"), "{unknown:?}");
    }
    s.run("BEGIN; UPDATE account SET balance = 0");
    s.refused("SELECT * FROM threadline.audit_revert(threadline.current_audit_transaction_id())", &["55000"]);
    s.run("ROLLBACK");
    let truncated = did(&mut s, "TRUNCATE account");
    assert_eq!(steps(&mut s, &apply(&truncated, "nocascade")).len(), 3, "recorded row by row, it is deletes");
    assert_eq!(s.number("SELECT count(*) FROM account"), 3);
    s.run(r#"SELECT threadline.audit_enable('account', options => '{"truncate": "mark"}')"#);
    let inserted = did(&mut s, "INSERT INTO account VALUES (5, 'e', 5, NULL)");
    let marked = did(&mut s, "TRUNCATE account");
    s.refused(&format!("SELECT * FROM threadline.{}", dry(&marked)), &["0A000"]);
    assert_eq!(
        details(&mut s, &dry(&inserted)),
        [format!(r#"conflict {{"id": "5"}} the row was truncated by transaction {marked}"#)]
    );
    s.refused(&format!("SELECT * FROM threadline.{}", by_mode(&inserted, "cascade")), &["0A000"]);
}

#[test]
fn it_takes_the_callers_own_rights() {
    let (owner, clerk, stranger) = (Role::new(), Role::new(), Role::new());
    let (db, mut s) = accounts("rev_rights");
    s.run(&format!(
        "ALTER TABLE account OWNER TO {0}; GRANT SELECT ON account TO {1}; SELECT threadline.audit_grant(r::name, 'reader') FROM unnest(ARRAY['{0}', '{1}', '{2}']) r",
        owner.0, clerk.0, stranger.0
    ));
    let before = rows(&mut s, "account");
    let id = did(&mut s, "UPDATE account SET balance = 0 WHERE id = 1");
    let mut clerk = db.session_as(&clerk.0);
    assert_eq!(
        details(&mut clerk, &dry(&id)),
        [r#"fails {"id": "1"} permission denied for table account (SQLSTATE 42501)"#]
    );
    assert_eq!(clerk.failure(&format!("SELECT * FROM threadline.{}", apply(&id, "nocascade"))).code, "42501");
    assert_eq!(
        clerk.failure("SELECT * FROM threadline.audit_restore('account', 1, '-infinity'::timestamptz, false)").code,
        "55000"
    );
    let mut stranger = db.session_as(&stranger.0);
    let hidden = stranger.refused(&format!("SELECT * FROM threadline.{}", dry(&id)), &["55000"]);
    assert!(hidden.detail.starts_with("0 of its 1 changes"), "{hidden:?}");
    let mut owner = db.session_as(&owner.0);
    assert_eq!(steps(&mut owner, &apply(&id, "nocascade")).len(), 1);
    assert_eq!(rows(&mut s, "account"), before);
}

#[test]
fn the_rehearsal_tells_of_triggers_and_constraints() {
    let (_db, mut s) = accounts("rev_triggers");
    s.run("CREATE TABLE tally (id int PRIMARY KEY, n int); INSERT INTO tally VALUES (1, 0); SELECT threadline.audit_enable('tally');
           CREATE SCHEMA app; CREATE FUNCTION app.rate() RETURNS int LANGUAGE sql AS 'SELECT 1';
           CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE tally SET n = n + rate(); RETURN NULL; END $$;
           CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := 'touched'; RETURN NEW; END $$;
           CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no account above 19'; END $$;
           SET search_path = public, app");
    let id = did(&mut s, "UPDATE account SET balance = 1, note = 'n' WHERE id < 3");
    s.run("CREATE TRIGGER a AFTER UPDATE ON account FOR EACH ROW EXECUTE FUNCTION count_it(); CREATE TRIGGER b BEFORE UPDATE ON account FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION touch();
           CREATE CONSTRAINT TRIGGER c AFTER UPDATE ON account DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.balance > 19) EXECUTE FUNCTION forbid()");
    assert_eq!(
        details(&mut s, &dry(&id)),
        [
            r#"ok {"id": "2"}"#,
            r#"ok {"id": "1"} a trigger makes note touched"#,
            "fails no account above 19 (SQLSTATE P0001)",
            r#"side_effect {"id": "1"} update of n, then update of n"#,
        ]
    );
    s.run("DROP TRIGGER c ON account; CREATE TRIGGER c AFTER UPDATE ON account FOR EACH ROW WHEN (NEW.balance > 19) EXECUTE FUNCTION forbid()");
    assert_eq!(details(&mut s, &dry(&id))[0], r#"fails {"id": "2"} no account above 19 (SQLSTATE P0001)"#);
    assert_eq!(s.failure(&format!("SELECT * FROM threadline.{}", apply(&id, "nocascade"))).code, "P0001");
    assert_eq!(s.number("SELECT n FROM tally"), 0);
    s.run("DROP TRIGGER c ON account; CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; CREATE TRIGGER c BEFORE UPDATE ON account FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION skip()");
    assert!(details(&mut s, &dry(&id))[0].contains("SQLSTATE 27000"));
    s.run("DROP TRIGGER c ON account");
    assert_eq!(
        details(&mut s, &apply(&id, "nocascade")),
        [
            r#"applied {"id": "2"}"#,
            r#"applied {"id": "1"} a trigger makes note touched"#,
            r#"side_effect {"id": "1"} update of n, then update of n"#
        ]
    );
    assert_eq!(rows(&mut s, "account")[0], "(1,ann,10.00,touched)");
}

#[test]
fn a_read_only_transaction_shows_the_statements() {
    let (_db, mut s) = accounts("rev_read_only");
    let id = did(&mut s, "UPDATE account SET balance = 1 WHERE id = 1");
    s.run("BEGIN READ ONLY");
    assert_eq!(
        steps(&mut s, &dry(&id)),
        ["not_rehearsed: UPDATE public.account SET balance = '10.00'::numeric(10,2) WHERE id = '1'::integer"]
    );
    assert_eq!(s.one("SELECT pg_current_xact_id_if_assigned()"), "NULL");
    assert_eq!(s.failure(&format!("SELECT * FROM threadline.{}", apply(&id, "nocascade"))).code, "25006");
}

#[test]
fn a_writer_in_the_way_is_waited_for_and_seen() {
    let (db, mut s) = accounts("rev_concurrent");
    let id = did(&mut s, "UPDATE account SET balance = 1 WHERE id = 1");
    let mut writer = db.session();
    writer.run("BEGIN; UPDATE account SET balance = 2 WHERE id = 1");
    let sql = format!("SELECT * FROM threadline.{}", apply(&id, "nocascade"));
    let waiting = std::thread::spawn(move || s.refused(&sql, &["55000"]));
    while writer
        .number("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
        == 0
    {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    writer.run("COMMIT");
    let refused = waiting.join().expect("the revert is refused");
    assert!(refused.detail.contains("balance: was 1.00 after this transaction, is 2.00 now"), "{refused:?}");
}
