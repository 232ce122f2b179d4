//! Gaps are seen whether or not anybody looks, and coverage says which tables are recorded and why others are not.

use crate::support::{Database, Session};

fn captured(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'a'); SELECT threadline.audit_enable('t'); UPDATE t SET v = 'b' WHERE id = 1");
    (db, s)
}

const BREAK: [(&str, &str, &str); 7] = [
    ("ALTER TABLE t DISABLE TRIGGER threadline_capture", "trigger_disabled", "disabled"),
    ("ALTER TABLE t DISABLE TRIGGER ALL", "trigger_disabled", "disabled"),
    ("ALTER TABLE t ENABLE REPLICA TRIGGER threadline_capture", "trigger_replica_only", "replica_role"),
    ("DROP TRIGGER threadline_capture ON t", "trigger_missing", "trigger_dropped"),
    ("DROP TRIGGER threadline_truncate ON t", "trigger_missing", "trigger_dropped"),
    (
        "CREATE OR REPLACE TRIGGER threadline_capture AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION nothing()",
        "trigger_replaced",
        "trigger_dropped",
    ),
    (
        "CREATE OR REPLACE TRIGGER threadline_capture AFTER INSERT OR UPDATE OF v OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION threadline.capture_row()",
        "trigger_narrowed",
        "bypass",
    ),
];

const NOTHING: &str = "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$";

/// (history complete, as-of complete, replay verdict, coverage status)
fn claims(s: &mut Session, since: &str) -> String {
    s.one(&format!("SELECT concat_ws(' ', (SELECT bool_and(complete) FROM threadline.audit_history('t', 1, since => '{since}')), (SELECT complete FROM threadline.audit_as_of('t', 1, 'infinity')),
             threadline.replay_check('t') ->> 'verdict', (SELECT status FROM threadline.audit_coverage() WHERE table_name = 't'))"))
}

#[test]
fn nothing_is_claimed_complete_while_a_trigger_is_not_in_order() {
    let (_db, mut s) = captured("cov_now");
    s.run(NOTHING);
    for (sabotage, finding, reason) in BREAK {
        // Older changes stay behind the gaps before.
        let since = s.one("SELECT clock_timestamp()");
        s.run("UPDATE t SET v = v || 'c' WHERE id = 1");
        assert_eq!(claims(&mut s, &since), "t t holds covered", "before {sabotage}");
        s.run(sabotage);
        assert_eq!(claims(&mut s, &since), "f f unknown uncovered", "{sabotage}");
        let found = s.column("SELECT DISTINCT f ->> 'finding' FROM threadline.audit_coverage() c, jsonb_array_elements(c.findings) f WHERE table_name = 't'");
        assert_eq!(found, [finding], "{sabotage}");
        let open = s.column("SELECT reason FROM threadline.audit_gaps WHERE until_at = 'infinity'");
        assert_eq!(open, [reason], "{sabotage}");
        // Written down, it is the same gap, and looking twice opens it once.
        for _ in 0..2 {
            s.run("SELECT threadline.audit_maintain()");
            assert_eq!(
                s.column("SELECT reason FROM threadline.audit_gaps WHERE until_at = 'infinity'"),
                [reason],
                "{sabotage}"
            );
        }
        assert_eq!(claims(&mut s, &since), "f f unknown uncovered", "observed {sabotage}");
        // Capture enabled anew takes a baseline: what went unrecorded is behind it.
        s.run("SELECT threadline.audit_enable('t')");
        assert_eq!(s.number("SELECT count(*) FROM threadline.audit_gaps WHERE until_at = 'infinity'"), 0, "{sabotage}");
    }
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_gaps WHERE reason <> 'not_yet_enabled'"), 7);
}

#[test]
fn a_gap_covers_all_that_may_have_been_lost_before_somebody_looked() {
    let (_db, mut s) = captured("cov_since");
    s.run("ALTER TABLE t DISABLE TRIGGER threadline_capture; UPDATE t SET v = 'unseen' WHERE id = 1");
    let unseen = s.one("SELECT clock_timestamp()");
    s.run("SELECT pg_sleep(0.05); SELECT threadline.audit_maintain(); ALTER TABLE t ENABLE TRIGGER threadline_capture; SELECT threadline.audit_maintain()");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_gaps WHERE until_at = 'infinity'"), 0, "closed");
    assert_eq!(s.one(&format!("SELECT complete FROM threadline.audit_as_of('t', 1, '{unseen}')")), "f");
    assert_eq!(s.one("SELECT threadline.replay_check('t') ->> 'verdict'"), "violated");
    s.run("SELECT threadline.audit_enable('t')");
    assert_eq!(
        s.one("SELECT complete FROM threadline.audit_as_of('t', 1, 'infinity')"),
        "t",
        "a new baseline was taken"
    );
    assert_eq!(
        s.one(&format!("SELECT complete FROM threadline.audit_as_of('t', 1, '{unseen}')")),
        "f",
        "and the gap stays"
    );
    s.assert_replay_holds("t");
}

#[test]
fn a_trigger_renamed_but_whole_still_captures() {
    let (_db, mut s) = captured("cov_renamed");
    s.run("ALTER TRIGGER threadline_capture ON t RENAME TO zz; UPDATE t SET v = 'c'");
    assert_eq!(claims(&mut s, "-infinity"), "t t holds covered");
}

#[test]
fn a_partition_that_is_not_recorded_uncovers_its_table() {
    let db = Database::new("cov_parts");
    let mut s = db.session();
    s.run("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20); SELECT threadline.audit_enable('p')");
    let status =
        "SELECT string_agg(table_name || ' ' || status, ', ' ORDER BY table_name) FROM threadline.audit_coverage()";
    assert_eq!(s.one(status), "p covered, p1 covered, p2 covered");
    s.run("ALTER TABLE p2 DISABLE TRIGGER ALL");
    assert_eq!(s.one(status), "p uncovered, p1 covered, p2 uncovered");
    assert_eq!(
        s.one("SELECT detail #>> '{findings,0,table}' FROM threadline.audit_gaps WHERE until_at = 'infinity'"),
        "public.p2"
    );
    s.run("SELECT threadline.audit_enable('p')");
    assert_eq!(s.one(status), "p covered, p1 covered, p2 covered");
    assert_eq!(
        s.one("SELECT reason FROM threadline.audit_coverage() WHERE table_name = 'p1'"),
        "it is a partition of public.p"
    );
}

#[test]
fn every_table_is_listed_with_why_it_is_not_covered() {
    let db = Database::new("cov_list");
    let mut s = db.session();
    s.run(
        "CREATE TABLE covered (id int PRIMARY KEY); CREATE TABLE keyless (id int); CREATE TABLE never (id int PRIMARY KEY); CREATE TABLE off (id int PRIMARY KEY);
         CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE); CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY); CREATE TABLE parent (id int PRIMARY KEY);
         CREATE TABLE child () INHERITS (parent); CREATE TABLE nonunique (id int PRIMARY KEY); CREATE TABLE gone (id int PRIMARY KEY, v int);
         CREATE TEMP TABLE temporary (id int PRIMARY KEY); CREATE VIEW v AS SELECT 1; CREATE SCHEMA other; CREATE TABLE other.noted (id int PRIMARY KEY);
         SELECT threadline.audit_enable(t) FROM unnest('{covered,off,unlogged,parent,nonunique,gone}'::regclass[]) t;
         SELECT threadline.audit_disable('off'); SELECT threadline.audit_expect_uncovered('other.noted', 'rebuilt every night');
         ALTER TABLE nonunique DROP CONSTRAINT nonunique_pkey; ALTER TABLE gone DROP COLUMN id",
    );
    let listed = s.column("SELECT concat_ws(' | ', table_name, status, regexp_replace(reason, ' at 2.*', ''), (SELECT string_agg(f ->> 'finding', ' ') FROM jsonb_array_elements(findings) f)) FROM threadline.audit_coverage()");
    assert_eq!(
        listed,
        [
            "noted | expected_uncovered | rebuilt every night",
            "child | uncovered | it has no primary key: audit_enable needs key_columns or options {\"key\": \"full_row\"} | no_primary_key",
            "covered | covered",
            "deferred | uncovered | its primary key is deferrable | deferrable_primary_key",
            "gone | uncovered | a column of its key was dropped: writes to it fail | key_column_dropped key_not_unique",
            "keyless | uncovered | it has no primary key: audit_enable needs key_columns or options {\"key\": \"full_row\"} | no_primary_key",
            "never | uncovered | it was never put under capture",
            "nonunique | covered | key_not_unique",
            "off | uncovered | capture was switched off",
            "parent | covered | has_inheritance_children",
            "unlogged | covered | unlogged",
        ]
    );
    assert_eq!(s.column("SELECT table_name FROM threadline.audit_coverage('other')"), ["noted"]);
    s.run("SELECT threadline.audit_expect_uncovered('other.noted', NULL)");
    assert_eq!(s.one("SELECT status FROM threadline.audit_coverage('other')"), "uncovered");
    s.refused("SELECT threadline.audit_expect_uncovered('other.noted', ' ')", &["22023"]);
    s.refused("SELECT threadline.audit_expect_uncovered('v', 'x')", &["42809"]);
    s.refused("SELECT threadline.audit_expect_uncovered(NULL, 'x')", &["22004"]);
}

#[test]
fn a_table_made_anew_is_another_and_the_old_ones_past_is_readable_by_name() {
    let db = Database::new("cov_identity");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1, 'old')");
    let then = s.one("SELECT clock_timestamp()");
    s.run("DROP TABLE t");
    assert_eq!(s.one("SELECT detail ->> 'table' FROM threadline.audit_gaps WHERE until_at = 'infinity'"), "dropped");
    s.run(
        "CREATE TABLE t (id int PRIMARY KEY, n int); SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1, 5)",
    );
    for maintained in [false, true] {
        if maintained {
            s.run("SELECT threadline.audit_maintain()");
        }
        assert_eq!(
            s.column(&format!("SELECT row_data FROM threadline.audit_table_as_of('t', '{then}')")),
            [r#"{"v": "old", "id": 1}"#]
        );
        assert_eq!(
            s.column("SELECT row_data FROM threadline.audit_table_as_of('t', 'infinity')"),
            [r#"{"n": 5, "id": 1}"#]
        );
        assert_eq!(
            s.one("SELECT data_after ->> 'n' FROM threadline.audit_history('t', 1)"),
            "5",
            "one identity, one history"
        );
        assert_eq!(s.number("SELECT count(DISTINCT table_id) FROM threadline.captured_table"), 2);
    }
    s.assert_replay_holds("t");
}
