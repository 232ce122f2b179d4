//! time_travel(): a session's own queries, unchanged, in the past.

use crate::support::{Address, Database, Session, unique};

struct Bank {
    db: Database,
    s: Session,
    /// After the baseline; after ann paid bob and cid left.
    before: String,
    after: String,
}

const SUM: &str = "SELECT sum(balance) FROM accounts";
const REPORT: &str = "SELECT b.name, count(a.id), sum(a.balance) FROM branches b LEFT JOIN accounts a ON a.branch = b.id GROUP BY b.name ORDER BY b.name";

fn bank(stem: &str) -> Bank {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(
        "CREATE TABLE branches (id int PRIMARY KEY, name text COLLATE \"C\");
         CREATE TABLE accounts (id int PRIMARY KEY, owner varchar(20), balance numeric(10,2) NOT NULL, branch int, gone text, at timestamptz(3) DEFAULT '2020-01-01Z');
         ALTER TABLE accounts DROP COLUMN gone;
         CREATE TABLE notes (id int, body text);
         INSERT INTO branches VALUES (1, 'north'), (2, 'south');
         INSERT INTO accounts VALUES (1, 'ann', 10, 1), (2, 'bob', 20, 1), (3, 'cid', 30, 2);
         SELECT threadline.audit_enable('branches'), threadline.audit_enable('accounts')",
    );
    let before = s.one("SELECT clock_timestamp()");
    s.run("UPDATE accounts SET balance = balance - 4 WHERE id = 1");
    s.run("DELETE FROM accounts WHERE id = 3");
    let after = s.one("SELECT clock_timestamp()");
    s.run("UPDATE branches SET name = 'east' WHERE id = 1");
    s.run("UPDATE accounts SET balance = 0");
    Bank { db, s, before, after }
}

impl Bank {
    fn travel(&mut self, at: &str) {
        self.s.run(&format!("SELECT threadline.time_travel('{at}')"));
    }

    fn sum(&mut self) -> String {
        self.s.one(SUM)
    }
}

#[test]
fn queries_joins_and_copies_run_unchanged() {
    let mut b = bank("tt_unchanged");
    let shape = "SELECT string_agg(format('%s %s %s', attname, format_type(atttypid, atttypmod), attcollation), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'accounts'::regclass AND attnum > 0 AND NOT attisdropped";
    let shape_now = b.s.one(shape);
    assert_eq!(b.s.one("SELECT threadline.time_travelling_at()"), "NULL");
    let before = b.before.clone();
    let state = b.s.rows(&format!("SELECT * FROM threadline.time_travel('{before}')")).remove(0);
    assert_eq!(
        state[1..].iter().map(|v| v.clone().unwrap()).collect::<Vec<_>>(),
        ["time_return", "{public.accounts,public.branches}", "{}", "{public.notes}"]
    );
    assert_eq!(state[0], Some(b.s.one("SELECT threadline.time_travelling_at()")));
    assert!(
        b.s.notices.lock().unwrap().iter().any(|n| n.starts_with("NOTICE: 2 tables are read as of")),
        "{:?}",
        b.s.notices
    );
    assert_eq!(b.sum(), "60.00");
    assert_eq!(b.s.one("SELECT string_agg(r::text, ' ') FROM (SELECT b.name, count(a.id), sum(a.balance) FROM branches b LEFT JOIN accounts a ON a.branch = b.id GROUP BY b.name ORDER BY b.name) r"), "(north,2,30.00) (south,1,30.00)");
    assert_eq!(b.s.rows(REPORT).len(), 2);
    assert_eq!(b.s.one(shape), shape_now, "columns and types are the table's");
    assert_eq!(b.s.one("SELECT sum(balance) FROM public.accounts"), "0.00", "a name with a schema is the present");
    b.s.run("CREATE TABLE public.copied (LIKE public.accounts)");
    b.s.run("INSERT INTO copied SELECT * FROM accounts");
    assert_eq!(b.s.one("SELECT sum(balance) FROM copied"), "60.00");

    let after = b.after.clone();
    b.travel(&after);
    assert_eq!(b.sum(), "26.00", "a second call moves to another time");
    assert_eq!(b.s.one("SELECT string_agg(name, ' ' ORDER BY id) FROM branches"), "north south");
    let mut other = b.db.session();
    assert_eq!(other.one(SUM), "0.00", "other sessions stay");
    assert!(b.s.one("SELECT threadline.time_return()").starts_with("20"));
    assert_eq!(b.sum(), "0.00");
    assert_eq!(b.s.one("SELECT threadline.time_return()"), "NULL");
    assert_eq!(b.s.number("SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()"), 0);
}

#[test]
fn cached_plans_follow_both_ways() {
    let mut b = bank("tt_plans");
    b.s.run("CREATE TEMPORARY TABLE unrelated (id int)");
    b.s.run(
        "CREATE FUNCTION total() RETURNS numeric LANGUAGE plpgsql AS $$ DECLARE v numeric; BEGIN SELECT sum(balance) INTO v FROM accounts; RETURN v; END $$;
         CREATE FUNCTION total_sql() RETURNS numeric LANGUAGE sql AS 'SELECT sum(balance) FROM accounts';
         PREPARE q AS SELECT sum(balance) FROM accounts; PREPARE whole AS SELECT * FROM accounts ORDER BY id",
    );
    let typed = b.s.client.prepare("SELECT count(*) FROM accounts").unwrap();
    fn all(b: &mut Bank, typed: &postgres::Statement) -> Vec<String> {
        let count: i64 = b.s.client.query_one(typed, &[]).unwrap().get(0);
        vec![
            b.s.one("EXECUTE q"),
            b.s.one("SELECT total()"),
            b.s.one("SELECT total_sql()"),
            b.s.rows("EXECUTE whole").len().to_string(),
            count.to_string(),
        ]
    }
    let now = ["0.00", "0.00", "0.00", "2", "2"];
    let then = ["60.00", "60.00", "60.00", "3", "3"];
    let later = ["26.00", "26.00", "26.00", "2", "2"];
    for _ in 0..7 {
        assert_eq!(all(&mut b, &typed), now);
    }
    let (before, after) = (b.before.clone(), b.after.clone());
    b.travel(&before);
    assert_eq!(all(&mut b, &typed), then);
    b.travel(&after);
    assert_eq!(all(&mut b, &typed), later);

    b.s.run("BEGIN");
    b.s.run("SELECT threadline.time_return()");
    assert_eq!(all(&mut b, &typed), now);
    b.s.run("ROLLBACK");
    assert_eq!(all(&mut b, &typed), later, "a rolled-back return was none");

    b.s.run("BEGIN");
    b.s.run("SAVEPOINT s");
    b.s.run("SELECT threadline.time_return()");
    assert_eq!(all(&mut b, &typed), now);
    b.s.run("ROLLBACK TO s");
    assert_eq!(all(&mut b, &typed), later);
    b.s.run("COMMIT");
    b.s.run("SELECT threadline.time_return()");
    assert_eq!(all(&mut b, &typed), now);
}

#[test]
fn inside_a_transaction_block_it_ends_with_it() {
    let mut b = bank("tt_block");
    b.s.run("PREPARE q AS SELECT sum(balance) FROM accounts");
    let before = b.before.clone();
    for end in ["COMMIT", "ROLLBACK"] {
        b.s.run("BEGIN");
        let ends = b.s.one(&format!("SELECT ends FROM threadline.time_travel('{before}')"));
        assert_eq!(ends, "transaction");
        assert_eq!(b.s.one("EXECUTE q"), "60.00");
        b.s.run(end);
        assert_eq!(b.s.one("EXECUTE q"), "0.00", "{end}");
        assert_eq!(b.sum(), "0.00");
        assert_eq!(b.s.one("SELECT threadline.time_travelling_at()"), "NULL");
    }
    b.travel(&before);
    b.s.run("BEGIN READ ONLY");
    assert_eq!(b.sum(), "60.00", "who is there may read in a read-only transaction");
    b.s.refused("SELECT threadline.time_return()", &["25006"]);
    b.s.run("ROLLBACK");
    b.s.run("DISCARD TEMP");
    assert_eq!(b.s.one("EXECUTE q"), "0.00");
    assert_eq!(b.s.one("SELECT threadline.time_travelling_at()"), "NULL");
}

#[test]
fn the_search_path_says_which_table_is_meant() {
    let db = Database::new("tt_path");
    let mut s = db.session();
    s.run("CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.t (id int PRIMARY KEY); CREATE TABLE b.t (id int PRIMARY KEY); CREATE TABLE b.\"Odd name\" (id int PRIMARY KEY);
           SELECT threadline.audit_enable('a.t'), threadline.audit_enable('b.t'), threadline.audit_enable('b.\"Odd name\"')");
    s.run("INSERT INTO a.t VALUES (1); INSERT INTO b.t VALUES (2), (3); INSERT INTO b.\"Odd name\" VALUES (4)");
    let at = s.one("SELECT clock_timestamp()");
    s.run("DELETE FROM a.t; DELETE FROM b.t; DELETE FROM b.\"Odd name\"");
    s.run("SET search_path = a, b");
    assert_eq!(
        s.one(&format!("SELECT in_the_past FROM threadline.time_travel('{at}')")),
        "{a.t,\"b.\\\"Odd name\\\"\"}"
    );
    assert_eq!(s.column("SELECT id FROM t"), ["1"]);
    assert_eq!(s.column("SELECT id FROM \"Odd name\""), ["4"]);
    assert!(s.column("SELECT id FROM b.t").is_empty());
    s.run("SET search_path = b, a");
    s.run(&format!("SELECT threadline.time_travel('{at}')"));
    assert_eq!(s.column("SELECT id FROM t ORDER BY id"), ["2", "3"]);
    s.run("SET search_path = a, pg_temp");
    let refused = s.refused(&format!("SELECT threadline.time_travel('{at}')"), &["55000"]);
    assert!(refused.hint.contains("pg_temp"), "{refused:?}");
    s.run("SET search_path = pg_temp, a");
    s.run(&format!("SELECT threadline.time_travel('{at}')"));
    assert_eq!(s.column("SELECT id FROM t"), ["1"]);
    s.run("SELECT threadline.time_return()");

    s.run("SET search_path = a");
    s.run("CREATE TEMPORARY TABLE t (id int)");
    assert_eq!(
        s.one(&format!("SELECT concat(in_the_past, in_the_present) FROM threadline.time_travel('{at}')")),
        "{}{pg_temp.t}",
        "one's own temporary table is left alone"
    );
    assert!(s.column("SELECT id FROM t").is_empty());
    s.run("SELECT threadline.time_return()");
    s.run("INSERT INTO t VALUES (9)");
    assert_eq!(s.column("SELECT id FROM pg_temp.t"), ["9"]);
}

#[test]
fn what_has_no_past_is_named_or_refused() {
    let mut b = bank("tt_uncaptured");
    b.s.run("CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent); SELECT threadline.audit_enable('parent'); INSERT INTO notes VALUES (1, 'x')");
    b.s.run("CREATE TABLE later (id int PRIMARY KEY); SELECT threadline.audit_enable('later'); CREATE VIEW known AS SELECT sum(balance) FROM accounts");
    let before = b.before.clone();
    let ask = format!("SELECT concat(in_the_present, before_horizon) FROM threadline.time_travel('{before}')");
    assert_eq!(b.s.one(&ask), "{public.child,public.notes,public.parent}{public.later}");
    assert_eq!(b.s.number("SELECT count(*) FROM notes"), 1);
    assert_eq!(b.s.one("SELECT * FROM known"), "0.00", "views stay in the present");
    assert_eq!(b.s.failure("SELECT * FROM later").code, "55000");
    b.s.run("SET threadline.uncaptured = refuse");
    b.s.run(&ask);
    let refused = b.s.refused("SELECT a.id FROM accounts a, notes n WHERE n.id = a.id", &["55000"]);
    assert!(
        refused.message.contains("public.notes") && refused.hint.contains("audit_enable('public.notes')"),
        "{refused:?}"
    );
    b.s.refused("SELECT * FROM parent", &["55000"]);
    assert_eq!(b.s.number("SELECT count(*) FROM public.notes"), 1);
    assert_eq!(b.sum(), "60.00");
    b.s.refused("SELECT threadline.audit_history('accounts', 1)", &["42704"]);
    b.s.refused("SELECT * FROM threadline.audit_as_of(NULL::accounts, now())", &["42704"]);
    assert_eq!(b.s.number("SELECT count(*) FROM threadline.audit_history('public.accounts', 1)"), 3);
}

#[test]
fn the_past_cannot_be_changed() {
    let mut b = bank("tt_dml");
    let before = b.before.clone();
    b.travel(&before);
    for write in [
        "INSERT INTO accounts VALUES (9, 'x', 1)",
        "INSERT INTO accounts SELECT * FROM accounts WHERE false",
        "UPDATE accounts SET balance = 1 WHERE id = 1",
        "UPDATE accounts SET balance = 1 WHERE id = -1 RETURNING id",
        "DELETE FROM accounts",
    ] {
        let refused = b.s.refused(write, &["25006"]);
        assert!(refused.hint.contains("time_return"), "{write}: {refused:?}");
    }
    assert_eq!(b.s.failure("TRUNCATE accounts").code, "42809");
    b.s.run("SELECT threadline.time_return()");
    assert_eq!(b.s.run("UPDATE accounts SET balance = 1 WHERE id = 1"), 1);
}

#[test]
fn rights_are_the_callers() {
    let at = Address::from_env();
    let role = unique("traveller");
    at.connect("postgres", &at.user).run(&format!("CREATE ROLE {role} LOGIN"));
    let mut b = bank("tt_rights");
    let (name, before) = (b.db.name.clone(), b.before.clone());
    b.s.run(&format!("SELECT threadline.audit_grant('{role}', 'reader'); GRANT SELECT ON accounts TO {role}; GRANT SELECT (id) ON branches TO {role}; REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC"));
    let mut reader = b.db.session_as(&role);
    let refused = reader.refused(&format!("SELECT threadline.time_travel('{before}')"), &["42501"]);
    assert!(refused.hint.contains("GRANT TEMPORARY"), "{refused:?}");
    b.s.run(&format!("GRANT TEMPORARY ON DATABASE {name} TO {role}"));
    assert_eq!(
        reader.one(&format!("SELECT concat(in_the_past, in_the_present) FROM threadline.time_travel('{before}')")),
        "{public.accounts}{public.branches}",
        "a column's grant does not open a history"
    );
    assert_eq!(reader.one(SUM), "60.00");
    assert_eq!(reader.failure("SELECT name FROM branches").code, "42501");
    for ready_only in ["BEGIN READ ONLY", "BEGIN; SET TRANSACTION READ ONLY"] {
        b.s.run(ready_only);
        let refused = b.s.refused(&format!("SELECT threadline.time_travel('{before}')"), &["25006"]);
        assert!(refused.hint.contains("audit_as_of"), "{refused:?}");
        b.s.run("ROLLBACK");
    }
    for wrong in ["NULL", "'2999-01-01'"] {
        b.s.refused(&format!("SELECT threadline.time_travel({wrong})"), &["22023"]);
    }
    let before = b.before.clone();
    b.travel(&before);
    b.s.run(&format!("SET ROLE {role}"));
    assert_eq!(b.s.failure(SUM).code, "42501", "another role does not read through the views");
    b.s.run("RESET ROLE");
    // Only what one owns and is temporary can be tied together.
    b.s.run("SELECT threadline.time_return()");
    b.s.refused("SELECT threadline.drop_together('accounts', 'branches')", &["42501"]);
    drop(reader);
    b.s.run(&format!("DROP OWNED BY {role}"));
    drop(b);
    at.connect("postgres", &at.user).run(&format!("DROP ROLE {role}"));
}

#[test]
fn partitions_tables_without_a_key_and_event_triggers() {
    let db = Database::new("tt_kinds");
    let mut s = db.session();
    s.run("SELECT threadline.audit_enable_schema('public', future => true)");
    s.run("CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
           CREATE TABLE heap (v text); SELECT threadline.audit_enable('heap', options => '{\"key\": \"full_row\"}')");
    s.run("INSERT INTO parted VALUES (1, 'a'), (2, 'b'); INSERT INTO heap VALUES ('x'), ('x'), ('y')");
    let at = s.one("SELECT clock_timestamp()");
    s.run("ALTER TABLE parted RENAME COLUMN v TO w");
    s.run("UPDATE parted SET w = 'c'; DELETE FROM heap");
    assert_eq!(
        s.one(&format!("SELECT concat(in_the_past, in_the_present) FROM threadline.time_travel('{at}')")),
        "{public.heap,public.parted}{public.parted_1}"
    );
    assert_eq!(s.column("SELECT w FROM parted ORDER BY id"), ["a", "b"]);
    assert_eq!(s.column("SELECT v FROM heap ORDER BY v"), ["x", "x", "y"]);
    s.run("SELECT threadline.time_return()");
    assert_eq!(s.column("SELECT w FROM parted ORDER BY id"), ["c", "c"]);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_tables WHERE table_name = 'threadline_time_travel'"), 0);
}

#[test]
fn the_pgbench_consistency_query_runs_unchanged() {
    const CONSISTENT: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)";
    let db = Database::new("tt_pgbench");
    let mut s = db.session();
    s.run("CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88)); CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
           CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84)); CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
           INSERT INTO pgbench_branches VALUES (1, 0); INSERT INTO pgbench_tellers SELECT n, 1, 0 FROM generate_series(1, 10) n; INSERT INTO pgbench_accounts SELECT n, 1, 0, '' FROM generate_series(1, 100) n;
           SELECT threadline.audit_enable(t::regclass) FROM unnest('{pgbench_branches,pgbench_tellers,pgbench_accounts}'::text[]) t; SELECT threadline.audit_enable('pgbench_history', options => '{\"key\": \"full_row\"}')");
    for n in 1..=20 {
        s.run(&format!("UPDATE pgbench_accounts SET abalance = abalance + {n} WHERE aid = {n}; UPDATE pgbench_tellers SET tbalance = tbalance + {n} WHERE tid = {n} % 10 + 1;
                        UPDATE pgbench_branches SET bbalance = bbalance + {n} WHERE bid = 1; INSERT INTO pgbench_history VALUES ({n} % 10 + 1, 1, {n}, {n}, now())"));
    }
    let good = s.one("SELECT clock_timestamp()");
    s.run("UPDATE pgbench_accounts SET abalance = abalance + 7 WHERE aid = 50");
    let mut sums = || s.rows(CONSISTENT).remove(0).into_iter().map(Option::unwrap).collect::<Vec<_>>();
    assert_eq!(sums(), ["217", "210", "210", "210"]);
    s.run(&format!("SELECT threadline.time_travel('{good}')"));
    let mut sums = || s.rows(CONSISTENT).remove(0).into_iter().map(Option::unwrap).collect::<Vec<_>>();
    assert_eq!(sums(), ["210", "210", "210", "210"]);
}
