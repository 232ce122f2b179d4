//! Retention: what is purged, what stays, and what the answers say afterwards.

use crate::support::{Database, Session};

/// Ten one-row transactions on `t`, and the time each change was captured.
fn ten(stem: &str) -> (Database, Session, Vec<String>) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v int); SELECT threadline.audit_enable('t')");
    s.run("INSERT INTO t VALUES (1, 0)");
    for n in 1..10 {
        s.run(&format!("UPDATE t SET v = {n}"));
    }
    let times = s.column("SELECT captured_at FROM threadline.audit_changes ORDER BY id");
    assert_eq!(times.len(), 10);
    (db, s, times)
}

fn enable(s: &mut Session) {
    s.run("SELECT threadline.audit_set_retention(keep => '1 microsecond', enabled => true)");
}

fn purge(s: &mut Session, args: &str) -> (i64, i64, i64) {
    let row = s.rows(&format!("CALL threadline.audit_purge({args}, sleep_ms => 0)")).remove(0);
    let number = |i: usize| row[i].as_deref().expect("a count").parse().expect("a number");
    (number(0), number(1), number(2))
}

fn remaining(s: &mut Session) -> Vec<String> {
    s.column("SELECT op || coalesce(data_after ->> 'v', '') FROM threadline.audit_changes ORDER BY id")
}

#[test]
fn a_purge_that_nobody_enabled_is_refused() {
    let (_db, mut s, _) = ten("prg_disabled");
    let failure = s.refused("CALL threadline.audit_purge(dry_run => false)", &["55000"]);
    assert!(failure.hint.contains("audit_set_retention"), "{failure:?}");
    s.run("SELECT threadline.audit_set_retention(keep => '1 microsecond')");
    s.refused("CALL threadline.audit_purge(dry_run => false)", &["55000"]);
    assert_eq!(remaining(&mut s).len(), 10);
}

#[test]
fn the_dry_run_counts_what_the_real_run_removes() {
    let (_db, mut s, times) = ten("prg_dry");
    enable(&mut s);
    let cutoff = format!("cutoff => '{}'", times[6]);
    let before = s.number("SELECT count(*) FROM threadline.audit_transactions");
    let dry = purge(&mut s, &cutoff);
    assert_eq!(remaining(&mut s).len(), 10, "a dry run is the default and removes nothing");
    let real = purge(&mut s, &format!("dry_run => false, {cutoff}"));
    assert_eq!((dry.0, dry.1), (real.0, real.1));
    assert_eq!(real.0, 6);
    assert_eq!(
        remaining(&mut s),
        ["update6", "update7", "update8", "update9"],
        "older than the cutoff, not as old as it"
    );
    let left = s.number("SELECT count(*) FROM threadline.audit_transactions");
    assert_eq!((left, before - left), (4, real.1), "a transaction goes with its last change");
    assert_eq!(purge(&mut s, &format!("dry_run => false, {cutoff}")).0, 0, "a second run finds nothing");
}

#[test]
fn survivors_are_what_they_were() {
    let (_db, mut s, times) = ten("prg_survivors");
    enable(&mut s);
    let query = format!(
        "SELECT c::text || x::text FROM threadline.audit_changes c JOIN threadline.audit_transactions x ON x.id = c.transaction_id WHERE captured_at >= '{}' ORDER BY c.id",
        times[5]
    );
    let before = s.column(&query);
    purge(&mut s, &format!("dry_run => false, cutoff => '{}'", times[5]));
    assert_eq!(s.column(&query), before);
    assert_eq!(before.len(), 5);
}

#[test]
fn batches_are_committed_oldest_first() {
    let (_db, mut s, times) = ten("prg_batches");
    enable(&mut s);
    let first =
        purge(&mut s, &format!("dry_run => false, cutoff => '{}', batch_size => 2, max_batches => 1", times[9]));
    assert_eq!((first.0, first.2), (2, 1));
    assert_eq!(remaining(&mut s)[0], "update2", "no hole: the oldest went first");
    let rest = purge(&mut s, &format!("dry_run => false, cutoff => '{}', batch_size => 2", times[9]));
    assert_eq!(rest.0, 7);
    assert!(rest.2 >= 4, "7 changes in batches of 2 took {} batches", rest.2);
    assert_eq!(remaining(&mut s), ["update9"]);
}

#[test]
fn a_real_run_needs_to_commit_and_is_refused_inside_a_block() {
    let (_db, mut s, times) = ten("prg_block");
    enable(&mut s);
    s.run("BEGIN");
    assert_eq!(purge(&mut s, &format!("cutoff => '{}'", times[3])).0, 3, "a dry run is not refused");
    s.refused("CALL threadline.audit_purge(dry_run => false)", &["2D000"]);
    s.run("ROLLBACK");
    assert_eq!(remaining(&mut s).len(), 10);
}

#[test]
fn a_cutoff_newer_than_the_policy_is_refused() {
    let (_db, mut s, times) = ten("prg_cutoff");
    s.run("SELECT threadline.audit_set_retention(keep => '1 hour', enabled => true)");
    s.refused(&format!("CALL threadline.audit_purge(cutoff => '{}')", times[5]), &["22023"]);
    s.refused("CALL threadline.audit_purge(cutoff => 'infinity')", &["22023"]);
    assert_eq!(purge(&mut s, "dry_run => false").0, 0, "everything is younger than an hour");
    for bad in ["batch_size => 0", "max_batches => 0", "batch_size => -5", "sleep_ms => -1"] {
        s.refused(&format!("CALL threadline.audit_purge({bad})"), &["22023"]);
    }
}

#[test]
fn tables_keep_for_as_long_as_each_is_told() {
    let (_db, mut s, _) = ten("prg_tables");
    s.run("CREATE TABLE u (id int PRIMARY KEY); SELECT threadline.audit_enable('u'); INSERT INTO u VALUES (1)");
    s.run("SELECT threadline.audit_set_retention(keep => '10 years', enabled => true); SELECT threadline.audit_set_retention(keep => '1 microsecond', target => 'u', enabled => true)");
    purge(&mut s, "dry_run => false");
    assert_eq!(s.column("SELECT DISTINCT table_name FROM threadline.audit_changes"), ["t"]);
}

#[test]
fn empty_transactions_stay_when_told() {
    let (_db, mut s, times) = ten("prg_empty");
    s.run("SELECT threadline.audit_set_retention(keep => '1 microsecond', enabled => true, delete_empty_transactions => false)");
    let before = s.number("SELECT count(*) FROM threadline.audit_transactions");
    assert_eq!(purge(&mut s, &format!("dry_run => false, cutoff => '{}'", times[5])).1, 0);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_transactions"), before);
}

#[test]
fn a_transaction_with_a_surviving_change_stays() {
    let (_db, mut s, _) = ten("prg_partial");
    enable(&mut s);
    s.run("BEGIN; INSERT INTO t VALUES (2, 2); SELECT pg_sleep(0.01); INSERT INTO t VALUES (3, 3); COMMIT");
    let cutoff = s.one("SELECT max(captured_at) FROM threadline.audit_changes");
    assert_eq!(purge(&mut s, &format!("dry_run => false, cutoff => '{cutoff}'")).0, 11);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_transactions WHERE change_count > 0"), 1);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes c JOIN threadline.audit_transactions x ON x.id = c.transaction_id"), 1);
}

#[test]
fn a_young_transaction_without_changes_stays() {
    let (_db, mut s, times) = ten("prg_young");
    enable(&mut s);
    s.run("SELECT threadline.record_action('looked.at')");
    purge(&mut s, &format!("dry_run => false, cutoff => '{}'", times[9]));
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_transactions WHERE action_id IS NOT NULL"), 1);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_actions"), 1);
}

#[test]
fn each_run_is_logged() {
    let (_db, mut s, times) = ten("prg_log");
    enable(&mut s);
    purge(&mut s, &format!("dry_run => false, cutoff => '{}'", times[2]));
    purge(&mut s, &format!("dry_run => false, cutoff => '{}'", times[4]));
    let log = s.column("SELECT r::text FROM threadline.audit_purge_runs r");
    assert!(log.len() >= 2, "{log:?}");
    assert!(log.iter().any(|run| run.contains("completed")), "{log:?}");
}

#[test]
fn answers_about_what_was_purged_say_so() {
    let (_db, mut s, times) = ten("prg_asof");
    enable(&mut s);
    purge(&mut s, &format!("dry_run => false, cutoff => '{}'", times[6]));
    assert_eq!(
        s.one(&format!("SELECT status || ' ' || complete FROM threadline.audit_as_of('t', 1, '{}')", times[3])),
        "purged false"
    );
    assert_eq!(
        s.one("SELECT status || (row_data ->> 'v') FROM threadline.audit_as_of('t', 1, clock_timestamp())"),
        "present9"
    );
    let typed = s.failure(&format!("SELECT * FROM threadline.audit_as_of(NULL::t, '{}')", times[3]));
    assert!(!typed.hint.is_empty(), "{typed:?}");
    assert!(s.number("SELECT count(*) FROM threadline.audit_gaps WHERE table_name = 't' AND reason = 'purged'") >= 1);
    assert_eq!(
        s.one("SELECT bool_and(complete) FROM threadline.audit_history('t', 1)"),
        "f",
        "a history that reaches the purged part is not complete"
    );
    assert_ne!(s.one("SELECT threadline.replay_check('t'::regclass) ->> 'verdict'"), "violated", "purged is not wrong");
    s.run("UPDATE t SET v = 100");
    assert_eq!(s.one("SELECT row_data ->> 'v' FROM threadline.audit_as_of('t', 1, clock_timestamp())"), "100");
}

#[test]
fn purging_beside_writers() {
    let (db, mut s, _) = ten("prg_writers");
    enable(&mut s);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut w = db.session();
            let mut n = 100;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                w.run(&format!("INSERT INTO t VALUES ({n}, 0); UPDATE t SET v = 1 WHERE id = {n}"));
                n += 1;
            }
            n
        });
        for _ in 0..10 {
            purge(&mut s, "dry_run => false, batch_size => 20");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(writer.join().expect("the writer ends") > 100);
    });
    let wrong = s.number(
        "SELECT count(*) FROM threadline.audit_transactions x WHERE change_count < (SELECT count(*) FROM threadline.audit_changes c WHERE c.transaction_id = x.id)",
    );
    assert_eq!(wrong, 0);
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes c WHERE NOT EXISTS (SELECT FROM threadline.audit_transactions x WHERE x.id = c.transaction_id)"), 0, "no change without its transaction");
}
