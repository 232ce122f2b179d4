//! Rows that come and go with partitions: recorded by the command itself where event triggers are, a gap where not, and
//! no gap where nothing came or went.

use crate::support::{Database, Session};

const P: &str = "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); INSERT INTO p VALUES (1, 'one');";

/// p with a row in p1, captured.
fn captured(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(&format!("{P} SELECT threadline.audit_enable('p')"));
    (db, s)
}

/// The same, in a schema whose coming tables are captured too.
fn watched(stem: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(&format!("SELECT threadline.audit_enable_schema('public', future => true); {P}"));
    (db, s)
}

fn findings(s: &mut Session) -> Vec<String> {
    s.column(
        "SELECT DISTINCT concat_ws(' ', f ->> 'partition', f ->> 'state') FROM threadline.audit_gaps g, jsonb_array_elements(g.detail -> 'findings') f
         WHERE g.table_name = 'p' AND g.until_at = 'infinity' ORDER BY 1",
    )
}

#[test]
fn a_first_write_that_was_undone_is_no_gap() {
    let db = Database::new("parts_undone");
    let mut s = db.session();
    s.run("CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id); CREATE TABLE p1 (v text, id int PRIMARY KEY)");
    s.run("ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10); SELECT threadline.audit_enable('p')");
    s.run("BEGIN; INSERT INTO p VALUES (1, 'undone'); ROLLBACK");
    assert_ne!(s.one("SELECT pg_relation_size('p1')"), "0");
    assert_complete(&mut s, "after a rollback");
    s.run("BEGIN; INSERT INTO p VALUES (1, 'undone'); SELECT threadline.audit_enable('p'); ROLLBACK");
    assert_complete(&mut s, "after another");
    s.run("INSERT INTO p VALUES (1, 'one')");
    assert_complete(&mut s, "after a row that stayed");
}

/// Nothing is amiss, and nothing was.
fn assert_complete(s: &mut Session, when: &str) {
    assert_eq!(findings(s), [""; 0], "{when}");
    assert_eq!(s.one("SELECT complete FROM threadline.audit_status() WHERE table_name = 'p'"), "t", "{when}");
    s.assert_replay_holds("p");
}

/// A gap, said everywhere, until a new baseline.
fn assert_gap(s: &mut Session, found: &[&str]) {
    assert_eq!(findings(s), found);
    assert_eq!(
        s.one("SELECT status FROM threadline.audit_coverage() WHERE table_name = 'p'"),
        "uncovered",
        "{found:?}"
    );
    assert_eq!(
        s.one("SELECT severity FROM threadline.audit_health() WHERE check_name = 'capture_triggers'"),
        "critical"
    );
    assert_ne!(s.one("SELECT threadline.replay_check('p') ->> 'verdict'"), "holds", "{found:?}");
    assert_eq!(s.one("SELECT complete FROM threadline.audit_as_of('p', 1, 'infinity')"), "f", "{found:?}");
    s.run("SELECT threadline.audit_maintain()");
    assert_eq!(findings(s), found, "written down, it is the same");
    s.run("SELECT threadline.audit_enable('p')");
    assert_eq!(findings(s), [""; 0], "after a new baseline");
    assert_eq!(s.one("SELECT complete FROM threadline.audit_as_of('p', 1, 'infinity')"), "t", "{found:?}");
    s.assert_replay_holds("p");
}

fn now(s: &mut Session) -> String {
    s.one("SELECT clock_timestamp()")
}

fn as_of(s: &mut Session, at: &str) -> String {
    s.one(&format!(
        "SELECT coalesce(string_agg(id || ' ' || v, ', ' ORDER BY id), '') FROM threadline.audit_as_of(NULL::p, '{at}')"
    ))
}

fn assert_silent(s: &Session) {
    let notices = s.notices.lock().unwrap();
    assert!(notices.iter().all(|n| !n.starts_with("WARNING")), "{notices:?}");
}

#[test]
fn a_partition_that_comes_empty_is_no_gap() {
    let (db, mut s) = captured("part_empty");
    for (n, ddl) in [
        "CREATE TABLE x PARTITION OF p FOR VALUES FROM ($a) TO ($b)",
        "CREATE TABLE x (LIKE p INCLUDING ALL); ALTER TABLE p ATTACH PARTITION x FOR VALUES FROM ($a) TO ($b)",
        "BEGIN; CREATE TABLE x (LIKE p INCLUDING ALL); ALTER TABLE p ATTACH PARTITION x FOR VALUES FROM ($a) TO ($b); COMMIT",
        "BEGIN; CREATE TABLE x PARTITION OF p FOR VALUES FROM ($a) TO ($b); INSERT INTO x SELECT g, 'bulk' FROM generate_series($a, $b - 2) g; COMMIT",
        "BEGIN; CREATE TABLE x (LIKE p INCLUDING ALL); ALTER TABLE p ATTACH PARTITION x FOR VALUES FROM ($a) TO ($b); INSERT INTO p SELECT g, 'bulk' FROM generate_series($a, $b - 2) g; COMMIT",
        "CREATE TABLE x PARTITION OF p FOR VALUES FROM ($a) TO ($b) PARTITION BY RANGE (id); CREATE TABLE y PARTITION OF x FOR VALUES FROM ($a) TO ($b)",
        "CREATE TABLE x (LIKE p INCLUDING ALL) PARTITION BY RANGE (id); CREATE TABLE y PARTITION OF x FOR VALUES FROM ($a) TO ($b); ALTER TABLE p ATTACH PARTITION x FOR VALUES FROM ($a) TO ($b)",
        "CREATE TABLE x (LIKE p INCLUDING ALL); INSERT INTO x VALUES ($a); DELETE FROM x; ALTER TABLE p ATTACH PARTITION x FOR VALUES FROM ($a) TO ($b); INSERT INTO p VALUES ($a); DELETE FROM p WHERE id = $a",
    ]
    .into_iter()
    .enumerate()
    {
        let from = (n + 1) * 100;
        let statements = ddl.replace("$a", &from.to_string()).replace("$b", &(from + 100).to_string()).replace("TABLE x", &format!("TABLE x{n}")).replace("INTO x", &format!("INTO x{n}")).replace("FROM x;", &format!("FROM x{n};")).replace("OF x ", &format!("OF x{n} ")).replace("PARTITION x ", &format!("PARTITION x{n} ")).replace("TABLE y", &format!("TABLE y{n}"));
        for statement in statements.split("; ") {
            s.run(statement);
        }
        let last = from + 99;
        if n < 7 {
            assert_complete(&mut s, &statements);
        }
        // Written by one session that gives up and by others: all the same.
        s.run(&format!("BEGIN; INSERT INTO p VALUES ({last}, 'undone'); ROLLBACK; INSERT INTO p VALUES ({last}, 'x')"));
        assert_complete(&mut s, &statements);
        db.session().run(&format!("UPDATE p SET v = 'y' WHERE id = {last}"));
        s.run(&format!("UPDATE p SET v = 'z' WHERE id = {last}"));
        assert_complete(&mut s, &statements);
        s.run("SELECT threadline.audit_maintain()");
        assert_complete(&mut s, &statements);
    }
    s.run("TRUNCATE p; INSERT INTO p VALUES (1, 'new'), (150, 'new'), (250, 'new')");
    assert_complete(&mut s, "TRUNCATE");
    s.run("DROP TABLE p1");
    let dropped = findings(&mut s);
    assert!(dropped[0].ends_with(" dropped"), "{dropped:?}");
    assert_gap(&mut s, &[&dropped[0]]);
}

#[test]
fn a_partition_that_comes_with_rows_is_a_gap_from_before_it_came() {
    let (_db, mut s) = captured("part_rows");
    for attach in [
        "CREATE TABLE x (LIKE p INCLUDING ALL); INSERT INTO x VALUES (100, 'brought'); ALTER TABLE p ATTACH PARTITION x FOR VALUES FROM (100) TO (200)",
        "BEGIN; CREATE TABLE x (LIKE p INCLUDING ALL); INSERT INTO x VALUES (100, 'brought'); ALTER TABLE p ATTACH PARTITION x FOR VALUES FROM (100) TO (200); COMMIT",
        "BEGIN; CREATE TABLE x (LIKE p INCLUDING ALL); SAVEPOINT s; INSERT INTO x VALUES (100, 'brought'); RELEASE s; ALTER TABLE p ATTACH PARTITION x FOR VALUES FROM (100) TO (200); INSERT INTO p VALUES (199, 'own'); COMMIT",
        "CREATE TABLE y (LIKE p INCLUDING ALL) PARTITION BY RANGE (id); CREATE TABLE x PARTITION OF y FOR VALUES FROM (100) TO (200); INSERT INTO y VALUES (100, 'brought'); ALTER TABLE p ATTACH PARTITION y FOR VALUES FROM (100) TO (200)",
        "BEGIN; CREATE TABLE y (LIKE p INCLUDING ALL) PARTITION BY RANGE (id); CREATE TABLE x PARTITION OF y FOR VALUES FROM (100) TO (200); INSERT INTO y VALUES (100, 'brought'); ALTER TABLE p ATTACH PARTITION y FOR VALUES FROM (100) TO (200); COMMIT",
    ] {
        for written in [
            "",
            "UPDATE p SET v = 'later' WHERE id = 100",
            "INSERT INTO p VALUES (101, 'other')",
            "DELETE FROM x",
            "BEGIN; UPDATE x SET v = 'n'; ROLLBACK",
            "DELETE FROM p WHERE id = 100",
        ] {
            for statement in attach.split("; ") {
                s.run(statement);
            }
            let between = now(&mut s);
            for statement in written.split("; ").filter(|w| !w.is_empty()) {
                s.run(statement);
            }
            s.run("UPDATE p SET v = 'uno' WHERE id = 1");
            // A later change proves nothing of the time before it.
            assert_eq!(
                s.one(&format!("SELECT complete FROM threadline.audit_as_of('p', 100, '{between}')")),
                "f",
                "{attach}; {written}"
            );
            assert_gap(&mut s, &["public.x attached"]);
            assert_eq!(
                s.one(&format!("SELECT complete FROM threadline.audit_as_of('p', 100, '{between}')")),
                "f",
                "{attach}; {written}"
            );
            s.run("DROP TABLE p");
            s.run("SELECT threadline.audit_maintain()");
            s.run(&format!("{P} SELECT threadline.audit_enable('p')"));
        }
    }
}

#[test]
fn rows_of_a_younger_transaction_than_the_one_that_attaches() {
    let (db, mut s) = captured("part_xids");
    s.run("CREATE TABLE x (LIKE p INCLUDING ALL)");
    s.run("BEGIN; SELECT pg_current_xact_id()");
    db.session().run("INSERT INTO x VALUES (100, 'brought')");
    s.run("ALTER TABLE p ATTACH PARTITION x FOR VALUES FROM (100) TO (200); COMMIT; INSERT INTO p VALUES (101, 'own')");
    assert_gap(&mut s, &["public.x attached"]);
}

#[test]
fn a_partition_that_goes_is_a_gap() {
    let (_db, mut s) = captured("part_gone");
    for (detach, state) in [
        ("ALTER TABLE p DETACH PARTITION p1", "detached"),
        ("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY", "detached"),
    ] {
        s.run(detach);
        assert_gap(&mut s, &[&format!("public.p1 {state}")]);
        s.run("INSERT INTO p1 VALUES (2, 'unseen') ON CONFLICT DO NOTHING; ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10)");
        assert_gap(&mut s, &["public.p1 attached"]);
        // Away and back between two looks.
        s.run("ALTER TABLE p DETACH PARTITION p1; UPDATE p1 SET v = v || '!'; ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10)");
        assert_gap(&mut s, &["public.p1 attached", "public.p1 detached"]);
    }
    s.run("DROP TABLE p1");
    assert_eq!(findings(&mut s)[0].split(' ').next_back(), Some("dropped"));
    s.run("SELECT threadline.audit_enable('p')");
    assert_eq!(s.one("SELECT status FROM threadline.audit_as_of('p', 1, 'infinity')"), "deleted");
    s.assert_replay_holds("p");
    // Never written, so nothing is lost with it.
    s.run("CREATE TABLE x PARTITION OF p FOR VALUES FROM (100) TO (200); DROP TABLE x");
    assert_eq!(findings(&mut s), [""; 0]);
    s.run("CREATE TABLE x PARTITION OF p FOR VALUES FROM (100) TO (200); INSERT INTO p VALUES (100); TRUNCATE p");
    s.run("DROP TABLE x");
    assert_eq!(findings(&mut s), [""; 0], "emptied by a TRUNCATE that was recorded");
}

#[test]
fn truncate_of_a_partition_that_has_no_trigger_yet() {
    let (_db, mut s) = captured("part_truncate");
    s.run("CREATE TABLE x PARTITION OF p FOR VALUES FROM (100) TO (200)");
    s.run("INSERT INTO p VALUES (100, 'lost')");
    assert_complete(&mut s, "made");
    s.run("TRUNCATE x");
    assert_gap(&mut s, &["public.x rewritten"]);
    s.run("INSERT INTO p VALUES (100, 'again'); TRUNCATE x"); // armed by audit_enable
    assert_complete_now(&mut s);
    // TRUNCATE of the whole table arms what it truncates.
    s.run("CREATE TABLE y PARTITION OF p FOR VALUES FROM (200) TO (300)");
    s.run("INSERT INTO p VALUES (200, 'a'); TRUNCATE p; INSERT INTO p VALUES (200, 'b'); TRUNCATE y");
    assert_complete_now(&mut s);
    // A transaction that made a partition arms it with its first row: nobody else can use it yet.
    s.run("BEGIN; CREATE TABLE z PARTITION OF p FOR VALUES FROM (300) TO (400); INSERT INTO p VALUES (300, 'a'); TRUNCATE z; INSERT INTO p VALUES (300, 'b'); COMMIT");
    s.run("TRUNCATE z");
    assert_complete_now(&mut s);
    s.run("CREATE TABLE w (LIKE p INCLUDING ALL); INSERT INTO w VALUES (400, 'x')");
    s.run("ALTER TABLE p ATTACH PARTITION w FOR VALUES FROM (400) TO (500)");
    s.run("TRUNCATE w");
    assert_gap(&mut s, &["public.w attached"]);
}

#[test]
fn truncate_of_partitions_that_never_held_a_row() {
    let db = Database::new("part_empty");
    let mut s = db.session();
    s.run("CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)");
    for n in 0..3 {
        s.run(&format!("CREATE TABLE p{n} PARTITION OF p FOR VALUES FROM ({n}00) TO ({n}99)"));
    }
    s.run("SELECT threadline.audit_enable('p'); INSERT INTO p VALUES (1, 'a'); TRUNCATE p");
    assert_complete_now(&mut s);
    s.run("TRUNCATE p1; BEGIN; TRUNCATE p2; INSERT INTO p VALUES (200, 'b'); COMMIT; INSERT INTO p VALUES (100, 'c')");
    assert_complete_now(&mut s);
    s.run("SELECT threadline.audit_maintain(); TRUNCATE p");
    assert_complete_now(&mut s);
}

#[test]
fn a_table_captured_by_name_goes_on_as_a_partition() {
    for watched_too in [false, true] {
        let (db, mut s) = if watched_too { watched("part_both") } else { captured("part_both") };
        s.run("CREATE TABLE x (LIKE p INCLUDING ALL); SELECT threadline.audit_enable('x'); INSERT INTO x VALUES (100, 'own')");
        let before = now(&mut s);
        s.run("ALTER TABLE p ATTACH PARTITION x FOR VALUES FROM (100) TO (200)");
        db.session().run("UPDATE p SET v = 'joint' WHERE id = 100; UPDATE x SET v = 'direct' WHERE id = 100; INSERT INTO p VALUES (101, 'new')");
        let told = s.column("SELECT concat_ws(' ', table_name, op, data_after ->> 'v') FROM threadline.audit_changes WHERE table_pk ->> 'id' <> '1' ORDER BY id");
        let came = if watched_too { "p insert own" } else { "" };
        let expected: Vec<&str> = ["x insert own", came, "p update joint", "p update direct", "p insert new"]
            .into_iter()
            .filter(|c| !c.is_empty())
            .collect();
        assert_eq!(told, expected, "once each, and under the table it is a part of");
        if !watched_too {
            assert_gap(&mut s, &["public.x attached"]);
        }
        s.run("SELECT threadline.audit_maintain()");
        assert_eq!(s.column("SELECT table_name FROM threadline.audit_tables WHERE enabled"), ["p"]);
        assert_eq!(
            s.one("SELECT detail ->> 'captured_as' FROM threadline.audit_gaps WHERE table_name = 'x' AND until_at = 'infinity'"),
            "public.p"
        );
        assert_eq!(
            s.column(&format!("SELECT row_data ->> 'v' FROM threadline.audit_table_as_of('x', '{before}')")),
            ["own"]
        );
        s.run("TRUNCATE x");
        assert_complete_now(&mut s);
    }
}

fn assert_complete_now(s: &mut Session) {
    assert_eq!(findings(s), [""; 0]);
    s.assert_replay_holds("p");
}

#[test]
fn the_command_records_the_rows_that_it_moves() {
    let (_db, mut s) = watched("part_moves");
    s.run("CREATE TABLE other (extra int, v text, id int PRIMARY KEY); ALTER TABLE other DROP extra; INSERT INTO other VALUES ('a', 100), ('b', 101)");
    let steps = [
        (
            "ALTER TABLE p ATTACH PARTITION other FOR VALUES FROM (100) TO (200)",
            "1 one, 100 a, 101 b",
            "2 rows with partition public.other of public.p",
        ),
        ("ALTER TABLE p DETACH PARTITION other", "1 one", "2 rows with partition public.other of public.p"),
        (
            "INSERT INTO other VALUES ('c', 102); ALTER TABLE p ATTACH PARTITION other FOR VALUES FROM (100) TO (200)",
            "1 one, 100 a, 101 b, 102 c",
            "3 rows with partition public.other of public.p",
        ),
        (
            "ALTER TABLE p DETACH PARTITION other CONCURRENTLY",
            "1 one",
            "3 rows with partition public.other of public.p",
        ),
        (
            "DELETE FROM other WHERE id = 102; ALTER TABLE p ATTACH PARTITION other FOR VALUES FROM (100) TO (200)",
            "1 one, 100 a, 101 b",
            "2 rows with partition public.other of public.p",
        ),
        ("DROP TABLE other", "1 one", "2 rows with partition public.other of public.p"),
        (
            "CREATE TABLE sub (LIKE p INCLUDING ALL) PARTITION BY RANGE (id); CREATE TABLE sub1 PARTITION OF sub FOR VALUES FROM (200) TO (210); CREATE TABLE sub2 PARTITION OF sub DEFAULT; INSERT INTO sub VALUES (200, 's'), (299, 't'); ALTER TABLE p ATTACH PARTITION sub FOR VALUES FROM (200) TO (300)",
            "1 one, 200 s, 299 t",
            "1 rows with partition public.sub2 of public.p",
        ),
        ("ALTER TABLE sub DETACH PARTITION sub1", "1 one, 299 t", "1 rows with partition public.sub1 of public.p"),
        (
            "ALTER TABLE sub ATTACH PARTITION sub1 FOR VALUES FROM (200) TO (210); ALTER TABLE p DETACH PARTITION sub",
            "1 one",
            "1 rows with partition public.sub2 of public.p",
        ),
        (
            "ALTER TABLE p ATTACH PARTITION sub FOR VALUES FROM (200) TO (300); DROP TABLE sub CASCADE",
            "1 one",
            "1 rows with partition public.sub2 of public.p",
        ),
    ];
    let mut states = vec![("1 one".to_string(), now(&mut s))];
    for (ddl, after, comment) in steps {
        for statement in ddl.split("; ") {
            s.run(statement);
        }
        assert_complete(&mut s, ddl);
        assert_eq!(
            s.one("SELECT comment FROM threadline.audit_actions ORDER BY inserted_at DESC LIMIT 1"),
            comment,
            "{ddl}"
        );
        states.push((after.to_string(), now(&mut s)));
        for (state, at) in &states {
            assert_eq!(&as_of(&mut s, at), state, "{ddl}, as of {at}");
        }
    }
    let history = s.column("SELECT concat_ws(' ', op, action_name, complete) FROM threadline.audit_history('p', 100)");
    assert_eq!(
        history,
        [
            "delete partition.drop t",
            "insert partition.attach t",
            "delete partition.detach t",
            "insert partition.attach t",
            "delete partition.detach t",
            "insert partition.attach t"
        ]
    );
    assert_silent(&s);
}

#[test]
fn a_move_inside_a_transaction_that_writes() {
    let (_db, mut s) = watched("part_inside");
    s.run("BEGIN; SELECT threadline.record_action('own.action'); UPDATE p SET v = 'first' WHERE id = 1; ALTER TABLE p DETACH PARTITION p1; UPDATE p1 SET v = 'unseen';
           ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10); UPDATE p SET v = 'last' WHERE id = 1; COMMIT");
    let told = s.column("SELECT concat_ws(' ', op, data_after ->> 'v') FROM threadline.audit_changes WHERE table_name = 'p' AND coalesce(data_after ->> 'v', '') <> 'one' ORDER BY statement_no, id");
    assert_eq!(told, ["update first", "delete", "insert unseen", "update last"]);
    assert_eq!(
        s.one("SELECT DISTINCT action_name FROM threadline.audit_history('p', 1) WHERE op = 'delete'"),
        "own.action"
    );
    assert_complete(&mut s, "the transaction");
    s.run("BEGIN; DROP TABLE p1; ROLLBACK; BEGIN; ALTER TABLE p DETACH PARTITION p1; ROLLBACK");
    assert_complete(&mut s, "undone");
    assert_eq!(s.failure("DROP TABLE p1, nonexistent").code, "42P01");
    assert_complete(&mut s, "failed");
}

#[test]
fn more_rows_than_the_cap_are_a_gap_with_the_command() {
    let (_db, mut s) = watched("part_cap");
    s.run("SELECT threadline.audit_enable('p', options => '{\"truncate_cap\": 3}'); CREATE TABLE x (LIKE p INCLUDING ALL); INSERT INTO x SELECT g, 'x' FROM generate_series(100, 103) g");
    let before = now(&mut s);
    s.run("ALTER TABLE p ATTACH PARTITION x FOR VALUES FROM (100) TO (200)");
    assert_eq!(
        s.number("SELECT count(*) FROM threadline.audit_changes WHERE table_name = 'p' AND table_pk ->> 'id' = '100'"),
        0
    );
    assert_eq!(
        s.one(&format!(
            "SELECT since_at > '{before}' FROM threadline.audit_gaps WHERE table_name = 'p' AND until_at = 'infinity'"
        )),
        "t"
    );
    assert_gap(&mut s, &["public.x attached"]);
    s.run("ALTER TABLE p DETACH PARTITION x");
    assert_gap(&mut s, &["public.x detached"]);
    s.run("CREATE SCHEMA side; CREATE TABLE side.y PARTITION OF p FOR VALUES FROM (300) TO (400); INSERT INTO p VALUES (300, 'z')");
    let before = now(&mut s);
    s.run("DROP SCHEMA side CASCADE");
    assert_eq!(
        s.one(&format!(
            "SELECT since_at > '{before}' FROM threadline.audit_gaps WHERE table_name = 'p' AND until_at = 'infinity'"
        )),
        "t",
        "noted by the command"
    );
    s.run("SELECT threadline.audit_enable('p')");
    s.assert_replay_holds("p");
}

#[test]
fn while_a_concurrent_detach_waits_its_rows_are_recorded() {
    let (db, mut s) = watched("part_pending");
    let mut reader = db.session();
    reader.run("BEGIN; SELECT count(*) FROM p");
    let mut other = db.session();
    let waiting = std::thread::spawn(move || other.run("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY"));
    while s.number("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    s.run("UPDATE p1 SET v = 'meanwhile'");
    assert_ne!(s.one("SELECT threadline.replay_check('p') ->> 'verdict'"), "holds");
    reader.run("COMMIT");
    waiting.join().expect("detached");
    let told = s.column("SELECT concat_ws(' ', op, changed_from ->> 'v') FROM threadline.audit_changes WHERE table_name = 'p' ORDER BY id DESC LIMIT 2");
    assert_eq!(told, ["delete meanwhile", "update one"]);
    s.assert_replay_holds("p");
}

#[test]
fn a_restored_copy_knows_its_partitions() {
    let (db, mut s) = captured("part_dump");
    s.run("CREATE TABLE x PARTITION OF p FOR VALUES FROM (100) TO (200); INSERT INTO p VALUES (100, 'x')");
    let cluster = crate::cluster::Cluster::start("part_dump", &[]);
    let copy = Database::bare(&cluster.at, "part_dump");
    crate::dump::dump_restore(&db, &copy, true);
    let mut new = copy.session();
    assert_complete(&mut new, "restored");
    new.run("UPDATE p SET v = 'y'; INSERT INTO p VALUES (2, 'z')");
    assert_complete(&mut new, "written");
    new.run("SELECT threadline.audit_maintain(); UPDATE p SET v = 'y'");
    assert_complete(&mut new, "maintained");
    new.run("ALTER TABLE p DETACH PARTITION x");
    assert_gap(&mut new, &["public.x detached"]);
}
