//! Values that JSON does not keep, labels and attributes that are called otherwise now: the row as it was is the row.

use crate::support::{Database, Session};

const SETUP: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s \"fine\", really');
    CREATE TYPE pair AS (f float8, m mood, j json);
    CREATE TYPE wrap AS (n int, p pair, ps pair[]);
    CREATE DOMAIN doc AS jsonb;
    CREATE TYPE moods AS RANGE (subtype = mood);
    CREATE TYPE cast_mood AS ENUM ('x', 'y');
    CREATE FUNCTION cast_mood_json(cast_mood) RETURNS json LANGUAGE sql AS $$ SELECT json_build_object('is', $1::text) $$;
    CREATE CAST (cast_mood AS json) WITH FUNCTION cast_mood_json(cast_mood);
    CREATE TABLE t (id int PRIMARY KEY, f float8, j json, b doc, a int[], js jsonb[], v oidvector, c cast_mood, m mood, ms mood[], r moods, p pair, w wrap, fs float4[], secret json, plain text)";

/// Two rows of the hardest values, one of easy ones.
const ROWS: &str = r#"INSERT INTO t VALUES
    (1, '-0', ' {"b" :1,  "a":"\u0041", "b":2}', 'null', '[0:1]={1,2}', ARRAY['null', NULL, '[1]']::jsonb[], '', 'y', 'sad', '{sad,NULL,"it''s \"fine\", really"}',
     '[sad,ok)', ROW('-0', 'it''s "fine", really', '[ 1 ]'), ROW(1, ROW(0, 'sad', NULL), ARRAY[ROW('-0', 'sad', '{ }')::pair, NULL]), '{-0,NaN}', '{"pin":1234}', '-0'),
    (2, 'NaN', 'null', 'null', '[-1:0][2:3]={{1,NULL},{3,4}}', '{}', '1 2', NULL, 'ok', '{}', 'empty', ROW(NULL, NULL, NULL), NULL, '[3:3]={1}', NULL, NULL),
    (3, 0, NULL, NULL, '{1,2}', NULL, NULL, 'x', NULL, NULL, NULL, NULL, NULL, '{1.5}', '1', 'x')"#;

fn setup(stem: &str, options: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(SETUP);
    s.run(&format!("SELECT threadline.audit_enable('t', mask => '{{secret}}', options => '{options}')"));
    s.run(ROWS);
    (db, s)
}

const OPTIONS: [&str; 2] = ["{}", r#"{"image": "delta"}"#];

/// The rows by the record, by table and one by one; the masked column is not among what is compared.
fn recorded(s: &mut Session, at: &str) -> Vec<String> {
    let row = "(to_jsonb(x) - 'secret')::text || x.f || coalesce(x.j::text, '-') || coalesce(x.b::text, '-') || coalesce(x.a::text, '-') || coalesce(x.js::text, '-') || coalesce(x.v::text, '-') \
               || coalesce(x.ms::text, '-') || coalesce(x.r::text, '-') || coalesce(x.p::text, '-') || coalesce(x.w::text, '-') || coalesce(x.fs::text, '-')";
    let rows = s.column(&format!("SELECT {row} FROM threadline.audit_as_of(NULL::t, {at}) x ORDER BY id"));
    let one_by_one = s.column(&format!(
        "SELECT {row} FROM generate_series(1, 3) k, threadline.audit_row_as_of(NULL::t, k, {at}) x ORDER BY id"
    ));
    assert_eq!(rows, one_by_one);
    if at == "'infinity'" {
        assert_eq!(rows, s.column(&format!("SELECT {row} FROM t x ORDER BY id")));
    }
    rows
}

fn violations(s: &mut Session) -> Vec<String> {
    s.column("SELECT (v ->> 'invariant') || ': ' || (v -> 'state_diff') FROM jsonb_array_elements(threadline.replay_check('t') -> 'violations') v")
}

#[test]
fn typed_answers_give_back_what_json_loses() {
    for (number, options) in OPTIONS.iter().enumerate() {
        let (_db, mut s) = setup(&format!("exact_typed_{number}"), options);
        let mut past = vec![(s.one("SELECT clock_timestamp()"), recorded(&mut s, "'infinity'"))];
        for update in [
            "f = 0, j = j WHERE id = 1",
            "f = '-0', b = NULL, a = '{1,2}' WHERE id = 1",
            "plain = 'other' WHERE id < 3",
            r#"b = 'null', j = '{"b":1}', fs = '{-0}' WHERE id <> 2"#,
            "j = NULL, b = '1', w.p.f = '-0', c = 'x', v = '', ms = '[0:0]={ok}' WHERE id = 1",
            "f = -f, a = a, plain = '1'",
            "id = 33 WHERE id = 3; UPDATE t SET id = 3, f = '-0' WHERE id = 33",
        ] {
            s.run(&format!("UPDATE t SET {update}"));
            past.push((s.one("SELECT clock_timestamp()"), recorded(&mut s, "'infinity'")));
            s.assert_replay_holds("t");
        }
        s.run("BEGIN; UPDATE t SET f = '-0', plain = 'seen before commit'");
        s.assert_replay_holds("t");
        s.run("ROLLBACK");
        for (at, rows) in past {
            assert_eq!(recorded(&mut s, &format!("'{at}'")), rows, "{options} at {at}");
        }
        // What nobody needs is not stored, and what is masked least of all.
        assert_eq!(
            s.number("SELECT count(*) FROM threadline.change_log WHERE concat(old_exact, new_exact) LIKE '%secret%'"),
            0
        );
        s.run("UPDATE t SET f = 1, j = NULL, b = NULL, a = '{1}', js = NULL, v = NULL, c = NULL, ms = NULL, p = NULL, w = NULL, fs = NULL WHERE id = 3; UPDATE t SET f = 2 WHERE id = 3");
        assert_eq!(
            s.one("SELECT concat_ws(' ', old_exact IS NULL, new_exact IS NULL) FROM threadline.change_log ORDER BY id DESC LIMIT 1"),
            "t t"
        );
    }
}

#[test]
fn an_unrecorded_change_that_json_hides_is_a_violation() {
    let (db, mut s) = setup("exact_hidden", "{}");
    let mut other = db.session();
    other.run("SET session_replication_role = replica; UPDATE t SET f = 0 WHERE id = 1; UPDATE t SET b = NULL WHERE id = 2; UPDATE t SET a = '[2:3]={1,2}' WHERE id = 3");
    assert_eq!(
        violations(&mut s),
        [
            r#"history_equals_table: [{"name": "f", "after": 0, "before": "-0"}]"#,
            r#"history_equals_table: [{"name": "b", "after": null, "before": "null"}]"#,
            r#"history_equals_table: [{"name": "a", "after": "[2:3]={1,2}", "before": [1, 2]}]"#,
        ]
    );
    s.run("UPDATE t SET f = 1 WHERE id = 1; UPDATE t SET b = '{}' WHERE id = 2; UPDATE t SET a = NULL WHERE id = 3");
    assert_eq!(
        violations(&mut s),
        [
            r#"history_is_continuous: [{"name": "f", "after": 0, "before": "-0"}]"#,
            r#"history_is_continuous: [{"name": "b", "after": null, "before": "null"}]"#,
            r#"history_is_continuous: [{"name": "a", "after": "[2:3]={1,2}", "before": [1, 2]}]"#,
        ]
    );
}

#[test]
fn renamed_labels_and_attributes_are_followed() {
    for (number, options) in OPTIONS.iter().enumerate() {
        let (_db, mut s) = setup(&format!("exact_renamed_{number}"), options);
        let moment = s.one("SELECT clock_timestamp()");
        for (ddl, update) in [
            ("ALTER TYPE mood RENAME VALUE 'sad' TO 'so, \"so\"'", "plain = 'a' WHERE id = 2"),
            ("ALTER TYPE pair RENAME ATTRIBUTE f TO \"f (x)\"", "m = 'ok' WHERE id = 1"),
            // Two labels swap their names.
            (
                "ALTER TYPE mood RENAME VALUE 'ok' TO 'between'; ALTER TYPE mood RENAME VALUE 'so, \"so\"' TO 'ok'; ALTER TYPE mood RENAME VALUE 'between' TO 'sad'",
                "f = 3, ms = '{ok}' WHERE id = 3",
            ),
            ("ALTER TYPE pair ADD ATTRIBUTE extra text", "plain = 'b', p.extra = 'x' WHERE id = 1"),
            ("ALTER TYPE pair DROP ATTRIBUTE m; ALTER TYPE mood ADD VALUE 'new' BEFORE 'ok'", "m = 'new' WHERE id = 2"),
            ("ALTER TYPE wrap RENAME ATTRIBUTE p TO q; DROP CAST (cast_mood AS json)", "c = 'x' WHERE id = 1"),
            ("ALTER TYPE mood RENAME TO feeling; ALTER TYPE feeling RENAME VALUE 'new' TO 'newer'", "plain = 'c'"),
        ] {
            s.run(ddl);
            recorded(&mut s, "'infinity'");
            s.assert_replay_holds("t");
            assert_eq!(s.one("SELECT threadline.replay_check('t') -> 'not_compared'"), r#"["secret"]"#, "after {ddl}");
            s.run(&format!("UPDATE t SET {update}"));
            recorded(&mut s, "'infinity'");
            s.assert_replay_holds("t");
        }
        // The past in the words of now.
        assert_eq!(
            s.column(&format!(
                "SELECT concat_ws('|', m, ms, r, p, w) FROM threadline.audit_as_of(NULL::t, '{moment}') ORDER BY id"
            )),
            [
                r#"ok|{ok,NULL,"it's \"fine\", really"}|[ok,sad)|(-0,"[ 1 ]",)|(1,"(0,,)","{""(-0,\\""{ }\\"",)"",NULL}")"#,
                r#"sad|{}|empty|(,,)"#,
                "",
            ]
        );
    }
}

/// A whole image that is purged leaves its deltas what they rest on.
#[test]
fn a_purge_keeps_exact_texts_of_deltas() {
    let (_db, mut s) = setup("exact_purge", OPTIONS[1]);
    s.run("UPDATE t SET plain = 'a'");
    let cutoff = s.one("SELECT pg_sleep(0.01)::text || clock_timestamp()");
    for turn in 0..3 {
        s.run(&format!("UPDATE t SET plain = 'turn {turn}'"));
    }
    s.run("SELECT threadline.audit_set_retention(keep => '1 microsecond', enabled => true)");
    s.run(&format!("CALL threadline.audit_purge(dry_run => false, cutoff => '{cutoff}')"));
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes WHERE op = 'insert'"), 0);
    assert_eq!(
        s.column("SELECT new_exact FROM threadline.recorded_change WHERE op <> 2 ORDER BY table_pk ->> 'id', id DESC"),
        s.column("SELECT threadline.row_exact(t) FROM t CROSS JOIN generate_series(1, 3) ORDER BY id")
    );
}
