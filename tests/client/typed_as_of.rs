//! The typed whole table: rewound from its rows of now or built from the log, for some keys only, as a transaction saw it.

use crate::support::{Database, Session};

/// A table whose baseline lies far enough back that the last changes are rewound.
fn long_captured(stem: &str, table: &str, options: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(&format!(
        "CREATE TABLE ballast (id int PRIMARY KEY);
         {table};
         SELECT threadline.audit_enable('ballast'), threadline.audit_enable('t'{options});
         INSERT INTO ballast SELECT generate_series(1, 3000)"
    ));
    (db, s)
}

fn now(s: &mut Session) -> String {
    s.one("SELECT clock_timestamp()")
}

fn is_rewound(s: &mut Session, at: &str) -> bool {
    let start = s.one(&format!(
        "SELECT threadline.rewind_start(t.table_id, t.relation, threadline.state_base(t.table_id, h.horizon), '{at}', h.horizon)
         FROM threadline.readable_table t, threadline.commit_horizon('{at}') AS h (horizon) WHERE t.table_name = 't'"
    ));
    start != "NULL"
}

fn rows_then(s: &mut Session, at: &str) -> Vec<String> {
    s.column(&format!("SELECT r::text FROM threadline.audit_as_of(NULL::t, '{at}') r ORDER BY 1"))
}

const ROWS: &str = "CREATE TABLE t (id int PRIMARY KEY, f float8, j json, n numeric, s text); \
    INSERT INTO t SELECT g, g, '{\"a\":  1}', 1.0, 'old' FROM generate_series(1, 20) g";

#[test]
fn what_changed_since_is_rewound_exactly() {
    let (_db, mut s) = long_captured("tao_rewind", ROWS, "");
    s.run("UPDATE t SET f = '-0' WHERE id = 1; UPDATE t SET n = 2.50, j = '{\"b\" :2}' WHERE id = 2");
    let before = s.column("SELECT t::text FROM t ORDER BY 1");
    let at = now(&mut s);
    // Changes, several of one row in a transaction, rows that come and go, keys that move, swap and are taken again.
    for sql in [
        "UPDATE t SET f = 7, n = 2.5, j = '{}' WHERE id <= 2",
        "BEGIN; UPDATE t SET s = 'a' WHERE id = 3; UPDATE t SET s = 'b' WHERE id = 3; DELETE FROM t WHERE id = 3; COMMIT",
        "DELETE FROM t WHERE id = 4",
        "INSERT INTO t VALUES (4, 4, '1', 4, 'again')",
        "UPDATE t SET id = 105, s = 'moved' WHERE id = 5",
        "UPDATE t SET id = 205 WHERE id = 105",
        "UPDATE t SET id = CASE id WHEN 6 THEN -7 ELSE id END WHERE id = 6",
        "BEGIN; UPDATE t SET id = -8 WHERE id = 8; UPDATE t SET id = 8 WHERE id = 9; UPDATE t SET id = 9 WHERE id = -8; COMMIT",
        "INSERT INTO t VALUES (50, 1, '1', 1, 'new'); DELETE FROM t WHERE id = 50",
        "BEGIN; SAVEPOINT a; UPDATE t SET s = 'undone' WHERE id = 10; ROLLBACK TO a; COMMIT",
    ] {
        s.run(sql);
        assert!(is_rewound(&mut s, &at), "after {sql}");
        assert_eq!(rows_then(&mut s, &at), before, "after {sql}");
    }
    s.run("BEGIN; UPDATE t SET s = 'mine' WHERE id > 15; DELETE FROM t WHERE id = 20");
    assert_eq!(rows_then(&mut s, &at), before, "own changes are not committed");
    assert_eq!(s.column("SELECT s FROM threadline.audit_as_of(NULL::t, 'infinity') WHERE id = 20"), ["old"]);
    s.run("ROLLBACK; TRUNCATE t");
    assert!(is_rewound(&mut s, &at));
    assert_eq!(rows_then(&mut s, &at), before, "rows that were truncated");
}

#[test]
fn the_log_alone_tells_where_more_than_changes_came_between() {
    let (_db, mut s) = long_captured("tao_log", ROWS, "");
    let before = s.column("SELECT t::text FROM t ORDER BY 1");
    let at = now(&mut s);
    s.run("UPDATE t SET s = 'new' WHERE id = 1");
    assert!(is_rewound(&mut s, &at));
    s.run("INSERT INTO ballast SELECT generate_series(3001, 10000)");
    assert!(!is_rewound(&mut s, &at), "most of the log lies since");
    assert_eq!(rows_then(&mut s, &at), before);
    let (before, at) = (s.column("SELECT t::text FROM t ORDER BY 1"), now(&mut s));
    assert!(is_rewound(&mut s, &at));
    s.run("ALTER TABLE t DISABLE TRIGGER USER; DELETE FROM t WHERE id = 2");
    assert!(!is_rewound(&mut s, &at), "a gap");
    s.run("SELECT threadline.audit_maintain()");
    s.run("ALTER TABLE t ENABLE TRIGGER USER; SELECT threadline.audit_maintain()");
    assert!(!is_rewound(&mut s, &at), "a gap that ended");
    assert_eq!(rows_then(&mut s, &at), before);
    s.run("SELECT threadline.audit_enable('t', baseline => true)");
    s.run("INSERT INTO ballast SELECT generate_series(10001, 30000)");
    let (before, at) = (s.column("SELECT t::text FROM t ORDER BY 1"), now(&mut s));
    assert!(is_rewound(&mut s, &at), "a new baseline");
    s.run("ALTER TABLE t ADD COLUMN more int DEFAULT 5");
    assert!(!is_rewound(&mut s, &at), "another shape");
    let with_null: Vec<String> = before.iter().map(|row| row.replace(')', ",)")).collect();
    assert_eq!(rows_then(&mut s, &at), with_null);
    s.run("ALTER TABLE t DROP COLUMN more");
    s.run("SELECT threadline.audit_enable('t', options => '{\"truncate\": \"mark\"}')");
    let at = now(&mut s);
    assert!(is_rewound(&mut s, &at));
    s.run("TRUNCATE t");
    assert!(!is_rewound(&mut s, &at), "a mark");
    assert_eq!(rows_then(&mut s, &at), before);
}

#[test]
fn rewound_rows_hide_what_the_record_hides() {
    let (_db, mut s) = long_captured(
        "tao_hidden",
        "CREATE TABLE t (id int, part text COLLATE \"C\", secret text, ssn text, twice int GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
         CREATE TABLE t_a PARTITION OF t FOR VALUES IN ('a'); CREATE TABLE t_rest PARTITION OF t DEFAULT;
         INSERT INTO t SELECT g, CASE g % 2 WHEN 0 THEN 'a' ELSE 'b' END, 'x', 'y' FROM generate_series(1, 6) g",
        ", exclude => '{secret}', mask => '{ssn}'",
    );
    let at = now(&mut s);
    s.run(
        "UPDATE t SET ssn = 'z' WHERE id = 1; UPDATE t SET part = 'a' WHERE id = 3; UPDATE t SET id = 40 WHERE id = 4",
    );
    assert!(is_rewound(&mut s, &at));
    assert_eq!(
        rows_then(&mut s, &at),
        ["(1,b,,,2)", "(2,a,,,4)", "(3,b,,,6)", "(4,a,,,8)", "(5,b,,,10)", "(6,a,,,12)"]
    );
}

fn plan_of(s: &mut Session, query: &str) -> String {
    s.column(&format!("EXPLAIN (VERBOSE, COSTS OFF) {query}")).join("\n")
}

#[test]
fn a_query_for_keys_reads_only_their_changes() {
    let (_db, mut s) = long_captured("tao_keyed", ROWS, "");
    s.run("UPDATE t SET s = 'changed' WHERE id % 2 = 0");
    let at = now(&mut s);
    s.run("UPDATE t SET s = 'later'; DELETE FROM t WHERE id = 2");
    let from = format!("SELECT r.id, r.s FROM threadline.audit_as_of(NULL::t, '{at}') r");
    let pairs = |s: &mut Session, sql: &str| {
        s.rows(sql)
            .into_iter()
            .map(|row| row.into_iter().map(Option::unwrap).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    for (condition, expected) in [
        ("WHERE id = 2", vec!["2 changed"]),
        ("WHERE 3 = id AND s = 'old'", vec!["3 old"]),
        ("WHERE id = 3 AND s <> 'old'", vec![]),
        ("WHERE id = 99", vec![]),
        ("WHERE id IN (1, 2, 2, 99)", vec!["1 old", "2 changed"]),
        ("WHERE id = ANY (ARRAY[4, NULL])", vec!["4 changed"]),
        ("WHERE id = 5000000000", vec![]),
        ("WHERE id = 2::smallint", vec!["2 changed"]),
        ("JOIN (VALUES (2), (3)) v (n) ON v.n = r.id WHERE v.n = 2", vec!["2 changed"]),
        ("LEFT JOIN ballast b ON b.id = r.id WHERE r.id = 1", vec!["1 old"]),
        ("JOIN threadline.audit_as_of(NULL::t, 'infinity') n USING (id) WHERE id = 3 AND n.s = 'later'", vec!["3 old"]),
        ("WHERE id = (SELECT min(b.id) + 1 FROM ballast b)", vec!["2 changed"]),
    ] {
        let query = format!("{from} {condition} ORDER BY 1");
        let plan = plan_of(&mut s, &query);
        assert!(plan.contains("keyed_as_of") && !plan.contains("threadline.audit_as_of("), "{condition}: {plan}");
        assert_eq!(pairs(&mut s, &query), expected, "{condition}");
    }
    for condition in [
        "WHERE id > 1",
        "WHERE id = 1 OR s = 'old'",
        "WHERE id::text = '1'",
        "WHERE id = 1.0",
        "WHERE id = random()::int",
    ] {
        let plan = plan_of(&mut s, &format!("{from} {condition}"));
        assert!(plan.contains("audit_as_of") && !plan.contains("keyed_as_of"), "{condition}: {plan}");
    }
    let numbered = format!("SELECT * FROM threadline.audit_as_of(NULL::t, '{at}') WITH ORDINALITY WHERE id = 2");
    assert!(!plan_of(&mut s, &numbered).contains("keyed_as_of"), "its rows are numbered over the whole table");

    s.run(&format!("CREATE TEMP VIEW past AS SELECT * FROM threadline.audit_as_of(NULL::t, '{at}')"));
    assert!(plan_of(&mut s, "SELECT * FROM past WHERE id = 2").contains("keyed_as_of"));
    s.run(&format!("PREPARE one(int) AS {from} WHERE id = $1; SET plan_cache_mode = force_generic_plan"));
    assert!(plan_of(&mut s, "EXECUTE one(2)").contains("keyed_as_of"));
    assert_eq!(pairs(&mut s, "EXECUTE one(2)"), ["2 changed"]);
    assert_eq!(pairs(&mut s, "EXECUTE one(NULL)"), Vec::<String>::new());
    let outer = format!(
        "SELECT v.n, (SELECT r.s FROM threadline.audit_as_of(NULL::t, '{at}') r WHERE r.id = v.n) FROM (VALUES (2), (3)) v (n)"
    );
    assert!(plan_of(&mut s, &outer).contains("keyed_as_of"));
    assert_eq!(pairs(&mut s, &outer), ["2 changed", "3 old"]);
    let none = s.failure("SELECT * FROM threadline.audit_as_of(NULL::t, '2001-01-01') WHERE id = 1");
    assert_eq!(none.code, "55000");
}

#[test]
fn keys_of_other_kinds_are_found_too() {
    let db = Database::new("tao_kinds");
    let mut s = db.session();
    s.run(
        "CREATE TABLE c (a int, b text, v int, PRIMARY KEY (b, a)); CREATE TABLE k (k varchar(5) PRIMARY KEY, v int);
         CREATE TABLE u (u uuid PRIMARY KEY, v int); CREATE TABLE d (d timestamptz PRIMARY KEY, v int); CREATE TABLE x (x numeric PRIMARY KEY, v int);
         SELECT threadline.audit_enable(r) FROM unnest('{c,k,u,d,x}'::regclass[]) r;
         INSERT INTO c VALUES (1, 'x\"y', 1), (2, 'x\"y', 2), (1, 'z', 3);
         INSERT INTO k VALUES ('{\"k\":', 1), ('b', 2); INSERT INTO u VALUES ('00112233-4455-6677-8899-aabbccddeeff', 1);
         INSERT INTO d VALUES ('2024-03-31 02:30:00.123456+02', 1), ('infinity', 2); INSERT INTO x VALUES (1.50, 1), ('NaN', 2);
         SET DateStyle = 'SQL, DMY'; SET TimeZone = 'America/St_Johns'",
    );
    for (row_type, condition, expected) in [
        ("c", "b = 'x\"y' AND a = 2", "2"),
        ("c", "a = 1 AND b = 'z'", "3"),
        ("k", "k = '{\"k\":'", "1"),
        ("k", "k = 'b'::text", "2"),
        ("k", "k = 'much too long'", ""),
        ("u", "u = '00112233-4455-6677-8899-AABBCCDDEEFF'", "1"),
        ("d", "d = '2024-03-31 00:30:00.123456Z'", "1"),
        ("d", "d = 'infinity'", "2"),
        ("x", "x = 1.5", "1"),
        ("x", "x IN (1.500, 1.5, 'NaN')", "1,2"),
    ] {
        let query = format!(
            "SELECT string_agg(v::text, ',' ORDER BY v) FROM threadline.audit_as_of(NULL::{row_type}, 'infinity') WHERE {condition}"
        );
        assert!(plan_of(&mut s, &query).contains("keyed_as_of"), "{query}");
        assert_eq!(s.one(&query).replace("NULL", ""), expected, "{query}");
    }
    let half = "SELECT v FROM threadline.audit_as_of(NULL::c, 'infinity') WHERE b = 'z'";
    assert!(!plan_of(&mut s, half).contains("keyed_as_of"), "half a key is none");
    assert_eq!(s.one(half), "3");
}

#[test]
fn a_plan_outlives_a_change_of_the_key() {
    let (_db, mut s) =
        long_captured("tao_rekeyed", "CREATE TABLE t (id int PRIMARY KEY, other int NOT NULL UNIQUE, s text)", "");
    s.run("INSERT INTO t VALUES (1, 10, 'a'), (2, 20, 'b')");
    s.run("SET plan_cache_mode = force_generic_plan; PREPARE one(int) AS SELECT s FROM threadline.audit_as_of(NULL::t, 'infinity') WHERE id = $1");
    assert_eq!(s.column("EXECUTE one(2)"), ["b"]);
    s.run("ALTER TABLE t DROP CONSTRAINT t_pkey; SELECT threadline.audit_enable('t', key_columns => '{other}')");
    assert_eq!(s.column("EXECUTE one(2)"), ["b"]);
    assert!(
        plan_of(&mut s, "SELECT s FROM threadline.audit_as_of(NULL::t, 'infinity') WHERE other = 10")
            .contains("keyed_as_of")
    );
    assert_eq!(s.column("SELECT s FROM threadline.audit_as_of(NULL::t, 'infinity') WHERE other = 10"), ["a"]);
}

/// Blocks that a query touches, in shared buffers.
fn blocks_of(s: &mut Session, query: &str) -> i64 {
    let plan = s.column(&format!("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) {query}")).join("\n");
    let line = plan.lines().find(|line| line.contains("Buffers: shared")).unwrap_or_else(|| panic!("{plan}"));
    line.split(['=', ' ']).filter_map(|word| word.parse::<i64>().ok()).sum()
}

#[test]
fn the_table_is_not_touched_for_one_key() {
    let db = Database::new("tao_blocks");
    let mut s = db.session();
    s.run(
        "CREATE TABLE t (id int PRIMARY KEY, filler text);
         INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 5000) g;
         SELECT threadline.audit_enable('t'); UPDATE t SET filler = 'y' WHERE id = 7",
    );
    let query = "SELECT filler FROM threadline.audit_as_of(NULL::t, 'infinity') WHERE id = 7";
    assert_eq!(s.column(query), ["y"]);
    // What other sessions of the server do may make this one read its catalogs anew, at one time or another.
    let least = |s: &mut Session| (0..5).map(|_| blocks_of(s, query)).min().expect("five of them");
    let before = least(&mut s);
    s.run("INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(5001, 20000) g");
    let (keyed, whole) =
        (least(&mut s), blocks_of(&mut s, "SELECT filler FROM threadline.audit_as_of(NULL::t, 'infinity')"));
    assert!(
        keyed < before + 50 && whole > before + 1000,
        "one key: {before} blocks, then {keyed}, the whole table: {whole}"
    );
}

#[test]
fn a_transaction_is_shown_what_its_snapshot_showed() {
    let db = Database::new("tao_seen");
    let (mut a, mut b) = (db.session(), db.session());
    a.run("CREATE TABLE t (id int PRIMARY KEY, s text); CREATE TABLE log (id int PRIMARY KEY)");
    a.run("SELECT threadline.audit_enable('t'), threadline.audit_enable('log'); INSERT INTO t VALUES (1, 'one'), (2, 'two')");
    a.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM t");
    b.run("UPDATE t SET s = 'unseen' WHERE id = 1");
    a.run("INSERT INTO log VALUES (1); UPDATE t SET s = 'own' WHERE id = 2; INSERT INTO t VALUES (3, 'own')");
    let repeatable = a.one("SELECT threadline.current_audit_transaction_id()");
    a.run("COMMIT");
    b.run("BEGIN; INSERT INTO log VALUES (2)");
    a.run("UPDATE t SET s = 'later' WHERE id = 2");
    let of = |s: &mut Session, transaction: &str, own: &str| {
        s.column(&format!(
            "SELECT r.id || r.s FROM threadline.audit_as_seen_by(NULL::t, '{transaction}'{own}) r ORDER BY id"
        ))
    };
    assert_eq!(of(&mut a, &repeatable, ""), ["1one", "2two"]);
    assert_eq!(of(&mut a, &repeatable, ", true"), ["1one", "2own", "3own"]);
    assert!(a.notices.lock().unwrap().is_empty(), "it had one snapshot: {:?}", a.notices);
    b.run("INSERT INTO log VALUES (3)");
    let committed = b.one("SELECT threadline.current_audit_transaction_id()");
    let open = b.failure(&format!("SELECT * FROM threadline.audit_as_seen_by(NULL::t, '{committed}')"));
    assert_eq!(open.code, "55000");
    b.run("ROLLBACK");
    b.run("BEGIN; INSERT INTO log VALUES (2)");
    let committed = b.one("SELECT threadline.current_audit_transaction_id()");
    a.run("DELETE FROM t WHERE id = 1");
    b.run("COMMIT");
    assert_eq!(of(&mut a, &committed, ""), ["1unseen", "2later", "3own"]);
    assert!(a.notices.lock().unwrap().iter().any(|notice| notice.contains("READ COMMITTED")));
    let unknown = a.refused(
        "SELECT * FROM threadline.audit_as_seen_by(NULL::t, '00112233-4455-6677-8899-aabbccddeeff')",
        &["02000"],
    );
    assert!(unknown.message.contains("00112233"));
}

#[test]
fn a_key_may_be_seen_twice() {
    let db = Database::new("tao_twice");
    let (mut a, mut b) = (db.session(), db.session());
    a.run("CREATE TABLE t (id int PRIMARY KEY, s text); SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1, 'old'), (2, 'old'), (3, 'old')");
    a.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM t");
    b.run("DELETE FROM t WHERE id = 1; UPDATE t SET id = 20 WHERE id = 2");
    a.run("INSERT INTO t VALUES (1, 'own'); UPDATE t SET id = 2 WHERE id = 3; INSERT INTO t VALUES (3, 'again')");
    let seen = a.column("SELECT t::text FROM t ORDER BY 1");
    assert_eq!(seen, ["(1,old)", "(1,own)", "(2,old)", "(2,old)", "(3,again)"]);
    let transaction = a.one("SELECT threadline.current_audit_transaction_id()");
    a.run("COMMIT");
    let of = |s: &mut Session, own: bool| {
        s.column(&format!(
            "SELECT r::text FROM threadline.audit_as_seen_by(NULL::t, '{transaction}', {own}) r ORDER BY 1"
        ))
    };
    assert_eq!(of(&mut a, true), seen);
    assert_eq!(of(&mut a, false), ["(1,old)", "(2,old)", "(3,old)"]);
}

#[test]
fn a_viewer_sees_marks_and_counts_as_it_did() {
    let db = Database::new("tao_seen_marks");
    let (mut a, mut b) = (db.session(), db.session());
    a.run("CREATE TABLE bag (v text); CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE log (id int PRIMARY KEY)");
    a.run("SELECT threadline.audit_enable('bag', options => '{\"key\": \"full_row\"}'), threadline.audit_enable('t', options => '{\"truncate\": \"mark\"}'), threadline.audit_enable('log')");
    a.run("INSERT INTO bag VALUES ('x'), ('x'), ('y'); INSERT INTO t VALUES (1), (2)");
    b.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM bag");
    a.run("DELETE FROM bag WHERE v = 'y'; INSERT INTO bag VALUES ('z'); TRUNCATE t; INSERT INTO t VALUES (3)");
    b.run("INSERT INTO log VALUES (1); INSERT INTO bag VALUES ('x')");
    let before = b.one("SELECT threadline.current_audit_transaction_id()");
    b.run("COMMIT");
    b.run("BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO log VALUES (2)");
    let after = b.one("SELECT threadline.current_audit_transaction_id()");
    b.run("COMMIT");
    let of = |s: &mut Session, what: &str, transaction: &str, own: bool| {
        s.column(&format!(
            "SELECT r::text FROM threadline.audit_as_seen_by(NULL::{what}, '{transaction}', {own}) r ORDER BY 1"
        ))
    };
    assert_eq!(of(&mut a, "bag", &before, false), ["(x)", "(x)", "(y)"]);
    assert_eq!(of(&mut a, "bag", &before, true), ["(x)", "(x)", "(x)", "(y)"]);
    assert_eq!(of(&mut a, "bag", &after, false), ["(x)", "(x)", "(x)", "(z)"]);
    assert_eq!(of(&mut a, "t", &before, false), ["(1)", "(2)"], "the TRUNCATE came after its snapshot");
    assert_eq!(of(&mut a, "t", &after, false), ["(3)"]);
}

#[test]
fn a_value_that_is_none_of_the_type_of_now_is_named() {
    let db = Database::new("tao_uncastable");
    let mut s = db.session();
    s.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text, w text); SELECT threadline.audit_enable('t');
         INSERT INTO t VALUES (1, '1', 'a'), (2, 'two', 'b'), (3, NULL, 'c')",
    );
    let at = now(&mut s);
    let transaction = s.one("SELECT id FROM threadline.audit_transactions ORDER BY commit_no DESC LIMIT 1");
    s.run("UPDATE t SET v = '2' WHERE id = 2");
    s.run("ALTER TABLE t ALTER v TYPE int USING v::int");
    s.run("UPDATE t SET w = 'x'");
    assert_eq!(rows_then(&mut s, "infinity"), ["(1,1,x)", "(2,2,x)", "(3,,x)"]);
    for sql in [
        format!("SELECT * FROM threadline.audit_as_of(NULL::t, '{at}')"),
        format!("SELECT * FROM threadline.audit_row_as_of(NULL::t, 2, '{at}')"),
        format!("SELECT * FROM threadline.audit_as_of(NULL::t, '{at}') WHERE id = 2"),
        format!("SELECT * FROM threadline.audit_as_seen_by(NULL::t, '{transaction}', true)"),
    ] {
        let failure = s.refused(&sql, &["22P02"]);
        assert_eq!(
            failure.message,
            "column \"v\" of a row of table \"public.t\" does not read as integer, the type that it has now",
            "{sql}"
        );
        assert!(failure.detail.starts_with("Row {\"id\": 2}. Recorded is \"two\":"), "{}", failure.detail);
    }
    assert_eq!(
        s.column(&format!("SELECT r::text FROM threadline.audit_row_as_of(NULL::t, 1, '{at}') r")),
        ["(1,1,a)"],
        "the others read"
    );
    // A column more, in the same session: what it keeps of the questions before follows.
    s.run("ALTER TABLE t ADD more int DEFAULT 7");
    s.run("UPDATE t SET w = 'y' WHERE id = 1");
    s.run("SET threadline.incomplete = warn");
    let later = now(&mut s);
    s.run("UPDATE t SET w = 'z'");
    for form in ["audit_as_of(NULL::t, '{at}') r WHERE id = 1", "audit_row_as_of(NULL::t, 1, '{at}') r"] {
        let asked = |at: &str| format!("SELECT r::text FROM threadline.{}", form.replace("{at}", at));
        assert_eq!(s.column(&asked(&at)), ["(1,1,a,)"], "{form}");
        assert_eq!(s.column(&asked(&later)), ["(1,1,y,7)"], "{form}");
    }
    s.run("ALTER TABLE t DROP more");
    s.run("SET threadline.uncastable = warn");
    s.notices.lock().unwrap().clear();
    assert_eq!(rows_then(&mut s, &at), ["(1,1,a)", "(2,,b)", "(3,,c)"]);
    let told = s.notices.lock().unwrap().join("\n");
    assert!(told.contains("column \"v\" of a row of table \"public.t\" does not read as integer"), "{told}");
    assert_eq!(s.column(&format!("SELECT r::text FROM threadline.audit_row_as_of(NULL::t, 2, '{at}') r")), ["(2,,b)"]);
}
