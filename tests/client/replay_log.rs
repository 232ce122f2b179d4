//! Event logs from elsewhere through a model: mapping, fan-out, what is skipped, where it fails, reports, and memory.

use crate::memory::{peak_of, process_memory};
use crate::replay_models::{invariant, verdict, violations};
use crate::support::{Database, Session};

/// An order as a model knows it, and the mapping of what production calls it.
const ORDERS: &str = r#"
    CREATE FUNCTION order_step(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        CASE event ->> 'kind'
        WHEN 'created' THEN RETURN jsonb_build_object('status', 'new', 'total', event -> 'amount', 'paid', 0);
        WHEN 'paid' THEN
            IF state = '{}' THEN RAISE EXCEPTION 'payment for an order that does not exist' USING ERRCODE = 'OR001'; END IF;
            RETURN state || jsonb_build_object('status', 'paid', 'paid', (state ->> 'paid')::numeric + (event ->> 'amount')::numeric);
        WHEN 'shipped' THEN RETURN state || '{"status": "shipped"}';
        WHEN 'archived' THEN RETURN NULL;
        ELSE RETURN state;
        END CASE;
    END $$;
    CREATE FUNCTION from_production(change jsonb) RETURNS SETOF jsonb LANGUAGE plpgsql STABLE AS $$
    DECLARE
        p jsonb := change -> 'payload';
    BEGIN
        CASE change ->> 'type'
        WHEN 'order.created' THEN RETURN NEXT jsonb_build_object('kind', 'created', 'order', p -> 'order_id', 'amount', p -> 'total');
        WHEN 'order.paid' THEN RETURN NEXT jsonb_build_object('kind', 'paid', 'order', p -> 'order_id', 'amount', p -> 'total');
        WHEN 'order.settled' THEN
            RETURN NEXT jsonb_build_object('kind', 'paid', 'order', p -> 'order_id', 'amount', p -> 'total');
            RETURN NEXT jsonb_build_object('kind', 'shipped', 'order', p -> 'order_id');
        WHEN 'order.archived' THEN RETURN NEXT jsonb_build_object('kind', 'archived', 'order', p -> 'order_id');
        WHEN 'order.viewed' THEN RETURN NEXT '{"skip": "only a look"}';
        ELSE RETURN;
        END CASE;
    END $$;
    CREATE TABLE log (seq bigint, at timestamptz, event jsonb);
    CREATE FUNCTION say(seq bigint, type text, "order" text, total numeric = NULL) RETURNS void LANGUAGE sql AS $$
        INSERT INTO log VALUES ($1, '2025-01-15 10:00Z'::timestamptz + $1 * interval '1 second', jsonb_build_object('type', $2, 'payload', jsonb_build_object('order_id', $3, 'total', $4)))
    $$;
    SELECT threadline.replay_define_model('orders_model', 'an order from its creation to its shipment');
    SELECT threadline.replay_add_projection('orders_model', 'orders', NULL, 'event ->> ''order''', '{}', 'order_step', 'from_production')"#;

const LOG: &str = "events => 'SELECT seq, at, event FROM log -- as it came'";

fn orders(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(ORDERS);
    invariant(
        &mut s,
        "orders_model",
        "flow",
        "transition",
        r#"{"projection": "orders", "column": "status", "initial": ["new"], "allowed": {"new": ["paid"], "paid": ["shipped"]}, "terminal": ["shipped"]}"#,
        "event",
    );
    invariant(
        &mut s,
        "orders_model",
        "not_overpaid",
        "projection",
        r#"{"projection": "orders", "check": "(state ->> 'paid')::numeric <= (state ->> 'total')::numeric -- of the order"}"#,
        "event",
    );
    (db, s)
}

/// 40 orders, each created and looked at, and requests in between; then order 7 is settled for too much, at mapped event 47.
fn incident(s: &mut Session) {
    s.run("SELECT say(10 * g, 'order.created', 'o-' || g, 10), say(10 * g + 1, 'order.viewed', 'o-' || g), say(10 * g + 2, 'http.request', NULL) FROM generate_series(1, 40) g");
    // Three are settled in one event each: two mapped events.
    s.run("SELECT say(1000 + g, 'order.settled', 'o-' || g, 10) FROM generate_series(1, 3) g");
    s.run("SELECT say(1010, 'order.paid', 'o-4', 10); SELECT say(1011, 'order.settled', 'o-7', 11); SELECT say(1012, 'order.paid', 'o-2', 0); SELECT say(1013, 'order.viewed', 'o-2'); SELECT say(1014, 'order.created', 'o-99', 1)");
}

#[test]
fn the_event_at_which_an_order_went_wrong() {
    let (_db, mut s) = orders("rl_incident");
    incident(&mut s);
    // What is inserted last does not come last.
    s.run("DELETE FROM log WHERE seq = 30; SELECT say(30, 'order.created', 'o-3', 10)");
    let call = format!("'orders_model', {LOG}");
    assert_eq!(verdict(&mut s, &call), "violated");
    assert_eq!(
        violations(
            &mut s,
            &call,
            "v ->> 'invariant', v -> 'key', v -> 'failure_step', v -> 'change_id', v -> 'event_at_failure', v -> 'at'"
        ),
        [r#"not_overpaid ["o-7"] 47 1011 {"kind": "paid", "order": "o-7", "amount": 11} "2025-01-15T10:16:51+00:00""#]
    );
    assert_eq!(
        violations(&mut s, &call, "v -> 'state_before', v -> 'state_after', v -> 'state_diff', v -> 'failure_reason'"),
        [
            r#"{"paid": 0, "total": 10, "status": "new"} {"paid": 11, "total": 10, "status": "paid"} [{"name": "paid", "after": 11, "before": 0}, {"name": "status", "after": "paid", "before": "new"}] "the check of the state is false""#
        ]
    );
    // As the log has them, the failing one last.
    assert_eq!(
        violations(
            &mut s,
            &call,
            "(SELECT string_agg(concat_ws(' ', e -> 'change_id', e #>> '{event,type}', e #>> '{event,payload,order_id}'), ', ' ORDER BY n) FROM jsonb_array_elements(v -> 'events_leading_to_failure') WITH ORDINALITY AS x (e, n))"
        ),
        ["70 order.created o-7, 1011 order.settled o-7"]
    );
    assert_eq!(
        s.one(&format!("SELECT concat_ws(' ', r -> 'events_processed', r -> 'skipped', r #> '{{projections,orders,o-7}}', r #> '{{final_state,o-1,status}}', r #> '{{final_state,o-99}}') FROM threadline.replay_check({call}) r")),
        r#"48 {"unmapped": 40, "only a look": 40} {"paid": 11, "total": 10, "status": "paid"} "shipped""#,
        "the run stops there, before what else the same event is mapped to"
    );
}

#[test]
fn all_that_went_wrong() {
    let (_db, mut s) = orders("rl_all");
    incident(&mut s);
    s.run("SELECT say(1020, 'order.paid', 'o-1000', 5); SELECT say(1021, 'order.archived', 'o-1'); SELECT say(1022, 'order.created', 'o-1', 3)");
    let call = format!("'orders_model', {LOG}, stop_on_first_failure => false");
    assert_eq!(
        violations(
            &mut s,
            &call,
            "v ->> 'invariant', v -> 'key' ->> 0, v ->> 'failure_step', v ->> 'change_id', v ->> 'failure_reason', coalesce(v ->> 'first_repaired_at', '-')"
        ),
        [
            "not_overpaid o-7 47 1011 the check of the state is false -",
            "flow o-2 49 1012 shipped may not become paid -",
            "orders_does_not_fail o-1000 51 1020 the step failed: payment for an order that does not exist (SQLSTATE OR001) -",
        ]
    );
    // An archived order has no state, and may be created again.
    assert_eq!(
        s.one(&format!("SELECT concat_ws(' ', r -> 'events_processed', r -> 'skipped', r -> 'violations_total', r #> '{{projections,orders,o-1}}', r #> '{{projections,orders,o-1000}}') FROM threadline.replay_check({call}) r")),
        r#"54 {"unmapped": 40, "only a look": 41} 3 {"paid": 0, "total": 3, "status": "new"}"#
    );
    assert_eq!(
        s.rows(&format!(
            "SELECT no, invariant, change_id, reason FROM threadline.replay_violations(threadline.replay_check({call}))"
        ))
        .len(),
        3
    );
    // The window is of the log's own times.
    assert_eq!(
        violations(
            &mut s,
            &format!("{call}, since => '2025-01-15 10:16:51.5Z', until => '2025-01-15 10:16:53Z'"),
            "v ->> 'change_id', coalesce(v ->> 'already_false', '-')"
        ),
        ["1011 true", "1012 -"]
    );
    assert_eq!(verdict(&mut s, &format!("{call}, until => '2025-01-15 10:16:50Z'")), "holds");
    assert_eq!(verdict(&mut s, &format!("{call}, invariants => '{{flow}}', until => '2025-01-15 10:16:51Z'")), "holds");
}

#[test]
fn a_log_that_says_nothing_or_is_none() {
    let (_db, mut s) = orders("rl_nothing");
    let with = |events: &str| format!("'orders_model', events => $q${events}$q$");
    assert_eq!(verdict(&mut s, &with("SELECT * FROM log")), "unknown no_events");
    s.run("SELECT say(1, 'http.request', NULL)");
    assert_eq!(verdict(&mut s, &with("SELECT * FROM log")), "unknown no_events", "nothing of it was mapped");
    s.run("SELECT say(2, 'order.created', 'o-1', 1)");
    assert_eq!(verdict(&mut s, &with("SELECT * FROM log")), "holds");
    assert_eq!(
        verdict(&mut s, &with("SELECT seq::int, at::timestamp, event::json FROM log")),
        "holds",
        "whatever can be cast"
    );
    s.run("SELECT say(3, 'order.created', NULL, 1)");
    assert_eq!(
        s.one(&format!("SELECT threadline.replay_check({}) ->> 'skipped'", with("SELECT * FROM log"))),
        r#"{"no key": 1, "unmapped": 1}"#
    );
    // An event may be any JSON; without a mapping it is taken as it is.
    s.run("SELECT threadline.replay_define_model('any'); SELECT threadline.replay_add_projection('any', 'all', NULL, NULL, '[]', 'state || jsonb_build_array(event)')");
    assert_eq!(
        s.one("SELECT threadline.replay_check('any', events => $q$SELECT n, now(), e FROM (VALUES (1, '7'::jsonb), (2, '{}'), (3, '[\"skip\"]'), (4, '{\"skip\": 1}'), (5, '{\"skip\": \"so\"}'), (6, NULL)) AS v (n, e)$q$) #>> '{projections,all}'"),
        r#"[7, {}, ["skip"], {"skip": 1}]"#
    );
    for (events, code) in [
        ("SELECT * FROM no_log", "42P01"),
        ("SELECT seq, at FROM log", "42P10"),
        ("DELETE FROM log RETURNING seq, at, event", "42601"),
        ("SELECT 1; SELECT 2", "42601"),
        ("SELECT seq, at, to_jsonb(1 / 0) FROM log", "22012"),
        ("SELECT 'one', now(), '{}'", "22P02"),
    ] {
        assert_eq!(s.failure(&format!("SELECT threadline.replay_check({})", with(events))).code, code, "{events}");
    }
    assert_eq!(s.number("SELECT count(*) FROM log"), 3);
}

#[test]
fn the_report_of_a_models_check() {
    let (_db, mut s) = orders("rl_report");
    incident(&mut s);
    let report = |s: &mut Session, format: &str| {
        s.one(&format!("SELECT threadline.replay_report(threadline.replay_check('orders_model', {LOG}), '{format}')"))
    };
    let text = report(&mut s, "text");
    let rule = "═".repeat(71);
    assert!(text.starts_with(&format!("{rule}\nFORENSIC ANALYSIS: INVARIANT VIOLATION DETECTED\n{rule}\n")), "{text}");
    let mut rest = text.as_str();
    for part in [
        "FAILURE OCCURRED AT: Event #47, change 1011\n",
        "EVENT AT FAILURE:\n",
        "\"order\": \"o-7\"",
        "FAILURE REASON:\nAssertion 'not_overpaid' failed: the check of the state is false\n",
        "EVENTS LEADING TO FAILURE:\n[0] ",
        "[1] ",
        "STATE BEFORE FAILURE\n",
        "\"status\": \"new\"",
        "STATE AFTER FAILURE\n",
        "\"status\": \"paid\"",
        "DIFFERENCE\n",
        &rule,
    ] {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} is missing, or not in its place: {text}"));
        rest = &rest[at + part.len()..];
    }
    let markdown = report(&mut s, "markdown");
    for part in [
        "# FORENSIC ANALYSIS: INVARIANT VIOLATION DETECTED\n",
        "\n## FAILURE OCCURRED AT: Event #47, change 1011\n",
        "\n### EVENT AT FAILURE:\n```json\n",
        "\n### FAILURE REASON:\n",
        "\n### EVENTS LEADING TO FAILURE:\n- [0] ",
        "\n### STATE BEFORE FAILURE\n```json\n",
        "\n### STATE AFTER FAILURE\n",
    ] {
        assert!(markdown.contains(part), "{part:?} is missing: {markdown}");
    }
    assert_eq!(
        s.one(&format!("SELECT threadline.replay_report(r, 'json')::jsonb = r FROM threadline.replay_check('orders_model', {LOG}) r")),
        "t"
    );
    let before = s.one(&format!(
        "SELECT threadline.replay_report(threadline.replay_check('orders_model', {LOG}, until => '2025-01-15 10:15Z'))"
    ));
    assert!(before.contains("FORENSIC ANALYSIS: ALL INVARIANTS HOLD") && !before.contains("FAILURE"), "{before}");
    let nothing = s.one("SELECT threadline.replay_report(threadline.replay_check('orders_model', events => 'SELECT * FROM log WHERE false'))");
    assert!(nothing.contains("FORENSIC ANALYSIS: NO VERDICT"), "{nothing}");
    s.refused("SELECT threadline.replay_report('{}', 'pdf')", &["22023"]);
    // Of a violation of a table: who it was, and which row.
    s.run("CREATE TABLE t (id int PRIMARY KEY, n int); SELECT threadline.audit_enable('t'); SELECT threadline.replay_define_model('m')");
    invariant(&mut s, "m", "positive", "row", r#"{"table": "t", "check": "new.n > 0"}"#, "event");
    s.run("BEGIN; SELECT threadline.set_actor('user', 'u-9'); INSERT INTO t VALUES (5, -1); COMMIT");
    let text = s.one("SELECT threadline.replay_report(threadline.replay_check('m'))");
    for part in [
        "FAILURE OCCURRED AT: Event #0, change ",
        "\nt {\"id\": \"5\"}\n",
        "\"u-9\"",
        "Assertion 'positive' failed: the check is false\n",
        "STATE BEFORE FAILURE\nnone\n",
    ] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    assert_eq!(
        s.rows("SELECT no, invariant, table_name, table_pk, reason, actor_ref ->> 'id', transaction_id = (SELECT transaction_id FROM threadline.audit_changes WHERE id = change_id) FROM threadline.replay_violations(threadline.replay_check('m'))"),
        [["1", "positive", "t", r#"{"id": "5"}"#, "the check is false", "u-9", "t"].map(|value| Some(value.to_string())).to_vec()]
    );
}

/// The log passes by: it is read once, and what stays is the states.
#[test]
fn a_long_log_takes_no_memory() {
    let db = Database::new("rl_long");
    let mut s = db.session();
    s.run("SELECT threadline.replay_define_model('long');
           SELECT threadline.replay_add_projection('long', 'each', NULL, 'event ->> ''k''', '0', 'to_jsonb((state #>> ''{}'')::int + 1)');
           SELECT threadline.replay_add_projection('long', 'all', NULL, NULL, '0', 'to_jsonb((state #>> ''{}'')::int + 1)')");
    invariant(
        &mut s,
        "long",
        "bound",
        "projection",
        r#"{"projection": "all", "check": "(state #>> '{}')::int < 200000"}"#,
        "event",
    );
    let check = |events: u32| {
        format!(
            "threadline.replay_check('long', events => 'SELECT g::bigint, ''2025-01-01Z''::timestamptz + g * interval ''1 s'', jsonb_build_object(''k'', g % 100, ''pad'', repeat(''x'', 1000)) FROM generate_series(1, {events}) g')"
        )
    };
    s.run(&format!("SELECT {}", check(1000)));
    let pid = s.number("SELECT pg_backend_pid()");
    let before = process_memory(pid, "RssAnon");
    s.run("CREATE TABLE result (r jsonb)");
    // 200,000 events of 1 kB are 200 MB; they are sorted in the 64 MB that the function allows itself.
    let peak = peak_of(&mut s, &format!("INSERT INTO result SELECT {}", check(200_000)));
    assert!(peak - before <= 100 << 20, "{} MB more", (peak - before) >> 20);
    assert_eq!(
        s.one("SELECT concat_ws(' ', r -> 'verdict', r -> 'events_processed', r #> '{projections,all}', r #> '{projections,each,7}', r #> '{violations,0,change_id}', r #> '{violations,0,failure_step}') FROM result"),
        r#""violated" 200000 200000 2000 200000 199999"#
    );
}

/// Images from elsewhere are as their writer spells them: the same number may have another scale.
#[test]
fn the_spelling_of_a_number_is_no_break_of_a_history() {
    let (_db, mut s) = Database::after(
        "rl_spelling",
        "CREATE TABLE t (id int PRIMARY KEY, n numeric); SELECT threadline.audit_enable('t'); SELECT threadline.replay_define_model('m');
         CREATE TABLE said (seq bigint, at timestamptz, event jsonb)",
    );
    invariant(&mut s, "m", "positive", "row", r#"{"table": "t", "check": "new.n > 0"}"#, "event");
    let check = |s: &mut Session, events: &[&str]| {
        s.run("TRUNCATE said");
        for (n, event) in events.iter().enumerate() {
            s.run(&format!("INSERT INTO said VALUES ({n}, '2026-01-01Z', '{event}')"));
        }
        s.one(
            "SELECT concat_ws(' ', r ->> 'verdict', r ->> 'events_processed', r #>> '{violations,0,failure_reason}')
               FROM threadline.replay_check('m', events => 'SELECT seq, at, event FROM said') r",
        )
    };
    let insert = r#"{"table": "public.t", "op": "insert", "new": {"id": 1, "n": 1}}"#;
    assert_eq!(
        check(
            &mut s,
            &[insert, r#"{"table": "public.t", "op": "update", "old": {"id": 1, "n": 1.0}, "new": {"id": 1, "n": 2}}"#]
        ),
        "holds 2"
    );
    assert!(
        check(
            &mut s,
            &[insert, r#"{"table": "public.t", "op": "update", "old": {"id": 1, "n": 1}, "new": {"id": 1, "n": -2}}"#]
        )
        .starts_with("violated 2")
    );
    let again = check(&mut s, &[insert, insert]);
    assert!(again.starts_with("violated 2"), "what is there is not inserted: {again}");
}
