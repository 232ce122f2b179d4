//! What happens at the edges of what jsonb, a table, a name or an encoding can hold: the change is recorded exactly, or
//! the write fails with an error that names the table and the column and says what to type.

use crate::support::{Address, Database, Failure, Session, unique};

/// Every recorded row as it is now equals, byte for byte, what to_jsonb() makes of it.
fn assert_exact(s: &mut Session, table: &str, name: &str) {
    let images = s.column(&format!(
        "SELECT record_image_eq(ROW(c.data_after), ROW(to_jsonb(t))) FROM threadline.audit_changes c JOIN {table} t ON t.id::text = c.table_pk ->> 'id'
         WHERE c.id IN (SELECT max(id) FROM threadline.audit_changes WHERE table_name = {name} GROUP BY table_pk)"
    ));
    assert!(!images.is_empty() && images.iter().all(|equal| equal == "t"), "images of {table}: {images:?}");
}

/// What the HINT says to type lets the write through.
fn follow_hint(s: &mut Session, failure: &Failure) {
    let (_, sql) = failure.hint.split_once(": ").expect("a hint with a statement after a colon");
    s.run(sql);
}

#[test]
fn a_row_larger_than_jsonb_is_refused_by_name() {
    let db = Database::new("limits_size");
    let mut s = db.session();
    s.run(r#"CREATE TYPE wrapped AS (content bytea)"#);
    s.run(r#"CREATE TABLE big (id int PRIMARY KEY, note text, "the ""File" bytea, w wrapped)"#);
    s.run(r#"ALTER TABLE big ALTER "the ""File" SET STORAGE EXTERNAL"#);
    s.run("SELECT threadline.audit_enable('big')");
    // One byte more than half of 256 MB: twice as many digits.
    let bytes = "convert_to(repeat('x', 134217729), 'UTF8')";
    for (column, value) in [("the \"File", bytes.to_string()), ("w", format!("ROW({bytes})::wrapped"))] {
        let quoted = column.replace('"', "\"\"");
        let write = format!("INSERT INTO big (id, note, \"{quoted}\") VALUES (1, 'small', {value})");
        let failure = s.refused(&write, &["54000"]);
        assert!(failure.message.contains("table public.big"), "{failure:?}");
        let says = format!("{} {}", failure.message, failure.detail);
        assert!(says.contains(&format!("olumn \"{column}\"")), "{failure:?}");
        assert_eq!(s.one("SELECT count(*) FROM big"), "0");
        assert_eq!(s.one("SELECT count(*) FROM threadline.audit_changes"), "0");
        // The session captures on.
        s.run("INSERT INTO big (id, note) VALUES (2, 'fits')");
        assert_exact(&mut s, "big", "'big'");
        follow_hint(&mut s, &failure);
        s.run(&write);
        assert_eq!(
            s.one("SELECT data_after ->> 'note' FROM threadline.audit_changes ORDER BY id DESC LIMIT 1"),
            "small"
        );
        s.run(
            "TRUNCATE big; DELETE FROM threadline.change_log; SELECT threadline.audit_enable('big', exclude => '{}')",
        );
    }
}

#[test]
fn as_many_columns_as_a_table_can_have() {
    let db = Database::new("limits_columns");
    let mut s = db.session();
    let columns: Vec<String> = (1..1600)
        .map(|n| format!("{n:c>63} {}", ["bool", "text", "numeric", "\"char\"", "int8", "timestamptz"][n % 6]))
        .collect();
    s.run(&format!("CREATE TABLE wide (id int PRIMARY KEY, {})", columns.join(", ")));
    s.run("SELECT threadline.audit_enable('wide')");
    let name = |n: usize| format!("{n:c>63}");
    // Every column has its turn, and so many at once as fit a page.
    for first in (1..1600).step_by(200) {
        let set: Vec<usize> = (first..(first + 200).min(1600)).collect();
        let names: Vec<String> = set.iter().map(|n| name(*n)).collect();
        let values: Vec<&str> =
            set.iter().map(|n| ["true", "'é'", "-1.50", "'c'", "77", "'infinity'"][n % 6]).collect();
        s.run(&format!("INSERT INTO wide (id, {}) VALUES ({first}, {})", names.join(", "), values.join(", ")));
    }
    assert_exact(&mut s, "wide", "'wide'");
    s.run(&format!("UPDATE wide SET {} = 'changed', {} = NULL WHERE id = 1", name(1597), name(1)));
    s.run("UPDATE wide SET id = -id WHERE id = 201");
    assert_exact(&mut s, "wide", "'wide'");
    s.run("DELETE FROM wide WHERE id = 1");
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.audit_changes, jsonb_object_keys(changed_from) WHERE op = 'delete'"),
        1600
    );
    s.assert_replay_holds("wide");
}

#[test]
fn names_of_every_kind() {
    let db = Database::new("limits_names");
    let mut s = db.session();
    s.run("SET search_path = pg_catalog");
    let names = [
        "quo\"te",
        "it's",
        "back\\slash",
        "new\nline",
        "tab\t",
        " ",
        "日本語の列の名前は六十三バイトまでです。abc",
        "😀",
        "{\"a\":1}",
        "a,b",
        "%s %I $1",
        "select",
        "NULL",
        "ﬁ",
        "e\u{301}",
        "é",
    ];
    let longest = "n".repeat(62) + "\"";
    for (number, name) in names.iter().copied().chain([longest.as_str()]).enumerate() {
        let identifier = format!("\"{}\"", name.replace('"', "\"\""));
        let literal = format!("'{}'", name.replace('\'', "''"));
        // Schema, table, key and column all bear it.
        s.run(&format!("CREATE SCHEMA {identifier}"));
        let table = format!("{identifier}.{identifier}");
        let target = format!("'{}'", table.replace('\'', "''"));
        s.run(&format!("CREATE TABLE {table} ({identifier} text PRIMARY KEY, id int, \"{number}\" int)"));
        s.run(&format!("SELECT threadline.audit_enable({target})"));
        s.run(&format!("INSERT INTO {table} VALUES ({literal}, 1, 1); UPDATE {table} SET {identifier} = {identifier} || '!', \"{number}\" = 2"));
        let changes = s.rows(&format!(
            "SELECT op, table_pk ->> {literal} = t.{identifier}, old_pk ->> {literal} = {literal}, changed_fields @> ARRAY[{literal}],
                    record_image_eq(ROW(data_after), ROW(to_jsonb(t)))
             FROM threadline.audit_changes, {table} t WHERE (table_schema, table_name) = ({literal}, {literal}) AND op = 'update'"
        ));
        let t = || Some("t".to_string());
        assert_eq!(changes, [[Some("update".into()), t(), t(), t(), t()]], "{name}");
        let ask = format!(
            "SELECT status, row_data ->> {literal} = {literal} || '!' FROM threadline.audit_as_of({target}, {literal} || '!', clock_timestamp())"
        );
        assert_eq!(s.rows(&ask), [[Some("present".into()), t()]], "{name}");
        assert_eq!(
            s.number(&format!("SELECT count(*) FROM threadline.audit_history({target}, {literal} || '!')")),
            2,
            "{name}"
        );
        s.assert_replay_holds(&table.replace('\'', "''"));
        // And an error says it, with a statement that can be typed.
        s.run(&format!("ALTER TABLE {table} DROP COLUMN {identifier}, ADD PRIMARY KEY (id)"));
        let failure = s.refused(&format!("UPDATE {table} SET \"{number}\" = 3"), &["42703"]);
        assert!(failure.message.contains(&name.replace('"', "\"\"")) || failure.message.contains(name), "{failure:?}");
    }
}

/// A value of type json may hold what jsonb cannot. The write is none of ours to refuse: the text is recorded as a string.
#[test]
fn json_that_jsonb_cannot_hold_is_recorded_as_its_text() {
    const TEXTS: &[&str] = &[
        r#"{"a": "\u0000"}"#,
        r#"["\ud800"]"#,
        r#""\udc00""#,
        r#"[1e999999]"#,
        r#"{"a": 1e-99999}"#,
        r#" {"deep" : [ "\ud800\ud800" ] } "#,
    ];
    let db = Database::new("limits_json");
    let mut s = db.session();
    s.run("CREATE DOMAIN document AS json; CREATE TYPE holder AS (id int, content json)");
    s.run("CREATE TABLE j (id int PRIMARY KEY, plain json, many json[], named document, held holder)");
    s.run("SELECT threadline.audit_enable('j')");
    for (number, text) in TEXTS.iter().enumerate() {
        assert_eq!(s.failure(&format!("SELECT '{text}'::jsonb")).code.get(..2), Some("22"), "jsonb takes {text}");
        s.run(&format!(
            "INSERT INTO j VALUES ({number}, '{text}', ARRAY['{text}', '{{\"b\": 1}}', NULL]::json[], '{text}')"
        ));
        let recorded = s.rows(&format!(
            "SELECT data_after ->> 'plain' = '{text}', data_after ->> 'named' = '{text}', data_after -> 'many' = jsonb_build_array('{text}'::text, '{{\"b\": 1}}'::jsonb, NULL)
             FROM threadline.audit_changes WHERE op = 'insert' AND table_pk = '{{\"id\": \"{number}\"}}'"
        ));
        assert_eq!(recorded, [[Some("t".to_string()), Some("t".into()), Some("t".into())]], "{text}");
        s.run(&format!("UPDATE j SET plain = '[1.50]' WHERE id = {number}"));
        let changed = s.rows(&format!(
            "SELECT changed_fields::text, changed_from ->> 'plain' = '{text}', data_after ->> 'plain' FROM threadline.audit_changes WHERE op = 'update' AND table_pk = '{{\"id\": \"{number}\"}}'"
        ));
        assert_eq!(changed, [[Some("{plain}".to_string()), Some("t".into()), Some("[1.50]".into())]], "{text}");
        // Inside a composite the server makes the form, and says no.
        let write = format!("UPDATE j SET held = ROW(1, '{text}') WHERE id = {number}");
        let failure = s.failure(&write);
        assert_eq!(failure.code.get(..2), Some("22"), "{failure:?}");
        assert!(failure.message.contains("\"held\"") && failure.message.contains("public.j"), "{failure:?}");
        follow_hint(&mut s, &failure);
        s.run(&write);
        s.run("UPDATE j SET held = NULL; SELECT threadline.audit_enable('j', exclude => '{}')");
    }
    s.assert_replay_holds("j");
}

#[test]
fn databases_of_other_encodings() {
    let at = Address::from_env();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = unique("limits_encoding");
        at.connect("postgres", &at.user).run(&format!(
            "CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        ));
        let db = Database { at: at.clone(), name };
        let mut s = db.session();
        s.run("CREATE EXTENSION threadline_forensics");
        // Bytes that are no UTF-8, in names and values alike; no test text of ours holds any.
        s.run(
            r#"DO $$ BEGIN
                EXECUTE format('CREATE TABLE %I (id int PRIMARY KEY, %I text, j json, b jsonb, c char(4), a text[])', E'caf\xe9', E'\xfcber');
                PERFORM threadline.audit_enable(format('%I', E'caf\xe9')::regclass);
                EXECUTE format('INSERT INTO %I VALUES (1, %L, %L, %L, %L, %L)', E'caf\xe9', E'\xe9\xff', E'{"\xe9":"\xe9"}', E'{"\xe9":"\xe9"}', E'\xe9', ARRAY[E'\xe9']);
                EXECUTE format('INSERT INTO %I (id, j) VALUES (2, %L)', E'caf\xe9', '"\u20ac"');
                EXECUTE format('CREATE VIEW v AS SELECT * FROM %I', E'caf\xe9');
            END $$"#,
        );
        let images = s.column(
            "SELECT record_image_eq(ROW(data_after), ROW(to_jsonb(v))) FROM threadline.audit_changes, v WHERE table_pk ->> 'id' = '1' AND v.id = 1",
        );
        assert_eq!(images, ["t"], "{encoding}");
        // Neither encoding has a euro sign, so jsonb cannot hold the escape and the text stands for it.
        let text = s.one("SELECT data_after ->> 'j' FROM threadline.audit_changes WHERE table_pk ->> 'id' = '2'");
        assert_eq!(text, "\"\\u20ac\"", "{encoding}");
        let verdict = s.one(r"SELECT threadline.replay_check(format('%I', E'caf\xe9')::regclass) ->> 'verdict'");
        assert_eq!(verdict, "holds", "{encoding}");
        let status = s.one(
            r"SELECT status FROM threadline.audit_as_of(format('%I', E'caf\xe9')::regclass, 1, clock_timestamp())",
        );
        assert_eq!(status, "present", "{encoding}");
    }
}
