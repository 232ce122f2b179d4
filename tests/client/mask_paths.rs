//! Paths of `mask`: what they lead to inside JSON documents is in no image, and everything else is as it was.

use crate::support::{Database, Session};

const SECRET: &str = "s3cr3t-9f";

fn table(stem: &str, columns: &str, masks: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, {columns}); SELECT threadline.audit_enable('t', mask => ARRAY[{masks}])"
    ));
    (db, s)
}

fn assert_secret_is_nowhere(s: &mut Session) {
    let relations = s.column(
        "SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'threadline'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p') ORDER BY 1",
    );
    for relation in relations {
        let found = s.number(&format!("SELECT count(*) FROM {relation} x WHERE x::text LIKE '%{SECRET}%'"));
        assert_eq!(found, 0, "the secret is in {relation}");
    }
}

fn last_image(s: &mut Session, column: &str) -> String {
    s.one(&format!(
        "SELECT data_after -> '{column}' FROM threadline.audit_changes WHERE op <> 'delete' ORDER BY id DESC LIMIT 1"
    ))
}

#[test]
fn documents_of_every_shape() {
    let (_db, mut s) = table(
        "path_shapes",
        "d jsonb, j json, a jsonb[]",
        r#"'d.card.number', 'd."a.b".c', 'd."q""q"', 'd.""', 'j.card.number', 'a.n'"#,
    );
    let cases = [
        (
            r#"{"card": {"number": "s3cr3t-9f", "kind": "visa"}, "n": 1.500}"#,
            r#"{"n": 1.500, "card": {"kind": "visa", "number": "[REDACTED]"}}"#,
        ),
        (r#"{"card": {"number": null}}"#, r#"{"card": {"number": "[REDACTED]"}}"#),
        (r#"{"card": {"number": {"deep": ["s3cr3t-9f", 2]}}}"#, r#"{"card": {"number": "[REDACTED]"}}"#),
        (r#"{"card": {"number": ["s3cr3t-9f", 2]}}"#, r#"{"card": {"number": "[REDACTED]"}}"#),
        (
            r#"{"card": [{"number": "s3cr3t-9f"}, 5, [{"number": 42, "x": 12345678901234567890.123456789012345678}], {"y": null}]}"#,
            r#"{"card": [{"number": "[REDACTED]"}, 5, [{"x": 12345678901234567890.123456789012345678, "number": "[REDACTED]"}], {"y": null}]}"#,
        ),
        (r#"[{"card": {"number": "s3cr3t-9f"}}, true]"#, r#"[{"card": {"number": "[REDACTED]"}}, true]"#),
        (r#"{"card": "scalar", "number": 1}"#, r#"{"card": "scalar", "number": 1}"#),
        (r#"{"card": null}"#, r#"{"card": null}"#),
        (r#"{"other": [1e400, "x", {}, []]}"#, r#"{"other": [1e400, "x", {}, []]}"#),
        ("{}", "{}"),
        ("[]", "[]"),
        ("17.50", "17.50"),
        ("\"card\"", "\"card\""),
        ("null", "null"),
    ];
    for (n, (document, image)) in cases.iter().enumerate() {
        s.run(&format!("INSERT INTO t (id, d, j) VALUES ({n}, '{document}', '{document}')"));
        for column in ["d", "j"] {
            let same = s.one(&format!("SELECT (data_after -> '{column}')::text = '{image}'::jsonb::text FROM threadline.audit_changes ORDER BY id DESC LIMIT 1"));
            assert_eq!(same, "t", "{column}: {document} became {}", last_image(&mut s, column));
        }
    }
    s.run(r#"INSERT INTO t (id, d) VALUES (50, '{"a.b": {"c": "s3cr3t-9f"}, "a": {"b": {"c": 1}}, "q\"q": "s3cr3t-9f", "": "s3cr3t-9f"}')"#);
    assert_eq!(
        last_image(&mut s, "d"),
        r#"{"": "[REDACTED]", "a": {"b": {"c": 1}}, "a.b": {"c": "[REDACTED]"}, "q\"q": "[REDACTED]"}"#
    );
    s.run(r#"INSERT INTO t (id, a) VALUES (51, ARRAY['{"n": "s3cr3t-9f", "m": 1}', NULL, '[{"n": 1}]']::jsonb[])"#);
    assert_eq!(last_image(&mut s, "a"), r#"[{"m": 1, "n": "[REDACTED]"}, null, [{"n": "[REDACTED]"}]]"#);
    s.run("INSERT INTO t (id) VALUES (52)");
    assert_eq!(last_image(&mut s, "d"), "null", "a column that is NULL holds no path");
    s.run(r#"INSERT INTO t (id, j) VALUES (53, '{"card": {"number": "s3cr3t-9f"}, "x": "\u0000"}')"#);
    assert_eq!(last_image(&mut s, "j"), "\"[REDACTED]\"", "a json value that jsonb cannot hold is hidden as a whole");
    // Many keys, offsets among their entries, and a value that is out of line.
    s.run("INSERT INTO t (id, d) SELECT 54, jsonb_object_agg('k' || g, repeat(md5(g::text), 20)) || '{\"card\": {\"number\": \"s3cr3t-9f\"}}' FROM generate_series(1, 200) g");
    assert_eq!(s.one("SELECT (data_after -> 'd') - 'card' = d - 'card' AND data_after #>> '{d,card,number}' = '[REDACTED]' FROM threadline.audit_changes, t WHERE t.id = 54 AND table_pk = '{\"id\": \"54\"}'"), "t");
    assert_secret_is_nowhere(&mut s);
    s.assert_replay_holds("t");
}

#[test]
fn every_kind_of_image() {
    let db = Database::new("path_images");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v text, d jsonb)");
    s.run(&format!(
        "INSERT INTO t VALUES (1, 'a', '{{\"pin\": \"{SECRET}\", \"k\": 1}}'), (2, 'b', '{{\"pin\": \"{SECRET}\"}}')"
    ));
    for image in ["full", "delta"] {
        s.run(&format!(
            "SELECT threadline.audit_enable('t', mask => ARRAY['d.pin'], options => '{{\"image\": \"{image}\"}}')"
        ));
        for n in 0..40 {
            s.run(&format!("UPDATE t SET v = '{image}{n}', d = d || '{{\"pin\": \"{SECRET}{n}\"}}' WHERE id = 1"));
        }
        s.run(&format!("DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, 'b', '{{\"pin\": \"{SECRET}\"}}')"));
        s.assert_replay_holds("t");
    }
    let typed = s.one("SELECT d FROM threadline.audit_as_of(NULL::t, 'infinity') WHERE id = 1");
    assert_eq!(typed, r#"{"k": 1, "pin": "[REDACTED]"}"#, "a typed answer shows the placeholder");
    // Below the path alone: a change, with nothing to see of it.
    s.run("UPDATE t SET d = '{\"pin\": 0, \"k\": 1}' WHERE id = 1");
    assert_eq!(
        s.one("SELECT concat_ws(' ', changed_fields, changed_from, data_after -> 'd') FROM threadline.audit_changes ORDER BY id DESC LIMIT 1"),
        r#"{d} {"d": {"k": 1, "pin": "[REDACTED]"}} {"k": 1, "pin": "[REDACTED]"}"#
    );
    assert_eq!(
        s.one(
            "SELECT threadline.change_diff(max(id)) ->> 'field_changes' LIKE '%REDACTED%' FROM threadline.audit_changes"
        ),
        "t"
    );
    s.run(&format!("UPDATE t SET d = '{{\"pin\": \"{SECRET}\"}}'; TRUNCATE t"));
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes WHERE op = 'truncate' AND changed_from #>> '{d,pin}' = '[REDACTED]'"), 2);
    let named = s.one("SELECT threadline.replay_check('t'::regclass) -> 'not_compared'");
    assert_eq!(named, r#"["d.pin"]"#);
    assert_secret_is_nowhere(&mut s);
}

#[test]
fn paths_set_and_changed_later() {
    let (_db, mut s) = table("path_changed", "d jsonb", "'d.pin'");
    s.run("INSERT INTO t VALUES (1, '{\"pin\": 1, \"k\": 1}')");
    s.run("SELECT threadline.audit_enable('t')");
    assert_eq!(s.one("SELECT mask FROM threadline.audit_tables"), "{d.pin}", "NULL keeps what is set");
    s.assert_replay_holds("t");
    s.run("SELECT threadline.audit_enable('t', mask => ARRAY['d.k', 'd.\"pin\"'], mask_placeholder => '***')");
    assert_eq!(s.one("SELECT mask FROM threadline.audit_tables"), "{d.k,d.pin}");
    s.assert_replay_holds("t");
    s.run("INSERT INTO t VALUES (2, '{\"pin\": 1, \"k\": 1}')");
    assert_eq!(last_image(&mut s, "d"), r#"{"k": "***", "pin": "***"}"#);
    s.assert_replay_holds("t");
    s.run("UPDATE t SET d = '{\"k\": 5, \"other\": 1}' WHERE id = 1");
    s.assert_replay_holds("t");
    s.run("SET session_replication_role = replica; UPDATE t SET d = d || '{\"other\": 2}' WHERE id = 1; RESET session_replication_role");
    assert_eq!(
        s.one("SELECT threadline.replay_check('t'::regclass) ->> 'verdict'"),
        "violated",
        "beside the paths a document is compared"
    );
    s.run("UPDATE t SET d = d || '{\"other\": 1}' WHERE id = 1");
    s.run("SELECT threadline.audit_enable('t', mask => '{}')");
    assert_eq!(s.one("SELECT mask FROM threadline.audit_tables"), "{}");
    s.run("INSERT INTO t VALUES (3, '{\"pin\": 1}')");
    assert_eq!(last_image(&mut s, "d"), r#"{"pin": 1}"#);
}

#[test]
fn a_renamed_column_keeps_its_paths() {
    let (db, mut s) = table("path_rename", "d jsonb, v text", "'d.pin'");
    let secret = format!("{{\"pin\": \"{SECRET}\", \"k\": 1}}");
    s.run(&format!("INSERT INTO t VALUES (1, '{secret}')"));
    for (id, between) in [
        (2, "ALTER TABLE t RENAME d TO d2"),
        (3, "SELECT threadline.audit_enable('t')"),
        (4, "ALTER TABLE t RENAME d2 TO d3"),
        (5, "SELECT threadline.audit_maintain()"),
        (6, "ALTER TABLE t RENAME d3 TO d4"),
        (7, "ALTER TABLE t ALTER d4 TYPE text"),
        (8, "ALTER TABLE t RENAME d4 TO d5"),
        (9, "SELECT threadline.audit_maintain()"),
    ] {
        s.run(between);
        for repeat in 0..2 {
            db.session().run(&format!("INSERT INTO t VALUES ({}, '{secret}')", id * 10 + repeat));
        }
        if id == 6 {
            assert_eq!(last_image(&mut s, "d4"), r#"{"k": 1, "pin": "[REDACTED]"}"#);
            assert_eq!(s.one("SELECT f ->> 'finding' FROM threadline.audit_policy(), jsonb_array_elements(detail -> 'findings') f"), "column_renamed");
            s.assert_replay_holds("t");
        }
    }
    assert_eq!(last_image(&mut s, "d5"), "\"[REDACTED]\"", "what is no document any more is hidden as a whole");
    assert_secret_is_nowhere(&mut s);
    assert_eq!(s.one("SELECT mask::text || ' ' || state FROM threadline.audit_policy()"), "{d5.pin} drift_detected");
    assert_eq!(
        s.one("SELECT f ->> 'finding' FROM threadline.audit_policy(), jsonb_array_elements(detail -> 'findings') f"),
        "path_without_json"
    );
    s.run("ALTER TABLE t DROP d5");
    assert_eq!(
        s.one("SELECT f ->> 'finding' FROM threadline.audit_policy(), jsonb_array_elements(detail -> 'findings') f"),
        "column_dropped"
    );
}

#[test]
fn exact_texts_tell_nothing_of_what_is_masked() {
    let (_db, mut s) =
        table("path_exact", "j json, a json[], d jsonb, seen json, b jsonb[]", "'j.pin', 'a.pin', 'd.pin', 'b.pin'");
    let odd = format!("{{ \"pin\":  \"{SECRET}\",\"k\" : 1e2, \"pin\" : \"{SECRET}\" }}");
    s.run(&format!(
        "INSERT INTO t VALUES (1, '{odd}', ARRAY['{odd}', ' null ']::json[], '{odd}', '{{ \"k\":1e2 }}', '[5:5]={{null}}'::jsonb[] || '{odd}'::jsonb)"
    ));
    let images = "SELECT concat_ws(' ', new_image -> 'j', new_image -> 'a', new_image -> 'd', new_image -> 'b') FROM threadline.change_log ORDER BY id DESC LIMIT 1";
    let masked = r#"{"k": 100, "pin": "[REDACTED]"}"#;
    assert_eq!(s.one(images), format!("{masked} [{masked}, null] {masked} [null, {masked}]"));
    let exact = "SELECT new_exact FROM threadline.change_log ORDER BY id DESC LIMIT 1";
    assert_eq!(s.one(exact), r#"{"seen": "{ \"k\":1e2 }"}"#, "where nothing is hidden the spelling is kept");
    assert_eq!(
        s.one("SELECT concat_ws(' ', j, seen) FROM threadline.audit_as_of(NULL::t, 'infinity')"),
        format!("{masked} {{ \"k\":1e2 }}"),
        "typed, the document shows the placeholder"
    );
    s.run(&format!("UPDATE t SET j = '{{\"pin\":   \"{SECRET}\"}}', a = a || a, d = d || '{{}}', b = b || b"));
    s.run(&format!("UPDATE t SET id = 2, j = 'null', d = ' null ', a = NULL; DELETE FROM t; INSERT INTO t (id, j) VALUES (3, '{odd}')"));
    assert_eq!(
        s.one("SELECT string_agg(distinct new_exact::text, ' ') FROM threadline.change_log WHERE new_exact ? 'j'"),
        r#"{"d": "null", "j": "null", "seen": "{ \"k\":1e2 }"}"#,
        "a JSON null is told from SQL NULL"
    );
    s.assert_replay_holds("t");
    s.run("SELECT threadline.audit_enable('t', options => '{\"image\": \"delta\"}')");
    s.run(&format!("UPDATE t SET j = '{odd} '; UPDATE t SET id = 4; UPDATE t SET j = '{odd}  '; TRUNCATE t"));
    assert_secret_is_nowhere(&mut s);
    s.assert_replay_holds("t");
}

#[test]
fn text_of_statements_is_left_out() {
    let (_db, mut s) = table("path_text", "d jsonb", "'d.pin'");
    s.run("CREATE TABLE o (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('o'); SET threadline.capture_query = text");
    s.run(&format!("INSERT INTO t VALUES (1, '{{\"pin\": \"{SECRET}\"}}')"));
    s.run(&format!("INSERT INTO o SELECT 1, 'x' WHERE '{SECRET}' <> ''"));
    assert_secret_is_nowhere(&mut s);
    s.run("SELECT threadline.audit_enable('t', mask => '{}')");
    s.run("INSERT INTO o VALUES (2, 'told')");
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.audit_transactions WHERE statements::text LIKE '%told%'"),
        1,
        "with nothing to hide it is kept"
    );
}

#[test]
fn rows_without_a_key_are_told_apart_by_what_is_recorded() {
    let db = Database::new("path_full_row");
    let mut s = db.session();
    s.run("CREATE TABLE t (v text, d json); SELECT threadline.audit_enable('t', mask => ARRAY['d.pin'], options => '{\"key\": \"full_row\"}')");
    s.run(&format!("INSERT INTO t VALUES ('a', '{{\"pin\": \"{SECRET}\"}}'), ('a', '{{\"pin\":2}}'), ('a', '{{\"pin\": 2, \"k\": 1}}')"));
    assert_eq!(
        s.number("SELECT count(DISTINCT table_pk) FROM threadline.audit_changes"),
        2,
        "the same but for what is hidden is the same"
    );
    let row = r#"{"v": "a", "d": {"pin": "whatever"}}"#;
    assert_eq!(s.number(&format!("SELECT count(*) FROM threadline.audit_history('t', '{row}'::jsonb)")), 2);
    s.run("UPDATE t SET d = '{\"pin\": 3}' WHERE d ->> 'pin' = '2' AND d ->> 'k' IS NULL; DELETE FROM t WHERE d ->> 'pin' = '3'");
    s.assert_replay_holds("t");
    let gaps = "SELECT count(*) FROM threadline.audit_gaps WHERE reason = 'shape_changed' AND until_at = 'infinity'";
    for (now, policy) in [
        ("other paths", "mask => ARRAY['d.pin', 'd.k']"),
        ("another placeholder", "mask_placeholder => '***'"),
        ("no paths", "mask => '{}'"),
    ] {
        s.run(&format!("SELECT threadline.audit_enable('t', baseline => false, {policy})"));
        assert_eq!(s.number(gaps), 1, "digests of before do not meet those with {now}");
        s.run("SELECT threadline.audit_enable('t')");
        assert_eq!(s.number(gaps), 0, "{now}");
        s.run("INSERT INTO t VALUES ('b', '{\"k\": 2}'); DELETE FROM t WHERE v = 'b'");
        s.assert_replay_holds("t");
        if now != "no paths" {
            assert_secret_is_nowhere(&mut s);
        }
    }
}

#[test]
fn partitions_and_the_readers_own_row_images() {
    let db = Database::new("path_partitions");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, d jsonb) PARTITION BY RANGE (id); CREATE TABLE t1 (d jsonb, gone int, id int NOT NULL);
           ALTER TABLE t1 DROP gone; ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (0) TO (10); CREATE TABLE t2 PARTITION OF t DEFAULT;
           SELECT threadline.audit_enable('t', mask => ARRAY['d.pin'])");
    s.run(&format!("INSERT INTO t VALUES (1, '{{\"pin\": \"{SECRET}\"}}'); UPDATE t SET id = 20"));
    assert_eq!(
        s.one(
            "SELECT string_agg(op || coalesce(data_after ->> 'd', ''), ' ' ORDER BY id) FROM threadline.audit_changes"
        ),
        r#"insert{"pin": "[REDACTED]"} update{"pin": "[REDACTED]"}"#
    );
    assert_eq!(s.one("SELECT threadline.row_image(t) FROM t"), r#"{"d": {"pin": "[REDACTED]"}, "id": 20}"#);
    assert_secret_is_nowhere(&mut s);
    s.assert_replay_holds("t");
}

#[test]
fn what_is_no_path() {
    let db = Database::new("path_refused");
    let mut s = db.session();
    s.run("CREATE TYPE wrapped AS (j jsonb); CREATE TABLE t (id jsonb PRIMARY KEY, d jsonb, v text, w wrapped, \"a.b\" jsonb, big jsonb)");
    for (mask, code) in [
        ("v.x", "42804"),
        ("w.j.x", "42804"),
        ("id.x", "22023"),
        ("d..x", "22023"),
        ("d.\"x", "22023"),
        ("d.", "22023"),
        ("nothing.x", "42703"),
        (".d", "42703"),
        ("", "42703"),
    ] {
        s.refused(&format!("SELECT threadline.audit_enable('t', mask => ARRAY['{mask}'])"), &[code]);
    }
    s.run("SELECT threadline.audit_enable('t', mask => ARRAY['a.b', '\"a.b\".c', 'd.x', 'd'], exclude => '{big}')");
    assert_eq!(
        s.one("SELECT mask FROM threadline.audit_tables"),
        r#"{a.b,d,"\"a.b\".c",d.x}"#,
        "redundant ones are kept and do no harm"
    );
    let long = "k".repeat(100);
    s.run(&format!("SELECT threadline.audit_enable('t', mask => ARRAY['d.{long}.{long}'])"));
    s.run(&format!("INSERT INTO t (id, d) VALUES ('1', '{{\"{long}\": {{\"{long}\": 1}}}}')"));
    assert_eq!(
        last_image(&mut s, "d"),
        format!(r#"{{"{long}": {{"{long}": "[REDACTED]"}}}}"#),
        "a path is not cut to the length of a name"
    );
}
