//! Models of replay: how they are defined, what is refused, and what replay_check() says when all is not known.

use crate::dump::dump_restore;
use crate::support::{Database, Session};

/// What replay_check says, and why it is not complete.
pub fn verdict(s: &mut Session, call: &str) -> String {
    s.one(&format!(
        "SELECT concat_ws(' ', r ->> 'verdict', (SELECT string_agg(DISTINCT concat_ws(':', g ->> 'reason', g ->> 'column'), ',') FROM jsonb_array_elements(r #> '{{coverage,gaps}}') g))
         FROM (SELECT threadline.replay_check({call}) AS r OFFSET 0) c WHERE (r ->> 'complete')::boolean = (r #> '{{coverage,gaps}}' = '[]') AND r -> 'complete' = r #> '{{coverage,complete}}'"
    ))
}

/// Of each violation `columns`, expressions over `v`.
pub fn violations(s: &mut Session, call: &str, columns: &str) -> Vec<String> {
    s.column(&format!(
        "SELECT concat_ws(' ', {columns}) FROM jsonb_array_elements(threadline.replay_check({call}) -> 'violations') WITH ORDINALITY AS x (v, no) ORDER BY no"
    ))
}

/// All of them: the invariant, the row's key and the step.
pub fn found(s: &mut Session, model: &str) -> Vec<String> {
    violations(
        s,
        &format!("'{model}', stop_on_first_failure => false"),
        "v ->> 'invariant', v -> 'table_pk', v ->> 'failure_step'",
    )
}

/// Adds an invariant; `spec` is JSON.
pub fn invariant(s: &mut Session, model: &str, name: &str, kind: &str, spec: &str, check_at: &str) {
    s.run(&format!(
        "SELECT threadline.replay_add_invariant('{model}', '{name}', '{kind}', $spec${spec}$spec$, '{check_at}')"
    ));
}

/// Table `acct` with two rows, captured while empty, and the model `m` with an invariant over it.
fn accounts(stem: &str) -> (Database, Session) {
    let (db, mut s) = Database::after(
        stem,
        "CREATE TABLE acct (id int PRIMARY KEY, balance numeric, status text); SELECT threadline.audit_enable('acct');
         SELECT threadline.replay_define_model('m', 'accounts')",
    );
    invariant(&mut s, "m", "nonnegative", "row", r#"{"table": "acct", "check": "new.balance >= 0"}"#, "event");
    s.run("INSERT INTO acct VALUES (1, 10, 'new'), (2, 20, 'new')");
    (db, s)
}

/// A check sorts its changes once: in 64 MB where the caller gives a query less.
#[test]
fn a_check_has_the_callers_memory_or_more() {
    let (_db, mut s) = accounts("rm_memory");
    for (given, had) in [("1MB", "64MB"), ("64MB", "64MB"), ("100MB", "100MB")] {
        let check = format!(r#"{{"table": "acct", "check": "new.id > 0 AND current_setting('work_mem') = '{had}'"}}"#);
        invariant(&mut s, "m", "memory", "row", &check, "event");
        s.run(&format!("BEGIN; SET LOCAL work_mem = '{given}'"));
        assert_eq!(verdict(&mut s, "'m'"), "holds", "of {given}");
        assert_eq!(s.one("SHOW work_mem"), given, "as it was after the check");
        s.run("COMMIT");
    }
}

#[test]
fn a_model_is_defined_changed_and_dropped() {
    let (_db, mut s) = accounts("rm_define");
    let listed = "SELECT concat_ws('|', model, description, projections, invariants) FROM threadline.replay_models";
    assert_eq!(s.column(listed), ["m|accounts|0|1"]);
    s.run("SELECT threadline.replay_define_model('m')");
    assert_eq!(s.column(listed), ["m|accounts|0|1"], "no description keeps the one that is there, and the invariants");
    s.run("SELECT threadline.replay_define_model('m', 'of accounts')");
    assert_eq!(s.column(listed), ["m|of accounts|0|1"]);
    assert_eq!(verdict(&mut s, "'m'"), "holds");
    // The same name takes the place of the old definition, and keeps its place in the order.
    invariant(&mut s, "m", "second", "unique", r#"{"table": "acct", "columns": ["id"]}"#, "end");
    invariant(&mut s, "m", "nonnegative", "row", r#"{"table": "acct", "check": "new.balance > 10"}"#, "commit");
    assert_eq!(
        s.column("SELECT concat_ws('|', name, kind, check_at, severity) FROM threadline.replay_invariants ORDER BY no"),
        ["nonnegative|row|commit|error", "second|unique|end|error"]
    );
    assert_eq!(found(&mut s, "m"), [r#"nonnegative {"id": "1"} 0"#]);
    s.run(
        "SELECT threadline.replay_add_projection('m', 'n', 'acct', NULL, '0', 'to_jsonb((state #>> ''{}'')::int + 1)')",
    );
    assert_eq!(s.one("SELECT threadline.replay_check('m') ->> 'projections'"), r#"{"n": 2}"#);
    s.run("SELECT threadline.replay_add_projection('m', 'n', 'acct', 'event #>> ''{table_pk,id}''', '5', 'to_jsonb((state #>> ''{}'')::int + 1)')");
    assert_eq!(
        s.one("SELECT threadline.replay_check('m', stop_on_first_failure => false) ->> 'projections'"),
        r#"{"n": {"1": 6, "2": 6}}"#
    );
    assert_eq!(
        s.column("SELECT concat_ws('|', name, source, key, init, step) FROM threadline.replay_projections"),
        ["n|acct|event #>> '{table_pk,id}'|5|to_jsonb((state #>> '{}')::int + 1)"]
    );
    s.run("SELECT threadline.replay_drop_model('m')");
    for view in ["replay_models", "replay_projections", "replay_invariants"] {
        assert_eq!(s.number(&format!("SELECT count(*) FROM threadline.{view}")), 0, "{view}");
    }
    s.refused("SELECT threadline.replay_check('m')", &["42704"]);
}

#[test]
fn a_definition_that_is_not_right_is_refused() {
    let (_db, mut s) = accounts("rm_refused");
    s.run("CREATE TABLE loose (id int PRIMARY KEY); CREATE TABLE keyless (a int); SELECT threadline.audit_enable('keyless', options => '{\"key\": \"full_row\"}')");
    for (kind, spec, detail) in [
        ("row", r#"{"table": "acct"}"#, r#""check" is missing."#),
        ("row", r#"{"table": "acct", "check": null}"#, r#""check" is missing."#),
        ("row", r#"{"check": "true"}"#, r#""table" is missing."#),
        ("row", r#"["acct"]"#, "A name and a JSON object are needed."),
        ("row", r#"{"table": "acct", "check": "true", "chekc": "false"}"#, r#"Kind row has no "chekc"."#),
        ("rows", r#"{"table": "acct", "check": "true"}"#, r#"There is no kind "rows"."#),
        (
            "key_bound",
            r#"{"table": "acct", "aggregate": "sum(balance)", "check": "value > 0"}"#,
            r#""key" is missing."#,
        ),
        (
            "key_bound",
            r#"{"table": "acct", "key": "id", "aggregate": "median(balance)", "check": "value > 0"}"#,
            r#""aggregate" is "median(balance)", not sum, avg, count, min or max of an expression."#,
        ),
        (
            "balance",
            r#"{"table": "acct", "aggregate": "sum(balance)", "equals": "nothing"}"#,
            r#""equals" is no number: "nothing""#,
        ),
        (
            "transition",
            r#"{"table": "acct", "column": "status", "allowed": {"new": ["open"]}, "terminal": ["new"]}"#,
            r#""new" is terminal, and yet allowed to become another."#,
        ),
        (
            "transition",
            r#"{"table": "acct", "column": "status", "allowed": ["new"]}"#,
            r#""allowed" must list for each state the states that it may become."#,
        ),
        (
            "transition",
            r#"{"table": "acct", "column": "status", "allowed": {}, "initial": "new"}"#,
            r#""initial" must be a list."#,
        ),
        (
            "transition",
            r#"{"table": "acct", "column": "status", "allowed": {}, "terminal": "new"}"#,
            r#""terminal" must be a list."#,
        ),
        ("unique", r#"{"table": "acct", "columns": "id"}"#, r#""columns" must be a list of at least one."#),
        ("unique", r#"{"table": "acct", "columns": []}"#, r#""columns" must be a list of at least one."#),
        (
            "references",
            r#"{"table": "acct", "columns": ["id"], "to": "acct", "to_columns": ["id", "status"]}"#,
            r#""columns" and "to_columns" are not equally many."#,
        ),
        ("references", r#"{"table": "acct", "columns": ["id"], "to_columns": ["id"]}"#, r#""to" is missing."#),
        ("requires", r#"{"table": "acct", "event": "true"}"#, r#""earlier" is missing."#),
        (
            "requires",
            r#"{"table": "acct", "event": "true", "earlier": "true", "within": "a fish"}"#,
            r#""within" is no interval: "a fish""#,
        ),
        (
            "rate",
            r#"{"table": "acct", "event": "true", "at_most": "x", "per": "1 day"}"#,
            r#""at_most" is no number: "x""#,
        ),
        (
            "deadline",
            r#"{"table": "acct", "open": "true", "close": "false", "within": "-1 day"}"#,
            r#""within" is negative."#,
        ),
        (
            "monotone",
            r#"{"table": "acct", "column": "balance", "strict": "perhaps"}"#,
            r#""strict" is neither true nor false: "perhaps""#,
        ),
        ("projection", r#"{"projection": "none", "check": "true"}"#, r#"Model "m" has no projection "none"."#),
        ("projection", r#"{"check": "true"}"#, r#""projection" is missing."#),
    ] {
        let failure =
            s.refused(&format!("SELECT threadline.replay_add_invariant('m', 'i', '{kind}', '{spec}')"), &["22023"]);
        assert_eq!(
            (failure.message.as_str(), failure.detail.as_str()),
            (r#"the specification of invariant "i" is not right"#, detail)
        );
    }
    let spec = r#"{"table": "acct", "check": "true"}"#;
    for check_at in
        ["'sometimes'", "NULL", "'every 0 events'", "'every 99999999999999999999 events'", "'every -1 day'", "'every'"]
    {
        let failure = s.refused(
            &format!("SELECT threadline.replay_add_invariant('m', 'i', 'row', '{spec}', {check_at})"),
            &["22023"],
        );
        assert!(failure.hint.contains("'every 100 events'"), "{}", failure.hint);
    }
    for severity in ["'fatal'", "NULL"] {
        s.refused(
            &format!("SELECT threadline.replay_add_invariant('m', 'i', 'row', '{spec}', 'event', {severity})"),
            &["22023"],
        );
    }
    for (call, code) in [
        ("replay_define_model('')", "22023"),
        ("replay_define_model(NULL)", "22023"),
        ("replay_drop_model('none')", "42704"),
        ("replay_check('none')", "42704"),
        (r#"replay_add_invariant('none', 'i', 'row', '{"table": "acct", "check": "true"}')"#, "42704"),
        (r#"replay_add_invariant('m', '', 'row', '{"table": "acct", "check": "true"}')"#, "22023"),
        (r#"replay_add_invariant('m', 'i', 'row', '{"table": "loose", "check": "true"}')"#, "42704"),
        (r#"replay_add_invariant('m', 'i', 'row', '{"table": "keyless", "check": "true"}')"#, "0A000"),
        ("replay_add_projection('none', 'p', NULL, NULL, '0', 'state')", "42704"),
        ("replay_add_projection('m', 'p', 'loose', NULL, '0', 'state')", "42704"),
        ("replay_add_projection('m', 'p', NULL, NULL, '0', NULL)", "22023"),
        ("replay_add_projection('m', '', NULL, NULL, '0', 'state')", "22023"),
        ("replay_check('m', invariants => '{none}')", "42704"),
        ("replay_check('m', projections => '{none}')", "42704"),
        ("replay_check('m', since => '2030-01-01', until => '2020-01-01')", "22023"),
        ("replay_check('m', until => '2999-01-01')", "22023"),
    ] {
        s.refused(&format!("SELECT threadline.{call}"), &[code]);
    }
    let nowhere =
        s.failure(r#"SELECT threadline.replay_add_invariant('m', 'i', 'row', '{"table": "none", "check": "true"}')"#);
    assert_eq!((nowhere.code.as_str(), nowhere.message.as_str()), ("42P01", r#"relation "none" does not exist"#));
    assert_eq!(s.column("SELECT name FROM threadline.replay_invariants"), ["nonnegative"], "nothing is half done");
    assert_eq!(s.number("SELECT count(*) FROM threadline.replay_projections"), 0);
}

/// What is wrong with an expression the server says best; a replay must come out the same each time and see no present.
#[test]
fn expressions_are_tried_when_they_are_defined() {
    let (_db, mut s) = accounts("rm_tried");
    s.run("CREATE TABLE loose (id int PRIMARY KEY);
           CREATE FUNCTION sloppy(jsonb, jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1'; CREATE FUNCTION sloppy_map(jsonb) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT $1';
           CREATE FUNCTION peeping(jsonb, jsonb) RETURNS jsonb LANGUAGE sql STABLE AS 'SELECT to_jsonb(count(*)) FROM loose'");
    for (check, code, message) in [
        ("new.nope > 1", "42703", "column new.nope does not exist"),
        ("new.id >>> 1", "42883", "operator does not exist: integer >>> integer"),
        ("new.balance", "42846", "cannot cast type numeric to boolean"),
        ("new.id = 'one'", "22P02", "invalid input syntax for type integer: \"one\""),
        ("new.id (", "42601", "syntax error at or near \"FROM\""),
        ("true); DROP TABLE loose; SELECT (true", "42601", "syntax error at or near \";\""),
        ("random() > 0", "0A000", "invariant \"i\" calls a volatile function"),
        (
            "new.id IN (SELECT id FROM loose)",
            "0A000",
            "invariant \"i\" reads table loose, which would show the present",
        ),
    ] {
        let failure = s.failure(&format!("SELECT threadline.replay_add_invariant('m', 'i', 'row', jsonb_build_object('table', 'acct', 'check', $check${check}$check$))"));
        assert_eq!((failure.code.as_str(), failure.message.as_str()), (code, message), "{check}");
        assert!(code != "0A000" || !failure.hint.is_empty(), "{failure:?}");
    }
    for (arguments, code, message) in [
        ("NULL, '0', 'state + 1'", "42883", "operator does not exist: jsonb + integer"),
        ("NULL, '0', 'state', 'no_such_mapping'", "42883", "function no_such_mapping(jsonb) does not exist"),
        ("NULL, '0', 'sloppy'", "0A000", "the step of projection p calls a volatile function"),
        ("NULL, '0', 'state', 'sloppy_map'", "0A000", "the mapping of projection p calls a volatile function"),
        ("'random()::text', '0', 'state'", "0A000", "the key of projection p calls a volatile function"),
        (
            "NULL, '0', '(SELECT to_jsonb(count(*)) FROM loose)'",
            "0A000",
            "the step of projection p reads table loose, which would show the present",
        ),
    ] {
        let failure = s.failure(&format!("SELECT threadline.replay_add_projection('m', 'p', NULL, {arguments})"));
        assert_eq!((failure.code.as_str(), failure.message.as_str()), (code, message), "{arguments}");
    }
    assert_eq!(s.one("SELECT to_regclass('loose')"), "loose");
}

#[test]
fn a_model_and_a_table_of_one_name() {
    let (_db, mut s) = accounts("rm_ambiguous");
    s.run("SELECT threadline.replay_define_model('acct')");
    let failure = s.refused("SELECT threadline.replay_check('acct')", &["42725"]);
    assert!(failure.hint.contains("threadline.replay_check('acct'::regclass)"), "{}", failure.hint);
    assert_eq!(s.one("SELECT threadline.replay_check('acct'::regclass) ->> 'verdict'"), "holds");
    s.run("SET search_path = pg_catalog");
    assert_eq!(s.one("SELECT threadline.replay_check('acct') ->> 'what'"), "acct");
    // A table's check has no window.
    s.run("RESET search_path; SELECT threadline.replay_drop_model('acct')");
    s.refused("SELECT threadline.replay_check('acct', since => '2020-01-01')", &["0A000"]);
}

#[test]
fn definitions_come_along_with_a_dump() {
    let (db, mut s) = accounts("rm_dump");
    s.run("CREATE SCHEMA app; CREATE FUNCTION app.count_up(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT to_jsonb((state #>> ''{}'')::int + 1)';
           SET search_path = app, public; SELECT threadline.replay_add_projection('m', 'n', 'acct', NULL, '0', 'count_up')");
    s.run("UPDATE acct SET balance = -1 WHERE id = 2; ALTER TABLE acct RENAME TO account");
    let copy = Database::bare(&db.at, "rm_dump_copy");
    dump_restore(&db, &copy, true);
    let mut restored = copy.session();
    for query in [
        "SELECT (model, description, projections, invariants) FROM threadline.replay_models",
        "SELECT (model, name, no, source::text, key, init, step, mapping) FROM threadline.replay_projections",
        "SELECT (model, name, no, kind, spec, check_at, severity) FROM threadline.replay_invariants",
        "SELECT threadline.replay_check('m') - 'request'",
    ] {
        s.run("SET TimeZone = 'UTC'; SET search_path = public");
        restored.run("SET TimeZone = 'UTC'; SET search_path = public");
        let expected = s.column(query);
        assert_eq!(expected.len(), 1, "{query}");
        assert_eq!(restored.column(query), expected, "{query}");
    }
    assert_eq!(found(&mut restored, "m"), [r#"nonnegative {"id": "2"} 2"#]);
    restored.run("UPDATE account SET balance = -2 WHERE id = 1");
    assert_eq!(found(&mut restored, "m"), [r#"nonnegative {"id": "2"} 2"#, r#"nonnegative {"id": "1"} 3"#]);
    assert_eq!(s.one("SELECT threadline.replay_check('m') #>> '{projections,n}'"), "3");
}

#[test]
fn the_result_has_the_keys_of_the_contract() {
    let (_db, mut s) = accounts("rm_keys");
    let keys = |s: &mut Session, of: &str| {
        s.column(&format!("SELECT jsonb_object_keys(threadline.replay_check('m') {of}) ORDER BY 1"))
    };
    let always: Vec<_> = "complete coverage events_processed final_state invariants not_compared pending projections request skipped transactions verdict violations violations_total what"
        .split(' ')
        .collect();
    for wanted in &always {
        assert!(keys(&mut s, "").iter().any(|key| key == wanted), "{wanted}");
    }
    assert_eq!(
        s.one("SELECT concat_ws(' ', r -> 'verdict', r -> 'events_processed', r -> 'transactions', r -> 'final_state', r -> 'projections', r -> 'skipped', r -> 'complete', r -> 'violations', r -> 'violations_total', r -> 'pending') FROM threadline.replay_check('m') r"),
        r#""holds" 2 1 {"rows": {"public.acct": 2}} {} {} true [] 0 []"#
    );
    s.run("BEGIN; SELECT threadline.set_actor('user', 'u-7'); UPDATE acct SET balance = balance - 15 WHERE id = 1; COMMIT");
    let of_a_violation = keys(&mut s, "#> '{violations,0}'");
    for wanted in "invariant kind severity check_at key table_schema table_name table_pk failure_reason failure_step change_id event_at_failure state_before state_after state_diff events_leading_to_failure transaction at first_repaired_at fingerprint".split(' ') {
        assert!(of_a_violation.iter().any(|key| key == wanted), "{wanted}");
    }
    assert_eq!(
        violations(
            &mut s,
            "'m'",
            "v -> 'key', v -> 'failure_reason', v -> 'failure_step', v -> 'state_before', v -> 'state_after', v -> 'state_diff', v #> '{event_at_failure,op}', v #> '{transaction,actor_ref,id}', coalesce(v ->> 'first_repaired_at', 'open')"
        ),
        [
            r#"["1"] "the check is false" 2 {"id": 1, "status": "new", "balance": 10} {"id": 1, "status": "new", "balance": -5} [{"name": "balance", "after": -5, "before": 10}] "update" "u-7" open"#
        ]
    );
    let last = s.one("SELECT max(id) FROM threadline.audit_changes");
    assert_eq!(
        violations(
            &mut s,
            "'m'",
            "v -> 'change_id', v #> '{event_at_failure,id}', jsonb_array_length(v -> 'events_leading_to_failure'), v #> '{events_leading_to_failure,-1,change_id}'"
        ),
        [format!("{last} {last} 2 {last}")]
    );
    assert_eq!(
        s.one("SELECT v #>> '{transaction,id}' = x.id::text AND (v #>> '{transaction,committed_at}')::timestamptz = x.committed_at
               FROM (SELECT threadline.replay_check('m') #> '{violations,0}' AS v) r, threadline.audit_transactions x WHERE x.actor_ref ->> 'id' = 'u-7'"),
        "t"
    );
    // The fingerprint is of the failure, not of its values.
    let fingerprint = violations(&mut s, "'m'", "v ->> 'fingerprint'").remove(0);
    assert!(fingerprint.len() == 16 && fingerprint.bytes().all(|b| b.is_ascii_hexdigit()), "{fingerprint}");
    s.run("UPDATE acct SET balance = balance - 500 WHERE id = 2; UPDATE acct SET balance = 0, status = 'shut' WHERE id = 1; UPDATE acct SET balance = -1, status = 'odd' WHERE id = 1");
    let all = violations(&mut s, "'m', stop_on_first_failure => false", "v ->> 'fingerprint'");
    assert_eq!((all.len(), &all[1]), (3, &fingerprint));
    assert_ne!(all[2], fingerprint, "other columns were changed");
}

#[test]
fn a_warning_alone_is_no_violation_of_the_model() {
    let (_db, mut s) = accounts("rm_warning");
    s.run(r#"SELECT threadline.replay_add_invariant('m', 'low', 'row', '{"table": "acct", "check": "new.balance < 15"}', 'event', 'warning')"#);
    assert_eq!(verdict(&mut s, "'m', stop_on_first_failure => false"), "holds");
    assert_eq!(
        violations(&mut s, "'m', stop_on_first_failure => false", "v ->> 'invariant', v ->> 'severity'"),
        ["low warning"]
    );
    let of_each = "SELECT string_agg(concat_ws(' ', i ->> 'name', i ->> 'severity', i ->> 'verdict', i ->> 'violations'), ', ') FROM jsonb_array_elements(threadline.replay_check('m', stop_on_first_failure => false) -> 'invariants') i";
    assert_eq!(s.one(of_each), "nonnegative error holds 0, low warning violated 1");
    // A warning is no failure, the first of which ends a check.
    assert_eq!(verdict(&mut s, "'m'"), "holds");
    assert_eq!(violations(&mut s, "'m'", "v ->> 'invariant'"), ["low"]);
    s.run("UPDATE acct SET balance = -1");
    assert_eq!(verdict(&mut s, "'m'"), "violated");
    assert_eq!(violations(&mut s, "'m'", "v ->> 'invariant', v ->> 'failure_step'"), ["nonnegative 2"]);
    assert_eq!(verdict(&mut s, "'m', stop_on_first_failure => false"), "violated");
    assert_eq!(s.one(of_each), "nonnegative error violated 2, low warning violated 1");
}

#[test]
fn more_violations_than_are_told() {
    let (_db, mut s) = Database::after(
        "rm_many",
        "CREATE TABLE t (id int PRIMARY KEY, n int); SELECT threadline.audit_enable('t'); SELECT threadline.replay_define_model('m');
         SELECT threadline.replay_add_invariant('m', 'small', 'row', '{\"table\": \"t\", \"check\": \"new.n < 10\"}', 'commit', 'warning')",
    );
    invariant(&mut s, "m", "positive", "row", r#"{"table": "t", "check": "new.n > 0"}"#, "commit");
    s.run("SELECT threadline.replay_add_invariant('m', 'none', 'query', '{\"sql\": \"SELECT id FROM t WHERE n = 77\", \"key\": [\"id\"]}', 'commit', 'warning')");
    s.run("INSERT INTO t SELECT g, 77 FROM generate_series(1, 1200) g");
    let all = "'m', stop_on_first_failure => false";
    let said = |s: &mut Session, call: &str| {
        let counts = "SELECT concat_ws(' ', r ->> 'verdict', r ->> 'violations_total', jsonb_array_length(r -> 'violations'), (SELECT string_agg(i ->> 'violations', ',') FROM jsonb_array_elements(r -> 'invariants') i))";
        s.one(&format!("{counts} FROM (SELECT threadline.replay_check({call}) AS r OFFSET 0) c"))
    };
    assert_eq!(
        said(&mut s, "'m', stop_on_first_failure => false, invariants => '{small,positive}'"),
        "holds 1200 1000 1200,0"
    );
    assert_eq!(said(&mut s, all), "holds 2400 1001 1200,0,1200", "of each invariant the first");
    // The failure comes after as many warnings as are told.
    s.run("INSERT INTO t VALUES (2000, -1)");
    assert_eq!(said(&mut s, all), "violated 2401 1002 1200,1,1200");
    assert_eq!(said(&mut s, "'m'"), "violated 1 1 0,1,0");
    assert_eq!(violations(&mut s, "'m'", "v -> 'table_pk' ->> 'id'"), ["2000"]);
    // What was over before the time asked about is not told, and takes no place of what is.
    s.run("UPDATE t SET n = 1");
    let since = s.one("SELECT clock_timestamp()");
    s.run("UPDATE t SET n = -id WHERE id <= 3");
    let window = format!("{all}, since => '{since}'");
    assert_eq!(said(&mut s, &window), "violated 3 3 0,3,0");
    assert_eq!(
        violations(&mut s, &window, "v ->> 'invariant', v -> 'table_pk' ->> 'id'"),
        ["positive 1", "positive 2", "positive 3"]
    );
    assert_eq!(said(&mut s, &format!("'m', since => '{since}'")), "violated 1 1 0,1,0");
}

#[test]
fn a_column_that_is_gone_by_its_name_is_told_with_the_invariant() {
    let (_db, mut s) = accounts("rm_renamed");
    s.run("ALTER TABLE acct RENAME balance TO amount");
    let failure = s.refused("SELECT threadline.replay_check('m')", &["42703"]);
    assert!(failure.message.contains("balance"), "{}", failure.message);
    assert!(failure.detail.contains(r#"Invariant "nonnegative" of model "m""#), "{}", failure.detail);
    assert!(failure.hint.contains("replay_add_invariant('m', 'nonnegative', 'row'"), "{}", failure.hint);
    invariant(&mut s, "m", "nonnegative", "row", r#"{"table": "acct", "check": "new.amount >= 0"}"#, "event");
    assert_eq!(verdict(&mut s, "'m'"), "holds");
    s.run("UPDATE acct SET amount = -1");
    assert_eq!(verdict(&mut s, "'m'"), "violated");
}

/// The inputs of all invariants of a table are more than a function takes arguments.
#[test]
fn as_many_invariants_as_anyone_likes() {
    let (_db, mut s) = accounts("rm_ninety");
    s.run(
        r#"SELECT threadline.replay_add_invariant('m', 'i' || n, 'row', jsonb_build_object('table', 'acct', 'check', 'new.balance <> ' || n)) FROM generate_series(1, 120) n"#,
    );
    assert_eq!(
        found(&mut s, "m"),
        [r#"i10 {"id": "1"} 0"#, r#"i20 {"id": "2"} 1"#],
        "of each its own check, by its place among them all"
    );
    s.run("UPDATE acct SET balance = 120 WHERE id = 2");
    assert_eq!(found(&mut s, "m"), [r#"i10 {"id": "1"} 0"#, r#"i20 {"id": "2"} 1"#, r#"i120 {"id": "2"} 2"#]);
}
