//! Why an invariant broke: exact slices, reproducers and but-for sets of small histories, what other histories and models
//! would have said, whether a fix holds, and a test that asks the record itself.

use crate::support::{Database, Session};

const VIOLATED: &str = "FROM (SELECT threadline.replay_check('m', stop_on_first_failure => false) AS result) r";

/// Tables under capture and a model of one invariant over them.
fn model(stem: &str, tables: &str, names: &[&str], kind: &str, spec: &str, check_at: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(tables);
    for name in names {
        s.run(&format!("SELECT threadline.audit_enable('{name}')"));
    }
    s.run("SELECT threadline.replay_define_model('m')");
    s.run(&format!("SELECT threadline.replay_add_invariant('m', 'i', '{kind}', '{spec}', '{check_at}')"));
    (db, s)
}

/// One transaction; its id.
fn transaction(s: &mut Session, sql: &str) -> String {
    s.run(&format!("BEGIN; {sql}"));
    let id = s.one("SELECT threadline.current_audit_transaction_id()");
    s.run("COMMIT");
    id
}

/// The events of a minimal set: operation, key, and what it was before where it changed.
fn events(s: &mut Session, notion: &str) -> String {
    s.one(&format!(
        "SELECT string_agg(concat_ws(' ', e.value #>> '{{event,op}}', split_part(e.value #>> '{{event,table}}', '.', 2), (e.value #>> '{{event,old_key}}') || ' to', e.value #>> '{{event,key}}'), ', ' ORDER BY e.n)
         FROM (SELECT threadline.replay_minimal_set(result, '{notion}') AS found {VIOLATED}) f, jsonb_array_elements(found -> 'events') WITH ORDINALITY AS e (value, n)"
    ))
}

/// The sets of transactions in their order, by the names given to their ids.
fn sets(s: &mut Session, names: &[(&str, &String)]) -> String {
    let mut text = s.one(&format!(
        "SELECT string_agg((SELECT string_agg(t.value ->> 'id', '+') FROM jsonb_array_elements(e.value -> 'transactions') AS t (value)), ' ' ORDER BY e.n)
         FROM (SELECT threadline.replay_minimal_set(result, 'but_for') AS found {VIOLATED}) f, jsonb_array_elements(found -> 'sets') WITH ORDINALITY AS e (value, n)"
    ));
    for (name, id) in names {
        text = text.replace(id.as_str(), name);
    }
    text
}

#[test]
fn a_sum_depends_on_the_rows_of_its_key_under_all_their_names() {
    let (_db, mut s) = model(
        "why_sum",
        "CREATE TABLE e (id int PRIMARY KEY, acct int, n int)",
        &["e"],
        "key_bound",
        r#"{"table": "e", "key": "acct", "aggregate": "sum(n)", "check": "value >= 0"}"#,
        "commit",
    );
    let earned = transaction(&mut s, "INSERT INTO e VALUES (1, 7, 10)");
    transaction(&mut s, "INSERT INTO e VALUES (2, 8, 5)");
    let moved = transaction(&mut s, "UPDATE e SET id = 11 WHERE id = 1");
    let spent = transaction(&mut s, "INSERT INTO e VALUES (3, 7, -4)");
    transaction(&mut s, "DELETE FROM e WHERE id = 2");
    let broke = transaction(&mut s, "INSERT INTO e VALUES (4, 7, -8)");
    transaction(&mut s, "INSERT INTO e VALUES (5, 7, 1)");
    assert_eq!(events(&mut s, "causal_slice"), "insert e 1, update e 1 to 11, insert e 3, insert e 4");
    assert_eq!(events(&mut s, "reproducer"), "snapshot e 11, snapshot e 3, insert e 4");
    let names = [("earned", &earned), ("moved", &moved), ("spent", &spent), ("broke", &broke)];
    assert_eq!(sets(&mut s, &names), "broke spent");
}

#[test]
fn a_number_is_carried_on_without_a_change_and_a_row_without_its_beginning_is_not_there() {
    let (_db, mut s) = model(
        "why_row",
        "CREATE TABLE a (id int PRIMARY KEY, balance numeric)",
        &["a"],
        "row",
        r#"{"table": "a", "check": "new.balance >= 0"}"#,
        "event",
    );
    let made = transaction(&mut s, "INSERT INTO a VALUES (1, 10), (2, 0)");
    let more = transaction(&mut s, "UPDATE a SET balance = balance + 5 WHERE id = 1");
    let less = transaction(&mut s, "UPDATE a SET balance = balance - 12 WHERE id = 1");
    let broke = transaction(&mut s, "UPDATE a SET balance = balance - 4 WHERE id = 1");
    assert_eq!(events(&mut s, "causal_slice"), "insert a 1, update a 1, update a 1, update a 1");
    assert_eq!(events(&mut s, "reproducer"), "snapshot a 1, update a 1");
    let names = [("made", &made), ("more", &more), ("less", &less), ("broke", &broke)];
    assert_eq!(sets(&mut s, &names), "broke less made");

    let without = |s: &mut Session, id: &str| {
        s.one(&format!(
            "SELECT concat_ws(' ', r ->> 'verdict_before', r ->> 'verdict_after', jsonb_array_length(r -> 'no_longer'), jsonb_array_length(r -> 'new'), r ->> 'still')
             FROM (SELECT threadline.replay_without('m', '{{{id}}}') AS r) r"
        ))
    };
    assert_eq!(without(&mut s, &less), "violated holds 1 0 0");
    // It would have been broken sooner.
    assert_eq!(without(&mut s, &more), "violated violated 1 1 0");
    assert_eq!(without(&mut s, &broke), "violated holds 1 0 0");
    s.refused("SELECT threadline.replay_without('m', '{00000000-0000-0000-0000-000000000000}')", &["02000"]);
}

#[test]
fn what_was_deleted_is_there_without_the_deletion() {
    let (_db, mut s) = model(
        "why_reference",
        "CREATE TABLE customers (id int PRIMARY KEY); CREATE TABLE orders (id int PRIMARY KEY, customer int)",
        &["customers", "orders"],
        "references",
        r#"{"table": "orders", "columns": ["customer"], "to": "customers", "to_columns": ["id"]}"#,
        "commit",
    );
    let came = transaction(&mut s, "INSERT INTO customers VALUES (1), (2)");
    let ordered = transaction(&mut s, "INSERT INTO orders VALUES (7, 1), (8, 2)");
    let left = transaction(&mut s, "DELETE FROM customers WHERE id = 1");
    assert_eq!(events(&mut s, "causal_slice"), "insert customers 1, insert orders 7, delete customers 1");
    assert_eq!(events(&mut s, "reproducer"), "snapshot customers 1, snapshot orders 7, delete customers 1");
    assert_eq!(sets(&mut s, &[("came", &came), ("ordered", &ordered), ("left", &left)]), "left ordered");
}

/// What an event is forbidden by is judged by none, and yet part of the slice.
#[test]
fn what_forbids_is_in_the_slice() {
    let (_db, mut s) = model(
        "why_forbids",
        "CREATE TABLE o (id int PRIMARY KEY, parent int, status text)",
        &["o"],
        "forbids",
        r#"{"table": "o", "key": "parent", "event": "new.status = ''paid''", "since": "new.status = ''cancelled''"}"#,
        "event",
    );
    let made = transaction(&mut s, "INSERT INTO o VALUES (1, 5, 'new'), (2, 5, 'new'), (3, 6, 'cancelled')");
    let cancelled = transaction(&mut s, "UPDATE o SET status = 'cancelled' WHERE id = 1");
    let paid = transaction(&mut s, "UPDATE o SET status = 'paid' WHERE id = 2");
    assert_eq!(events(&mut s, "causal_slice"), "insert o 1, insert o 2, update o 1, update o 2");
    assert_eq!(events(&mut s, "reproducer"), "update o 1, update o 2");
    assert_eq!(sets(&mut s, &[("made", &made), ("cancelled", &cancelled), ("paid", &paid)]), "paid cancelled made");
}

/// Without it there is a failure as well, for what came after counted on it.
#[test]
fn a_change_with_the_wrong_sign_is_put_right() {
    let (_db, mut s) = model(
        "why_sign",
        "CREATE TABLE e (id int PRIMARY KEY, acct int, n int)",
        &["e"],
        "key_bound",
        r#"{"table": "e", "key": "acct", "aggregate": "sum(n)", "check": "value >= 0"}"#,
        "commit",
    );
    let mut acted = |action: &str, sql: &str| {
        s.run(&format!("BEGIN; SELECT threadline.record_action('{action}'); {sql}"));
        let id = s.one("SELECT threadline.current_audit_transaction_id()");
        s.run("COMMIT");
        id
    };
    acted("deposit", "INSERT INTO e VALUES (1, 7, 10)");
    acted("deposit", "INSERT INTO e VALUES (2, 7, 30)");
    let wrong = acted("deposit", "INSERT INTO e VALUES (3, 7, -20)");
    acted("withdraw", "INSERT INTO e VALUES (4, 7, -15)");
    let broke = acted("withdraw", "INSERT INTO e VALUES (5, 7, -45)");
    let found = s.rows(&format!(
        "SELECT e.value #>> '{{transactions,0,id}}', e.value ->> 'remedy', e.value #>> '{{transactions,0,repairs,0,by}}', e.value #>> '{{transactions,0,reasons,0}}'
         FROM (SELECT threadline.replay_minimal_set(result, 'but_for') AS found {VIOLATED}) f, jsonb_array_elements(found -> 'sets') WITH ORDINALITY AS e (value, n) ORDER BY e.n"
    ));
    let told: Vec<Vec<&str>> =
        found.iter().map(|row| row.iter().map(|value| value.as_deref().unwrap_or("-")).collect()).collect();
    assert_eq!(
        told,
        [
            vec![wrong.as_str(), "put right", "40", "its n went the other way than that of every other deposit"],
            vec![broke.as_str(), "left out", "-", "the invariant turned false with it"],
        ]
    );
}

#[test]
fn another_step_gives_another_verdict() {
    let db = Database::new("why_with");
    let mut s = db.session();
    s.run(
        "CREATE TABLE p (id int PRIMARY KEY, n int); SELECT threadline.audit_enable('p');
         SELECT threadline.replay_define_model('m');
         SELECT threadline.replay_add_projection('m', 'total', 'p', NULL, '0', 'to_jsonb(state::numeric + (event #>> ''{new,n}'')::numeric)');
         SELECT threadline.replay_add_invariant('m', 'i', 'projection', '{\"projection\": \"total\", \"check\": \"state::numeric <= 10\"}')",
    );
    s.run("INSERT INTO p VALUES (1, 8)");
    s.run("INSERT INTO p VALUES (2, 7)");
    let with = |s: &mut Session, step: &str| {
        s.one(&format!(
            "SELECT concat_ws(' ', r ->> 'verdict_before', r ->> 'verdict_after', jsonb_array_length(r -> 'no_longer'), jsonb_array_length(r -> 'new'), r ->> 'still')
             FROM (SELECT threadline.replay_with('m', 'total', {step}) AS r) r"
        ))
    };
    assert_eq!(
        with(&mut s, "'to_jsonb(greatest(state::numeric, (event #>> ''{new,n}'')::numeric))'"),
        "violated holds 1 0 0"
    );
    assert_eq!(with(&mut s, "NULL, init => '20'"), "violated violated 1 1 0");
    assert_eq!(with(&mut s, "NULL"), "violated violated 0 0 1");
    s.refused("SELECT threadline.replay_with('m', 'none')", &["42704"]);
}

#[test]
fn a_fix_is_verified_partial_flaky_or_none() {
    let (_db, mut s) = model(
        "why_fix",
        "CREATE TABLE a (id int PRIMARY KEY, balance int)",
        &["a"],
        "row",
        r#"{"table": "a", "check": "new.balance >= 0"}"#,
        "commit",
    );
    s.run("INSERT INTO a VALUES (1, -1); INSERT INTO a VALUES (2, -2)");
    s.run(&format!("CREATE TEMPORARY TABLE \"then\" AS SELECT result {VIOLATED}"));
    let answer = |s: &mut Session| s.one("SELECT threadline.replay_verify_fix(result) FROM \"then\"");
    assert_eq!(answer(&mut s), "still_failing");
    s.run("UPDATE a SET balance = 5 WHERE id = 1");
    assert_eq!(answer(&mut s), "partially_fixed");
    s.run("UPDATE a SET balance = 5 WHERE id = 2");
    assert_eq!(answer(&mut s), "verified");
    s.run("UPDATE a SET balance = -3 WHERE id = 1");
    assert_eq!(answer(&mut s), "partially_fixed");
    s.run("UPDATE a SET balance = 4 WHERE id = 1");
    assert_eq!(answer(&mut s), "flaky");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let (_db, mut s) = model(
        "why_refused",
        "CREATE TABLE a (id int PRIMARY KEY, balance int)",
        &["a"],
        "row",
        r#"{"table": "a", "check": "new.balance >= 0"}"#,
        "commit",
    );
    s.run("INSERT INTO a VALUES (1, -1)");
    for call in [
        "replay_minimal_set(result, 'smallest')",
        "replay_minimal_set(result, NULL)",
        "replay_minimal_set(result, 'but_for', 9)",
        "replay_minimal_set(result, 'but_for', 0)",
        "replay_minimal_set('{}', 'but_for')",
        "replay_minimal_set(threadline.replay_check('a'::regclass), 'but_for')",
        "replay_regression_test(result, 'broken')",
        "replay_regression_test('{}')",
        "replay_verify_fix('{}')",
    ] {
        s.refused(&format!("SELECT threadline.{call} {VIOLATED}"), &["22023"]);
    }
}

/// Where the events are, the test asks the record: it fails on the corrupted history, and passes once that is taken back.
#[test]
fn the_test_asks_the_record_where_the_events_are() {
    let (db, mut s) = model(
        "why_live",
        "CREATE TABLE a (id int PRIMARY KEY, balance int)",
        &["a"],
        "row",
        r#"{"table": "a", "check": "new.balance >= 0"}"#,
        "commit",
    );
    if s.number("SELECT count(*) FROM pg_available_extensions WHERE name = 'pgtap'") == 0 {
        eprintln!("not run: this server has no pgTAP");
        return;
    }
    s.run("INSERT INTO a VALUES (1, 10)");
    let broke = transaction(&mut s, "UPDATE a SET balance = -7 WHERE id = 1");
    let file = |s: &mut Session, mode: &str| {
        s.one(&format!("SELECT threadline.replay_regression_test(result, '{mode}') {VIOLATED}"))
    };
    let [fixed, reproduces] = [file(&mut s, "fixed"), file(&mut s, "reproduces")];
    let run = |text: &str| db.run_file(text).lines().find(|line| line.contains("ok 1")).map(str::to_string);
    assert_eq!(run(&fixed).as_deref(), Some("not ok 1 - i holds again"));
    assert_eq!(run(&reproduces).as_deref(), Some("ok 1 - i was broken"));
    s.run(&format!("SELECT count(*) FROM threadline.audit_revert('{broke}', 'nocascade', false, true)"));
    assert_eq!(run(&fixed).as_deref(), Some("ok 1 - i holds again"));
    assert_eq!(s.one("SELECT count(*) FROM pg_extension WHERE extname = 'pgtap'"), "0");
}

/// Whoever corrects a test may need a row that the failure's events do not show, though the sum before them counts it in.
#[test]
fn a_correction_takes_up_a_row_that_was_counted() {
    let (db, mut s) = model(
        "why_counted",
        "CREATE TABLE a (id int PRIMARY KEY, n numeric)",
        &["a"],
        "balance",
        r#"{"table": "a", "aggregate": "sum(n)", "equals": 0}"#,
        "commit",
    );
    if s.number("SELECT count(*) FROM pg_available_extensions WHERE name = 'pgtap'") == 0 {
        eprintln!("not run: this server has no pgTAP");
        return;
    }
    s.run("INSERT INTO a SELECT g, CASE g % 2 WHEN 1 THEN 10 ELSE -10 END FROM generate_series(1, 40) g");
    transaction(&mut s, "UPDATE a SET n = 2 * n");
    transaction(&mut s, "UPDATE a SET n = 25 WHERE id = 1");
    let fixed = s.one(&format!("SELECT threadline.replay_regression_test(result) {VIOLATED}"));
    assert!(!fixed.contains(r#""key": "2""#), "the events are of the row that was changed alone:\n{fixed}");
    let (_, rest) = fixed.rsplit_once(r#""transaction": "#).expect("an event of the transaction");
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let corrected = |old: i32| {
        let event = format!(
            r#"{{"op": "update", "table": "public.a", "key": "2", "transaction": {number}, "statement": 9, "old": {{"id": 2, "n": {old}}}, "new": {{"id": 2, "n": -25}}}}"#
        );
        fixed.replace("}');\n", &format!("}}'),\n    (1000, '2026-01-01Z', '{event}');\n"))
    };
    let empty = Database::bare(&db.at, "why_counted_empty");
    let run = |text: &str| empty.run_file(text).lines().find(|line| line.contains("ok 1")).map(str::to_string);
    assert_eq!(run(&fixed).as_deref(), Some("not ok 1 - i holds"));
    assert_eq!(run(&corrected(-20)).as_deref(), Some("ok 1 - i holds"));
    assert_eq!(run(&corrected(-21)).as_deref(), Some("not ok 1 - i holds"), "by the difference");
}
