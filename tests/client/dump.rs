//! Dump and restore: the same history, capture goes on, and no new transaction joins an old one.

use crate::cluster::{Cluster, client_output};
use crate::support::{Database, Session};

const WORKLOAD: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, state text, total numeric, doc jsonb);
    CREATE TABLE lines (order_id int REFERENCES orders ON DELETE CASCADE, no int, v text, PRIMARY KEY (order_id, no));
    CREATE TABLE p (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu'); CREATE TABLE p_rest PARTITION OF p DEFAULT;
    INSERT INTO orders SELECT g, 'old', g, NULL FROM generate_series(1, 20) g;
    SELECT threadline.audit_enable('orders', mask => '{doc}'); SELECT threadline.audit_enable('lines'); SELECT threadline.audit_enable('p')";

fn work(s: &mut Session, from: i32) {
    for id in from..from + 10 {
        s.run(&format!(
            "BEGIN; SELECT threadline.set_actor('admin', 'OLD-{from}'); INSERT INTO orders VALUES ({id}, 'new', {id}.50, '{{}}'); INSERT INTO lines SELECT {id}, g, 'l' FROM generate_series(1, 3) g;
             SELECT threadline.record_action('order.open', correlation_id => 'c-{id}'); COMMIT"
        ));
        s.run(&format!("UPDATE orders SET state = 'paid' WHERE id = {id}"));
        s.run(&format!("INSERT INTO p VALUES ({id}, 'eu', 'x'), ({id}, 'us', 'x')"));
    }
    s.run(&format!("DELETE FROM orders WHERE id = {from}"));
    s.run(&format!("UPDATE p SET v = 'y' WHERE id = {from}"));
}

const TABLES: [&str; 3] = ["orders", "lines", "p"];

fn contents(s: &mut Session) -> Vec<Vec<String>> {
    [
        "audit_changes ORDER BY id",
        "audit_transactions ORDER BY commit_no, id",
        "audit_actions ORDER BY inserted_at, id",
        "audit_tables ORDER BY table_name",
        "audit_schema_versions ORDER BY table_name, version",
        "audit_gaps ORDER BY 1, 2, 3",
    ]
    .iter()
    .map(|source| {
        let (view, order) = source.split_once(' ').expect("a view and its order");
        s.column(&format!("SELECT x::text FROM (SELECT * FROM threadline.{view} {order}) x"))
    })
    .collect()
}

fn assert_same(old: &mut Session, new: &mut Session) {
    for session in [&mut *old, &mut *new] {
        session.run("SET TimeZone = 'UTC'");
    }
    let views = ["changes", "transactions", "actions", "tables", "schema versions", "gaps"];
    for ((before, after), view) in contents(old).into_iter().zip(contents(new)).zip(views) {
        assert_eq!(before.len(), after.len(), "{view}: number of rows");
        for (b, a) in before.iter().zip(&after) {
            assert_eq!(b, a, "{view}");
        }
    }
    for table in TABLES {
        new.assert_replay_holds(table);
    }
}

/// New writes by somebody else: all of them, and only they, are that somebody's.
fn assert_capture_goes_on(s: &mut Session, who: &str, from: i32) {
    let last = s.number("SELECT greatest((SELECT max(id) FROM threadline.audit_changes), (SELECT max(commit_no) FROM threadline.audit_transactions))");
    let old_transactions = s.column("SELECT id FROM threadline.audit_transactions");
    let before = s.number("SELECT count(*) FROM threadline.audit_changes");
    for id in from..from + 30 {
        s.run(&format!("BEGIN; SELECT threadline.set_actor('user', '{who}'); INSERT INTO orders VALUES ({id}, '{who}', 1, NULL); COMMIT"));
    }
    s.run(&format!("UPDATE orders SET state = 'again' WHERE id = 13; INSERT INTO p VALUES ({from}, 'eu', 'x')"));
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), before + 32);
    assert_eq!(
        s.number(&format!("SELECT count(*) FROM threadline.audit_changes WHERE id > {last}")),
        32,
        "sequences continue above the old ids"
    );
    assert_eq!(s.number(&format!("SELECT count(*) FROM threadline.audit_transactions WHERE commit_no > {last}")), 31);
    let mine = s.column(&format!("SELECT id FROM threadline.audit_transactions WHERE actor_ref ->> 'id' = '{who}'"));
    assert_eq!(mine.len(), 30);
    assert!(mine.iter().all(|id| !old_transactions.contains(id)), "no new transaction joins an old one");
    let wrong = s.number("SELECT count(*) FROM threadline.audit_transactions x WHERE change_count <> (SELECT count(*) FROM threadline.audit_changes c WHERE c.transaction_id = x.id)");
    assert_eq!(wrong, 0, "counts");
    let history = s.number("SELECT count(*) FROM threadline.audit_history('orders', 13)");
    assert!(history >= 2, "history reaches from before the dump to after it: {history}");
    assert_eq!(
        s.one("SELECT op || ' ' || (data_after ->> 'state') FROM threadline.audit_history('orders', 13) LIMIT 1"),
        "update again"
    );
    for table in TABLES {
        s.assert_replay_holds(table);
    }
}

pub fn dump_restore(from: &Database, to: &Database, custom: bool) {
    if custom {
        let dump = client_output("pg_dump", &from.at, &from.name, &["-Fc"], &[]);
        client_output("pg_restore", &to.at, &to.name, &["--exit-on-error"], &dump);
    } else {
        let dump = client_output("pg_dump", &from.at, &from.name, &[], &[]);
        client_output("psql", &to.at, &to.name, &["-X", "-q", "-v", "ON_ERROR_STOP=1"], &dump);
    }
}

fn round_trip(stem: &str, custom: bool) {
    let source = Database::new(stem);
    let mut old = source.session();
    old.run(WORKLOAD);
    work(&mut old, 1000);
    // Enough transactions that a fresh cluster's counter is far behind.
    old.run(
        "DO $$ BEGIN FOR i IN 1..500 LOOP UPDATE orders SET total = total + 1 WHERE id = 13; COMMIT; END LOOP; END $$",
    );
    if old.number(
        "SELECT count(*) FROM pg_proc WHERE proname = 'audit_maintain' AND pronamespace = 'threadline'::regnamespace",
    ) > 0
    {
        old.run("SELECT threadline.audit_maintain()");
    }
    work(&mut old, 2000);
    let moment = old.one("SELECT clock_timestamp()");
    let then = old.column("SELECT t::text FROM orders t ORDER BY id");

    let cluster = Cluster::start(stem, &[]);
    let first = Database::bare(&cluster.at, stem);
    dump_restore(&source, &first, custom);
    let mut new = first.session();
    assert_same(&mut old, &mut new);
    assert_capture_goes_on(&mut new, "NEW-USER", 5000);
    let as_of = new.column(&format!(
        "SELECT r.id || r.state || r.total FROM threadline.audit_as_of(NULL::orders, '{moment}') r ORDER BY id"
    ));
    assert_eq!(as_of.len(), then.len(), "as of a time before the dump");
    let masked = new.one("SELECT data_after ->> 'doc' FROM threadline.audit_changes WHERE table_name = 'orders' ORDER BY id DESC LIMIT 1");
    assert_eq!(masked, "[REDACTED]", "the policy came along");

    let second = Database::bare(&cluster.at, stem);
    dump_restore(&first, &second, custom);
    let mut newer = second.session();
    assert_same(&mut new, &mut newer);
    assert_capture_goes_on(&mut newer, "THIRD-USER", 9000);
}

#[test]
fn custom_format() {
    round_trip("dump_custom", true);
}

#[test]
fn plain_sql() {
    round_trip("dump_plain", false);
}

/// In the copy types, labels and attributes have other numbers.
#[test]
fn exact_values_and_renamed_labels_come_along() {
    let source = Database::new("dump_exact");
    let mut old = source.session();
    old.run(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (gone int, f float8, m mood);
         CREATE TABLE t (id int PRIMARY KEY, f float8, m mood, p pair, ms mood[]); SELECT threadline.audit_enable('t');
         INSERT INTO t VALUES (1, '-0', 'sad', ROW(1, '-0', 'sad'), '[0:1]={sad,ok}')",
    );
    old.run("ALTER TYPE mood RENAME VALUE 'sad' TO 'glum'; ALTER TYPE pair DROP ATTRIBUTE gone; ALTER TYPE pair RENAME ATTRIBUTE f TO g");
    old.run("INSERT INTO t VALUES (2, 0, 'glum', ROW('-0', 'glum'), '{glum}')");
    let rows = "SELECT r::text FROM threadline.audit_as_of(NULL::t, 'infinity') r ORDER BY id";
    let wanted = ["(1,-0,glum,\"(-0,glum)\",\"[0:1]={glum,ok}\")", "(2,0,glum,\"(-0,glum)\",{glum})"];
    assert_eq!(old.column(rows), wanted);
    let cluster = Cluster::start("dump_exact", &[]);
    for at in [&source.at, &cluster.at] {
        let copy = Database::bare(at, "dump_exact_copy");
        dump_restore(&source, &copy, true);
        let mut s = copy.session();
        assert_eq!(s.column(rows), wanted);
        s.assert_replay_holds("t");
        // The copy tells by its own numbers what becomes of what the source recorded.
        s.run("UPDATE t SET f = 1 WHERE id = 2");
        s.run("ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'; ALTER TYPE pair RENAME ATTRIBUTE g TO h");
        assert_eq!(s.column(rows), s.column("SELECT t::text FROM t ORDER BY id"));
        s.assert_replay_holds("t");
        s.run("UPDATE t SET m = 'fine' WHERE id = 1");
        assert_eq!(s.column(rows), s.column("SELECT t::text FROM t ORDER BY id"));
        s.assert_replay_holds("t");
    }
}

#[test]
fn dropping_and_creating_the_extension_anew() {
    let db = Database::new("dump_drop");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY); SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (1)");
    assert_eq!(s.failure("DROP EXTENSION threadline_forensics").code, "2BP01", "a captured table still needs it");
    s.run("SELECT threadline.audit_disable('t')");
    s.run("DROP EXTENSION threadline_forensics");
    assert_eq!(s.one("SELECT to_regnamespace('threadline')"), "NULL");
    s.run("INSERT INTO t VALUES (2)");
    s.run("CREATE EXTENSION threadline_forensics");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), 0);
    s.run("SELECT threadline.audit_enable('t')");
    s.run("INSERT INTO t VALUES (3)");
    assert_eq!(s.column("SELECT op FROM threadline.audit_changes ORDER BY id"), ["snapshot", "snapshot", "insert"]);
    s.assert_replay_holds("t");
    let mut other = db.session();
    other.run("INSERT INTO t VALUES (4)");
    s.run("DROP EXTENSION threadline_forensics CASCADE");
    other.run("INSERT INTO t VALUES (5)");
    s.run("INSERT INTO t VALUES (6)");
    assert_eq!(s.number("SELECT count(*) FROM t"), 6);
}

#[test]
fn dropping_the_extension_in_a_transaction_that_captured() {
    let db = Database::new("dump_drop_tx");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY); SELECT threadline.audit_enable('t')");
    s.run("BEGIN; INSERT INTO t VALUES (1); DROP EXTENSION threadline_forensics CASCADE; INSERT INTO t VALUES (2); COMMIT");
    assert_eq!(s.number("SELECT count(*) FROM t"), 2);
    assert_eq!(s.one("SELECT to_regnamespace('threadline')"), "NULL");
}

#[test]
fn dropping_a_captured_table_keeps_its_history() {
    let db = Database::new("dump_table");
    let mut s = db.session();
    s.run("CREATE TABLE t (id int PRIMARY KEY); SELECT threadline.audit_enable('t')");
    s.run("INSERT INTO t VALUES (1)");
    s.run("DROP TABLE t");
    assert_eq!(s.column("SELECT table_name FROM threadline.audit_changes"), ["t"]);
    s.run("CREATE TABLE t (id int PRIMARY KEY, other text); SELECT threadline.audit_enable('t')");
    s.run("INSERT INTO t VALUES (1, 'b')");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), 2);
    s.assert_replay_holds("t");
}
