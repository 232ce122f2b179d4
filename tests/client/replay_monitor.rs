//! Checks of models that go on from where the last one ended, and monitors.

use crate::dump::dump_restore;
use crate::support::{Database, Session, unique};

const SHOP: &str = r#"CREATE TABLE orders (id int PRIMARY KEY, status text, total numeric);
    CREATE TABLE lines (id int PRIMARY KEY, orders int, amount numeric);
    SELECT threadline.audit_enable('orders'), threadline.audit_enable('lines');
    SELECT threadline.replay_define_model('m');
    SELECT threadline.replay_add_invariant('m', 'positive', 'row', '{"table": "orders", "check": "new.total >= 0"}', 'event');
    SELECT threadline.replay_add_invariant('m', 'bound', 'key_bound', '{"table": "lines", "key": "orders", "aggregate": "sum(amount)", "check": "abs(value) < 100"}');
    SELECT threadline.replay_add_invariant('m', 'states', 'transition', '{"table": "orders", "column": "status", "initial": ["new"], "allowed": {"new": ["paid"], "paid": ["sent"]}}');
    SELECT threadline.replay_add_invariant('m', 'refers', 'references', '{"table": "lines", "columns": ["orders"], "to": "orders", "to_columns": ["id"]}');
    SELECT threadline.replay_add_invariant('m', 'sent', 'deadline', '{"table": "orders", "open": "new.status = ''paid''", "close": "new.status = ''sent''", "within": "0 seconds"}');
    SELECT threadline.replay_add_invariant('m', 'few', 'unique', '{"table": "lines", "columns": ["orders", "amount"]}', 'every 3 events');
    SELECT threadline.replay_add_invariant('m', 'last', 'row', '{"table": "lines", "check": "new.amount <> 13"}', 'end');
    SELECT threadline.replay_add_projection('m', 'totals', 'lines', 'event #>> ''{data_after,orders}''', '0', 'to_jsonb((state #>> ''{}'')::numeric + 100 / ((event #>> ''{data_after,amount}'')::numeric))');
    SELECT threadline.replay_add_invariant('m', 'sum', 'projection', '{"projection": "totals", "check": "(state #>> ''{}'')::numeric < 500"}')"#;

fn begin(stem: &str) -> (Database, Session) {
    Database::after(stem, SHOP)
}

/// What a check says that goes on, and one from the beginning; they must be the same. Times of open deadlines are of the moment.
fn same(s: &mut Session, when: &str) {
    for stop in [true, false] {
        let check = format!("SELECT jsonb_pretty(threadline.replay_check('m', stop_on_first_failure => {stop}))");
        let quick = s.one(&check);
        s.run("SAVEPOINT whole; DELETE FROM threadline.replay_saved_run");
        let whole = s.one(&check);
        s.run("ROLLBACK TO whole");
        assert_eq!(quick, whole, "{when}, stop {stop}");
    }
}

fn checkpoint(s: &mut Session) -> (String, i64) {
    let result = s.one("SELECT threadline.replay_checkpoint('m')");
    let part = |s: &mut Session, name: &str| s.one(&format!("SELECT $j${result}$j$::jsonb ->> '{name}'"));
    (part(s, "began"), part(s, "new_events").parse().unwrap())
}

/// Whoever writes to another database of the server just then may hold one up for a moment.
fn checkpoint_of_all(s: &mut Session) -> (String, i64) {
    let mut first = None;
    let mut events = 0;
    for _ in 0..200 {
        let (began, new) = checkpoint(s);
        events += new;
        let saved = |condition: &str| format!("SELECT count(*) FROM threadline.readable_saved_run WHERE {condition}");
        if s.number(&saved("true")) == 1 {
            first.get_or_insert(began);
        }
        let whole = saved("until_at >= (SELECT max(committed_at) FROM threadline.readable_transaction)");
        if let (Some(first), 1) = (&first, s.number(&whole)) {
            return (first.clone(), events);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("others never end");
}

const STEPS: [&str; 14] = [
    "INSERT INTO orders VALUES (1, 'new', 10), (2, 'new', 5)",
    "INSERT INTO lines VALUES (1, 1, 4), (2, 1, 6), (3, 2, 5)",
    "UPDATE orders SET status = 'paid' WHERE id = 1",
    "INSERT INTO lines VALUES (4, 2, 99)",
    "UPDATE orders SET status = 'sent' WHERE id = 1; UPDATE orders SET total = -1 WHERE id = 2",
    "INSERT INTO lines VALUES (5, 9, 0)",
    "INSERT INTO lines VALUES (6, 9, 0)",
    "UPDATE orders SET total = 1 WHERE id = 2; DELETE FROM lines WHERE id = 4",
    "INSERT INTO orders VALUES (9, 'new', 0); SAVEPOINT s; DELETE FROM orders; ROLLBACK TO s",
    "UPDATE lines SET id = 60, orders = 1 WHERE id = 6",
    "INSERT INTO lines VALUES (7, 1, 13)",
    "UPDATE orders SET status = 'sent' WHERE id = 2",
    "TRUNCATE lines",
    "INSERT INTO lines SELECT n, 1, n FROM generate_series(1, 40) n",
];

#[test]
fn the_same_answer_as_from_the_beginning() {
    // Check points in every place of the run, and several.
    for every in [1, 4] {
        let (_db, mut s) = begin("mo_same");
        for (n, step) in STEPS.iter().enumerate() {
            s.run(&format!("BEGIN; {step}; COMMIT; BEGIN"));
            same(&mut s, &format!("after step {n}, before the check point"));
            s.run("COMMIT");
            if n % every == 0 {
                let (began, events) = checkpoint_of_all(&mut s);
                assert_eq!(began, if n == 0 { "beginning" } else { "saved" });
                assert!(events > 0);
                assert_eq!(checkpoint(&mut s), ("saved".into(), 0));
            }
            s.run("BEGIN");
            same(&mut s, &format!("after step {n}"));
            s.run("UPDATE orders SET total = -5 WHERE id = 1; INSERT INTO lines VALUES (1000, 1, 77)");
            same(&mut s, &format!("after step {n}, with changes of one's own"));
            s.run("ROLLBACK");
        }
        let total =
            s.number("SELECT threadline.replay_check('m', stop_on_first_failure => false) ->> 'violations_total'");
        assert!(total > 5, "{total}");
    }
}

#[test]
fn a_check_does_go_on_from_what_was_saved() {
    let (_db, mut s) = begin("mo_uses");
    s.run(STEPS[0]);
    checkpoint(&mut s);
    let spoilt = |s: &mut Session, spoil: &str, check: &str| {
        s.run(&format!("BEGIN; UPDATE threadline.replay_saved_run SET {spoil}"));
        let result = s.try_rows(&format!("SELECT threadline.replay_check('m'{check}) ->> 'violations_total'"));
        s.run("ROLLBACK");
        result.is_err()
    };
    // Only a superuser's cast makes a saved run of what the engine did not write.
    s.run("CREATE CAST (bytea AS threadline.saved_run) WITHOUT FUNCTION");
    let state = "state = ''::bytea::threadline.saved_run";
    assert!(spoilt(&mut s, state, ""));
    s.run(STEPS[4]);
    checkpoint(&mut s);
    s.run(STEPS[7]);
    checkpoint(&mut s);
    assert!(!spoilt(&mut s, state, ""), "the first violation is known");
    assert!(spoilt(&mut s, &format!("{state}, stopped = NULL"), ""));
    assert!(spoilt(&mut s, state, ", stop_on_first_failure => false"));
    assert!(!spoilt(&mut s, state, ", invariants => '{bound}'"));
}

#[test]
fn asked_for_less_it_begins_at_the_beginning() {
    let (_db, mut s) = begin("mo_less");
    s.run(STEPS[0]);
    s.run(STEPS[4]);
    checkpoint(&mut s);
    assert_eq!(s.one("SELECT threadline.replay_check('m', invariants => '{bound}') ->> 'verdict'"), "holds");
    assert_eq!(s.one("SELECT threadline.replay_check('m', invariants => '{positive}') ->> 'verdict'"), "violated");
    assert_eq!(s.one("SELECT threadline.replay_check('m', since => now()) ->> 'verdict'"), "violated", "already");
    assert_eq!(
        s.one("SELECT threadline.replay_check('m', until => now() - interval '1 day') #>> '{violations}'"),
        "[]"
    );
}

#[test]
fn who_commits_late_is_not_missed() {
    let (db, mut s) = begin("mo_late");
    let mut other = db.session();
    s.run("INSERT INTO orders VALUES (1, 'new', 1)");
    other.run("BEGIN; INSERT INTO orders VALUES (2, 'new', -2)");
    s.run("INSERT INTO orders VALUES (3, 'new', 3)");
    let (_, events) = checkpoint(&mut s);
    assert!(events <= 1, "what committed while another is in flight is not settled: {events}");
    s.run("BEGIN");
    same(&mut s, "while another is in flight");
    s.run("COMMIT; INSERT INTO orders VALUES (4, 'new', 4)");
    checkpoint(&mut s);
    other.run("COMMIT");
    s.run("BEGIN");
    same(&mut s, "after it committed");
    s.run("COMMIT");
    let (began, events) = checkpoint(&mut s);
    assert_eq!((began.as_str(), events >= 3), ("saved", true));
    s.run("BEGIN");
    same(&mut s, "after the check point");
    s.run("COMMIT");
    assert_eq!(
        s.number("SELECT threadline.replay_check('m', stop_on_first_failure => false) ->> 'events_processed'"),
        4
    );
    assert_eq!(s.number("SELECT threadline.replay_check('m') #>> '{violations,0,table_pk,id}'"), 2);
    // Prepared ones are in flight as well.
    if s.number("SELECT current_setting('max_prepared_transactions')") > 0 {
        let gid = unique("gid");
        other.run(&format!("BEGIN; INSERT INTO orders VALUES (5, 'new', -5); PREPARE TRANSACTION '{gid}'"));
        s.run("INSERT INTO orders VALUES (6, 'new', 6)");
        checkpoint(&mut s);
        other.run(&format!("COMMIT PREPARED '{gid}'"));
        s.run("BEGIN");
        same(&mut s, "after a prepared one committed");
        s.run("COMMIT");
        checkpoint(&mut s);
        s.run("BEGIN");
        same(&mut s, "after the check point behind it");
        s.run("COMMIT");
    }
}

#[test]
fn what_no_longer_holds_begins_anew() {
    let (_db, mut s) = begin("mo_anew");
    s.run(STEPS[0]);
    assert_eq!(checkpoint(&mut s).0, "beginning");
    assert_eq!(checkpoint(&mut s).0, "saved");
    let anew = |s: &mut Session, sql: &str, reason: &str| {
        s.run(sql);
        s.run("BEGIN");
        same(s, sql);
        s.run("COMMIT");
        let result = s.one("SELECT threadline.replay_checkpoint('m')");
        assert!(result.contains("\"began\": \"beginning\"") && result.contains(reason), "{sql}: {result}");
        assert_eq!(checkpoint(s).0, "saved");
    };
    anew(
        &mut s,
        r#"SELECT threadline.replay_add_invariant('m', 'positive', 'row', '{"table": "orders", "check": "new.total > 5"}')"#,
        "as it is defined now",
    );
    assert_eq!(s.one("SELECT threadline.replay_check('m') ->> 'verdict'"), "violated");
    anew(&mut s, "ALTER TABLE lines ADD COLUMN note text", "shape");
    anew(&mut s, "SET timezone = 'Asia/Tokyo'", "TimeZone");
    s.run("RESET timezone");
    s.run("SELECT threadline.audit_disable('lines')");
    anew(&mut s, "SELECT threadline.audit_enable('lines')", "a gap or a purge");
    assert_eq!(s.number("SELECT count(*) FROM threadline.readable_baseline"), 3);
    let result = s.one("SELECT threadline.replay_checkpoint('m', anew => true)");
    assert!(result.contains("asked for"), "{result}");
    s.run("SELECT threadline.audit_set_retention(keep => '1 microsecond', enabled => true); SELECT pg_sleep(0.01)");
    s.run("CALL threadline.audit_purge(dry_run => false, sleep_ms => 0)");
    anew(&mut s, "SELECT 1", "a gap or a purge");
    s.run("SELECT threadline.replay_drop_model('m')");
    assert_eq!(s.number("SELECT count(*) FROM threadline.replay_saved_run"), 0);
}

#[test]
fn nothing_there_and_nothing_allowed() {
    let db = Database::new("mo_empty");
    let mut s = db.session();
    s.refused("SELECT threadline.replay_checkpoint('m')", &["42704"]);
    s.refused("SELECT threadline.replay_monitor('m')", &["42704"]);
    s.run("SELECT threadline.replay_define_model('m')");
    assert_eq!(s.one("SELECT threadline.replay_checkpoint('m') ->> 'verdict'"), "holds");
    s.refused("SELECT threadline.replay_monitor('m', notify => '')", &["22023"]);
    s.refused(&format!("SELECT threadline.replay_monitor('m', notify => '{}')", "x".repeat(64)), &["22023"]);
    s.run("SELECT threadline.replay_monitor('m')");
    assert_eq!(s.rows("SELECT verdict, new_events, new_violations FROM threadline.replay_run_monitors()").len(), 1);
    s.run(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT threadline.audit_enable('t');
           SELECT threadline.replay_add_invariant('m', 'r', 'row', '{\"table\": \"t\", \"check\": \"new.id > 0\"}');
           SELECT threadline.replay_add_invariant('m', 'q', 'query', '{\"sql\": \"SELECT 1 FROM t WHERE id < 0\"}')",
    );
    let result = s.one("SELECT threadline.replay_checkpoint('m')");
    assert!(result.contains("\"not_covered\": [\"q\"]") && result.contains("\"verdict\": \"holds\""), "{result}");
    s.run("INSERT INTO t VALUES (-1); BEGIN");
    same(&mut s, "with a query beside");
    s.run("COMMIT; SELECT threadline.replay_checkpoint('m'); BEGIN");
    same(&mut s, "with a query beside, after a check point");
    s.run("COMMIT; BEGIN READ ONLY");
    s.refused("SELECT threadline.replay_checkpoint('m')", &["25006"]);
    s.run("ROLLBACK");
}

/// The notifications that a session was sent by now.
fn notified(s: &mut Session) -> Vec<String> {
    use postgres::fallible_iterator::FallibleIterator;
    s.run("SELECT 1");
    s.client.notifications().iter().map(|n| Ok(n.payload().to_string())).collect().unwrap()
}

#[test]
fn a_monitor_tells_once_and_marks_what_was_repaired() {
    let (db, mut s) = begin("mo_tells");
    let channel = unique("failures");
    s.run(&format!("SELECT threadline.replay_monitor('m', '{channel}')"));
    let mut listener = db.session();
    listener.run(&format!("LISTEN {channel}"));
    s.run(STEPS[0]);
    s.run("UPDATE orders SET total = -1 WHERE id = 1");
    let run = |s: &mut Session| {
        s.rows("SELECT verdict, new_events, new_violations FROM threadline.replay_run_monitors()")
            .remove(0)
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
    };
    assert_eq!(run(&mut s), ["violated", "3", "1"]);
    let told = notified(&mut listener);
    assert_eq!(told.len(), 1, "{told:?}");
    let fingerprint = s.one("SELECT threadline.replay_check('m') #>> '{violations,0,fingerprint}'");
    assert!(
        told[0].contains("\"invariant\": \"positive\"")
            && told[0].contains(&fingerprint)
            && told[0].contains("\"key\": [\"1\"]"),
        "{told:?}"
    );
    assert_eq!(run(&mut s), ["violated", "0", "0"]);
    assert!(notified(&mut listener).is_empty());
    let failure = "SELECT concat_ws(' ', invariant, key, first_repaired_at IS NOT NULL, document ->> 'failure_reason') FROM threadline.replay_failures ORDER BY change_id";
    assert!(s.column(failure)[0].starts_with("positive [\"1\"] f "), "{:?}", s.column(failure));
    s.run("UPDATE orders SET total = 1 WHERE id = 1; UPDATE orders SET total = -1 WHERE id = 2");
    let maintained = s.one("SELECT threadline.audit_maintain() -> 'monitors'");
    assert!(maintained.contains("\"new_violations\": 1"), "{maintained}");
    let failures = s.column(failure);
    assert!(
        failures.len() == 2
            && failures[0].starts_with("positive [\"1\"] t ")
            && failures[1].starts_with("positive [\"2\"] f "),
        "{failures:?}"
    );
    assert_eq!(notified(&mut listener).len(), 1);
    // Begun anew it finds the same and records nothing twice.
    s.run("DELETE FROM threadline.replay_saved_run");
    assert_eq!(run(&mut s), ["violated", "5", "0"]);
    assert_eq!(s.column(failure).len(), 2);
    assert!(notified(&mut listener).is_empty());
    s.run("SELECT threadline.replay_monitor('m', enabled => false)");
    assert!(s.rows("SELECT * FROM threadline.replay_run_monitors()").is_empty());
    // An error of one is no error of the others.
    s.run("SELECT threadline.replay_monitor('m'); SELECT threadline.replay_define_model('a'); SELECT threadline.replay_monitor('a');
           CREATE FUNCTION f(n int) RETURNS bool LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN n / 0 = 1; END $$;
           SELECT threadline.replay_add_invariant('a', 'f', 'row', '{\"table\": \"orders\", \"check\": \"f(new.id)\"}')");
    let verdicts = s.column("SELECT model || ' ' || verdict FROM threadline.replay_run_monitors()");
    assert_eq!(verdicts, ["a error", "m violated"]);
    assert!(
        s.one("SELECT error FROM threadline.replay_monitors WHERE model = 'a'")
            .contains("division by zero (SQLSTATE 22012)")
    );
}

#[test]
fn nobody_s_expressions_run_with_another_s_rights() {
    let db = Database::new("mo_rights");
    let mut s = db.session();
    let (operator, other, reader) = (unique("operator"), unique("other"), unique("reader"));
    s.run(&format!(
        "CREATE ROLE {operator} LOGIN; CREATE ROLE {other} LOGIN; CREATE ROLE {reader} LOGIN;
         CREATE TABLE t (id int PRIMARY KEY, n int); SELECT threadline.audit_enable('t'); CREATE TABLE who (name text);
         GRANT SELECT ON t TO {operator}, {other}; GRANT CREATE, USAGE ON SCHEMA public TO {operator}, {other};
         SELECT threadline.audit_grant('{operator}', 'operator'), threadline.audit_grant('{other}', 'operator'), threadline.audit_grant('{reader}', 'reader')"
    ));
    let mut o = db.session_as(&operator);
    o.run("CREATE FUNCTION who_am_i(n int) RETURNS bool LANGUAGE plpgsql STABLE AS $$ BEGIN RAISE WARNING 'I am %', current_user; RETURN n > 0; END $$;
           SELECT threadline.replay_define_model('m'); SELECT threadline.replay_monitor('m');
           SELECT threadline.replay_add_invariant('m', 'r', 'row', '{\"table\": \"t\", \"check\": \"who_am_i(new.n)\"}')");
    s.run("INSERT INTO t VALUES (1, -1)");
    let maintain = "SELECT threadline.audit_maintain() #>> '{monitors,0,verdict}'";
    s.notices.lock().unwrap().clear();
    assert_eq!(s.one(maintain), "skipped", "not as a superuser");
    assert!(s.one("SELECT error FROM threadline.replay_monitors").contains(&format!("have it run by \"{operator}\"")));
    assert!(s.notices.lock().unwrap().is_empty());
    assert_eq!(o.one(maintain), "violated");
    assert!(o.notices.lock().unwrap().iter().any(|n| n.contains(&format!("I am {operator}"))));
    let mut a = db.session_as(&other);
    assert_eq!(a.one(maintain), "skipped");
    // Somebody else's definition is not trusted, one's own is.
    a.run("SELECT threadline.replay_add_invariant('m', 'evil', 'row', '{\"table\": \"t\", \"check\": \"new.n > 0\"}')");
    assert_eq!(o.one(maintain), "skipped");
    assert!(
        o.one("SELECT error FROM threadline.replay_monitors").contains(&format!("somebody else than \"{operator}\""))
    );
    o.run("SELECT threadline.replay_add_invariant('m', 'mine', 'row', '{\"table\": \"t\", \"check\": \"new.n > 0\"}')");
    assert_eq!(o.one(maintain), "skipped", "a definition of one's own does not make the other's good");
    o.run("SELECT threadline.replay_monitor('m')");
    assert_eq!(o.one(maintain), "violated");
    s.run("SELECT threadline.replay_monitor('m')");
    assert_eq!(s.one(maintain), "violated", "taken over");
    assert_eq!(o.one(maintain), "violated", "a superuser may have anything run as anybody");
    // Readers see failures of tables they may read.
    let mut r = db.session_as(&reader);
    assert_eq!(r.number("SELECT count(*) FROM threadline.replay_failures"), 0);
    assert_eq!(r.number("SELECT count(*) FROM threadline.readable_saved_run"), 0);
    s.run(&format!("GRANT SELECT ON t TO {reader}"));
    assert_eq!(r.number("SELECT count(*) FROM threadline.replay_failures"), 3);
    assert_eq!(r.one("SELECT threadline.replay_check('m') ->> 'verdict'"), "violated");
    for call in [
        "replay_checkpoint('m')",
        "replay_monitor('m')",
        "replay_run_monitors()",
        "store_run('m', 1, now(), '{}', '{}', 1, NULL, NULL)",
    ] {
        assert_eq!(r.failure(&format!("SELECT threadline.{call}")).code, "42501", "{call}");
    }
    // A state is read as it lies in memory: nobody gives one of his own.
    for state in
        ["''", "'\\x00'::threadline.saved_run", "(SELECT ('(' || repeat('x', 9) || ')')::threadline.saved_run)"]
    {
        let refusal = r.failure(&format!("SELECT threadline.run_begin('{{}}', {state})"));
        assert!(["0A000", "42501"].contains(&&*refusal.code), "{state}: {}", refusal.message);
    }
    assert_eq!(r.failure("SELECT threadline.run_begin('{}', '\\x00'::bytea)").code, "42883");
    // Nor is a value read as what it is not.
    let plan = r#"{"stop": false, "since": 0, "until": 0, "recent": 1, "invariants": [], "sources": [{"name": "x", "is_projection": false, "is_known": true, "is_counted": true, "of": null}]}"#;
    for (inputs, code) in [
        ("7::int4", "XX001"),
        ("ROW(7::int4)", "XX001"),
        ("VARIADIC ARRAY[7]", "XX001"),
        ("NULL::record", "ok"),
        ("ROW(7::int8, NULL, 'x'::text)", "ok"),
        ("7::int8, 'x'::text", "ok"),
        ("'x'::text, 7::int8", "ok"),
    ] {
        r.run(&format!("BEGIN; CREATE TEMPORARY TABLE run AS SELECT threadline.run_begin('{plan}', NULL) AS no"));
        let fed = r.try_rows(&format!(
            "SELECT threadline.run_feed(no, 0, 4::smallint, 1, 1, now(), 0, 0, 'a', NULL, false, '\\x00', NULL, NULL, NULL, {inputs}) FROM run"
        ));
        let said = fed.err().and_then(|error| error.code().map(|code| code.code().to_string()));
        let said = said.as_deref().unwrap_or("ok");
        assert_eq!(said, code, "{inputs}");
        r.run("ROLLBACK");
    }
    s.run(&format!("DROP OWNED BY {operator}, {other}, {reader} CASCADE; DROP ROLE {operator}, {other}, {reader}"));
}

#[test]
fn a_dump_keeps_monitors_and_failures() {
    let (db, mut s) = begin("mo_dump");
    s.run(STEPS[0]);
    s.run("UPDATE orders SET total = -1 WHERE id = 1; SELECT threadline.replay_monitor('m', 'failures')");
    s.run("SELECT threadline.audit_maintain()");
    let copy = Database::bare(&db.at, "mo_dump");
    dump_restore(&db, &copy, false);
    let mut c = copy.session();
    c.run("SELECT threadline.audit_maintain()");
    let kept = "SELECT concat_ws(' ', m.model, m.notify, m.defined_by, m.definitions, (SELECT jsonb_agg(to_jsonb(f)) FROM threadline.replay_failures f)) FROM threadline.replay_monitors m";
    assert_eq!(s.one(kept), c.one(kept));
    c.run("BEGIN");
    same(&mut c, "restored");
    c.run("COMMIT");
    let again = c.rows("SELECT verdict, new_violations FROM threadline.replay_run_monitors()").remove(0);
    assert_eq!(again.into_iter().flatten().collect::<Vec<_>>(), ["violated", "0"]);
}
