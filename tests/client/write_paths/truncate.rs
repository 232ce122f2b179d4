//! TRUNCATE in all its forms.

use super::{Path, WritePath};

fn two(p: &mut Path) {
    p.tables("CREATE TABLE t (id serial PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES t)");
    p.run("INSERT INTO t (v) VALUES ('a'), ('b'); INSERT INTO u VALUES (1, 1), (2, 2)");
    p.prepared();
}

pub const PATHS: &[WritePath] = &[
    ("one table", |p| {
        p.t("(1, 'a'), (2, 'b')");
        p.run("TRUNCATE t");
        p.recorded(&["!t 1 a; !t 2 b"])
    }),
    ("an empty table", |p| {
        p.t("");
        p.run("TRUNCATE t");
        p.recorded(&[])
    }),
    ("several tables", |p| {
        two(p);
        p.run("TRUNCATE t, u");
        p.recorded(&["!t 1 a; !t 2 b; !u 1 1; !u 2 2"])
    }),
    ("CASCADE", |p| {
        two(p);
        p.run("TRUNCATE t CASCADE");
        p.recorded(&["!t 1 a; !t 2 b; !u 1 1; !u 2 2"])
    }),
    ("RESTART IDENTITY", |p| {
        two(p);
        p.run("TRUNCATE t, u RESTART IDENTITY; INSERT INTO t (v) VALUES ('again')");
        p.recorded(&["!t 1 a; !t 2 b; !u 1 1; !u 2 2 | +t 1 again"])
    }),
    ("between writes of one transaction, twice", |p| {
        p.t("(1, 'a')");
        p.run("BEGIN; INSERT INTO t VALUES (2, 'b'); TRUNCATE t; INSERT INTO t VALUES (1, 'c'); TRUNCATE t; INSERT INTO t VALUES (1, 'd'); COMMIT");
        assert_eq!(p.s.column("SELECT row_data ->> 'v' FROM threadline.audit_as_of('t', 1, clock_timestamp())"), ["d"]);
        p.recorded(&["+t 2 b | !t 1 a; !t 2 b | +t 1 c | !t 1 c | +t 1 d"])
    }),
    ("inside a savepoint that is rolled back", |p| {
        p.t("(1, 'a')");
        p.run("BEGIN; SAVEPOINT s; TRUNCATE t; INSERT INTO t VALUES (9, 'x'); ROLLBACK TO s; INSERT INTO t VALUES (2, 'b'); COMMIT");
        p.recorded(&["+t 2 b"])
    }),
    ("under REPEATABLE READ, a row that the snapshot misses", |p| {
        p.t("(1, 'a')");
        p.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class");
        p.session().run("INSERT INTO t VALUES (2, 'b')");
        p.run("TRUNCATE t; COMMIT");
        p.recorded(&["+t 2 b", "!t 1 a; !t 2 b"])
    }),
    ("partitioned table, with sub-partitions", |p| {
        partitioned(p);
        p.run("TRUNCATE t");
        p.recorded(&["!t 1 a; !t 101 b; !t 201 c"])
    }),
    ("a single leaf partition", |p| {
        partitioned(p);
        p.run("TRUNCATE t_low");
        p.recorded(&["!t 1 a"])
    }),
    ("a partitioned partition and a leaf together", |p| {
        partitioned(p);
        p.run("TRUNCATE t_high, t_low");
        p.recorded(&["!t 1 a; !t 101 b; !t 201 c"])
    }),
    ("a leaf named beside the partitioned table", |p| {
        partitioned(p);
        p.run("TRUNCATE t, t_low");
        p.recorded(&["!t 1 a; !t 101 b; !t 201 c"])
    }),
    ("a leaf made later, a leaf attached later", |p| {
        partitioned(p);
        p.run("CREATE TABLE t_new PARTITION OF t FOR VALUES FROM (1000) TO (2000); CREATE TABLE t_more (LIKE t INCLUDING ALL);
               ALTER TABLE t ATTACH PARTITION t_more FOR VALUES FROM (2000) TO (3000); INSERT INTO t VALUES (1001, 'x'), (2001, 'y')");
        p.run("SELECT threadline.audit_maintain()");
        p.run("TRUNCATE t_new");
        p.run("TRUNCATE t_more");
        p.recorded(&["+t 1001 x; +t 2001 y", "!t 1001 x", "!t 2001 y"])
    }),
    ("a leaf made later, before audit_maintain()", |p| {
        partitioned(p);
        p.run("CREATE TABLE t_new PARTITION OF t FOR VALUES FROM (1000) TO (2000)");
        p.run("INSERT INTO t VALUES (1001, 'x')");
        p.prepared();
        p.run("TRUNCATE t_new");
        assert_eq!(
            p.s.one("SELECT threadline.replay_check('t') ->> 'complete'"),
            "false",
            "it may have been VACUUM FULL, too"
        );
        p.unrecorded("t")
    }),
    ("a leaf made by the transaction that writes and truncates it", |p| {
        partitioned(p);
        p.run("BEGIN; CREATE TABLE t_new PARTITION OF t FOR VALUES FROM (1000) TO (2000); INSERT INTO t VALUES (1001, 'x'); TRUNCATE t_new; INSERT INTO t VALUES (1002, 'y'); COMMIT");
        p.run("TRUNCATE t_new");
        p.recorded(&["+t 1001 x | !t 1001 x | +t 1002 y", "!t 1002 y"])
    }),
    ("the partitioned table, then single leaves made later, in one transaction", |p| {
        partitioned(p);
        p.run("CREATE TABLE t_new PARTITION OF t FOR VALUES FROM (1000) TO (2000)");
        p.run("INSERT INTO t VALUES (1001, 'x')");
        p.prepared();
        p.run("BEGIN; TRUNCATE t; INSERT INTO t VALUES (1002, 'y'); TRUNCATE t_new; SAVEPOINT s; TRUNCATE t; ROLLBACK TO s; INSERT INTO t VALUES (1, 'z'); COMMIT");
        p.run("TRUNCATE t_new, t_low");
        p.recorded(&["!t 1 a; !t 1001 x; !t 101 b; !t 201 c | +t 1002 y | !t 1002 y | +t 1 z", "!t 1 z"])
    }),
    ("the partitioned table, with leaves made later", |p| {
        partitioned(p);
        p.run("CREATE TABLE t_new PARTITION OF t FOR VALUES FROM (1000) TO (2000)");
        p.run("INSERT INTO t VALUES (1001, 'x')");
        p.run("ALTER TABLE t_low DISABLE TRIGGER threadline_truncate_leaf; TRUNCATE t");
        p.recorded(&["+t 1001 x", "!t 1 a; !t 1001 x; !t 101 b; !t 201 c"])
    }),
    ("a leaf detached, a leaf detached and captured for itself", |p| {
        partitioned(p);
        p.run("ALTER TABLE t DETACH PARTITION t_low; TRUNCATE t_low");
        assert_eq!(p.changes(), Vec::<String>::new());
        p.run("SELECT threadline.audit_enable('t_low'); INSERT INTO t_low VALUES (5, 'x')");
        p.run("TRUNCATE t_low");
        assert_eq!(p.changes(), ["+t_low 5 x", "!t_low 5 x"]);
        "recorded once when captured, else not".into()
    }),
    ("a BEFORE TRUNCATE trigger that writes the table before capture reads it", |p| {
        writer(p, "aaa");
        p.run("TRUNCATE t");
        p.recorded(&["+t 9 late | !t 1 a; !t 9 late"])
    }),
    ("a BEFORE TRUNCATE trigger that writes the table after capture read it", |p| {
        writer(p, "zzz");
        p.run("TRUNCATE t");
        assert_eq!(p.changes(), ["!t 1 a | +t 9 late"]);
        assert_eq!(p.s.one("SELECT threadline.replay_check('t') ->> 'verdict'"), "violated");
        "the end of the written row not recorded, replay_check says violated".into()
    }),
    ("old-style inheritance: parent with its children, and ONLY the parent", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE c (PRIMARY KEY (id)) INHERITS (t)");
        p.run("INSERT INTO t VALUES (1, 'a'); INSERT INTO c VALUES (2, 'b')");
        p.prepared();
        p.run("TRUNCATE ONLY t; INSERT INTO t VALUES (3, 'c')");
        p.run("TRUNCATE t");
        p.recorded(&["!t 1 a | +t 3 c", "!c 2 b; !t 3 c"])
    }),
    ("truncate: mark", |p| {
        p.t("(1, 'a'), (2, 'b')");
        p.run(r#"SELECT threadline.audit_enable('t', options => '{"truncate": "mark"}')"#);
        p.run("TRUNCATE t; INSERT INTO t VALUES (2, 'again')");
        p.recorded(&["!t * | +t 2 again"])
    }),
    ("truncate: mark, between writes and savepoints of one transaction", |p| {
        p.t("(1, 'a'), (2, 'b')");
        p.run(r#"SELECT threadline.audit_enable('t', options => '{"truncate": "mark"}')"#);
        p.run(
            "BEGIN; UPDATE t SET v = 'x' WHERE id = 1; SAVEPOINT s; TRUNCATE t; INSERT INTO t VALUES (7, 'gone'); ROLLBACK TO s;
             INSERT INTO t VALUES (3, 'c'); SAVEPOINT s; TRUNCATE t; RELEASE s; INSERT INTO t VALUES (1, 'y'); TRUNCATE t; INSERT INTO t VALUES (2, 'z'); COMMIT",
        );
        p.recorded(&["~t 1 v:a>x | +t 3 c | !t * | +t 1 y | !t * | +t 2 z"])
    }),
    ("truncate: mark, partitioned table and single partition", |p| {
        partitioned(p);
        p.run(r#"SELECT threadline.audit_enable('t', options => '{"truncate": "mark"}')"#);
        p.run("TRUNCATE t_low");
        p.run("TRUNCATE t");
        p.recorded(&["!t 1 a", "!t *"])
    }),
    ("truncate_cap: up to it and beyond", |p| {
        p.t("(1, 'a'), (2, 'b')");
        p.run(r#"SELECT threadline.audit_enable('t', options => '{"truncate_cap": 2}')"#);
        p.run("TRUNCATE t");
        p.run("INSERT INTO t SELECT g, 'n' FROM generate_series(1, 3) g");
        p.run("TRUNCATE t");
        p.recorded(&["!t 1 a; !t 2 b", "+t 1 n; +t 2 n; +t 3 n", "!t *"])
    }),
    ("truncate_cap over the leaves of a partitioned table", |p| {
        partitioned(p);
        p.run(r#"SELECT threadline.audit_enable('t', options => '{"truncate_cap": 2}')"#);
        p.run("TRUNCATE t");
        p.recorded(&["!t *"])
    }),
    ("truncate: block", |p| {
        p.t("(1, 'a')");
        p.run(r#"SELECT threadline.audit_enable('t', options => '{"truncate": "block"}')"#);
        let outcome = p.refused("TRUNCATE t", "55000");
        p.recorded(&[]);
        outcome
    }),
    ("truncate: block, a single partition", |p| {
        partitioned(p);
        p.run(r#"SELECT threadline.audit_enable('t', options => '{"truncate": "block"}')"#);
        let outcome = p.refused("TRUNCATE t_low", "55000");
        p.recorded(&[]);
        outcome
    }),
];

fn partitioned(p: &mut Path) {
    p.tables(
        "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (0) TO (100);
         CREATE TABLE t_high PARTITION OF t FOR VALUES FROM (100) TO (300) PARTITION BY RANGE (id);
         CREATE TABLE t_high_1 PARTITION OF t_high FOR VALUES FROM (100) TO (200); CREATE TABLE t_high_2 PARTITION OF t_high FOR VALUES FROM (200) TO (300)",
    );
    p.run("INSERT INTO t VALUES (1, 'a'), (101, 'b'), (201, 'c')");
    p.prepared();
}

fn writer(p: &mut Path, trigger: &str) {
    p.t("(1, 'a')");
    p.run(&format!(
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (9, 'late'); RETURN NULL; END $$;
         CREATE TRIGGER {trigger} BEFORE TRUNCATE ON t FOR EACH STATEMENT EXECUTE FUNCTION late()"
    ));
}
