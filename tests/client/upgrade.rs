//! pg_upgrade: OIDs, xids and the record go over, the cluster's identity does not.

use crate::cluster::{Cluster, own_programs};
use crate::support::{Address, Database, Session};

fn old_cluster(programs: &str) -> Cluster {
    let cluster = Cluster::make(programs, "upgrade_old", &[]);
    cluster.up();
    cluster
}

/// Whether this server takes any table of the old one: newer minor versions may give columns options that it does not
/// know, and then pg_upgrade fails whatever is in the database.
fn a_plain_table_can_go_over(old: &Cluster) -> bool {
    let mut s = old.at.connect("template1", "postgres");
    s.run("CREATE TABLE probe (a int)");
    let options = s.column(
        "SELECT o FROM pg_attribute, unnest(attoptions) AS o WHERE attrelid = 'probe'::regclass AND attnum > 0",
    );
    s.run("DROP TABLE probe");
    let db = Database::bare(&Address::from_env(), "probe");
    let mut s = db.session();
    s.run("CREATE TABLE probe (a int)");
    let refused: Vec<_> = options
        .iter()
        .filter(|option| s.try_run(&format!("ALTER TABLE probe ALTER COLUMN a SET ({option})")).is_err())
        .collect();
    if !refused.is_empty() {
        eprintln!(
            "no server of this version takes a table of the older one ({refused:?}): upgrading within the version"
        );
    }
    refused.is_empty()
}

#[test]
fn an_upgraded_cluster_has_its_history_and_goes_on() {
    // An older server's, where the tests of one ran before; else pg_upgrade to the same version.
    let older = std::env::var("THREADLINE_OLDER_PGBIN").ok().map(|programs| old_cluster(&programs));
    let old = older.filter(a_plain_table_can_go_over).unwrap_or_else(|| old_cluster(&own_programs()));
    old.at.connect("postgres", "postgres").run("CREATE DATABASE upgraded");
    let mut s = old.at.connect("upgraded", "postgres");
    s.run("CREATE EXTENSION threadline_forensics");
    s.run(
        "CREATE TABLE gone (id int PRIMARY KEY); SELECT threadline.audit_enable('gone'); INSERT INTO gone VALUES (1);
         CREATE TABLE orders (dropped int, id int PRIMARY KEY, state text, secret text);
         ALTER TABLE orders DROP COLUMN dropped;
         CREATE TABLE p (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu');
         CREATE TABLE keyless (dropped int, v text); ALTER TABLE keyless DROP COLUMN dropped;
         SELECT threadline.audit_enable('orders', mask => '{secret}', options => '{\"image\": \"delta\"}');
         SELECT threadline.audit_enable('p');
         SELECT threadline.audit_enable('keyless', options => '{\"key\": \"full_row\"}');
         SELECT threadline.audit_enable_schema('public', future => true)",
    );
    s.run("INSERT INTO orders VALUES (1, 'new', 's'), (2, 'new', 's'); INSERT INTO p VALUES (1, 'eu'); INSERT INTO keyless VALUES ('a'), ('a')");
    let before = s.one("SELECT clock_timestamp()");
    for state in ["paid", "packed", "shipped"] {
        s.run(&format!("UPDATE orders SET state = '{state}' WHERE id = 1"));
    }
    s.run("DELETE FROM orders WHERE id = 2; DROP TABLE gone");
    s.run("SET TimeZone = 'UTC'");
    let contents = [
        "SELECT c::text FROM threadline.audit_changes c ORDER BY id",
        "SELECT x::text FROM threadline.audit_transactions x ORDER BY commit_no",
        "SELECT table_name || version || columns FROM threadline.audit_schema_versions ORDER BY 1",
    ];
    let recorded: Vec<Vec<String>> = contents.iter().map(|query| s.column(query)).collect();
    let last = s.number("SELECT max(commit_no) FROM threadline.audit_transactions");
    let origin = s.one("SELECT threadline.origin()");
    drop(s);
    old.down();

    let new = Cluster::make(&own_programs(), "upgrade_new", &[]);
    new.upgrade_from(&old);
    new.up();
    let mut s = new.at.connect("upgraded", "postgres");
    s.run("SET TimeZone = 'UTC'");
    assert_ne!(s.one("SELECT threadline.origin()"), origin);
    for (query, was) in contents.iter().zip(&recorded) {
        assert_eq!(&s.column(query), was, "{query}");
    }
    let as_of = |s: &mut Session| {
        for (table, rows) in [("orders", "(1,new,) (2,new,)"), ("p", "(1,eu)"), ("keyless", "(a) (a)")] {
            let found = s.one(&format!(
                "SELECT string_agg(r::text, ' ' ORDER BY r::text) FROM threadline.audit_as_of(NULL::{table}, '{before}') r"
            ));
            assert_eq!(found, rows, "{table}");
        }
    };
    as_of(&mut s);
    // Capture goes on before anybody looked after it.
    let changes = s.number("SELECT count(*) FROM threadline.audit_changes");
    s.run("UPDATE orders SET state = 'returned' WHERE id = 1; INSERT INTO p VALUES (2, 'eu'); DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless)");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_changes"), changes + 3);
    assert_eq!(s.number(&format!("SELECT count(*) FROM threadline.audit_changes WHERE id > {last}")), 3);
    assert_eq!(s.number(&format!("SELECT count(*) FROM threadline.audit_transactions WHERE commit_no > {last}")), 1);
    assert_eq!(
        s.one("SELECT string_agg(data_after ->> 'state', ' ' ORDER BY id) FROM threadline.audit_history('orders', 1)"),
        "new paid packed shipped returned"
    );
    assert_eq!(s.one("SELECT changed_from ->> 'state' FROM threadline.audit_history('orders', 1) LIMIT 1"), "shipped");
    let found = s.one("SELECT threadline.audit_maintain()");
    assert!(!found.contains("\"lost\": [\"public.orders"), "{found}");
    assert_eq!(s.one("SELECT severity FROM threadline.audit_health() WHERE check_name = 'restored_tables'"), "ok");
    assert_eq!(s.one("SELECT severity FROM threadline.audit_health() WHERE check_name = 'new_tables'"), "ok");
    for table in ["orders", "p", "keyless"] {
        s.assert_replay_holds(table);
    }
    as_of(&mut s);
    assert_eq!(s.column("SELECT v FROM threadline.audit_as_of(NULL::keyless, 'infinity')"), ["a"]);
    assert_eq!(s.one("SELECT status FROM threadline.audit_as_of('orders', 2, 'infinity')"), "deleted");
    s.run("CREATE TABLE later (id int PRIMARY KEY)");
    assert_eq!(s.one("SELECT status FROM threadline.audit_coverage() WHERE table_name = 'later'"), "covered");
    assert_eq!(s.number("SELECT count(*) FROM threadline.audit_tables WHERE table_name = 'gone' AND NOT enabled"), 1);
}
