//! Excluded and masked columns: no image, diff, statement or physical row may carry what was hidden.

use crate::support::{Database, Session};

const SECRET: &str = "s3cr3t-VALUE-9f";

fn table(stem: &str, policy: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(&format!("CREATE TABLE t (id int PRIMARY KEY, open text, hidden text, masked text, doc jsonb); SELECT threadline.audit_enable('t', {policy})"));
    (db, s)
}

/// Searches every relation of the schema for the secret, as text and as the bytes of a binary column.
fn assert_secret_is_nowhere(s: &mut Session) {
    let relations = s.column(
        "SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'threadline'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p') ORDER BY 1",
    );
    assert!(relations.len() > 5, "the log has tables: {relations:?}");
    let hex: String = SECRET.bytes().map(|b| format!("{b:02x}")).collect();
    for relation in relations {
        let found = s.number(&format!(
            "SELECT count(*) FROM {relation} x WHERE x::text LIKE '%{SECRET}%' OR x::text LIKE '%{hex}%'"
        ));
        assert_eq!(found, 0, "the secret is in {relation}");
    }
}

fn write_everything(s: &mut Session) {
    s.run(&format!(
        "INSERT INTO t VALUES (1, 'a', '{SECRET}', '{SECRET}', '{{\"k\": 1}}'), (2, 'a', NULL, NULL, NULL)"
    ));
    s.run(&format!("UPDATE t SET open = 'b', hidden = '{SECRET}2', masked = '{SECRET}2' WHERE id = 1"));
    s.run(&format!("UPDATE t SET hidden = '{SECRET}3' WHERE id = 1"));
    s.run(&format!("UPDATE t SET masked = '{SECRET}4' WHERE id = 1"));
    s.run("DELETE FROM t WHERE id = 1");
    s.copy_in("COPY t FROM STDIN", &format!("3\ta\t{SECRET}\t{SECRET}\t\\N\n")).expect("copy");
}

#[test]
fn excluded_and_masked_columns_are_hidden_in_every_image() {
    let (_db, mut s) = table("red_images", "exclude => '{hidden}', mask => '{masked}'");
    write_everything(&mut s);
    assert_eq!(
        s.column(
            "SELECT concat_ws(' ', op, changed_fields, 'from=' || changed_from::text, 'after=' || data_after::text) FROM threadline.audit_changes ORDER BY id"
        ),
        [
            r#"insert after={"id": 1, "doc": {"k": 1}, "open": "a", "masked": "[REDACTED]"}"#,
            r#"insert after={"id": 2, "doc": null, "open": "a", "masked": "[REDACTED]"}"#,
            r#"update {masked,open} from={"open": "a", "masked": "[REDACTED]"} after={"id": 1, "doc": {"k": 1}, "open": "b", "masked": "[REDACTED]"}"#,
            r#"update after={"id": 1, "doc": {"k": 1}, "open": "b", "masked": "[REDACTED]"}"#,
            r#"update {masked} from={"masked": "[REDACTED]"} after={"id": 1, "doc": {"k": 1}, "open": "b", "masked": "[REDACTED]"}"#,
            r#"delete from={"id": 1, "doc": {"k": 1}, "open": "b", "masked": "[REDACTED]"}"#,
            r#"insert after={"id": 3, "doc": null, "open": "a", "masked": "[REDACTED]"}"#,
        ]
    );
    assert_secret_is_nowhere(&mut s);
}

#[test]
fn functions_do_not_show_what_is_hidden() {
    let (_db, mut s) = table("red_functions", "exclude => '{hidden}', mask => '{masked}'");
    write_everything(&mut s);
    let ids = s.column("SELECT DISTINCT transaction_id FROM threadline.audit_changes");
    let mut texts = s.column("SELECT x::text FROM threadline.audit_history('t', 1) x");
    texts.extend(s.column("SELECT threadline.change_diff(id) FROM threadline.audit_changes"));
    texts.extend(s.column("SELECT x::text FROM threadline.audit_as_of('t', 3, clock_timestamp()) x"));
    texts.extend(s.column("SELECT threadline.replay_check('t'::regclass)"));
    for id in ids {
        texts.push(s.one(&format!("SELECT threadline.incident_bundle('{id}')")));
    }
    assert!(texts.len() > 10);
    for text in texts {
        assert!(!text.contains(SECRET), "{text}");
    }
    let typed =
        s.rows("SELECT id, open, hidden, masked FROM threadline.audit_as_of(NULL::t, clock_timestamp()) WHERE id = 3");
    assert_eq!(typed, [[Some("3".into()), Some("a".into()), None, None]], "a redacted column is NULL in typed results");
}

#[test]
fn replay_check_says_what_it_could_not_compare() {
    let (_db, mut s) = table("red_replay", "exclude => '{hidden}', mask => '{masked}'");
    write_everything(&mut s);
    let report = s.one("SELECT threadline.replay_check('t'::regclass)");
    assert!(!report.contains(r#""verdict": "violated""#), "{report}");
    let named = s.one("SELECT (r -> 'not_compared')::text FROM (SELECT threadline.replay_check('t'::regclass) r) x");
    assert!(named.contains("hidden") && named.contains("masked"), "{report}");
}

#[test]
fn a_placeholder_of_ones_own_and_its_limits() {
    let (_db, mut s) = table("red_placeholder", "mask => '{masked}', mask_placeholder => '***'");
    s.run("INSERT INTO t (id, masked) VALUES (1, 'x')");
    assert_eq!(s.one("SELECT data_after ->> 'masked' FROM threadline.audit_changes"), "***");
    s.refused("SELECT threadline.audit_enable('t', mask_placeholder => '')", &["22023"]);
    s.refused("SELECT threadline.audit_enable('t', mask_placeholder => repeat('x', 201))", &["22023"]);
    s.refused("SELECT threadline.audit_enable('t', mask_placeholder => E'a\\nb')", &["22023"]);
}

#[test]
fn running_it_again_never_un_redacts_and_an_empty_list_clears() {
    let (db, mut s) = table("red_again", "exclude => '{hidden}', mask => '{masked}'");
    let mut writer = db.session();
    writer.run("INSERT INTO t VALUES (1, 'a', 'h', 'm', NULL)");
    s.run("SELECT threadline.audit_enable('t')");
    writer.run("INSERT INTO t VALUES (2, 'a', 'h', 'm', NULL)");
    s.run("SELECT threadline.audit_enable('t', exclude => '{}')");
    writer.run("INSERT INTO t VALUES (3, 'a', 'h', 'm', NULL)");
    s.run("SELECT threadline.audit_enable('t', mask => '{}', exclude => '{open}')");
    writer.run("INSERT INTO t VALUES (4, 'a', 'h', 'm', NULL)");
    assert_eq!(
        s.column("SELECT data_after FROM threadline.audit_changes WHERE op = 'insert' ORDER BY id"),
        [
            r#"{"id": 1, "doc": null, "open": "a", "masked": "[REDACTED]"}"#,
            r#"{"id": 2, "doc": null, "open": "a", "masked": "[REDACTED]"}"#,
            r#"{"id": 3, "doc": null, "open": "a", "hidden": "h", "masked": "[REDACTED]"}"#,
            r#"{"id": 4, "doc": null, "hidden": "h", "masked": "m"}"#,
        ]
    );
}

#[test]
fn a_policy_holds_for_an_open_repeatable_read_transaction() {
    let (db, mut s) = table("red_latest", "baseline => true");
    let mut writer = db.session();
    writer.run("INSERT INTO t (id, masked) VALUES (1, 'x')");
    writer.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class");
    s.run("SELECT threadline.audit_enable('t', mask => '{masked}')");
    writer.run(&format!("INSERT INTO t (id, masked) VALUES (2, '{SECRET}'); COMMIT"));
    assert_eq!(
        s.one("SELECT data_after ->> 'masked' FROM threadline.audit_changes WHERE table_pk = '{\"id\": \"2\"}'"),
        "[REDACTED]"
    );
    assert_secret_is_nowhere(&mut s);
}

#[test]
fn a_renamed_column_stays_redacted_in_every_later_session_and_rerun() {
    let (db, mut s) = table("red_rename", "exclude => '{hidden}', mask => '{masked}'");
    s.run("INSERT INTO t VALUES (1, 'a', 'h', 'm', NULL); ALTER TABLE t RENAME masked TO m2; ALTER TABLE t RENAME hidden TO h2");
    for (id, between) in [
        (2, ""),
        (3, "SELECT threadline.audit_enable('t')"),
        (4, "ALTER TABLE t RENAME m2 TO m3; ALTER TABLE t RENAME h2 TO h3"),
        (5, "SELECT threadline.audit_maintain()"),
        (6, "ALTER TABLE t RENAME m3 TO m4"),
    ] {
        s.run(&format!("SELECT 1; {between}"));
        for repeat in 0..2 {
            let id = id * 10 + repeat;
            db.session().run(&format!("INSERT INTO t VALUES ({id}, 'a', '{SECRET}', '{SECRET}', NULL)"));
        }
    }
    assert_secret_is_nowhere(&mut s);
    assert_eq!(
        s.one("SELECT data_after ->> 'm4' FROM threadline.audit_changes ORDER BY id DESC LIMIT 1"),
        "[REDACTED]"
    );
    s.run("SELECT threadline.audit_enable('t', mask => '{}')");
    db.session().run("INSERT INTO t VALUES (99, 'a', 'h', 'open', NULL)");
    assert_eq!(s.one("SELECT data_after ->> 'm4' FROM threadline.audit_changes ORDER BY id DESC LIMIT 1"), "open");
}
