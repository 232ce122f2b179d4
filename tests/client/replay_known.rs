//! What a model's check knows and does not: redaction, gaps, the horizon; windows, roles, and errors of users' functions.

use crate::replay_models::{found, invariant, verdict, violations};
use crate::roles::Role;
use crate::support::{Database, Session};

/// Each of them a model of its own, with one invariant of kind row over table `t`.
fn models(s: &mut Session, checks: &[(&str, &str)]) {
    for (model, check) in checks {
        s.run(&format!("SELECT threadline.replay_define_model('{model}')"));
        let spec = format!(r#"{{"table": "t", "check": "{check}"}}"#);
        invariant(s, model, model, "row", &spec, "event");
    }
}

#[test]
fn a_redacted_column_that_is_read_leaves_the_answer_open() {
    let (_db, mut s) = Database::after(
        "rk_redacted",
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int, gone int, masked text, label text); SELECT threadline.audit_enable('t', exclude => '{gone}', mask => '{masked}')",
    );
    models(
        &mut s,
        &[
            ("a", "new.a > 0 -- not gone"),
            ("b", "new.b > 0"),
            ("gone", "new.gone > 0"),
            ("masked", "new.masked <> 'x'"),
            ("whole", "to_jsonb(new) <> '{}'"),
            ("label", "new.label in ('new', 'old')"),
        ],
    );
    s.run("INSERT INTO t VALUES (1, 1, 1, -1, 'x', 'new')");
    assert_eq!(verdict(&mut s, "'a'"), "holds");
    assert_eq!(verdict(&mut s, "'b'"), "holds");
    assert_eq!(verdict(&mut s, "'label'"), "holds", "a text is no row");
    assert_eq!(verdict(&mut s, "'gone'"), "unknown redacted:gone");
    assert_eq!(verdict(&mut s, "'masked'"), "unknown redacted:masked");
    assert_eq!(verdict(&mut s, "'whole'"), "unknown redacted:gone,redacted:masked");
    assert_eq!(s.one("SELECT threadline.replay_check('masked') ->> 'not_compared'"), r#"["masked"]"#);
    // Masked for a part of the history only.
    s.run("SELECT threadline.audit_enable('t', mask => '{b}'); UPDATE t SET b = -5; SELECT threadline.audit_enable('t', mask => '{}')");
    s.run("UPDATE t SET b = 3");
    assert_eq!(verdict(&mut s, "'b'"), "unknown redacted:b");
    assert_eq!(verdict(&mut s, "'a'"), "holds");
    s.run("UPDATE t SET a = -1, b = -1");
    assert_eq!(verdict(&mut s, "'a'"), "violated");
    assert_eq!(verdict(&mut s, "'b'"), "violated redacted:b", "what is seen is seen");
}

#[test]
fn a_gap_leaves_the_answer_open() {
    let (_db, mut s) =
        Database::after("rk_gap", "CREATE TABLE t (id int PRIMARY KEY, n int); SELECT threadline.audit_enable('t')");
    models(&mut s, &[("m", "new.n > 0")]);
    s.run("INSERT INTO t VALUES (1, 1)");
    assert_eq!(verdict(&mut s, "'m'"), "holds");
    for (off, on, reason) in [
        ("DISABLE TRIGGER USER", "ENABLE ALWAYS TRIGGER ALL", "disabled"),
        ("ENABLE REPLICA TRIGGER ALL", "ENABLE ALWAYS TRIGGER ALL", "replica_role"),
    ] {
        let triggers = |s: &mut Session, sql: &str| {
            for name in s.column("SELECT tgname FROM pg_trigger WHERE tgrelid = 't'::regclass AND NOT tgisinternal") {
                s.run(&format!("ALTER TABLE t {}", sql.replace("USER", &name).replace("ALL", &name)));
            }
        };
        triggers(&mut s, off);
        assert_eq!(verdict(&mut s, "'m'"), format!("unknown {reason}"), "{off}");
        triggers(&mut s, on);
        assert_eq!(verdict(&mut s, "'m'"), "holds", "{on}");
    }
    s.run("SELECT threadline.audit_disable('t'); UPDATE t SET n = -1; UPDATE t SET n = 2; SELECT threadline.audit_enable('t')");
    assert_eq!(verdict(&mut s, "'m'"), "unknown disabled");
    let gap = s.one("SELECT (threadline.replay_check('m') #> '{coverage,gaps,0}') - '{since_at,until_at}'::text[]");
    assert_eq!(gap, r#"{"table": "public.t", "reason": "disabled"}"#);
    s.run("UPDATE t SET n = -2");
    assert_eq!(verdict(&mut s, "'m'"), "violated disabled");
}

#[test]
fn what_was_before_the_baseline_is_not_known() {
    let (_db, mut s) = Database::after(
        "rk_horizon",
        "CREATE TABLE t (id int PRIMARY KEY, status text, n int); INSERT INTO t VALUES (1, 'paid', 1), (2, 'new', 1), (3, 'new', 1); SELECT threadline.audit_enable('t')",
    );
    for (model, kind, spec) in [
        (
            "requires",
            "requires",
            r#"{"table": "t", "event": "new.status = 'shipped'", "earlier": "new.status = 'paid'"}"#,
        ),
        ("forbids", "forbids", r#"{"table": "t", "event": "new.n = 2", "since": "new.status = 'shipped'"}"#),
        ("rate", "rate", r#"{"table": "t", "event": "new.n = 3", "at_most": 1, "per": "1 day"}"#),
        ("row", "row", r#"{"table": "t", "check": "new.n > 0"}"#),
    ] {
        s.run(&format!("SELECT threadline.replay_define_model('{model}')"));
        invariant(&mut s, model, "i", kind, spec, "event");
    }
    for model in ["requires", "forbids", "rate", "row"] {
        assert_eq!(verdict(&mut s, &format!("'{model}'")), "holds", "{model}: nothing happened yet");
    }
    s.run("UPDATE t SET status = 'shipped' WHERE id = 1; UPDATE t SET n = 2 WHERE id = 2; UPDATE t SET n = 3 WHERE id = 3");
    for model in ["requires", "forbids", "rate"] {
        assert_eq!(verdict(&mut s, &format!("'{model}'")), "unknown before_horizon", "{model}");
        assert_eq!(
            s.one(&format!(
                "SELECT (threadline.replay_check('{model}') #> '{{coverage,gaps,0}}') - '{{since_at,until_at}}'::text[]"
            )),
            r#"{"times": 1, "reason": "before_horizon", "invariant": "i"}"#
        );
    }
    assert_eq!(verdict(&mut s, "'row'"), "holds");
    assert_eq!(
        verdict(&mut s, "'row', since => '2001-01-01'"),
        "unknown before_horizon",
        "the window begins before the history"
    );
    assert_eq!(verdict(&mut s, "'row', until => '2001-01-01'"), "unknown before_horizon,not_yet_enabled");
    // A row that came under capture has all its past there.
    s.run("INSERT INTO t VALUES (4, 'new', 1)");
    s.run("UPDATE t SET status = 'shipped' WHERE id = 4");
    assert_eq!(found(&mut s, "requires"), [r#"i {"id": "4"} 7"#]);
}

#[test]
fn a_window_reports_what_happened_in_it() {
    let (_db, mut s) =
        Database::after("rk_window", "CREATE TABLE t (id int PRIMARY KEY, n int); SELECT threadline.audit_enable('t')");
    models(&mut s, &[("m", "new.n > 0")]);
    invariant(&mut s, "m", "small", "row", r#"{"table": "t", "check": "new.n < 100"}"#, "event");
    s.run("SELECT threadline.replay_add_projection('m', 'n', 't', NULL, '0', 'to_jsonb((state #>> ''{}'')::int + 1)')");
    let mut moments = Vec::new();
    for sql in [
        "INSERT INTO t VALUES (1, -1)",
        "INSERT INTO t VALUES (2, -1)",
        "UPDATE t SET n = 1 WHERE id = 1",
        "INSERT INTO t VALUES (3, -3)",
        "UPDATE t SET n = 2 WHERE id = 2",
    ] {
        s.run(sql);
        moments.push(s.one("SELECT clock_timestamp()"));
    }
    let columns = "v -> 'table_pk' ->> 'id', v -> 'failure_step', coalesce(v ->> 'already_false', '-'), CASE WHEN v ->> 'first_repaired_at' IS NULL THEN 'open' ELSE 'repaired' END";
    let window = |s: &mut Session, since: &str, until: &str| {
        violations(s, &format!("'m', since => '{since}', until => '{until}', stop_on_first_failure => false"), columns)
    };
    assert_eq!(window(&mut s, "-infinity", "infinity"), ["1 0 - repaired", "2 1 - repaired", "3 3 - open"]);
    // 1 was repaired before the window, 2 in it.
    assert_eq!(window(&mut s, &moments[2], "infinity"), ["2 1 true repaired", "3 3 - open"]);
    assert_eq!(window(&mut s, &moments[2], &moments[3]), ["2 1 true open", "3 3 - open"]);
    assert_eq!(window(&mut s, &moments[0], &moments[2]), ["1 0 true repaired", "2 1 - open"]);
    assert_eq!(window(&mut s, "-infinity", &moments[0]), ["1 0 - open"]);
    assert_eq!(window(&mut s, &moments[4], "infinity"), ["3 3 true open"]);
    assert_eq!(
        s.one("SELECT max((v ->> 'first_repaired_at')::timestamptz) = (SELECT max(committed_at) FROM threadline.audit_transactions) FROM jsonb_array_elements(threadline.replay_check('m', stop_on_first_failure => false) -> 'violations') v"),
        "t"
    );
    // The replay ends where the window does, or with the first violation.
    let events = |s: &mut Session, more: &str| {
        s.one(&format!("SELECT concat_ws(' ', r -> 'events_processed', r -> 'transactions', r -> 'violations_total', r #> '{{projections,n}}') FROM threadline.replay_check('m'{more}) r"))
    };
    assert_eq!(events(&mut s, ", stop_on_first_failure => false"), "5 5 3 5");
    assert_eq!(events(&mut s, &format!(", until => '{}', stop_on_first_failure => false", moments[1])), "2 2 2 2");
    assert_eq!(events(&mut s, ""), "1 1 1 1");
    assert_eq!(events(&mut s, ", stop_on_first_failure => NULL"), "1 1 1 1");
    // Of the model only a part.
    assert_eq!(verdict(&mut s, "'m', invariants => '{small}'"), "holds");
    assert_eq!(events(&mut s, ", invariants => '{small}', projections => '{}'"), "5 5 0");
    assert_eq!(
        s.one("SELECT (r -> 'request') - '{since,until,model}'::text[] FROM threadline.replay_check('m', invariants => '{small}', projections => '{}') r"),
        r#"{"events": null, "invariants": ["small"], "projections": [], "stop_on_first_failure": true}"#
    );
    assert_eq!(s.one("SELECT string_agg(i ->> 'name', ',') FROM jsonb_array_elements(threadline.replay_check('m', invariants => '{small}') -> 'invariants') i"), "small");
}

#[test]
fn own_changes_come_last_and_nothing_is_written() {
    let (db, mut s) =
        Database::after("rk_own", "CREATE TABLE t (id int PRIMARY KEY, n int); SELECT threadline.audit_enable('t')");
    models(&mut s, &[("m", "new.n > 0")]);
    s.run("BEGIN; INSERT INTO t VALUES (1, -1)");
    let mut other = db.session();
    other.run("INSERT INTO t VALUES (2, -2)");
    assert_eq!(
        found(&mut s, "m"),
        [r#"m {"id": "2"} 0"#, r#"m {"id": "1"} 1"#],
        "committed earlier, though begun later"
    );
    assert_eq!(
        violations(
            &mut s,
            "'m', stop_on_first_failure => false",
            "coalesce(v #>> '{transaction,committed_at}', 'not yet') <> 'not yet'"
        ),
        ["t", "f"]
    );
    assert_eq!(found(&mut other, "m"), [r#"m {"id": "2"} 0"#]);
    s.run("ROLLBACK");
    assert_eq!(found(&mut s, "m"), [r#"m {"id": "2"} 0"#], "what was rolled back did not happen");
    s.run("BEGIN READ ONLY");
    assert_eq!(verdict(&mut s, "'m'"), "violated");
    assert_eq!(s.one("SELECT pg_current_xact_id_if_assigned()"), "NULL");
    s.run("COMMIT; BEGIN");
    assert_eq!(verdict(&mut s, "'m'"), "violated");
    assert_eq!(s.one("SHOW transaction_read_only"), "off", "only the replay is read only");
    s.run("INSERT INTO t VALUES (3, 3); SAVEPOINT a; INSERT INTO t VALUES (4, -4); ROLLBACK TO a; COMMIT");
    assert_eq!(found(&mut s, "m"), [r#"m {"id": "2"} 0"#]);
    assert_eq!(
        s.one("SELECT threadline.replay_check('m', stop_on_first_failure => false) #>> '{events_processed}'"),
        "2"
    );
}

const FAILING: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int); SELECT threadline.audit_enable('t');
    CREATE FUNCTION counted(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        IF (event ->> 'n')::int = 13 THEN RAISE EXCEPTION 'no % please', 13 USING ERRCODE = 'ZZ013'; END IF;
        RETURN to_jsonb((state #>> '{}')::int + 1);
    END $$;
    CREATE FUNCTION numbers(change jsonb) RETURNS SETOF jsonb LANGUAGE plpgsql STABLE AS $$
    BEGIN
        IF change #>> '{new,n}' = '66' THEN RAISE EXCEPTION 'unreadable' USING ERRCODE = 'ZZ066'; END IF;
        RETURN NEXT change -> 'new';
    END $$;
    SELECT threadline.replay_define_model('m');
    SELECT threadline.replay_add_projection('m', 'count', 't', NULL, '0', 'counted', 'numbers')";

#[test]
fn a_step_or_a_mapping_that_raises_is_a_violation_and_the_run_goes_on() {
    let (_db, mut s) = Database::after("rk_raise", FAILING);
    for n in [1, 13, 2, 66, 3] {
        s.run(&format!("INSERT INTO t VALUES ({n}, {n})"));
    }
    assert_eq!(
        violations(
            &mut s,
            "'m', stop_on_first_failure => false",
            "v ->> 'invariant', v ->> 'kind', v ->> 'severity', v ->> 'failure_step', v ->> 'failure_reason', v -> 'state_before', v -> 'state_after', v #>> '{event_at_failure,n}', v #>> '{event_at_failure,new,n}'"
        ),
        [
            "count_does_not_fail error error 1 the step failed: no 13 please (SQLSTATE ZZ013) 1 1 13",
            "count_does_not_fail error error 3 the mapping failed: unreadable (SQLSTATE ZZ066) 2 2 66",
        ]
    );
    assert_eq!(
        s.one("SELECT concat_ws(' ', r ->> 'verdict', r -> 'projections', r -> 'events_processed', r -> 'violations_total') FROM threadline.replay_check('m', stop_on_first_failure => false) r"),
        r#"violated {"count": 3} 5 2"#
    );
    assert_eq!(violations(&mut s, "'m'", "v ->> 'failure_step'"), ["1"]);
}

#[test]
fn an_error_in_a_predicate_is_the_callers() {
    let (_db, mut s) = Database::after(
        "rk_error",
        "CREATE TABLE t (id int PRIMARY KEY, n int); SELECT threadline.audit_enable('t');
         CREATE FUNCTION picky(n int) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN IF n = 7 THEN RAISE EXCEPTION 'not %', n USING ERRCODE = 'ZZ007', HINT = 'take another'; END IF; RETURN true; END $$",
    );
    models(&mut s, &[("division", "10 / (new.n - 3) <> 0"), ("picky", "picky(new.n)")]);
    s.run("INSERT INTO t VALUES (1, 1)");
    assert_eq!(verdict(&mut s, "'division'"), "holds");
    assert_eq!(verdict(&mut s, "'picky'"), "holds");
    s.run("INSERT INTO t VALUES (3, 3), (7, 7)");
    let failure = s.failure("SELECT threadline.replay_check('division')");
    assert_eq!((failure.code.as_str(), failure.message.as_str()), ("22012", "division by zero"));
    let failure = s.failure("SELECT threadline.replay_check('picky')");
    assert_eq!(
        (failure.code.as_str(), failure.message.as_str(), failure.hint.as_str()),
        ("ZZ007", "not 7", "take another")
    );
    assert_eq!(s.one("SHOW transaction_read_only"), "off");
    // After an error in a savepoint the transaction may write again.
    s.run("BEGIN; SAVEPOINT a");
    s.failure("SELECT threadline.replay_check('picky')");
    s.run("ROLLBACK TO a; INSERT INTO t VALUES (8, 8); COMMIT");
    // A column that was renamed is one that the definition no longer names.
    s.run("DELETE FROM t WHERE id IN (3, 7); ALTER TABLE t RENAME COLUMN n TO number");
    assert_eq!(s.failure("SELECT threadline.replay_check('division')").code, "42703");
}

#[test]
fn users_functions_write_nothing() {
    let (_db, mut s) = Database::after(
        "rk_write",
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE side (a int); SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1);
         CREATE FUNCTION writes() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO side VALUES (1); RETURN true; END $$;
         CREATE FUNCTION unlocks() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN SET LOCAL transaction_read_only = off; RETURN writes(); END $$;
         CREATE FUNCTION sly() RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN writes(); END $$;
         CREATE FUNCTION slier() RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN unlocks(); END $$;
         CREATE FUNCTION sly_step(jsonb, jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$ BEGIN PERFORM writes(); RETURN $1; END $$",
    );
    models(&mut s, &[("sly", "sly()"), ("slier", "slier()")]);
    assert_eq!(s.failure("SELECT threadline.replay_check('sly')").code, "25006");
    assert_eq!(s.failure("SELECT threadline.replay_check('slier')").code, "25001");
    s.run("SELECT threadline.replay_define_model('step'); SELECT threadline.replay_add_projection('step', 'p', 't', NULL, '0', 'sly_step')");
    assert_eq!(
        violations(&mut s, "'step'", "v ->> 'failure_reason'"),
        ["the step failed: cannot execute INSERT in a read-only transaction (SQLSTATE 25006)"]
    );
    assert_eq!(s.number("SELECT count(*) FROM side"), 0);
    // The query for events writes no more than they do.
    let failure =
        s.failure("SELECT threadline.replay_check('step', events => 'SELECT 1::bigint, now(), to_jsonb(writes())')");
    assert_eq!(failure.code, "25006");
    assert_eq!(s.number("SELECT count(*) FROM side"), 0);
}

#[test]
fn a_reader_checks_and_an_operator_defines() {
    let (reader, operator) = (Role::new(), Role::new());
    let (db, mut s) = Database::after(
        "rk_roles",
        "CREATE TABLE t (id int PRIMARY KEY, n int); SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1, -1);
         CREATE FUNCTION guarded(n int) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT $1 > 0'; REVOKE EXECUTE ON FUNCTION guarded FROM PUBLIC",
    );
    models(&mut s, &[("m", "new.n > 0"), ("guarded", "guarded(new.n)")]);
    s.run("SELECT threadline.replay_define_model('log'); SELECT threadline.replay_add_projection('log', 'n', NULL, NULL, '0', 'to_jsonb((state #>> ''{}'')::int + 1)')");
    s.run(&format!(
        "SELECT threadline.audit_grant('{}', 'reader'); SELECT threadline.audit_grant('{}', 'operator'); GRANT SELECT ON t TO {}",
        reader.0, operator.0, operator.0
    ));
    let mut r = db.session_as(&reader.0);
    // The history of a table is for those who may read the table.
    let failure = r.refused("SELECT threadline.replay_check('m')", &["42704", "42501"]);
    assert!(failure.message.contains("may not read"), "{failure:?}");
    assert_eq!(r.number("SELECT count(*) FROM threadline.replay_models"), 3);
    s.run(&format!("GRANT SELECT ON t TO {}", reader.0));
    assert_eq!(verdict(&mut r, "'m'"), "violated");
    assert_eq!(found(&mut r, "m"), [r#"m {"id": "1"} 0"#]);
    assert!(r.one("SELECT threadline.replay_report(threadline.replay_check('m'))").contains("Assertion 'm' failed"));
    assert_eq!(r.one("SELECT threadline.replay_check('log', events => 'SELECT g::bigint, now(), to_jsonb(g) FROM generate_series(1, 3) g') ->> 'projections'"), r#"{"n": 3}"#);
    let failure = r.failure("SELECT threadline.replay_check('guarded')");
    assert_eq!(
        (failure.code.as_str(), failure.message.as_str()),
        ("42501", "permission denied for function guarded"),
        "users' expressions run as the caller"
    );
    for call in [
        "replay_define_model('x')",
        "replay_drop_model('m')",
        "replay_add_projection('m', 'p', NULL, NULL, '0', 'state')",
        r#"replay_add_invariant('m', 'p', 'row', '{"table": "t", "check": "true"}')"#,
    ] {
        assert_eq!(r.failure(&format!("SELECT threadline.{call}")).code, "42501", "{call}");
    }
    for table in ["replay_model", "replay_projection", "replay_invariant"] {
        assert_eq!(r.failure(&format!("DELETE FROM threadline.{table}")).code, "42501", "{table}");
    }
    let mut o = db.session_as(&operator.0);
    o.run("SELECT threadline.replay_define_model('x'); SELECT threadline.replay_add_projection('x', 'p', NULL, NULL, '0', 'state');
           SELECT threadline.replay_add_invariant('x', 'positive', 'row', '{\"table\": \"t\", \"check\": \"new.n > 0\"}', 'event')");
    assert_eq!(found(&mut o, "x"), [r#"positive {"id": "1"} 0"#]);
    assert_eq!(s.one("SELECT defined_by FROM threadline.replay_models WHERE model = 'x'"), operator.0);
    o.run("SELECT threadline.replay_drop_model('x')");
    s.run(&format!("REVOKE SELECT ON t FROM {}", operator.0));
    let failure = o.refused(
        "SELECT threadline.replay_add_invariant('m', 'p', 'row', '{\"table\": \"t\", \"check\": \"true\"}')",
        &["42501"],
    );
    assert_eq!(failure.message, r#"permission denied for the history of table "public.t""#);
}
