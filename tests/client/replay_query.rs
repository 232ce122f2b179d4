//! Invariants of kind query: a query on the tables as they were after each commit that touched one of them.

use crate::support::{Database, Failure, Session, unique};

const ACCOUNTS: &str = "CREATE TABLE accounts (id int PRIMARY KEY, balance numeric);
    CREATE TABLE entries (id int PRIMARY KEY, account int, amount numeric);
    CREATE TABLE noise (id int PRIMARY KEY);
    INSERT INTO accounts VALUES (7, 0);
    SELECT threadline.audit_enable('accounts'), threadline.audit_enable('entries'), threadline.audit_enable('noise');
    SELECT threadline.replay_define_model('m')";

/// Accounts whose balance is not the sum of their entries.
const UNBALANCED: &str = "SELECT a.id, a.balance FROM accounts a WHERE a.balance <> (SELECT coalesce(sum(e.amount), 0) FROM entries e WHERE e.account = a.id)";

fn begin(stem: &str) -> (Database, Session) {
    Database::after(stem, ACCOUNTS)
}

fn add(s: &mut Session, name: &str, sql: &str, more: &str) {
    s.run(&format!(
        "SELECT threadline.replay_add_invariant('m', '{name}', 'query', jsonb_build_object('sql', $q${sql}$q$){more})"
    ));
}

fn refused(s: &mut Session, sql: &str, code: &str) -> Failure {
    s.refused(
        &format!("SELECT threadline.replay_add_invariant('m', 'q', 'query', jsonb_build_object('sql', $q${sql}$q$))"),
        &[code],
    )
}

/// Runs one transaction; its id.
fn tx(s: &mut Session, sql: &str) -> String {
    s.run(&format!("BEGIN; {sql}"));
    let id = s.one("SELECT threadline.current_audit_transaction_id()");
    s.run("COMMIT");
    id
}

/// Of each violation: invariant, key, transaction, rows after, whether it was repaired, by the transaction.
fn violations(s: &mut Session, more: &str) -> Vec<String> {
    s.column(&format!(
        "SELECT concat_ws(' ', v ->> 'invariant', v ->> 'key', v #>> '{{transaction,id}}', v ->> 'state_after', 'repaired by ' ||
                (SELECT x.id FROM threadline.audit_transactions x WHERE x.committed_at = (v ->> 'first_repaired_at')::timestamptz))
         FROM jsonb_array_elements(threadline.replay_check('m'{more}) -> 'violations') WITH ORDINALITY AS v (v, n) ORDER BY n"
    ))
}

const ALL: &str = ", stop_on_first_failure => false";

#[test]
fn violated_and_repaired_at_the_right_commits() {
    let (_db, mut s) = begin("rq_commits");
    add(&mut s, "sums", &format!("{UNBALANCED} -- a comment"), "");
    add(&mut s, "each", UNBALANCED, " || '{\"key\": [\"id\"]}'");
    s.run("SELECT threadline.replay_add_invariant('m', 'small', 'row', '{\"table\": \"accounts\", \"check\": \"new.balance < 50\"}')");
    tx(&mut s, "INSERT INTO accounts VALUES (1, 0), (2, 0)");
    tx(&mut s, "INSERT INTO entries VALUES (1, 1, 5); UPDATE accounts SET balance = 5 WHERE id = 1");
    let broken = tx(&mut s, "UPDATE accounts SET balance = 60 WHERE id = 2");
    let worse = tx(&mut s, "UPDATE accounts SET balance = 6 WHERE id = 1");
    let better = tx(&mut s, "UPDATE accounts SET balance = 0 WHERE id = 2");
    let whole = tx(&mut s, "INSERT INTO entries VALUES (2, 1, 1)");
    let again = tx(&mut s, "TRUNCATE entries");
    let expected = [
        format!("sums [] {broken} [{{\"id\": 2, \"balance\": 60}}] repaired by {whole}"),
        format!("each [\"2\"] {broken} [{{\"id\": 2, \"balance\": 60}}] repaired by {better}"),
        format!("small [\"2\"] {broken} {{\"id\": 2, \"balance\": 60}} repaired by {better}"),
        format!("each [\"1\"] {worse} [{{\"id\": 1, \"balance\": 6}}] repaired by {whole}"),
        format!("sums [] {again} [{{\"id\": 1, \"balance\": 6}}]"),
        format!("each [\"1\"] {again} [{{\"id\": 1, \"balance\": 6}}]"),
    ];
    assert_eq!(violations(&mut s, ALL), expected);
    let first = violations(&mut s, "");
    assert_eq!(
        first,
        [format!("sums [] {broken} [{{\"id\": 2, \"balance\": 60}}]")],
        "only the first, and no more is read"
    );
    assert_eq!(
        violations(&mut s, ", invariants => '{each}'"),
        [format!("each [\"2\"] {broken} [{{\"id\": 2, \"balance\": 60}}]")]
    );
    assert_eq!(s.number("SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()"), 0);
    let report = s.one("SELECT threadline.replay_report(threadline.replay_check('m'))");
    assert!(report.contains("sums"), "{report}");
    // What is over by since is not told; what lasts is, with already_false.
    let time = |s: &mut Session, id: &str| {
        s.one(&format!("SELECT committed_at FROM threadline.audit_transactions WHERE id = '{id}'"))
    };
    let since = time(&mut s, &better);
    let within = violations(&mut s, &format!("{ALL}, since => '{since}', invariants => '{{each,sums}}'"));
    assert_eq!(within, [0, 3, 4, 5].map(|place| expected[place].clone()));
    let until = time(&mut s, &worse);
    let within = violations(&mut s, &format!("{ALL}, until => '{until}', invariants => '{{each}}'"));
    assert_eq!(within.len(), 2, "{within:?}");
    assert!(within.iter().all(|v| !v.contains("repaired")), "{within:?}");
}

#[test]
fn the_past_and_what_is_uncommitted_and_not_the_present() {
    let (_db, mut s) = begin("rq_past");
    add(&mut s, "none", "SELECT id FROM accounts WHERE balance < 0", "");
    s.run("BEGIN; UPDATE accounts SET balance = -1");
    let own = s.one("SELECT threadline.current_audit_transaction_id()");
    assert_eq!(violations(&mut s, ALL), [format!("none [] {own} [{{\"id\": 7}}]")], "one's own changes come last");
    s.run("ROLLBACK");
    assert!(violations(&mut s, ALL).is_empty());
    let guilty = tx(&mut s, "UPDATE accounts SET balance = -1");
    let repairing = tx(&mut s, "DELETE FROM accounts");
    assert_eq!(violations(&mut s, ALL), [format!("none [] {guilty} [{{\"id\": 7}}] repaired by {repairing}")]);
    assert_eq!(s.one("SELECT threadline.replay_check('m') ->> 'verdict'"), "violated");
    // Rows that a table had before its capture are rows of its baseline; before that a query is not asked.
    s.run(
        "CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (7); SELECT threadline.audit_enable('late')",
    );
    add(&mut s, "known", "SELECT n.id FROM entries n WHERE n.id NOT IN (SELECT id FROM late)", "");
    s.run("INSERT INTO entries VALUES (7, 7, 0)");
    assert_eq!(
        s.number("SELECT jsonb_array_length(threadline.replay_check('m', invariants => '{known}') -> 'violations')"),
        0
    );
}

#[test]
fn run_only_when_a_table_changed() {
    let (_db, mut s) = begin("rq_runs");
    add(&mut s, "a", "SELECT 1 FROM accounts WHERE balance < 0", "");
    add(&mut s, "e", "SELECT 1 FROM entries WHERE amount < 0", "");
    add(&mut s, "last", "SELECT 1 FROM entries WHERE amount < 0", ", 'end'");
    add(&mut s, "third", "SELECT 1 FROM entries WHERE amount < 0", ", 'every 3 events'");
    add(&mut s, "hourly", "SELECT 1 FROM entries WHERE amount < 0", ", 'every 100000 hours'");
    for n in 1..=6 {
        s.run(&format!("INSERT INTO noise VALUES ({n}); INSERT INTO entries VALUES ({n}, 7, 1)"));
        s.run(&format!("INSERT INTO noise VALUES (-{n})"));
    }
    s.run("UPDATE accounts SET balance = 1");
    let runs = s.one("SELECT threadline.replay_check('m') -> 'query_runs'");
    // One more each for the baseline.
    assert_eq!(runs, r#"{"a": 2, "e": 7, "last": 1, "third": 2, "hourly": 1}"#);
    let verdict = s.one("SELECT threadline.replay_check('m') ->> 'verdict'");
    assert_eq!(verdict, "holds");
}

#[test]
fn errors_are_the_query_s_own() {
    let (_db, mut s) = begin("rq_errors");
    s.run("CREATE FUNCTION picky(n numeric) RETURNS bool LANGUAGE plpgsql STABLE AS $$ BEGIN
               IF n = 3 THEN RAISE EXCEPTION 'three is bad' USING ERRCODE = 'ZX001', DETAIL = 'a detail', HINT = 'a hint'; END IF; RETURN false; END $$");
    add(&mut s, "picky", "SELECT 1 FROM accounts WHERE picky(balance)", "");
    s.run("UPDATE accounts SET balance = 2");
    let bad = tx(&mut s, "UPDATE accounts SET balance = 3");
    s.run("UPDATE accounts SET balance = 4");
    let error = s.client.simple_query("SELECT threadline.replay_check('m')").unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.message()), ("ZX001", "three is bad"));
    assert_eq!((error.detail(), error.hint()), (Some("a detail"), Some("a hint")));
    let context = error.where_().unwrap();
    assert!(context.contains("invariant \"picky\" of model \"m\"") && context.contains(&bad), "{context}");
    assert_eq!(s.number("SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()"), 0);
    // What does not plan any more tells whose it is, too.
    s.run("ALTER TABLE accounts RENAME balance TO money");
    let error = s.client.simple_query("SELECT threadline.replay_check('m')").unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "42703");
    assert!(error.where_().unwrap().contains("invariant \"picky\""), "{error:?}");
}

#[test]
fn writes_nothing() {
    let (_db, mut s) = begin("rq_read_only");
    s.run("CREATE TABLE seen (n numeric); CREATE FUNCTION nosy(n numeric) RETURNS bool LANGUAGE plpgsql STABLE AS $$ BEGIN
               EXECUTE format('INSERT INTO seen VALUES (%s)', n); RETURN false; END $$;
           CREATE FUNCTION sly(n numeric) RETURNS bool LANGUAGE plpgsql STABLE AS $$ BEGIN
               EXECUTE 'SELECT nextval(''counter'')'; RETURN false; END $$; CREATE SEQUENCE counter");
    for name in ["nosy", "sly"] {
        add(&mut s, "q", &format!("SELECT 1 FROM accounts WHERE {name}(balance)"), "");
        s.run("UPDATE accounts SET balance = balance + 1");
        let failure = s.failure("SELECT threadline.replay_check('m')");
        assert!(["25006", "0A000"].contains(&failure.code.as_str()), "{failure:?}");
    }
    assert_eq!(s.number("SELECT count(*) FROM seen"), 0);
    assert_eq!(s.number("INSERT INTO seen VALUES (1) RETURNING n"), 1, "the session may write again");
}

#[test]
fn refused_when_defined() {
    let (_db, mut s) = begin("rq_defined");
    s.run("CREATE TABLE plain (id int PRIMARY KEY); CREATE VIEW seen AS SELECT * FROM accounts; CREATE TABLE keyless (a int);
           SELECT threadline.audit_enable('keyless', options => '{\"key\": \"full_row\"}'); CREATE SCHEMA other; CREATE TABLE other.t (id int PRIMARY KEY);
           SELECT threadline.audit_enable('other.t')");
    for sql in ["SELECT 1 FROM public.accounts", "SELECT 1 FROM accounts, public.entries", "SELECT 1 FROM other.t"] {
        let failure = refused(&mut s, sql, "0A000");
        assert!(failure.message.contains("with its schema"), "{failure:?}");
    }
    refused(&mut s, "SELECT 1 FROM seen", "0A000");
    refused(&mut s, "SELECT 1 FROM accounts WHERE random() > 1", "0A000");
    refused(&mut s, "SELECT 1 FROM keyless", "0A000");
    refused(&mut s, "SELECT 1 FROM accounts, plain", "55000");
    refused(&mut s, "SELECT 1 FROM plain", "42704");
    refused(&mut s, "SELECT 1", "42704");
    refused(&mut s, "SELECT 1 FROM accounts; SELECT 2", "42601");
    refused(&mut s, "", "42601");
    let own = |s: &mut Session, sql: &str, more: &str| {
        s.failure(&format!(
            "SELECT threadline.replay_add_invariant('m', 'q', 'query', jsonb_build_object('sql', $q${sql}$q$){more})"
        ))
        .code
    };
    assert_eq!(own(&mut s, "DELETE FROM accounts RETURNING 1", ""), "42601");
    assert_eq!(own(&mut s, "WITH d AS (DELETE FROM accounts RETURNING 1) SELECT FROM d", ""), "0A000");
    assert_eq!(own(&mut s, "SELECT 1) q, (SELECT 2", ""), "42601");
    assert_eq!(own(&mut s, "SELECT nope FROM accounts", ""), "42703");
    assert_eq!(own(&mut s, "SELECT id FROM accounts", " || '{\"key\": [\"nope\"]}'"), "42703");
    assert_eq!(own(&mut s, "SELECT id FROM accounts", " || '{\"key\": \"id\"}'"), "22023");
    assert_eq!(s.number("SELECT count(*) FROM threadline.replay_invariants"), 0);
    assert_eq!(s.number("SELECT count(*) FROM accounts"), 1);
    assert_eq!(s.number("SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()"), 0);
}

#[test]
fn needs_temporary_tables() {
    let (db, mut s) = begin("rq_temporary");
    add(&mut s, "q", "SELECT 1 FROM accounts WHERE balance < 0", "");
    s.run("BEGIN READ ONLY");
    let failure = s.refused("SELECT threadline.replay_check('m')", &["25006"]);
    s.run("ROLLBACK");
    assert!(failure.hint.contains("may write"), "{failure:?}");
    s.run("SELECT threadline.replay_add_invariant('m', 'row', 'row', '{\"table\": \"accounts\", \"check\": \"new.balance >= 0\"}')");
    s.run("BEGIN READ ONLY");
    let failure = s.refused("SELECT threadline.replay_check('m')", &["25006"]);
    s.run("ROLLBACK; BEGIN READ ONLY");
    assert!(failure.hint.contains("invariants => '{row}'"), "{failure:?}");
    assert_eq!(s.one("SELECT threadline.replay_check('m', invariants => '{row}') ->> 'verdict'"), "holds");
    s.run("ROLLBACK");
    s.run("SET search_path = public, pg_temp");
    s.refused("SELECT threadline.replay_check('m')", &["55000"]);
    s.run("RESET search_path");
    // A reader of the tables may ask as well, one of fewer may not.
    let (reader, stranger) = (unique("reader"), unique("stranger"));
    s.run(&format!(
        "CREATE ROLE {reader} LOGIN; CREATE ROLE {stranger} LOGIN; GRANT SELECT ON accounts TO {reader};
         SELECT threadline.audit_grant('{reader}', 'reader'), threadline.audit_grant('{stranger}', 'reader')"
    ));
    s.run("UPDATE accounts SET balance = -1");
    assert_eq!(
        db.session_as(&reader).one("SELECT threadline.replay_check('m', invariants => '{q}') ->> 'verdict'"),
        "violated"
    );
    db.session_as(&stranger).failure("SELECT threadline.replay_check('m', invariants => '{q}')");
    s.run(&format!("DROP OWNED BY {reader}, {stranger}; DROP ROLE {reader}, {stranger}"));
}

#[test]
fn what_is_not_known_is_no_verdict() {
    let (_db, mut s) = begin("rq_unknown");
    s.run(
        "CREATE TABLE secret (id int PRIMARY KEY, pin text); SELECT threadline.audit_enable('secret', mask => '{pin}')",
    );
    add(&mut s, "pins", "SELECT id FROM secret WHERE pin = '1234'", "");
    s.run("INSERT INTO secret VALUES (1, '1234')");
    assert_eq!(s.one("SELECT threadline.replay_check('m') ->> 'verdict'"), "unknown");
    add(&mut s, "pins", "SELECT id FROM secret WHERE id > 5", "");
    assert_eq!(s.one("SELECT threadline.replay_check('m') ->> 'verdict'"), "holds");
}

/// Where a query and the others find something in one run, the first of all is the first failure.
#[test]
fn the_first_failure_is_the_first_by_its_check_point() {
    let (_db, mut s) = begin("rq_first");
    let add_at = |s: &mut Session, name: &str, check_at: &str| {
        s.run(&format!(
            "SELECT threadline.replay_add_invariant('m', '{name}', 'query', '{{\"sql\": \"SELECT id FROM accounts WHERE balance < 0\", \"key\": [\"id\"]}}', '{check_at}')"
        ));
    };
    s.run("SELECT threadline.replay_add_invariant('m', 'rows', 'row', '{\"table\": \"entries\", \"check\": \"new.amount > 0\"}', 'commit')");
    add_at(&mut s, "at_the_end", "end");
    add_at(&mut s, "at_commits", "commit");
    add_at(&mut s, "by_the_second", "every 1 second");
    let invariants = |s: &mut Session, more: &str| {
        s.column(&format!(
            "SELECT v ->> 'invariant' FROM jsonb_array_elements(threadline.replay_check('m'{more}) -> 'violations') WITH ORDINALITY AS v (v, n) ORDER BY n"
        ))
    };
    s.run("UPDATE accounts SET balance = -1");
    // The slice of a query ends with the last event of the model in it.
    s.run("SELECT pg_sleep(1.1); INSERT INTO entries VALUES (1, 7, 1)");
    s.run("INSERT INTO entries VALUES (2, 7, -1)");
    // The end is the last commit's check point, too; at one check point what is about an earlier change comes first.
    assert_eq!(invariants(&mut s, ALL), ["at_commits", "by_the_second", "at_the_end", "rows"]);
    s.run("INSERT INTO entries VALUES (3, 7, 1)");
    assert_eq!(invariants(&mut s, ALL), ["at_commits", "by_the_second", "rows", "at_the_end"]);
    assert_eq!(invariants(&mut s, ""), ["at_commits"]);
    assert_eq!(invariants(&mut s, ", invariants => '{rows,at_the_end}'"), ["rows"]);
    assert_eq!(invariants(&mut s, ", invariants => '{rows,by_the_second}'"), ["by_the_second"]);
    // What is found at the end names the change that it is about, long before.
    assert_eq!(
        s.column("SELECT concat_ws(' ', v #>> '{table_pk,id}', v #>> '{event_at_failure,data_after,balance}') FROM jsonb_array_elements(threadline.replay_check('m', invariants => '{at_the_end}') -> 'violations') v"),
        ["7 -1"]
    );
}
