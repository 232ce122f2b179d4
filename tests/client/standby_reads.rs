//! A hot standby answers all that only reads as its primary does, and calls complete what it has replayed and no more.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::support::{Database, Session};

/// Dropped in this order: the database goes while its server runs.
struct Pair {
    primary: Session,
    standby: Session,
    db: Database,
    _standby_cluster: Cluster,
    _primary_cluster: Cluster,
}

impl Pair {
    fn new(stem: &str) -> Self {
        let primary_cluster = Cluster::start(stem, &[]);
        let db = Database::bare(&primary_cluster.at, stem);
        let mut primary = db.session();
        primary.run("CREATE EXTENSION threadline_forensics; CREATE TABLE orders (id int PRIMARY KEY, state text, total numeric, body json);
            INSERT INTO orders VALUES (1, 'new', 10.00, '{\"a\":  1}'), (2, 'new', 1, NULL); SELECT threadline.audit_enable('orders')");
        let standby_cluster = Cluster::standby_of(&primary_cluster, &format!("{stem}_standby"));
        let standby = standby_cluster.at.connect(&db.name, &db.at.user);
        Pair { primary, standby, db, _standby_cluster: standby_cluster, _primary_cluster: primary_cluster }
    }

    fn write(&mut self, actor: &str, sql: &str) {
        self.primary.run(&format!(
            "BEGIN; SELECT threadline.set_actor('user', '{actor}'); {sql}; SELECT threadline.record_action('order.write'); COMMIT"
        ));
    }

    fn moment(&mut self) -> String {
        self.primary.one("SELECT clock_timestamp()")
    }

    /// Waits until the standby has replayed what the primary has committed.
    fn catch_up(&mut self) {
        let lsn = self.primary.one("SELECT pg_current_wal_flush_lsn()");
        wait_until(&mut self.standby, &format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"));
    }

    /// What the standby says of a row's state, and whether that is complete.
    fn state(&mut self, key: i64, at: &str) -> String {
        self.standby.one(&format!(
            "SELECT concat_ws(' ', status, row_data ->> 'state', complete) FROM threadline.audit_as_of('orders', {key}, '{at}')"
        ))
    }
}

fn wait_until(s: &mut Session, condition: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while s.one(condition) != "t" {
        assert!(Instant::now() < deadline, "this does not come true: {condition}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn all_that_reads() {
    let mut pair = Pair::new("standby_all");
    pair.primary.run(
        "SELECT threadline.replay_define_model('model'); SELECT threadline.replay_add_projection('model', 'changes', 'orders', NULL, '0', 'to_jsonb((state #>> ''{}'')::int + 1)');
         SELECT threadline.replay_add_invariant('model', 'cheap', 'row', '{\"table\": \"orders\", \"check\": \"new.total < 11\"}', 'event')",
    );
    let mut moments = Vec::new();
    for (actor, sql) in [
        ("ann", "UPDATE orders SET state = 'paid', total = 12.50 WHERE id = 1"),
        ("bob", "DELETE FROM orders WHERE id = 2"),
        ("ann", "UPDATE orders SET id = 3 WHERE id = 1"),
        ("bob", "INSERT INTO orders VALUES (4, 'new', 0, 'null')"),
    ] {
        moments.push(pair.moment());
        pair.write(actor, sql);
    }
    moments.push(pair.moment());
    // Lets the standby know that nothing before it is still to come.
    pair.write("eve", "INSERT INTO orders VALUES (5, 'later', 1, NULL)");
    pair.catch_up();
    let (p, r) = (&mut pair.primary, &mut pair.standby);
    assert_eq!(r.one("SELECT pg_is_in_recovery()"), "t");
    let id = p.one("SELECT transaction_id FROM threadline.audit_changes WHERE op = 'delete'");
    let mut queries = Vec::new();
    for view in
        ["audit_changes", "audit_transactions", "audit_actions", "audit_tables", "audit_schema_versions", "audit_gaps"]
    {
        queries.push(format!("SELECT v::text FROM threadline.{view} v ORDER BY 1"));
    }
    for at in &moments {
        for key in [1, 2, 3, 4, 99] {
            queries.push(format!("SELECT * FROM threadline.audit_as_of('orders', {key}, '{at}')"));
            queries.push(format!("SELECT * FROM threadline.audit_row_as_of(NULL::orders, {key}, '{at}')"));
        }
        queries.push(format!("SELECT * FROM threadline.audit_as_of(NULL::orders, '{at}') ORDER BY id"));
        queries.push(format!("SELECT * FROM threadline.audit_table_as_of('public.orders', '{at}') ORDER BY 1"));
    }
    for rest in [
        "threadline.audit_history('orders', 1)",
        "threadline.audit_history('orders', 3)",
        "threadline.actor_history('{\"type\": \"user\"}')",
        "threadline.audit_coverage()",
        "threadline.audit_policy()",
        "threadline.audit_changes c, threadline.change_diff(c.id) ORDER BY c.id",
        "threadline.audit_changes c, threadline.change_summary(c.id) ORDER BY c.id",
        "threadline.audit_changes c, threadline.change_statement(c.id) ORDER BY c.id",
        "threadline.replay_violations(threadline.replay_check('orders'::regclass))",
        "threadline.replay_report(threadline.replay_check('orders'::regclass))",
        "threadline.replay_check('model', stop_on_first_failure => false)",
        "threadline.replay_report(threadline.replay_check('model'))",
    ] {
        queries.push(format!("SELECT * FROM {rest}"));
    }
    for of_transaction in ["audit_changes_for_transaction", "audit_statements", "incident_bundle"] {
        queries.push(format!("SELECT * FROM threadline.{of_transaction}('{id}')"));
    }
    queries.push(format!("SELECT * FROM threadline.audit_as_seen_by(NULL::orders, '{id}') ORDER BY id"));
    for query in &queries {
        let expected = p.rows(query);
        assert_eq!(r.rows(query), expected, "{query}");
    }
    assert_eq!(r.one(&format!("SELECT count(*) FROM threadline.audit_as_of(NULL::orders, '{}')", moments[2])), "1");
    r.assert_replay_holds("orders");
    assert_eq!(r.one("SELECT threadline.replay_check('model') ->> 'verdict'"), "violated");
    // What they say is of the server that says it.
    for query in [
        "SELECT * FROM threadline.audit_health()",
        "SELECT threadline.audit_health_json()",
        "SELECT * FROM threadline.audit_status()",
        "SELECT threadline.get_context()",
    ] {
        assert!(!r.rows(query).is_empty(), "{query}");
    }
    assert_eq!(r.column("SELECT complete FROM threadline.audit_status()"), ["t"]);
    assert!(r.rows("SELECT * FROM threadline.audit_cost()").is_empty(), "what capture cost is not replicated");
}

#[test]
fn a_writer_in_flight_on_the_primary_leaves_the_answer_open() {
    let mut pair = Pair::new("standby_flight");
    let mut writer = pair.db.session();
    writer.run("BEGIN; UPDATE orders SET state = 'open' WHERE id = 1");
    let during = pair.moment();
    pair.write("ann", "UPDATE orders SET state = 'beside' WHERE id = 2");
    pair.catch_up();
    assert_eq!(pair.state(1, &during), "present new f");
    assert_eq!(pair.state(2, &during), "present new f");
    writer.run("COMMIT");
    pair.write("ann", "UPDATE orders SET state = 'after' WHERE id = 2");
    pair.catch_up();
    assert_eq!(pair.state(1, &during), "present new t", "it was committed later");
}

#[test]
fn nothing_is_complete_beyond_what_was_replayed() {
    let mut pair = Pair::new("standby_lag");
    pair.write("ann", "UPDATE orders SET state = 'first' WHERE id = 1");
    let first = pair.moment();
    pair.write("ann", "UPDATE orders SET state = 'second' WHERE id = 1");
    pair.catch_up();
    assert_eq!(pair.state(1, &first), "present first t");
    pair.standby.run("SELECT pg_wal_replay_pause()");
    wait_until(&mut pair.standby, "SELECT pg_get_wal_replay_pause_state() = 'paused'");
    pair.write("ann", "UPDATE orders SET state = 'third' WHERE id = 1");
    let third = pair.moment();
    pair.write("ann", "UPDATE orders SET state = 'fourth' WHERE id = 1");
    assert_eq!(pair.state(1, &third), "present second f", "what it has, and that it may not be all");
    assert_eq!(pair.state(99, &third), "never_seen f");
    assert_eq!(pair.state(1, "infinity"), "present second t", "infinity asks for what this server has");
    assert_eq!(pair.state(1, &first), "present first t", "what is behind it stays settled");
    pair.standby.run("SELECT pg_wal_replay_resume()");
    pair.catch_up();
    assert_eq!(pair.state(1, &third), "present third t");
    // The primary may have committed since; only its next commit tells that it has not.
    let idle = pair.moment();
    assert_eq!(pair.state(1, &idle), "present fourth f");
    pair.write("ann", "UPDATE orders SET state = 'fifth' WHERE id = 1");
    pair.catch_up();
    assert_eq!(pair.state(1, &idle), "present fourth t");
}
