//! Rows are found again by their key, whatever its type and however it is spelled.

use crate::support::{Database, Session};

struct Case {
    kind: &'static str,
    /// SQL literals: the row followed through its life, another row, and the key it changes to.
    keys: [&'static str; 3],
    /// The first key as `table_pk` shows it; numbers without trailing zeros, since 12.5 and 12.50 are one key.
    text: &'static str,
    /// Other spellings that must find the first key.
    spellings: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        kind: "int2",
        keys: ["-7", "32767", "8"],
        text: "-7",
        spellings: &["'-7'", "-7", "'{\"k\": -7}'", "'{\"k\": \"-7\"}'::jsonb"],
    },
    Case {
        kind: "int4",
        keys: ["42", "-2147483648", "43"],
        text: "42",
        spellings: &["42", "'42'", "42::bigint", "'{\"k\": 42}'::jsonb"],
    },
    Case {
        kind: "int8",
        keys: ["9223372036854775807", "-9223372036854775808", "1"],
        text: "9223372036854775807",
        spellings: &["9223372036854775807", "'9223372036854775807'"],
    },
    Case {
        kind: "text",
        keys: ["'it''s {odd} \"ü\"'", "''", "'{\"k\": 1}'"],
        text: "it's {odd} \"ü\"",
        spellings: &["'it''s {odd} \"ü\"'", "'{\"k\": \"it''s {odd} \\\"ü\\\"\"}'::jsonb"],
    },
    Case { kind: "varchar(20)", keys: ["'abc'", "'ABC'", "'abd'"], text: "abc", spellings: &["'abc'"] },
    Case { kind: "char(6)", keys: ["'ab'", "'abcdef'", "'ac'"], text: "ab    ", spellings: &["'ab'", "'ab    '"] },
    Case { kind: "name", keys: ["'n1'", "'n2'", "'n3'"], text: "n1", spellings: &["'n1'"] },
    Case {
        kind: "uuid",
        keys: [
            "'00112233-4455-6677-8899-aabbccddeeff'",
            "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
            "'10112233-4455-6677-8899-aabbccddeeff'",
        ],
        text: "00112233-4455-6677-8899-aabbccddeeff",
        spellings: &[
            "'00112233-4455-6677-8899-AABBCCDDEEFF'",
            "'00112233-4455-6677-8899-aabbccddeeff'::uuid",
            "'{\"k\": \"00112233445566778899aabbccddeeff\"}'",
        ],
    },
    Case {
        kind: "date",
        keys: ["'2024-02-29'", "'0044-03-15 BC'", "'infinity'"],
        text: "2024-02-29",
        spellings: &["'2024-02-29'", "'20240229'"],
    },
    Case {
        kind: "time",
        keys: ["'10:30'", "'24:00'", "'10:31'"],
        text: "10:30:00",
        spellings: &["'10:30'", "'10:30:00.000'"],
    },
    Case {
        kind: "timestamp",
        keys: ["'2024-02-29 10:30'", "'-infinity'", "'2024-02-29 10:30:00.000001'"],
        text: "2024-02-29T10:30:00",
        spellings: &["'2024-02-29 10:30'", "'2024-02-29T10:30:00'"],
    },
    Case {
        kind: "timestamptz",
        keys: ["'2024-02-29 10:30+00'", "'infinity'", "'2024-02-29 10:30:00.5+00'"],
        text: "2024-02-29T10:30:00+00:00",
        spellings: &["'2024-02-29 10:30+00'", "'2024-02-29 12:30+02'"],
    },
    Case { kind: "numeric", keys: ["12.50", "-0.0001", "1e30"], text: "12.5", spellings: &["'12.50'", "'12.5'"] },
    Case { kind: "numeric(10,2)", keys: ["7", "8", "9"], text: "7", spellings: &["7", "'7'", "'7.00'"] },
    Case {
        kind: "boolean",
        keys: ["true", "false", "NULL"],
        text: "true",
        spellings: &["'true'", "'t'", "'{\"k\": true}'"],
    },
    Case {
        kind: "bytea",
        keys: ["'\\x00ff'", "'\\x'", "'\\xdeadbeef'"],
        text: "\\x00ff",
        spellings: &["'\\x00ff'", "'\\x00FF'"],
    },
    Case { kind: "mood", keys: ["'good'", "'bad'", "'so so'"], text: "good", spellings: &["'good'"] },
    Case { kind: "positive", keys: ["5", "6", "7"], text: "5", spellings: &["5", "'5'"] },
    Case { kind: "code", keys: ["'A1'", "'B2'", "'C3'"], text: "A1", spellings: &["'A1'"] },
    Case {
        kind: "inet",
        keys: ["'10.0.0.1'", "'::1'", "'10.0.0.2'"],
        text: "10.0.0.1",
        spellings: &["'10.0.0.1'", "'10.0.0.1/32'"],
    },
    Case {
        kind: "oid",
        keys: ["4294967295", "1", "2"],
        text: "4294967295",
        spellings: &["4294967295", "'4294967295'"],
    },
    Case {
        kind: "interval",
        keys: ["'1 day 02:00'", "'-1 month'", "'3 years'"],
        text: "1 day 02:00:00",
        spellings: &["'1 day 02:00:00'", "'1 day 2 hours'"],
    },
];

const TYPES: &str = "CREATE TYPE mood AS ENUM ('good', 'bad', 'so so'); CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE DOMAIN code AS varchar(5)";

fn exercise(s: &mut Session, case: &Case) {
    let kind = case.kind;
    let [first, second, third] = case.keys;
    s.run(&format!("CREATE TABLE k (k {kind} PRIMARY KEY, v int); SELECT threadline.audit_enable('k')"));
    // Odd session settings: a key is stored the same whoever writes it.
    s.run("SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'escape'");
    s.run(&format!("INSERT INTO k VALUES ({first}, 1), ({second}, 1)"));
    s.run("RESET ALL");
    s.run(&format!("UPDATE k SET v = 2 WHERE k = {first}"));
    let stored = s.column("SELECT table_pk ->> 'k' FROM threadline.audit_changes WHERE op = 'update'");
    assert_eq!(stored, [case.text], "{kind}: table_pk");
    for spelling in case.spellings {
        assert_eq!(
            s.number(&format!("SELECT count(*) FROM threadline.audit_history('k', {spelling})")),
            2,
            "{kind}: history of {spelling}"
        );
        assert_eq!(
            s.one(&format!("SELECT status FROM threadline.audit_as_of('k', {spelling}, clock_timestamp())")),
            "present",
            "{kind}: as of, {spelling}"
        );
    }
    if third != "NULL" {
        s.run(&format!("UPDATE k SET k = {third} WHERE k = {first}"));
        let of = |key: &str| {
            format!(
                "SELECT status FROM threadline.audit_as_of('k', jsonb_build_object('k', to_jsonb(({key})::{kind})), clock_timestamp())"
            )
        };
        assert_eq!(s.one(&of(first)), "deleted", "{kind}: the key it had");
        assert_eq!(s.one(&of(third)), "present", "{kind}: the key it has");
        assert_eq!(
            s.number(&format!("SELECT count(*) FROM threadline.audit_history('k', jsonb_build_object('k', to_jsonb(({third})::{kind})))")),
            3,
            "{kind}: history through the key change"
        );
    }
    s.assert_replay_holds("k");
    s.run("DELETE FROM k");
    assert_eq!(s.one(&format!("SELECT status FROM threadline.audit_as_of('k', jsonb_build_object('k', to_jsonb(({second})::{kind})), clock_timestamp())")), "deleted", "{kind}");
    s.assert_replay_holds("k");
}

#[test]
fn every_key_type() {
    let mut failed = Vec::new();
    for case in CASES {
        let tried = std::panic::catch_unwind(|| {
            let db = Database::new("key_types");
            let mut s = db.session();
            s.run(TYPES);
            exercise(&mut s, case);
        });
        if tried.is_err() {
            failed.push(case.kind);
        }
    }
    assert!(failed.is_empty(), "key types that fail: {failed:?}");
}

#[test]
fn composite_keys() {
    let db = Database::new("key_composite");
    let mut s = db.session();
    s.run("CREATE TABLE k (flag bool, n int, v text, PRIMARY KEY (flag, n)); SELECT threadline.audit_enable('k'); INSERT INTO k VALUES (true, 1, 'a'), (false, 1, 'a'); UPDATE k SET v = 'b' WHERE flag");
    for key in [
        "'{\"flag\": true, \"n\": 1}'",
        "'{\"n\": \"1\", \"flag\": \"t\"}'",
        "'{\"flag\": true, \"n\": 1}'::jsonb",
        "jsonb_build_object('n', 1, 'flag', true)",
    ] {
        assert_eq!(s.number(&format!("SELECT count(*) FROM threadline.audit_history('k', {key})")), 2, "{key}");
        assert_eq!(
            s.one(&format!("SELECT row_data ->> 'v' FROM threadline.audit_as_of('k', {key}, clock_timestamp())")),
            "b",
            "{key}"
        );
    }
    assert_eq!(
        s.one("SELECT table_pk FROM threadline.audit_changes WHERE op = 'update'"),
        r#"{"n": "1", "flag": "true"}"#
    );
    s.assert_replay_holds("k");
}

#[test]
fn keys_that_only_a_collation_or_type_calls_equal() {
    let db = Database::new("key_equal");
    let mut s = db.session();
    s.run("CREATE TABLE k (k numeric PRIMARY KEY, v int); SELECT threadline.audit_enable('k'); INSERT INTO k VALUES (1.0, 1)");
    s.run("UPDATE k SET k = 1.00, v = 2");
    s.assert_replay_holds("k");
    assert_eq!(s.one("SELECT row_data ->> 'v' FROM threadline.audit_as_of('k', '1', clock_timestamp())"), "2");
    s.run("DELETE FROM k; INSERT INTO k VALUES (1.000, 3)");
    assert_eq!(
        s.one("SELECT status || (row_data ->> 'v') FROM threadline.audit_as_of('k', '1.0', clock_timestamp())"),
        "present3"
    );
    s.assert_replay_holds("k");
    if s.number("SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'") == 1 {
        s.run("CREATE EXTENSION citext; CREATE TABLE c (k citext PRIMARY KEY, v int); SELECT threadline.audit_enable('c'); INSERT INTO c VALUES ('Ann', 1); UPDATE c SET k = 'ANN', v = 2");
        s.assert_replay_holds("c");
        assert_eq!(s.one("SELECT row_data ->> 'v' FROM threadline.audit_as_of('c', 'ANN', clock_timestamp())"), "2");
    }
}

#[test]
fn a_unique_index_can_be_the_key() {
    let db = Database::new("key_chosen");
    let mut s = db.session();
    s.run("CREATE TABLE u (code text NOT NULL UNIQUE, v int); SELECT threadline.audit_enable('u', key_columns => '{code}'); INSERT INTO u VALUES ('a', 1); UPDATE u SET v = 2");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_history('u', 'a')"), 2);
    s.assert_replay_holds("u");
}

#[test]
fn covering_and_reordered_primary_keys() {
    let db = Database::new("key_include");
    let mut s = db.session();
    s.run("CREATE TABLE k (c text, a int, b int, PRIMARY KEY (b, a) INCLUDE (c)); SELECT threadline.audit_enable('k'); INSERT INTO k VALUES ('x', 1, 2)");
    assert_eq!(s.one("SELECT table_pk FROM threadline.audit_changes"), r#"{"a": "1", "b": "2"}"#);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_history('k', '{\"a\": 1, \"b\": 2}')"), 1);
}

#[test]
fn a_renamed_key_column_goes_on_as_the_key_in_every_later_session() {
    let db = Database::new("key_renamed");
    let mut s = db.session();
    s.run("CREATE TABLE k (a int, b int, v int, PRIMARY KEY (b, a)); SELECT threadline.audit_enable('k'); INSERT INTO k VALUES (1, 2, 0)");
    for name in ["b1", "b2"] {
        s.run(&format!("ALTER TABLE k RENAME {} TO {name}", if name == "b1" { "b" } else { "b1" }));
        for _ in 0..2 {
            db.session().run("UPDATE k SET v = v + 1");
        }
        assert_eq!(s.one("SELECT threadline.replay_check('k') ->> 'verdict'"), "holds", "{name}");
    }
    s.run("SELECT threadline.audit_maintain()");
    db.session().run("UPDATE k SET v = v + 1");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_history('k', '{\"a\": 1, \"b2\": 2}')"), 6);
}

#[test]
fn a_replica_identity_index_is_the_key_of_a_table_without_a_primary_key() {
    let db = Database::new("key_identity");
    let mut s = db.session();
    s.run("CREATE TABLE u (a int NOT NULL, b int NOT NULL, c int); CREATE UNIQUE INDEX u_ba ON u (b, a) INCLUDE (c); CREATE UNIQUE INDEX u_c ON u (c)");
    s.refused("SELECT threadline.audit_enable('u')", &["42P16"]);
    s.run("ALTER TABLE u REPLICA IDENTITY USING INDEX u_ba; SELECT threadline.audit_enable('u')");
    s.run("INSERT INTO u VALUES (1, 2, 3)");
    assert_eq!(s.one("SELECT table_pk FROM threadline.audit_changes"), r#"{"a": "1", "b": "2"}"#);
    // It stays the key when the replica identity changes, as any captured key does.
    s.run("ALTER TABLE u REPLICA IDENTITY FULL; SELECT threadline.audit_enable('u'); UPDATE u SET c = 4");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_history('u', '{\"a\": 1, \"b\": 2}')"), 2);
    // A schema's tables are captured by it, too.
    s.run("CREATE TABLE v (a int NOT NULL UNIQUE); ALTER TABLE v REPLICA IDENTITY USING INDEX v_a_key; CREATE TABLE w (a int UNIQUE)");
    s.run("SELECT threadline.audit_enable_schema('public', future => true)");
    s.run("CREATE TABLE x (a int NOT NULL UNIQUE); ALTER TABLE x REPLICA IDENTITY USING INDEX x_a_key");
    assert_eq!(
        s.column("SELECT table_name || ' ' || status FROM threadline.audit_coverage()"),
        ["u covered", "v covered", "w uncovered", "x covered"]
    );
    assert!(s.one("SELECT reason FROM threadline.audit_coverage() WHERE table_name = 'w'").contains("full_row"));
    s.assert_replay_holds("u");
}

#[test]
fn replica_identity_makes_no_difference_to_what_is_recorded() {
    let db = Database::new("key_replica");
    let mut s = db.session();
    s.run("CREATE TABLE k (id int PRIMARY KEY, u int NOT NULL UNIQUE, big text); SELECT threadline.audit_enable('k')");
    let mut recorded = Vec::new();
    for identity in ["DEFAULT", "NOTHING", "FULL", "USING INDEX k_u_key"] {
        s.run(&format!("ALTER TABLE k REPLICA IDENTITY {identity}"));
        let last = s.number("SELECT coalesce(max(id), 0) FROM threadline.audit_changes");
        s.run("INSERT INTO k SELECT 1, 1, string_agg(md5(g::text), '') FROM generate_series(1, 500) g; UPDATE k SET u = 2; UPDATE k SET id = 3, big = 'x'; DELETE FROM k");
        recorded.push(s.column(&format!(
            "SELECT concat_ws('|', op, table_pk, old_pk, changed_fields, md5(changed_from::text), md5(data_after::text)) FROM threadline.audit_changes WHERE id > {last} ORDER BY id"
        )));
        s.assert_replay_holds("k");
    }
    assert_eq!(recorded[0].len(), 4);
    assert!(recorded.iter().all(|changes| *changes == recorded[0]), "{recorded:?}");
}

#[test]
fn composite_keys_shifted_in_one_statement_and_chained_over_transactions() {
    let db = Database::new("key_chain");
    let mut s = db.session();
    // An immediate unique index allows no swap within a statement, but a row may take the key that another just left.
    s.run("CREATE TABLE k (a int, b text, d date, v text, PRIMARY KEY (a, b, d)); SELECT threadline.audit_enable('k')");
    s.run("INSERT INTO k VALUES (3, 'x', '2024-01-03', 'three'), (2, 'x', '2024-01-02', 'two'), (1, 'x', '2024-01-01', 'one')");
    s.run("UPDATE k SET a = a + 1, d = d + 1");
    let shifted = s.one("SELECT clock_timestamp()");
    s.run("BEGIN; UPDATE k SET b = 'tmp' WHERE v = 'one'; UPDATE k SET a = 2, d = '2024-01-02' WHERE v = 'two'; UPDATE k SET a = 3, b = 'x', d = '2024-01-03' WHERE v = 'one'; COMMIT");
    s.run("UPDATE k SET b = 'y' WHERE v = 'one'");
    s.run("UPDATE k SET v = 'ONE' WHERE b = 'y'");
    s.assert_replay_holds("k");
    assert_eq!(
        s.one(&format!(
            "SELECT string_agg(r::text, ' ' ORDER BY a) FROM threadline.audit_as_of(NULL::k, '{shifted}') r"
        )),
        "(2,x,2024-01-02,one) (3,x,2024-01-03,two) (4,x,2024-01-04,three)"
    );
    let history = |s: &mut Session, key: &str| {
        s.one(&format!(
            "SELECT string_agg(coalesce(data_after, changed_from) ->> 'v', ' ' ORDER BY committed_at, statement_no) FROM threadline.audit_history('k', '{key}'::jsonb)"
        ))
    };
    assert_eq!(history(&mut s, r#"{"a": 3, "b": "y", "d": "2024-01-03"}"#), "one one one one one ONE");
    assert!(history(&mut s, r#"{"a": 2, "b": "x", "d": "2024-01-02"}"#).ends_with(" two two"));
    assert_eq!(
        s.one(&format!("SELECT row_data ->> 'v' FROM threadline.audit_as_of('k', '{{\"a\": 3, \"b\": \"x\", \"d\": \"2024-01-03\"}}'::jsonb, '{shifted}'::timestamptz)")),
        "two"
    );
}

#[test]
fn a_key_column_of_another_type_is_the_same_key() {
    let db = Database::new("key_retyped");
    let mut s = db.session();
    s.run("CREATE TABLE k (id int PRIMARY KEY, v int); SELECT threadline.audit_enable('k'); INSERT INTO k VALUES (1, 0), (-2, 0), (3, 0)");
    s.run("CREATE TABLE u (id uuid PRIMARY KEY, v int); SELECT threadline.audit_enable('u'); INSERT INTO u VALUES ('a0112233-4455-6677-8899-aabbccddeeff', 0)");
    for (no, kind) in ["bigint", "text"].iter().enumerate() {
        s.run(&format!("ALTER TABLE k ALTER id TYPE {kind}; UPDATE k SET v = v + 1 WHERE id::text <> '3'"));
        assert_eq!(
            s.one("SELECT count(*) || ' ' || bool_and(complete) FROM threadline.audit_history('k', '1')"),
            format!("{} true", no + 2),
            "{kind}"
        );
        assert_eq!(s.number("SELECT count(*) FROM threadline.audit_as_of(NULL::k, 'infinity')"), 3, "{kind}");
        s.assert_replay_holds("k");
    }
    s.run("ALTER TABLE u ALTER id TYPE text; UPDATE u SET v = 1");
    assert_eq!(s.one("SELECT count(*) || ' ' || bool_and(complete) FROM threadline.audit_history('u', 'a0112233-4455-6677-8899-aabbccddeeff')"), "2 true");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_as_of(NULL::u, 'infinity')"), 1);
    // Spelt otherwise from now on: nobody can tell which row is which, and that is said until there is a baseline.
    s.run("INSERT INTO k VALUES ('007', 0); ALTER TABLE k ALTER id TYPE int USING id::int; UPDATE k SET v = 9 WHERE id = 7");
    assert_eq!(s.column("SELECT DISTINCT complete FROM threadline.audit_history('k', 7)"), ["f"]);
    assert_eq!(
        s.one("SELECT reason FROM threadline.audit_gaps WHERE table_name = 'k' AND until_at = 'infinity'"),
        "shape_changed"
    );
    s.run("SELECT threadline.audit_enable('k'); UPDATE k SET v = 10 WHERE id = 7");
    s.assert_replay_holds("k");
    s.run("SET threadline.incomplete = error");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_as_of(NULL::k, 'infinity')"), 4);
}
