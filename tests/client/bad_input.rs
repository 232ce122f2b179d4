//! Every refusal has a SQLSTATE that says what is wrong and a HINT that says what to type.

use crate::support::{Address, Database, Failure, Session};

fn session(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v text, meta jsonb); CREATE TABLE c (a int, b text, v text, PRIMARY KEY (a, b))");
    (db, s)
}

/// Nothing is half done after an error: no trigger, no row in the catalogue.
fn assert_untouched(s: &mut Session, relation: &str) {
    let triggers = s.number(&format!(
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = to_regclass('{relation}') AND NOT tgisinternal"
    ));
    assert_eq!(triggers, 0, "{relation} has no trigger");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_tables"), 0, "{relation} is not listed");
}

const NOT_A_TABLE: &[&str] = &["42809"];

#[test]
fn only_tables_can_be_captured() {
    let (_db, mut s) = session("bad_relkind");
    s.run("CREATE VIEW vw AS SELECT * FROM t; CREATE MATERIALIZED VIEW mv AS SELECT * FROM t; CREATE SEQUENCE sq; CREATE TYPE ty AS (a int); CREATE INDEX ix ON t (v)");
    for relation in ["vw", "mv", "sq", "ty", "ix", "t_pkey"] {
        let failure = s.refused(&format!("SELECT threadline.audit_enable('{relation}')"), NOT_A_TABLE);
        assert!(failure.message.contains(relation), "the message names {relation}: {failure:?}");
        assert_untouched(&mut s, relation);
    }
}

#[test]
fn foreign_and_temporary_tables_are_refused() {
    let (_db, mut s) = session("bad_foreign");
    s.run("CREATE FOREIGN DATA WRAPPER w; CREATE SERVER srv FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE ft (id int) SERVER srv; CREATE TEMP TABLE tmp (id int PRIMARY KEY)");
    s.refused("SELECT threadline.audit_enable('ft')", NOT_A_TABLE);
    s.refused("SELECT threadline.audit_enable('tmp')", &["42809", "0A000"]);
    assert_untouched(&mut s, "ft");
    assert_untouched(&mut s, "tmp");
}

#[test]
fn system_catalogs_and_our_own_tables_are_refused() {
    let (_db, mut s) = session("bad_catalog");
    for relation in ["pg_catalog.pg_class", "pg_catalog.pg_authid", "information_schema.sql_features"] {
        s.refused(&format!("SELECT threadline.audit_enable('{relation}')"), &["42809", "42501", "0A000"]);
    }
    let own = s.column(
        "SELECT oid::regclass FROM pg_class WHERE relnamespace = 'threadline'::regnamespace AND relkind IN ('r', 'p')",
    );
    assert!(!own.is_empty());
    for relation in own {
        s.refused(&format!("SELECT threadline.audit_enable('{relation}')"), &["42809", "42501", "0A000"]);
    }
    s.refused("SELECT threadline.audit_enable('threadline.audit_changes')", &["42809", "42501", "0A000"]);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_tables"), 0);
}

#[test]
fn what_does_not_exist() {
    let (_db, mut s) = session("bad_missing");
    assert_eq!(s.failure("SELECT threadline.audit_enable('nowhere')").code, "42P01");
    assert_eq!(s.failure("SELECT threadline.audit_enable(4294967290::oid::regclass)").code, "42P01");
}

#[test]
fn a_table_needs_a_key() {
    let (_db, mut s) = session("bad_key");
    s.run("CREATE TABLE nokey (a int, b int); CREATE TABLE nullable (a int UNIQUE); CREATE TABLE expr (a text NOT NULL); CREATE UNIQUE INDEX ON expr (lower(a));
           CREATE TABLE part (a int NOT NULL); CREATE UNIQUE INDEX ON part (a) WHERE a > 0; CREATE TABLE later (a int PRIMARY KEY DEFERRABLE)");
    for relation in ["nokey", "nullable", "expr", "part", "later"] {
        let failure =
            s.refused(&format!("SELECT threadline.audit_enable('{relation}')"), &["42P16", "55000", "22023", "42704"]);
        assert!(failure.message.contains(relation), "{failure:?}");
        assert_untouched(&mut s, relation);
    }
    s.refused("SELECT threadline.audit_enable('nokey', key_columns => '{a}')", &["42P16", "55000", "22023", "42704"]);
    s.refused(
        "SELECT threadline.audit_enable('nullable', key_columns => '{a}')",
        &["42P16", "55000", "22023", "42704"],
    );
    s.refused("SELECT threadline.audit_enable('part', key_columns => '{a}')", &["42P16", "55000", "22023", "42704"]);
    s.refused("SELECT threadline.audit_enable('nokey', key_columns => '{zzz}')", &["42703"]);
    s.refused("SELECT threadline.audit_enable('t', key_columns => '{v}')", &["42P16", "55000", "22023", "42704"]);
    assert_untouched(&mut s, "nokey");
}

#[test]
fn columns_of_a_policy() {
    let (_db, mut s) = session("bad_columns");
    for policy in [
        "exclude => '{nope}'",
        "mask => '{nope}'",
        "mask => '{v,nope}'",
        "mask => '{nope.card}'",
        "exclude => '{ctid}'",
    ] {
        s.refused(&format!("SELECT threadline.audit_enable('t', {policy})"), &["42703"]);
    }
    let both = s.refused("SELECT threadline.audit_enable('t', exclude => '{v}', mask => '{v}')", &["22023", "42701"]);
    assert!(both.message.contains('v') || both.detail.contains('v'), "{both:?}");
    for policy in ["exclude => '{id}'", "mask => '{id}'"] {
        s.refused(&format!("SELECT threadline.audit_enable('t', {policy})"), &["22023", "42P16"]);
    }
    s.refused("SELECT threadline.audit_enable('t', mask => '{v.inner}')", &["22023", "42804", "42703"]);
    assert_untouched(&mut s, "t");
    s.run("SELECT threadline.audit_enable('t', mask => '{v}')");
    s.refused("SELECT threadline.audit_enable('t', exclude => '{v}')", &["22023", "42701"]);
    assert_eq!(s.one("SELECT mask FROM threadline.audit_tables"), "{v}", "the policy is what it was");
}

#[test]
fn options_of_audit_enable() {
    let (_db, mut s) = session("bad_options");
    for options in [
        r#"{"nonsense": 1}"#,
        r#"{"on_error": "maybe"}"#,
        r#"{"image": "half"}"#,
        r#"{"skip_noop": "perhaps"}"#,
        r#"{"truncate": "ignore"}"#,
        r#"{"truncate_cap": 0}"#,
        r#"{"truncate_cap": 1.5}"#,
        r#"{"truncate_cap": "many"}"#,
        r#"{"truncate_cap": 12345678901234567890123}"#,
        r#"{"key": "ctid"}"#,
        "[]",
        "3",
    ] {
        s.refused(&format!("SELECT threadline.audit_enable('t', options => '{options}')"), &["22023"]);
    }
    assert_untouched(&mut s, "t");
}

#[test]
fn disabling_what_is_not_captured() {
    let (_db, mut s) = session("bad_disable");
    s.refused("SELECT threadline.audit_disable('t')", &["42704", "55000"]);
}

#[test]
fn a_wrong_key_in_every_read_function() {
    let (_db, mut s) = session("bad_readkey");
    s.run("SELECT threadline.audit_enable('t'); SELECT threadline.audit_enable('c'); INSERT INTO t VALUES (1, 'a'); INSERT INTO c VALUES (1, 'x', 'a')");
    let reads: [fn(&str, &str) -> String; 2] = [
        |table, key| format!("SELECT * FROM threadline.audit_history('{table}', {key})"),
        |table, key| format!("SELECT * FROM threadline.audit_as_of('{table}', {key}, now())"),
    ];
    for read in reads {
        for key in [
            "'{\"nope\": 1}'::jsonb",
            "'{\"id\": 1, \"v\": 2}'::jsonb",
            "'{}'::jsonb",
            "'{\"id\": null}'::jsonb",
            "'[1]'::jsonb",
        ] {
            let failure = s.refused(&read("t", key), &["22023"]);
            assert!(failure.hint.contains("id"), "the HINT lists the key columns: {failure:?}");
        }
        for key in
            ["1", "'x'", "'{\"a\": 1}'", "'{\"a\": 1, \"b\": null}'", "'{\"a\": 1, \"b\": \"x\", \"v\": 1}'::jsonb"]
        {
            let failure = s.refused(&read("c", key), &["22023"]);
            assert!(
                failure.hint.contains('a') && failure.hint.contains('b'),
                "the HINT lists the key columns: {failure:?}"
            );
        }
        for key in ["'abc'", "99999999999", "'{\"id\": \"abc\"}'::jsonb"] {
            let failure = s.failure(&read("t", key));
            assert!(["22P02", "22003", "22023"].contains(&failure.code.as_str()), "{key}: {failure:?}");
        }
        for key in ["NULL::text", "NULL::bigint", "NULL::jsonb"] {
            let failure = s.failure(&read("t", key));
            assert!(["22023", "22004"].contains(&failure.code.as_str()), "{key}: {failure:?}");
        }
    }
}

#[test]
fn reading_a_table_without_history() {
    let (_db, mut s) = session("bad_nohistory");
    for query in [
        "SELECT * FROM threadline.audit_history('t', 1)",
        "SELECT * FROM threadline.audit_as_of('t', 1, now())",
        "SELECT * FROM threadline.audit_as_of(NULL::t, now())",
        "SELECT threadline.replay_check('t'::regclass)",
        "SELECT threadline.replay_check('t')",
        "SELECT threadline.replay_check('no such thing')",
    ] {
        s.refused(query, &["42704", "42P01"]);
    }
    s.refused("SELECT * FROM threadline.audit_as_of(NULL::int, now())", &["42809", "42804", "22023", "42704"]);
}

#[test]
fn times_and_limits() {
    let (_db, mut s) = session("bad_times");
    s.run("SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1, 'a')");
    for query in
        ["SELECT * FROM threadline.audit_as_of('t', 1, NULL)", "SELECT * FROM threadline.audit_as_of(NULL::t, NULL)"]
    {
        s.refused(query, &["22023", "22004"]);
    }
    assert_eq!(s.failure("SELECT * FROM threadline.audit_as_of('t', 1, 'yesterdayish')").code, "22007");
    for rows in ["-1", "0"] {
        let result = s.try_rows(&format!("SELECT * FROM threadline.audit_history('t', 1, max_rows => {rows})"));
        match result {
            Ok(found) => assert!(found.is_empty() && rows == "0", "max_rows {rows} returned {found:?}"),
            Err(e) => assert!(["22023", "2201W"].contains(&Failure::of(&e).code.as_str()), "max_rows {rows}: {e:?}"),
        }
    }
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_history('t', 1, since => '2999-01-01')"), 0);
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.audit_history('t', 1, since => 'infinity', until => '-infinity')"),
        0
    );
}

#[test]
fn transaction_ids() {
    let (_db, mut s) = session("bad_uuid");
    for function in ["incident_bundle", "audit_changes_for_transaction"] {
        assert_eq!(
            s.failure(&format!("SELECT * FROM threadline.{function}('not a uuid')")).code,
            "22P02",
            "the server's own error"
        );
        let missing = s.rows(&format!(
            "SELECT * FROM threadline.{function}('00000000-0000-0000-0000-000000000000') x WHERE x IS NOT NULL"
        ));
        assert!(missing.is_empty(), "{function}: {missing:?}");
    }
}

#[test]
fn grants() {
    let (_db, mut s) = session("bad_grants");
    s.refused("SELECT threadline.audit_grant('no_such_role_here', 'reader')", &["42704"]);
    s.refused("SELECT threadline.audit_grant(current_user, 'emperor')", &["22023"]);
    s.refused("SELECT threadline.audit_revoke_role('no_such_role_here')", &["42704"]);
}

#[test]
fn retention_settings() {
    let (_db, mut s) = session("bad_retention");
    for keep in ["0 seconds", "-1 day"] {
        s.refused(&format!("SELECT threadline.audit_set_retention(keep => '{keep}')"), &["22023"]);
    }
    s.refused("SELECT threadline.audit_set_retention(keep => '1 day', target => 't')", &["42704", "55000"]);
}

#[test]
fn a_schema_of_someone_else_is_not_taken_over() {
    let at = Address::from_env();
    let db = Database::bare(&at, "bad_schema");
    let mut s = db.session();
    s.run("CREATE SCHEMA threadline");
    s.refused("CREATE EXTENSION threadline_forensics", &["42P06"]);
    s.run("DROP SCHEMA threadline; CREATE TABLE audit_changes (id int); CREATE EXTENSION threadline_forensics");
    assert_eq!(s.number("SELECT count(*) FROM audit_changes"), 0, "someone else's table is left alone");
    s.run("CREATE TABLE t (id int PRIMARY KEY); SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1)");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), 1);
}
