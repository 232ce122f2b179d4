//! incident_bisect(): the first transaction after which a predicate is true.

use crate::support::{Database, Session};

struct Window {
    _db: Database,
    s: Session,
    good: String,
}

struct Found {
    transaction: String,
    evaluations: i64,
    verdict: String,
    detail: String,
}

impl Window {
    /// Table `accounts` with rows 1 to 3, balance 10 each, under capture, and table `noise`.
    fn new(stem: &str) -> Window {
        let db = Database::new(stem);
        let mut s = db.session();
        s.run(
            "CREATE TABLE accounts (id int PRIMARY KEY, balance numeric(10,2)); CREATE TABLE noise (id int PRIMARY KEY);
             INSERT INTO accounts SELECT n, 10 FROM generate_series(1, 3) n;
             SELECT threadline.audit_enable('accounts'), threadline.audit_enable('noise')",
        );
        let good = s.one("SELECT clock_timestamp()");
        Window { _db: db, s, good }
    }

    /// Runs one transaction; its id.
    fn tx(&mut self, sql: &str) -> String {
        self.s.run(&format!("BEGIN; {sql}"));
        let id = self.s.one("SELECT threadline.current_audit_transaction_id()");
        self.s.run("COMMIT");
        id
    }

    fn bisect(&mut self, predicate: &str, more: &str) -> Found {
        let good = self.good.clone();
        let mut row = self
            .s
            .rows(&format!(
                "SELECT transaction_id, evaluations, verdict, detail FROM threadline.incident_bisect($p${predicate}$p$, '{good}', 'infinity'{more})"
            ))
            .remove(0)
            .into_iter()
            .map(|v| v.unwrap_or_else(|| "NULL".into()));
        let mut next = || row.next().unwrap();
        Found { transaction: next(), evaluations: next().parse().unwrap(), verdict: next(), detail: next() }
    }

    fn refused(&mut self, predicate: &str, code: &str) -> crate::support::Failure {
        let good = self.good.clone();
        self.s.refused(&format!("SELECT threadline.incident_bisect($p${predicate}$p$, '{good}', 'infinity')"), &[code])
    }
}

const OVERDRAWN: &str = "EXISTS (SELECT FROM accounts WHERE balance < 0)";
const MONOTONE: &str = ", monotone => true";

#[test]
fn true_false_true_again() {
    let mut w = Window::new("bi_again");
    let mut ids = vec![String::new()];
    for balance in [5, 4, -1, -2, 3, 2, 1, -3, -4, -5] {
        ids.push(w.tx(&format!("UPDATE accounts SET balance = {balance} WHERE id = 2")));
    }
    let found = w.bisect(OVERDRAWN, "");
    assert_eq!((found.verdict.as_str(), &found.transaction, found.evaluations), ("found", &ids[3], 4));
    assert!(found.detail.contains("forward scan") && !found.detail.contains("assumed"), "{}", found.detail);
    let found = w.bisect("SELECT min(balance) < 0 FROM accounts -- a query will do", MONOTONE);
    assert_eq!((found.verdict.as_str(), &found.transaction), ("found", &ids[8]), "one at which it became true");
    assert!(found.detail.contains("assumed") && found.evaluations <= 6, "{} {}", found.evaluations, found.detail);
    assert_eq!(w.s.number("SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()"), 0);
}

#[test]
fn the_guilty_one_of_a_thousand() {
    let mut w = Window::new("bi_thousand");
    w.s.run("CREATE TABLE guilty (id uuid)");
    w.s.run(
        "DO $$ BEGIN
            FOR n IN 1 .. 1000 LOOP
                IF n % 4 = 0 THEN
                    INSERT INTO noise VALUES (n);
                ELSIF n = 638 THEN
                    PERFORM set_config('threadline.actor_ref', '{\"type\": \"job\", \"id\": \"nightly\"}', true);
                    UPDATE accounts SET balance = balance + 100 WHERE id = 1;
                    INSERT INTO guilty VALUES (threadline.current_audit_transaction_id());
                ELSE
                    UPDATE accounts SET balance = balance - 1 WHERE id = n % 3 + 1;
                    UPDATE accounts SET balance = balance + 1 WHERE id = (n + 1) % 3 + 1;
                END IF;
                COMMIT;
            END LOOP;
        END $$",
    );
    let guilty = w.s.one("SELECT id FROM guilty");
    let unbalanced = "(SELECT sum(balance) FROM accounts) <> 30";
    let forward = w.bisect(unbalanced, "");
    // At good, and after each of the first 638 transactions but the 159 that left the table alone.
    assert_eq!((forward.transaction.as_str(), forward.evaluations), (guilty.as_str(), 1 + 638 - 159));
    let binary = w.bisect(unbalanced, MONOTONE);
    // At good, at bad, and the logarithm of 750.
    assert_eq!((binary.transaction.as_str(), binary.evaluations), (guilty.as_str(), 2 + 10));
    let good = w.good.clone();
    assert_eq!(
        w.s.one(&format!(
            "SELECT actor_ref ->> 'id' FROM threadline.incident_bisect('{unbalanced}', '{good}', 'infinity')"
        )),
        "nightly"
    );
    assert_eq!(
        w.s.one(&format!(
            "SELECT b.committed_at = x.committed_at FROM threadline.incident_bisect('{unbalanced}', '{good}', 'infinity', true) b JOIN threadline.audit_transactions x ON x.id = b.transaction_id"
        )),
        "t"
    );
}

#[test]
fn the_other_verdicts() {
    let mut w = Window::new("bi_verdicts");
    let first = w.tx("UPDATE accounts SET balance = NULL WHERE id = 1");
    w.tx("UPDATE accounts SET balance = 1 WHERE id = 1");
    for (more, evaluations) in [("", 3), (MONOTONE, 2)] {
        let never = w.bisect("SELECT bool_or(balance < 0) FROM accounts ; ", more);
        assert_eq!(
            (never.verdict.as_str(), never.transaction.as_str(), never.evaluations),
            ("never_true", "NULL", evaluations)
        );
        let already = w.bisect("EXISTS (SELECT FROM accounts WHERE id = 3)", more);
        assert_eq!((already.verdict.as_str(), already.evaluations), ("already_true", 1));
        assert!(already.detail.contains("earlier good"), "{}", already.detail);
    }
    let null = w.bisect("(SELECT balance < 0 FROM accounts WHERE id = 1)", "");
    assert_eq!(null.verdict, "never_true");
    assert!(null.detail.contains(r#""null_evaluations": 1"#), "{}", null.detail);
    // Nothing of the table changed in the window.
    assert_eq!(w.bisect("EXISTS (SELECT FROM noise)", MONOTONE).verdict, "never_true");

    w.s.run("ALTER TABLE accounts DISABLE TRIGGER threadline_capture; UPDATE accounts SET balance = 5 WHERE id = 2; ALTER TABLE accounts ENABLE TRIGGER threadline_capture; SELECT threadline.audit_maintain()");
    w.s.run("ALTER TABLE accounts DISABLE TRIGGER threadline_capture");
    let unknown = w.bisect("EXISTS (SELECT FROM accounts WHERE balance IS NULL)", "");
    assert_eq!((unknown.verdict.as_str(), unknown.transaction.as_str()), ("unknown", "NULL"));
    assert!(unknown.detail.contains(&first) && unknown.detail.contains("reasons"), "{}", unknown.detail);
    w.good = "2001-01-01".into();
    let unknown = w.bisect(OVERDRAWN, "");
    assert_eq!((unknown.verdict.as_str(), unknown.evaluations), ("unknown", 0));
    assert!(unknown.detail.contains("does not reach back"), "{}", unknown.detail);
}

#[test]
fn what_is_refused() {
    let mut w = Window::new("bi_refused");
    w.tx("UPDATE accounts SET balance = 7 WHERE id = 1");
    w.s.run("CREATE TABLE plain (id int); CREATE VIEW broke AS SELECT * FROM accounts WHERE balance < 0");
    w.refused("EXISTS (SELECT FROM accounts WHERE random() < 2)", "0A000");
    w.refused("true); DELETE FROM accounts; SELECT (true", "42601");
    w.refused("true) INTO stolen FROM (SELECT 1", "42601");
    assert_eq!(w.s.failure("SELECT threadline.incident_bisect('WITH d AS (DELETE FROM accounts RETURNING 1) SELECT true FROM d', '-infinity', 'infinity')").code, "0A000");
    assert_eq!(w.s.number("SELECT count(*) FROM accounts"), 3);
    w.refused("(SELECT count(*) FROM accounts)", "42804");
    w.refused("true", "42704");
    w.refused("EXISTS (SELECT FROM plain)", "42704");
    w.refused("EXISTS (SELECT FROM broke)", "0A000");
    let qualified = w.refused("EXISTS (SELECT FROM public.accounts)", "0A000");
    assert!(qualified.message.contains("public.accounts"), "{qualified:?}");
    w.refused("EXISTS (SELECT FROM accounts a, public.accounts b)", "0A000");
    let present = w.bisect("EXISTS (SELECT FROM accounts WHERE balance < 0 AND id NOT IN (SELECT id FROM plain))", "");
    assert!(present.detail.contains(r#""in_the_present": ["public.plain"]"#), "{}", present.detail);
    w.s.run("SET threadline.uncaptured = refuse");
    w.refused("EXISTS (SELECT FROM accounts, plain)", "55000");
    let call = |good: &str, bad: &str| format!("SELECT threadline.incident_bisect('true', {good}, {bad})");
    w.s.refused(&call("'2020-01-02'", "'2020-01-01'"), &["22023"]);
    w.s.refused(&call("'2020-01-02'", "'2020-01-02'"), &["22023"]);
    w.s.refused(&call("'2020-01-02'", "'2999-01-01'"), &["22023"]);
    w.s.refused(&call("NULL", "now()"), &["22023"]);
    w.s.refused("SELECT threadline.incident_bisect(NULL, '2020-01-01', now())", &["22023"]);
    w.s.run("BEGIN READ ONLY");
    let refused = w.refused(OVERDRAWN, "25006");
    assert!(refused.hint.contains("audit_as_of"), "{refused:?}");
    w.s.run("ROLLBACK");
    w.s.run("SELECT threadline.time_travel(now())");
    w.refused(OVERDRAWN, "55000");
}

#[test]
fn a_predicate_changes_nothing_and_its_failure_names_the_place() {
    let mut w = Window::new("bi_fails");
    w.tx("UPDATE accounts SET balance = 1 WHERE id = 1");
    let zero = w.tx("UPDATE accounts SET balance = 0 WHERE id = 1");
    let failure = w.refused("(SELECT sum(1 / balance) > 100 FROM accounts)", "22012");
    assert!(failure.message.contains(&zero), "{failure:?}");
    // A function that calls itself stable and writes all the same.
    w.s.run(
        "CREATE FUNCTION writes() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ BEGIN INSERT INTO public.noise VALUES (1); RETURN false; END $$;
         CREATE FUNCTION innocent() RETURNS boolean LANGUAGE plpgsql STABLE AS $$ DECLARE v boolean; BEGIN v := writes(); RETURN v; END $$",
    );
    w.refused("EXISTS (SELECT FROM accounts WHERE innocent())", "25006");
    assert_eq!(w.s.number("SELECT count(*) FROM noise"), 0);
    // The transaction itself may go on writing.
    let good = w.good.clone();
    w.s.run("BEGIN");
    w.s.run(&format!("SELECT threadline.incident_bisect('{OVERDRAWN}', '{good}', now())"));
    w.s.run("INSERT INTO noise VALUES (2)");
    w.s.run("COMMIT");
    assert_eq!(w.s.number("SELECT count(*) FROM noise"), 1);
}

/// The states that the scan goes through are those of audit_as_of: each transaction is found by the digest of its state.
fn assert_states_are_as_of(w: &mut Window, table: &str, ids: &[String]) {
    let digest =
        |from: &str| format!("(SELECT md5(coalesce(string_agg(t::text, ';' ORDER BY t::text), '')) FROM {from} t)");
    let mut seen: Vec<String> =
        vec![w.s.one(&format!("SELECT {}", digest(&format!("threadline.audit_as_of(NULL::{table}, '{}')", w.good))))];
    for id in ids {
        let at = w.s.one(&format!("SELECT committed_at FROM threadline.audit_transactions WHERE id = '{id}'"));
        let state = w.s.one(&format!("SELECT {}", digest(&format!("threadline.audit_as_of(NULL::{table}, '{at}')"))));
        let found = w.bisect(&format!("{} = '{state}'", digest(table)), "");
        match seen.iter().position(|known| *known == state) {
            None => {
                assert_eq!((found.verdict.as_str(), &found.transaction), ("found", id), "{table}: {}", found.detail)
            }
            Some(0) => assert_eq!(found.verdict, "already_true", "{table}: {}", found.detail),
            Some(n) => assert_eq!(found.transaction, ids[n - 1], "{table}: {}", found.detail),
        }
        seen.push(state);
    }
    let last = seen.last().unwrap().clone();
    if !seen[..1].contains(&last) {
        let found = w.bisect(&format!("{} = '{last}'", digest(table)), MONOTONE);
        let place =
            ids.iter().position(|id| *id == found.transaction).unwrap_or_else(|| panic!("{table}: {}", found.detail));
        assert_eq!(seen[place + 1], last, "{table}: {}", found.detail);
    }
}

#[test]
fn states_with_keys_that_change_marks_and_baselines() {
    for (options, marking) in
        [("{}", r#"{"truncate": "mark"}"#), (r#"{"image": "delta"}"#, r#"{"image": "delta", "truncate": "mark"}"#)]
    {
        let mut w = Window::new("bi_states");
        w.s.run(&format!("CREATE TABLE t (threadline_copies float8, id int PRIMARY KEY, doc json, \"No\" int); SELECT threadline.audit_enable('t', options => '{options}')"));
        w.tx("INSERT INTO t SELECT n, n, '{\"a\":  1}', n FROM generate_series(1, 6) n");
        w.good = w.s.one("SELECT clock_timestamp()");
        let mut ids = vec![
            w.tx("UPDATE t SET \"No\" = 10 WHERE id = 1; UPDATE t SET \"No\" = 11 WHERE id IN (1, 2)"),
            w.tx("UPDATE t SET id = id + 100 WHERE id < 3; INSERT INTO t VALUES (1, 1, 'null', 1)"),
            w.tx("DELETE FROM t WHERE id = 4; INSERT INTO t VALUES ('-0', 4, '[1,  2]', 4); DELETE FROM t WHERE id = 5"),
            w.tx("INSERT INTO t VALUES (1, 50, NULL, 1); DELETE FROM t WHERE id = 50"),
            w.tx("UPDATE t SET id = CASE id WHEN 101 THEN 102 ELSE 101 END WHERE id IN (101, 102) AND false; UPDATE t SET threadline_copies = '-0' WHERE id = 6"),
        ];
        w.s.run("ALTER TABLE t RENAME COLUMN \"No\" TO no");
        ids.push(w.tx("UPDATE t SET no = 5 WHERE id = 6"));
        ids.push(w.tx("TRUNCATE t; INSERT INTO t VALUES (7, 7, '{}', 7), (8, 8, '{}', 8)"));
        w.s.run(&format!("SELECT threadline.audit_enable('t', options => '{marking}')"));
        ids.push(w.tx("INSERT INTO t VALUES (9, 9, '{}', 9); TRUNCATE t; INSERT INTO t VALUES (8, 8, '{}', 80)"));
        ids.push(w.tx("INSERT INTO t VALUES (10, 10, '{}', 10)"));
        assert_states_are_as_of(&mut w, "t", &ids);
    }
}

#[test]
fn states_of_a_table_without_a_key() {
    let mut w = Window::new("bi_counted");
    w.s.run("CREATE TABLE t (v text, n int); INSERT INTO t VALUES ('a', 1), ('a', 1), ('b', 2); SELECT threadline.audit_enable('t', options => '{\"key\": \"full_row\"}')");
    w.good = w.s.one("SELECT clock_timestamp()");
    let mut ids = vec![
        w.tx("INSERT INTO t VALUES ('a', 1), ('c', 3)"),
        w.tx("DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE v = 'a')"),
        w.tx("UPDATE t SET v = 'c', n = 3 WHERE v = 'b'"),
        w.tx("DELETE FROM t WHERE v = 'c'; INSERT INTO t VALUES ('d', 4), ('d', 4), ('d', 4)"),
    ];
    w.s.run("SELECT threadline.audit_enable('t', options => '{\"key\": \"full_row\", \"truncate\": \"mark\"}')");
    ids.push(w.tx("TRUNCATE t; INSERT INTO t VALUES ('d', 4)"));
    ids.push(w.tx("INSERT INTO t VALUES ('d', 4)"));
    assert_states_are_as_of(&mut w, "t", &ids);
}

#[test]
fn large_transactions_do_not_leave_the_state_behind() {
    let mut w = Window::new("bi_large");
    w.s.run("CREATE TABLE big (id int PRIMARY KEY, n int); INSERT INTO big SELECT g, 0 FROM generate_series(1, 6000) g; SELECT threadline.audit_enable('big')");
    w.good = w.s.one("SELECT clock_timestamp()");
    let mut last = String::new();
    for n in 1..=5 {
        last = w.tx(&format!("UPDATE big SET n = {n}"));
    }
    let found = w.bisect("(SELECT min(n) = 5 AND count(*) = 6000 AND sum(id) = 18003000 FROM big)", "");
    assert_eq!((found.transaction, found.evaluations), (last, 6));
    assert!(found.detail.contains(r#""rows_applied": 60000"#), "{}", found.detail);
}
