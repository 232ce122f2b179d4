//! Models over tables of all shapes: keys that change, TRUNCATE, new baselines, altered columns, partitions, names and types.

use crate::replay_models::{found, invariant, verdict, violations};
use crate::support::{Database, Session};

const ALL: &str = "stop_on_first_failure => false";

/// A captured table made by `sql`, and the model `m`.
fn table(stem: &str, sql: &str, enable: &str) -> (Database, Session) {
    Database::after(
        stem,
        &format!("{sql}; SELECT threadline.audit_enable({enable}); SELECT threadline.replay_define_model('m')"),
    )
}

fn row(s: &mut Session, name: &str, table: &str, check: &str) {
    s.run(&format!("SELECT threadline.replay_add_invariant('m', '{name}', 'row', jsonb_build_object('table', '{table}', 'check', $check${check}$check$), 'event')"));
}

fn projections(s: &mut Session) -> String {
    s.one(&format!("SELECT threadline.replay_check('m', {ALL}) ->> 'projections'"))
}

#[test]
fn a_change_behind_captures_back_shows() {
    let (db, mut s) = table("rt_behind", "CREATE TABLE t (id int PRIMARY KEY, v text, n int)", "'t'");
    row(&mut s, "positive", "t", "new.n > 0");
    s.run("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)");
    db.session().run("SET session_replication_role = replica; UPDATE t SET v = 'forged' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (4, 'smuggled', 4)");
    assert_eq!(verdict(&mut s, "'m'"), "holds", "nothing that was recorded tells of it yet");
    s.run("UPDATE t SET n = 5 WHERE id = 1");
    s.run("INSERT INTO t VALUES (2, 'b', 2)");
    s.run("DELETE FROM t WHERE id = 4");
    s.run("UPDATE t SET n = 5 WHERE id = 3");
    assert_eq!(
        violations(
            &mut s,
            &format!("'m', {ALL}"),
            "v ->> 'invariant', v ->> 'kind', v -> 'table_pk' ->> 'id', v ->> 'failure_step', v #>> '{event_at_failure,op}'"
        ),
        [
            "history_is_continuous integrity 1 3 update",
            "history_is_continuous integrity 2 4 insert",
            "history_is_continuous integrity 4 5 delete",
        ]
    );
    assert_eq!(verdict(&mut s, "'m'"), "violated");
    assert!(
        s.one("SELECT threadline.replay_report(threadline.replay_check('m'))")
            .contains("Assertion 'history_is_continuous' failed: the row that this change found differs")
    );
}

#[test]
fn a_row_keeps_its_identity_through_its_keys() {
    let (_db, mut s) = table("rt_keys", "CREATE TABLE t (id int PRIMARY KEY, status text)", "'t'");
    invariant(
        &mut s,
        "m",
        "flow",
        "transition",
        r#"{"table": "t", "column": "status", "initial": ["new"], "allowed": {"new": ["open"], "open": ["shut"]}}"#,
        "event",
    );
    invariant(
        &mut s,
        "m",
        "once",
        "unique",
        r#"{"table": "t", "columns": ["status"], "where": "status = 'open'"}"#,
        "commit",
    );
    s.run("INSERT INTO t VALUES (1, 'new'); UPDATE t SET id = 10; UPDATE t SET status = 'open'");
    s.run("INSERT INTO t VALUES (1, 'new')");
    assert_eq!(verdict(&mut s, "'m'"), "holds");
    s.run("UPDATE t SET id = 11, status = 'new' WHERE id = 10");
    s.run("UPDATE t SET status = 'shut' WHERE id = 1");
    assert_eq!(
        violations(
            &mut s,
            &format!("'m', {ALL}"),
            "v ->> 'invariant', v -> 'table_pk', v ->> 'failure_step', v ->> 'failure_reason', v #>> '{event_at_failure,old_pk}'"
        ),
        [
            r#"flow {"id": "11"} 4 open may not become new {"id": "10"}"#,
            r#"flow {"id": "1"} 5 new may not become shut"#,
        ]
    );
    // Two rows that exchange their keys.
    s.run("UPDATE t SET id = 12 WHERE id = 11; BEGIN; UPDATE t SET id = -1 WHERE id = 12; UPDATE t SET id = 12 WHERE id = 1; UPDATE t SET id = 1 WHERE id = -1; COMMIT");
    s.run("UPDATE t SET status = 'open' WHERE id = 1");
    assert_eq!(found(&mut s, "m").len(), 2, "new became open");
    assert_eq!(
        s.one(&format!("SELECT threadline.replay_check('m', {ALL}) #> '{{final_state,rows}}'")),
        r#"{"public.t": 2}"#
    );
}

#[test]
fn truncate_ends_every_row() {
    for (stem, options) in [("rt_truncate", "capture"), ("rt_mark", "mark")] {
        let (_db, mut s) = table(
            stem,
            "CREATE TABLE t (id int PRIMARY KEY, g text, n int)",
            &format!("'t', options => '{{\"truncate\": \"{options}\"}}'"),
        );
        invariant(
            &mut s,
            "m",
            "sum",
            "key_bound",
            r#"{"table": "t", "key": "g", "aggregate": "sum(n)", "check": "value <= 10"}"#,
            "event",
        );
        invariant(&mut s, "m", "one", "unique", r#"{"table": "t", "columns": ["g"]}"#, "commit");
        s.run("INSERT INTO t VALUES (1, 'a', 9); TRUNCATE t; INSERT INTO t VALUES (1, 'a', 9)");
        assert_eq!(verdict(&mut s, "'m'"), "holds", "{options}");
        s.run("INSERT INTO t VALUES (2, 'a', 8)");
        let reported = "v ->> 'invariant', v -> 'state_before', v -> 'state_after', CASE WHEN v ->> 'first_repaired_at' IS NULL THEN 'open' ELSE 'repaired' END";
        assert_eq!(
            violations(&mut s, &format!("'m', {ALL}"), reported),
            [r#"sum {"rows": 1, "value": 9} {"rows": 2, "value": 17} open"#, r#"one {"rows": 1} {"rows": 2} open"#],
            "{options}"
        );
        s.run("TRUNCATE t");
        let repaired = violations(
            &mut s,
            &format!("'m', {ALL}"),
            "CASE WHEN v ->> 'first_repaired_at' IS NULL THEN 'open' ELSE 'repaired' END",
        );
        assert_eq!(repaired, ["repaired", "repaired"], "{options}");
        assert_eq!(
            s.one(&format!("SELECT threadline.replay_check('m', {ALL}) #> '{{final_state,rows}}'")),
            r#"{"public.t": 0}"#,
            "{options}"
        );
    }
}

#[test]
fn a_projection_folds_deletes_and_truncates_too() {
    let (_db, mut s) = table("rt_fold", "CREATE TABLE t (id int PRIMARY KEY, n int)", "'t'");
    s.run("SELECT threadline.replay_add_projection('m', 'ops', 't', NULL, '[]', 'state || jsonb_build_array(event -> ''op'')');
           SELECT threadline.replay_add_projection('m', 'sum', 't', NULL, '0', 'to_jsonb((state #>> ''{}'')::int + coalesce((event #>> ''{new,n}'')::int, 0) - coalesce((event #>> ''{old,n}'')::int, 0))');
           SELECT threadline.replay_add_projection('m', 'each', 't', 'event #>> ''{table_pk,id}''', '0', 'CASE event ->> ''op'' WHEN ''delete'' THEN NULL ELSE to_jsonb((state #>> ''{}'')::int + 1) END')");
    s.run("INSERT INTO t VALUES (1, 5), (2, 7); UPDATE t SET n = 6 WHERE id = 1");
    assert_eq!(projections(&mut s), r#"{"ops": ["insert", "insert", "update"], "sum": 13, "each": {"1": 2, "2": 1}}"#);
    s.run("DELETE FROM t WHERE id = 1");
    assert_eq!(projections(&mut s), r#"{"ops": ["insert", "insert", "update", "delete"], "sum": 7, "each": {"2": 1}}"#);
    s.run("INSERT INTO t VALUES (1, 1); TRUNCATE t");
    assert_eq!(
        s.one(&format!("SELECT concat_ws(' ', p -> 'ops', p -> 'sum') FROM (SELECT threadline.replay_check('m', {ALL}) -> 'projections' AS p) r")),
        r#"["insert", "insert", "update", "delete", "insert", "truncate", "truncate"] 0"#
    );
}

#[test]
fn a_new_baseline_begins_anew() {
    let (_db, mut s) =
        table("rt_baseline", "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 5), (2, -2)", "'t'");
    row(&mut s, "positive", "t", "new.n > 0");
    s.run("SELECT threadline.replay_add_projection('m', 'sum', 't', NULL, '0', 'to_jsonb((state #>> ''{}'')::int + coalesce((event #>> ''{new,n}'')::int, 0) - coalesce((event #>> ''{old,n}'')::int, 0))')");
    assert_eq!(found(&mut s, "m"), [r#"positive {"id": "2"} 1"#], "rows that the baseline found are judged");
    s.run("UPDATE t SET n = 2 WHERE id = 2");
    assert_eq!(projections(&mut s), r#"{"sum": 7}"#);
    s.run("SELECT threadline.audit_disable('t'); DELETE FROM t WHERE id = 1; UPDATE t SET n = 3; INSERT INTO t VALUES (4, -4); SELECT threadline.audit_enable('t')");
    assert_eq!(found(&mut s, "m"), [r#"positive {"id": "2"} 1"#, r#"positive {"id": "4"} 4"#]);
    assert_eq!(projections(&mut s), r#"{"sum": -1}"#, "rows that come again are not counted again");
    assert_eq!(
        s.one(&format!("SELECT threadline.replay_check('m', {ALL}) #> '{{final_state,rows}}'")),
        r#"{"public.t": 2}"#
    );
    s.run("UPDATE t SET n = 4 WHERE id = 4; UPDATE t SET n = -3 WHERE id = 2");
    assert_eq!(
        violations(
            &mut s,
            &format!("'m', {ALL}"),
            "v -> 'table_pk' ->> 'id', v ->> 'failure_step', CASE WHEN v ->> 'first_repaired_at' IS NULL THEN 'open' ELSE 'repaired' END"
        ),
        ["2 1 repaired", "4 4 repaired", "2 6 open"]
    );
    assert_eq!(verdict(&mut s, "'m'"), "violated disabled");
}

/// Tables that have rows are put under capture one after another; what is about both is judged once both are known.
#[test]
fn tables_that_are_known_one_after_another() {
    let (_db, mut s) = Database::after(
        "rt_one_by_one",
        "CREATE TABLE branch (id int PRIMARY KEY, total int); CREATE TABLE teller (id int PRIMARY KEY, branch int, total int);
         INSERT INTO branch VALUES (1, 30), (2, 7); INSERT INTO teller VALUES (1, 1, 10), (2, 1, 20), (3, 2, 7);
         SELECT threadline.replay_define_model('m')",
    );
    s.run("SELECT threadline.audit_enable('teller')");
    s.run("UPDATE teller SET total = 11 WHERE id = 1");
    let between = s.one("SELECT clock_timestamp()");
    s.run("UPDATE branch SET total = 31 WHERE id = 1; SELECT threadline.audit_enable('branch')");
    for (at, n) in [("event", 1), ("commit", 2), ("every 2 events", 3), ("end", 4)] {
        invariant(
            &mut s,
            "m",
            &format!("sums{n}"),
            "balance",
            r#"{"table": "teller", "group": "branch", "aggregate": "sum(total)", "equals": 0, "and": [{"table": "branch", "group": "id", "aggregate": "sum(-total)"}]}"#,
            at,
        );
    }
    let branch = r#"{"table": "teller", "columns": ["branch"], "to": "branch", "to_columns": ["id"]}"#;
    invariant(&mut s, "m", "has_branch", "references", branch, "statement");
    assert_eq!(found(&mut s, "m"), Vec::<String>::new());
    assert_eq!(verdict(&mut s, &format!("'m', {ALL}")), "holds");
    // As of a time when one was not known yet, nothing is said of both.
    assert_eq!(verdict(&mut s, &format!("'m', {ALL}, until => '{between}'")), "unknown before_horizon,not_yet_enabled");
    // From there on as ever.
    s.run("UPDATE teller SET total = 21 WHERE id = 2");
    s.run("UPDATE branch SET total = 32 WHERE id = 1");
    s.run("INSERT INTO teller VALUES (4, 3, 0)");
    assert_eq!(
        violations(&mut s, &format!("'m', {ALL}"), "v ->> 'invariant', v ->> 'failure_step', v -> 'key' ->> 0"),
        ["sums1 6 1", "sums2 6 1", "has_branch 8 3"]
    );
    // What was wrong before they were known is found when they are.
    s.run("CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, parent int); INSERT INTO parent VALUES (1), (2)");
    s.run("SELECT threadline.audit_enable('child')");
    s.run("INSERT INTO child VALUES (1, 1), (2, 7), (3, 2), (4, 8)");
    s.run("UPDATE child SET parent = 2 WHERE id = 4");
    s.run("SELECT threadline.audit_enable('parent'); SELECT threadline.replay_define_model('family')");
    let parent = r#"{"table": "child", "columns": ["parent"], "to": "parent", "to_columns": ["id"]}"#;
    invariant(&mut s, "family", "has_parent", "references", parent, "commit");
    assert_eq!(found(&mut s, "family"), [r#"has_parent {"id": "2"} 1"#]);
}

/// A baseline of an empty table is in the log as no row.
#[test]
fn an_empty_baseline_ends_every_row() {
    let (_db, mut s) = table("rt_emptied", "CREATE TABLE t (id int PRIMARY KEY, n int)", "'t'");
    row(&mut s, "positive", "t", "new.n > 0");
    invariant(
        &mut s,
        "m",
        "few",
        "key_bound",
        r#"{"table": "t", "key": "0", "aggregate": "count(*)", "check": "value < 3"}"#,
        "commit",
    );
    s.run("SELECT threadline.replay_add_projection('m', 'sum', 't', NULL, '0', 'to_jsonb((state #>> ''{}'')::int + coalesce((event #>> ''{new,n}'')::int, 0) - coalesce((event #>> ''{old,n}'')::int, 0))')");
    s.run("INSERT INTO t VALUES (1, 1), (2, -2)");
    s.run("SELECT threadline.audit_disable('t'); TRUNCATE t; SELECT threadline.audit_enable('t')");
    let repaired =
        "v -> 'table_pk' ->> 'id', CASE WHEN v ->> 'first_repaired_at' IS NULL THEN 'open' ELSE 'repaired' END";
    assert_eq!(violations(&mut s, &format!("'m', {ALL}"), repaired), ["2 repaired"]);
    assert_eq!(
        s.one(&format!("SELECT threadline.replay_check('m', {ALL}) #> '{{final_state,rows}}'")),
        r#"{"public.t": 0}"#
    );
    // The same keys anew, in the transaction of the baseline and after it.
    s.run("SELECT threadline.audit_disable('t')");
    s.run("BEGIN; SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1, 4); COMMIT");
    s.run("INSERT INTO t VALUES (2, 5)");
    assert_eq!(
        found(&mut s, "m"),
        [r#"positive {"id": "2"} 1"#],
        "no row is inserted that is there, and there are two"
    );
    assert_eq!(projections(&mut s), r#"{"sum": 9}"#);
    s.run("INSERT INTO t VALUES (3, 5)");
    assert_eq!(
        violations(&mut s, "'m', stop_on_first_failure => false, invariants => '{few}'", "v ->> 'invariant'"),
        ["few"]
    );
}

#[test]
fn history_is_read_as_the_table_is_now() {
    let (_db, mut s) = table("rt_alter", "CREATE TABLE t (id int PRIMARY KEY, a int, gone text, num text)", "'t'");
    s.run("INSERT INTO t VALUES (1, -1, 'g', '5'); UPDATE t SET a = 1");
    s.run("ALTER TABLE t RENAME a TO b; ALTER TABLE t DROP gone; ALTER TABLE t ALTER num TYPE int USING num::int; ALTER TABLE t ADD added int DEFAULT 3");
    s.run("UPDATE t SET b = -2; UPDATE t SET b = 2, num = -6; INSERT INTO t VALUES (2, 3, 7, -4)");
    row(&mut s, "b", "t", "new.b > 0");
    row(&mut s, "num", "t", "new.num > 0");
    row(&mut s, "added", "t", "new.added > 0");
    row(&mut s, "whole", "t", "(to_jsonb(new) ->> 'added')::int > 0");
    invariant(&mut s, "m", "rises", "monotone", r#"{"table": "t", "column": "num"}"#, "event");
    let expected = [
        r#"b {"id": "1"} 0"#,
        r#"b {"id": "1"} 2"#,
        r#"num {"id": "1"} 3"#,
        r#"rises {"id": "1"} 3"#,
        r#"added {"id": "2"} 4"#,
        r#"whole {"id": "2"} 4"#,
    ];
    assert_eq!(found(&mut s, "m"), expected);
    s.run("ALTER TABLE t RENAME TO u; CREATE SCHEMA elsewhere; ALTER TABLE u SET SCHEMA elsewhere");
    assert_eq!(found(&mut s, "m"), expected, "the model follows the table");
    s.run("DROP TABLE elsewhere.u");
    let failure = s.refused("SELECT threadline.replay_check('m')", &["42704"]);
    assert!(failure.message.contains("is gone"), "{}", failure.message);
}

#[test]
fn a_partitioned_table_is_one() {
    let (_db, mut s) = table(
        "rt_parts",
        "CREATE TABLE t (id int, r text, n int, PRIMARY KEY (id, r)) PARTITION BY LIST (r); CREATE TABLE t_a PARTITION OF t FOR VALUES IN ('a'); CREATE TABLE t_rest PARTITION OF t DEFAULT",
        "'t'",
    );
    row(&mut s, "positive", "t", "new.n > 0");
    invariant(&mut s, "m", "rises", "monotone", r#"{"table": "t", "column": "n"}"#, "event");
    invariant(&mut s, "m", "all", "balance", r#"{"table": "t", "aggregate": "sum(n)", "equals": 6}"#, "end");
    s.run("INSERT INTO t VALUES (1, 'a', 4), (2, 'b', -1)");
    // To another partition and back: the same row.
    s.run("UPDATE t SET r = 'c', n = 3 WHERE id = 1; UPDATE t SET r = 'a', n = 5 WHERE id = 1");
    s.run("CREATE TABLE t_z PARTITION OF t FOR VALUES IN ('z'); INSERT INTO t VALUES (3, 'z', 2)");
    assert_eq!(found(&mut s, "m"), [r#"positive {"r": "b", "id": "2"} 1"#, r#"rises {"r": "c", "id": "1"} 2"#]);
    assert_eq!(
        s.one(&format!("SELECT threadline.replay_check('m', {ALL}) #> '{{final_state,rows}}'")),
        r#"{"public.t": 3}"#
    );
}

#[test]
fn a_table_recorded_by_deltas() {
    let (_db, mut s) = table(
        "rt_delta",
        "CREATE TABLE t (id int PRIMARY KEY, n int, label text)",
        "'t', options => '{\"image\": \"delta\"}'",
    );
    row(&mut s, "both", "t", "new.n > 0 AND new.label = 'b'");
    row(&mut s, "step", "t", "new.n - old.n <= 1");
    s.run("SELECT threadline.replay_add_projection('m', 'seen', 't', NULL, '[]', 'state || jsonb_build_array(jsonb_build_array(event #> ''{old,n}'', event #> ''{new,n}'', event #> ''{new,label}''))')");
    s.run("INSERT INTO t VALUES (1, 1, 'b')");
    s.run("UPDATE t SET n = 2; UPDATE t SET n = -1; UPDATE t SET n = 3; UPDATE t SET label = 'c'; DELETE FROM t");
    assert_eq!(found(&mut s, "m"), [r#"both {"id": "1"} 2"#, r#"step {"id": "1"} 3"#, r#"both {"id": "1"} 4"#]);
    assert_eq!(
        projections(&mut s),
        r#"{"seen": [[null, 1, "b"], [1, 2, "b"], [2, -1, "b"], [-1, 3, "b"], [3, 3, "c"], [3, null, null]]}"#
    );
    assert_eq!(
        violations(
            &mut s,
            &format!("'m', invariants => '{{step}}', {ALL}"),
            "v -> 'state_before', v -> 'state_after', v -> 'state_diff'"
        ),
        [
            r#"{"n": -1, "id": 1, "label": "b"} {"n": 3, "id": 1, "label": "b"} [{"name": "n", "after": 3, "before": -1}]"#
        ]
    );
}

#[test]
fn names_and_types_of_all_sorts() {
    let db = Database::new("rt_names");
    let mut s = db.session();
    s.run(
        r#"CREATE SCHEMA "My Schema"; CREATE TYPE "My Schema"."Mood" AS ENUM ('sad', 'ok'); CREATE DOMAIN small AS int CHECK (VALUE < 1000);
           CREATE TABLE "My Schema"."Order Line" ("Order Id" int, no int, "Mood" "My Schema"."Mood", tags text[], doc jsonb, raw json, at timestamptz, amount small, "new" int, "old" text, "select" text, span tstzrange, PRIMARY KEY ("Order Id", no));
           SELECT threadline.audit_enable('"My Schema"."Order Line"'); SELECT threadline.replay_define_model('Lines "of" ''all''')"#,
    );
    for (name, kind, spec) in [
        ("Mood", "row", r#""check": "new.\"Mood\" = 'ok' -- and no more""#),
        ("order of an enum", "row", r#""check": "new.\"Mood\" >= 'ok'""#),
        ("tags", "row", r#""check": "'x' = ANY (new.tags) AND new.tags[1] = 'x'""#),
        ("doc", "row", r#""check": "new.doc @> '{\"a\": 1}'""#),
        ("raw", "row", r#""check": "new.raw ->> 'b' = '2'""#),
        ("at", "row", r#""check": "new.at BETWEEN '2020-01-01Z' AND '2022-01-01Z'""#),
        ("amount", "row", r#""check": "new.amount > 0""#),
        ("called new and old", "row", r#""check": "new.new = 1 AND new.\"old\" = 'o' AND new.\"select\" = 's'""#),
        ("span", "row", r#""check": "upper_inf(new.span) AND lower(new.span) = '2021-01-01Z'""#),
        ("either", "unique", r#""columns": ["Order Id", "Mood"]"#),
        (
            "in all",
            "key_bound",
            r#""key": "\"Order Id\"", "aggregate": "sum(amount)", "check": "value < 10 -- of an order""#,
        ),
    ] {
        s.run(&format!(
            r#"SELECT threadline.replay_add_invariant('Lines "of" ''all''', '{name}', '{kind}', $spec${{"table": "\"My Schema\".\"Order Line\"", {spec}}}$spec$, 'event')"#
        ));
    }
    s.run(r#"INSERT INTO "My Schema"."Order Line" VALUES (1, 1, 'ok', '{x,y}', '{"a": 1, "b": 2}', '{"b":  2}', '2021-01-01 00:00+05', 5, 1, 'o', 's', '[2021-01-01Z,)')"#);
    let call = r#"'Lines "of" ''all''', stop_on_first_failure => false"#;
    assert_eq!(verdict(&mut s, call), "holds");
    s.run("SET TimeZone = 'America/New_York'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'");
    assert_eq!(verdict(&mut s, call), "holds", "whatever the session's settings");
    s.run("RESET ALL");
    s.run(r#"INSERT INTO "My Schema"."Order Line" VALUES (1, 2, 'sad', '{y}', '{"a": 2}', '{"b": 3}', '2019-01-01Z', -6, 2, 'p', 't', NULL), (1, 3, 'sad', '[0:1]={z,x}', '{"a": 1}', '{"b": 2}', 'infinity', 20, NULL, 'o', 's', '(,)')"#);
    assert_eq!(
        violations(&mut s, call, "v ->> 'invariant', v #>> '{event_at_failure,table_pk,no}'"),
        [
            "Mood 2",
            "order of an enum 2",
            "tags 2",
            "doc 2",
            "raw 2",
            "at 2",
            "amount 2",
            "called new and old 2",
            "Mood 3",
            "order of an enum 3",
            "at 3",
            "either 3",
            "in all 3",
        ]
        .iter()
        .map(|of| of.to_string())
        .collect::<Vec<_>>()
    );
    assert_eq!(
        violations(
            &mut s,
            r#"'Lines "of" ''all''', invariants => '{either}'"#,
            "v ->> 'table_schema', v ->> 'table_name', v -> 'key'"
        ),
        [r#"My Schema Order Line ["1", "sad"]"#]
    );
}

#[test]
fn a_row_as_a_whole() {
    let (_db, mut s) = table("rt_whole", "CREATE TABLE t (id int PRIMARY KEY, n int)", "'t'");
    s.run("CREATE FUNCTION fine(r t) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT ($1).n > 0'");
    row(&mut s, "function", "t", "fine(new)");
    row(&mut s, "columns", "t", "fine(ROW(new.*)::t)");
    row(&mut s, "json", "t", "(to_jsonb(new) ->> 'n')::int > 0");
    row(&mut s, "changed", "t", "old IS NULL OR new IS NULL OR new IS DISTINCT FROM old");
    row(&mut s, "comment", "t", "new.n > 0 -- it is positive");
    row(&mut s, "null", "t", "NULL");
    invariant(
        &mut s,
        "m",
        "sum",
        "key_bound",
        r#"{"table": "t", "key": "id -- each", "aggregate": "sum(n -- of it\n)", "check": "value * 1 > 0 -- so much", "where": "true -- all"}"#,
        "event",
    );
    s.run("INSERT INTO t VALUES (1, 1), (2, -1)");
    let of_2 = ["function", "columns", "json", "comment", "sum"].map(|name| format!(r#"{name} {{"id": "2"}} 1"#));
    assert_eq!(found(&mut s, "m"), of_2);
    s.run("UPDATE t SET n = n WHERE id = 1");
    assert_eq!(found(&mut s, "m")[5..], [r#"changed {"id": "1"} 2"#]);
    s.run("DELETE FROM t");
    let open = violations(&mut s, &format!("'m', {ALL}"), "v ->> 'invariant', v ->> 'first_repaired_at' IS NULL");
    assert_eq!(open.iter().filter(|of| of.ends_with(" t")).count(), 0, "a row that is gone is fine: {open:?}");
}
