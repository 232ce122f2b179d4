//! One row back to its state at a time.

use crate::revert::rows;
use crate::support::{Database, Session};

fn setup(stem: &str, sql: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(sql);
    (db, s)
}

fn now(s: &mut Session) -> String {
    s.one("SELECT clock_timestamp()")
}

/// `status: statement` of restoring a row; really, if `dry_run` says so.
fn restore(s: &mut Session, key: &str, at: &str, dry_run: bool) -> Vec<String> {
    s.column(&format!("SELECT status || ': ' || coalesce(statement, detail) FROM threadline.audit_restore('t', {key}, '{at}', {dry_run})"))
}

#[test]
fn a_row_goes_back_whatever_became_of_it() {
    let (_db, mut s) =
        setup("res_row", "CREATE TABLE t (id int PRIMARY KEY, v text, n numeric); SELECT threadline.audit_enable('t')");
    let none = now(&mut s);
    s.run("INSERT INTO t VALUES (1, 'a', 1.50), (2, 'b', 2)");
    let first = now(&mut s);
    s.run("UPDATE t SET v = 'c' WHERE id = 1");
    assert_eq!(restore(&mut s, "1", &first, true), ["ok: UPDATE public.t SET v = 'a'::text WHERE id = '1'::integer"]);
    assert_eq!(rows(&mut s, "t")[0], "(1,c,1.50)");
    assert_eq!(
        restore(&mut s, "1", &first, false),
        ["applied: UPDATE public.t SET v = 'a'::text WHERE id = '1'::integer"]
    );
    assert_eq!(rows(&mut s, "t")[0], "(1,a,1.50)");
    assert_eq!(restore(&mut s, "1", &first, false), ["nothing: the row is as it was"]);
    assert_eq!(s.column("SELECT name || ' ' || reason FROM threadline.audit_actions").len(), 1);
    s.run("DELETE FROM t WHERE id = 1");
    assert_eq!(
        restore(&mut s, "'{\"id\": 1}'", &first, false),
        ["applied: INSERT INTO public.t (id, v, n) VALUES ('1'::integer, 'a'::text, '1.50'::numeric)"]
    );
    let then = now(&mut s);
    // Through changes of its key, from any of its keys.
    s.run("UPDATE t SET id = 7, v = 'moved' WHERE id = 1; UPDATE t SET id = 8 WHERE id = 7");
    let back = "UPDATE public.t SET id = '1'::integer, v = 'a'::text WHERE id = '8'::integer";
    for key in ["1", "7", "8"] {
        assert_eq!(restore(&mut s, key, &then, true), [format!("ok: {back}")]);
    }
    assert_eq!(restore(&mut s, "77", &then, true), ["nothing: there was no such row, and there is none"]);
    assert_eq!(restore(&mut s, "8", &none, true), ["ok: DELETE FROM public.t WHERE id = '8'::integer"]);
    // Nobody has taken note of the key's new name yet.
    s.run("ALTER TABLE t RENAME id TO ident");
    assert_eq!(restore(&mut s, "8", &then, true), [format!("ok: {}", back.replace("id = ", "ident = "))]);
    s.run("ALTER TABLE t RENAME ident TO id");
    s.run("INSERT INTO t VALUES (1, 'other', 0)");
    assert!(restore(&mut s, "8", &then, true)[0].starts_with("conflict: "));
    s.refused(&format!("SELECT * FROM threadline.audit_restore('t', 8, '{then}', false)"), &["55000"]);
    s.run("DELETE FROM t WHERE id = 1");
    assert_eq!(restore(&mut s, "8", &then, false), [format!("applied: {back}")]);
    assert_eq!(restore(&mut s, "2", &none, false), ["applied: DELETE FROM public.t WHERE id = '2'::integer"]);
    assert_eq!(rows(&mut s, "t"), ["(1,a,1.50)"]);
    s.assert_replay_holds("t");
}

#[test]
fn what_is_not_known_is_never_deleted() {
    let (db, mut s) = setup(
        "res_unknown",
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'old'); SELECT threadline.audit_enable('t', baseline => false)",
    );
    let early = now(&mut s);
    s.run("INSERT INTO t VALUES (2, 'a')");
    let unknown = s.refused(&format!("SELECT * FROM threadline.audit_restore('t', 1, '{early}')"), &["55000"]);
    assert!(unknown.message.contains("does not reach back"), "{unknown:?}");
    s.run("SELECT threadline.audit_enable('t')");
    let mut writer = db.session();
    writer.run("BEGIN; UPDATE t SET v = 'b' WHERE id = 2");
    let during = now(&mut s);
    s.refused(&format!("SELECT * FROM threadline.audit_restore('t', 2, '{during}')"), &["55000"]);
    writer.run("COMMIT");
    s.run("ALTER TABLE t DISABLE TRIGGER threadline_capture");
    let gap = now(&mut s);
    s.refused(&format!("SELECT * FROM threadline.audit_restore('t', 3, '{gap}')"), &["55000"]);
    s.run("ALTER TABLE t ENABLE TRIGGER threadline_capture");
    for sql in ["'t', 1, now() + interval '1 day'", "'t', 1, NULL", "'t', '{\"no\": 1}', now()"] {
        s.refused(&format!("SELECT * FROM threadline.audit_restore({sql})"), &["22023"]);
    }
    s.run("CREATE TABLE never (id int PRIMARY KEY)");
    s.refused("SELECT * FROM threadline.audit_restore('never', 1, now())", &["42704"]);
}

#[test]
fn every_form_of_key_and_redaction() {
    let (_db, mut s) = setup(
        "res_forms",
        "CREATE TABLE t (id int PRIMARY KEY, v text, secret text); SELECT threadline.audit_enable('t', mask => '{secret}'); INSERT INTO t VALUES (1, 'a', 's')",
    );
    let at = now(&mut s);
    s.run("UPDATE t SET v = 'b', secret = 'r'");
    for key in ["1", "'1'", "1::bigint", "'{\"id\": \"1\"}'", "'{\"id\": 1}'::jsonb"] {
        assert_eq!(
            s.column(&format!("SELECT statement || ' ' || detail FROM threadline.audit_restore('t', {key}, '{at}')")),
            ["UPDATE public.t SET v = 'a'::text WHERE id = '1'::integer redacted, so left as it is: secret"],
            "{key}"
        );
    }
    s.run("DELETE FROM t");
    assert_eq!(
        restore(&mut s, "1", &at, true),
        ["redacted: INSERT INTO public.t (id, v) VALUES ('1'::integer, 'a'::text)"]
    );
    s.refused(&format!("SELECT * FROM threadline.audit_restore('t', 1, '{at}', false)"), &["55000"]);
    s.run("CREATE TABLE u (id uuid PRIMARY KEY, v int); SELECT threadline.audit_enable('u'); INSERT INTO u VALUES ('00112233-4455-6677-8899-aabbccddeeff', 1)");
    let at = now(&mut s);
    s.run("DELETE FROM u");
    assert_eq!(s.one(&format!("SELECT status FROM threadline.audit_restore('u', '00112233-4455-6677-8899-aabbccddeeff'::uuid, '{at}', false)")), "applied");
    s.run(&format!("BEGIN READ ONLY; SELECT * FROM threadline.audit_restore('u', '00112233-4455-6677-8899-aabbccddeeff', '{at}'); COMMIT"));
}

#[test]
fn copies_of_a_row_without_a_key() {
    let (_db, mut s) = setup(
        "res_copies",
        r#"CREATE TABLE t (a int, b text); SELECT threadline.audit_enable('t', options => '{"key": "full_row"}'); INSERT INTO t VALUES (1, 'x'), (1, 'x'), (2, 'y')"#,
    );
    let two = now(&mut s);
    s.run("DELETE FROM t WHERE a = 1");
    let none = now(&mut s);
    let key = r#"'{"a": 1, "b": "x"}'"#;
    assert_eq!(
        restore(&mut s, key, &two, false),
        vec!["applied: INSERT INTO public.t (a, b) VALUES ('1'::integer, 'x'::text)"; 2]
    );
    assert_eq!(rows(&mut s, "t"), ["(1,x)", "(1,x)", "(2,y)"]);
    assert_eq!(restore(&mut s, key, &two, false), ["nothing: the row is as it was"]);
    assert_eq!(restore(&mut s, key, &none, false).len(), 2);
    assert_eq!(rows(&mut s, "t"), ["(2,y)"]);
    s.assert_replay_holds("t");
}
