//! Between PREPARE TRANSACTION and COMMIT PREPARED nobody sees the transaction, and no answer about that time claims to be final.

use crate::cluster::Cluster;
use crate::support::{Database, Session};

/// A row that a prepared transaction changes, with a time before it, one between its two phases and one after.
fn two_phases(s: &mut Session, gid: &str) -> [String; 3] {
    s.run("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY); SELECT threadline.audit_enable('t'), threadline.audit_enable('other'); INSERT INTO t VALUES (1, 'old')");
    let before = s.one("SELECT clock_timestamp()");
    s.run(&format!("BEGIN; UPDATE t SET v = 'new'; PREPARE TRANSACTION '{gid}'"));
    let between = s.one("SELECT clock_timestamp()");
    s.run(&format!("COMMIT PREPARED '{gid}'"));
    [before, between, s.one("SELECT clock_timestamp()")]
}

fn at(s: &mut Session, time: &str) -> String {
    s.one(&format!("SELECT concat_ws(' ', row_data ->> 'v', complete) FROM threadline.audit_as_of('t', 1, '{time}')"))
}

#[test]
fn where_the_server_keeps_the_times_of_commits_they_decide() {
    let cluster = Cluster::start("two_phase", &["max_prepared_transactions=5", "track_commit_timestamp=on"]);
    let db = Database::bare(&cluster.at, "two_phase");
    let mut s = db.session();
    s.run("CREATE EXTENSION threadline_forensics");
    let [before, between, after] = two_phases(&mut s, "gid");
    assert_eq!([at(&mut s, &before), at(&mut s, &between), at(&mut s, &after)], ["old t", "new f", "new t"]);
    s.run("SELECT threadline.audit_maintain()");
    assert_eq!([at(&mut s, &before), at(&mut s, &between), at(&mut s, &after)], ["old t", "new f", "new t"]);
    let failure = s.failure(&format!(
        "SET threadline.incomplete = error; SELECT * FROM threadline.audit_as_of(NULL::t, '{between}')"
    ));
    assert_eq!(failure.code, "55000");
}

#[test]
fn where_it_does_not_somebody_must_have_seen_the_commit() {
    let db = Database::new("two_phase_seen");
    let mut s = db.session();
    let [before, between, after] = two_phases(&mut s, &db.name);
    assert_eq!([at(&mut s, &before), at(&mut s, &between), at(&mut s, &after)], ["old t", "new f", "new f"]);
    s.run("INSERT INTO other VALUES (1)");
    let later = s.one("SELECT clock_timestamp()");
    assert_eq!([at(&mut s, &between), at(&mut s, &later)], ["new f", "new t"], "a transaction has seen it");

    s.run(&format!("BEGIN; UPDATE t SET v = 'newer'; PREPARE TRANSACTION '{}'", db.name));
    s.run(&format!("COMMIT PREPARED '{}'", db.name));
    let unseen = s.one("SELECT clock_timestamp()");
    s.run("SELECT threadline.audit_maintain()");
    let seen = s.one("SELECT clock_timestamp()");
    assert_eq!([at(&mut s, &unseen), at(&mut s, &seen)], ["newer f", "newer t"], "audit_maintain has seen it");
}

#[test]
fn one_that_is_rolled_back_leaves_nothing() {
    let db = Database::new("two_phase_undone");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY, v text); SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1, 'old')");
    s.run(&format!("BEGIN; UPDATE t SET v = 'new'; PREPARE TRANSACTION '{0}'; ", db.name));
    s.run(&format!("ROLLBACK PREPARED '{}'", db.name));
    let now = s.one("SELECT clock_timestamp()");
    assert_eq!(at(&mut s, &now), "old t");
    assert_eq!(s.number("SELECT count(*) FROM threadline.prepared_transaction"), 0);
}
