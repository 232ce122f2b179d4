//! Partitioned tables and old-style inheritance.

use super::{Path, WritePath};

/// RANGE over LIST over HASH, with a default.
const TREE: &str = "CREATE TABLE t (id int, part text, v text, PRIMARY KEY (id, part)) PARTITION BY RANGE (id);
    CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (MINVALUE) TO (100);
    CREATE TABLE t_mid PARTITION OF t FOR VALUES FROM (100) TO (200) PARTITION BY LIST (part);
    CREATE TABLE t_mid_a PARTITION OF t_mid FOR VALUES IN ('a');
    CREATE TABLE t_mid_b PARTITION OF t_mid FOR VALUES IN ('b') PARTITION BY HASH (id);
    CREATE TABLE t_mid_b0 PARTITION OF t_mid_b FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE t_mid_b1 PARTITION OF t_mid_b FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE t_rest PARTITION OF t DEFAULT";

fn tree(p: &mut Path, rows: &str) {
    p.tables(TREE);
    p.run(&format!("INSERT INTO t VALUES {rows}"));
    p.prepared();
}

pub const PATHS: &[WritePath] = &[
    ("routing by RANGE, LIST, HASH, into the default, sub-partitions", |p| {
        p.tables(TREE);
        p.run("INSERT INTO t VALUES (1, 'a', 'x'), (101, 'a', 'x'), (101, 'b', 'x'), (102, 'b', 'x'), (103, 'b', 'x'), (900, 'a', 'x')");
        p.run("UPDATE t SET v = 'y'; DELETE FROM t WHERE part = 'b'");
        p.recorded(&[
            "+t 1,a x; +t 101,a x; +t 101,b x; +t 102,b x; +t 103,b x; +t 900,a x",
            "~t 1,a v:x>y; ~t 101,a v:x>y; ~t 101,b v:x>y; ~t 102,b v:x>y; ~t 103,b v:x>y; ~t 900,a v:x>y | -t 101,b y; -t 102,b y; -t 103,b y",
        ])
    }),
    ("COPY and ON CONFLICT through the partitioned table", |p| {
        tree(p, "(1, 'a', 'x')");
        p.s.copy_in("COPY t FROM STDIN", "101\tb\tc\n900\tz\tc\n").expect("copied");
        p.run(
            "INSERT INTO t AS o VALUES (1, 'a', 'n'), (102, 'a', 'n') ON CONFLICT (id, part) DO UPDATE SET v = excluded.v",
        );
        p.recorded(&["+t 101,b c; +t 900,z c", "+t 102,a n; ~t 1,a v:x>n"])
    }),
    ("direct writes of leaves and of a middle table", |p| {
        tree(p, "(1, 'a', 'x'), (101, 'b', 'x')");
        p.run(
            "INSERT INTO t_low VALUES (2, 'a', 'leaf'); UPDATE t_mid SET v = 'middle'; DELETE FROM t_low WHERE id = 1",
        );
        p.recorded(&["+t 2,a leaf | ~t 101,b v:x>middle | -t 1,a x"])
    }),
    ("moves between partitions, one row and many", |p| {
        tree(p, "(1, 'a', 'x'), (2, 'a', 'x'), (101, 'a', 'x')");
        p.run("UPDATE t SET id = 150, v = 'moved' WHERE id = 101 AND part = 'a'; UPDATE t SET part = 'b' WHERE id = 150; UPDATE t SET id = id + 900 WHERE id < 100");
        p.recorded(&["~t 101,a>150,a v:x>moved | ~t 150,a>150,b | ~t 1,a>901,a; ~t 2,a>902,a"])
    }),
    ("move that a BEFORE INSERT trigger of the other partition refuses", |p| {
        tree(p, "(1, 'a', 'x'), (2, 'a', 'x')");
        p.run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON t_rest FOR EACH ROW WHEN (NEW.id = 901) EXECUTE FUNCTION refuse();
             UPDATE t SET id = id + 900",
        );
        p.recorded(&["-t 1,a x; ~t 2,a>902,a"])
    }),
    ("move by ON CONFLICT, MERGE and a foreign key CASCADE", |p| {
        p.tables(
            "CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY REFERENCES u ON UPDATE CASCADE, v text) PARTITION BY RANGE (id);
             CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (MINVALUE) TO (100); CREATE TABLE t_high PARTITION OF t FOR VALUES FROM (100) TO (MAXVALUE)",
        );
        p.run("INSERT INTO u VALUES (1), (2), (300), (301); INSERT INTO t VALUES (1, 'x'), (2, 'x')");
        p.prepared();
        p.run("UPDATE u SET id = 200 WHERE id = 1");
        if p.s.version() >= 150_000 {
            p.run("MERGE INTO t USING (VALUES (2)) AS x (id) ON x.id = t.id WHEN MATCHED THEN UPDATE SET id = 300");
        } else {
            p.run("UPDATE t SET id = 300 WHERE id = 2");
        }
        p.recorded(&["~u 1>200 | ~t 1>200", "~t 2>300"])
    }),
    ("leaf with its columns in another order and a dropped one", |p| {
        p.run(
            "CREATE TABLE t (id int, v text, n int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
             CREATE TABLE t_low (gone int, n int, v text, id int NOT NULL); ALTER TABLE t_low DROP gone;
             ALTER TABLE t ATTACH PARTITION t_low FOR VALUES FROM (0) TO (10); CREATE TABLE t_rest PARTITION OF t DEFAULT",
        );
        p.tables("");
        p.run("INSERT INTO t VALUES (1, 'a', 7); UPDATE t SET v = 'b'; UPDATE t SET id = 11; UPDATE t SET id = 2, n = 8; DELETE FROM t");
        p.recorded(&["+t 1 7 a | ~t 1 v:a>b | ~t 1>11 | ~t 11>2 n:7>8 | -t 2 8 b"])
    }),
    ("partitions made and attached later", |p| {
        tree(p, "(1, 'a', 'x')");
        p.run("CREATE TABLE t_high PARTITION OF t FOR VALUES FROM (1000) TO (2000); INSERT INTO t VALUES (1001, 'a', 'made')");
        p.run("CREATE TABLE t_more (LIKE t INCLUDING ALL); ALTER TABLE t ATTACH PARTITION t_more FOR VALUES FROM (2000) TO (3000)");
        p.run("INSERT INTO t VALUES (2001, 'a', 'attached'); UPDATE t_more SET v = 'leaf'");
        p.recorded(&["+t 1001,a made", "+t 2001,a attached | ~t 2001,a v:attached>leaf"])
    }),
    ("partition attached with rows in it, partition detached", |p| {
        tree(p, "(1, 'a', 'x'), (900, 'a', 'x')");
        p.run("ALTER TABLE t DETACH PARTITION t_rest; UPDATE t SET v = 'y'; INSERT INTO t_rest VALUES (901, 'a', 'on its own')");
        assert_eq!(p.changes(), ["~t 1,a v:x>y"]);
        // Rows that come or go with a partition are no row changes; without event triggers they are a gap.
        let incomplete = |p: &mut Path| {
            p.s.one("SELECT concat_ws(' ', verdict, complete) FROM jsonb_to_record(threadline.replay_check('t')) AS c (verdict text, complete bool)")
        };
        assert_eq!(incomplete(p), "violated f", "the record still has the detached rows");
        p.run("ALTER TABLE t ATTACH PARTITION t_rest DEFAULT; DELETE FROM t_rest WHERE id = 901; UPDATE t SET v = 'z' WHERE id = 900");
        assert_eq!(p.changes()[1..], ["-t 901,a on its own | ~t 900,a v:x>z"]);
        let found = "SELECT concat_ws(' ', invariant, table_pk ->> 'id') FROM threadline.replay_violations(threadline.replay_check('t'))";
        assert_eq!(p.s.column(found), ["history_is_continuous 901"], "a row that came with the partition");
        assert_eq!(incomplete(p), "violated f");
        p.run("SELECT threadline.audit_enable('t')");
        p.s.assert_replay_holds(&format!("{}.t", p.schema));
        "its rows' coming and going a gap until a new baseline, replay_check says violated".into()
    }),
    ("a table captured for itself attached, a row moved into it", |p| {
        tree(p, "(1, 'a', 'x')");
        p.run("CREATE TABLE t_more (LIKE t INCLUDING ALL); SELECT threadline.audit_enable('t_more'); ALTER TABLE t ATTACH PARTITION t_more FOR VALUES FROM (2000) TO (3000)");
        p.run("UPDATE t SET id = 2001 WHERE id = 1; UPDATE t_more SET v = 'y'");
        assert_eq!(p.changes(), ["~t 1,a>2001,a | ~t 2001,a v:x>y"]);
        p.s.assert_replay_holds(&format!("{}.t", p.schema));
        "2 changes, replay holds".into()
    }),
    ("move refused by a BEFORE UPDATE trigger, move across sub-levels and back", |p| {
        tree(p, "(1, 'a', 'x'), (101, 'b', 'x')");
        p.run(
            "CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER stay BEFORE UPDATE ON t_low FOR EACH ROW WHEN (NEW.id = 900) EXECUTE FUNCTION stay();
             UPDATE t SET id = 900 WHERE id = 1; UPDATE t SET id = 1, part = 'b' WHERE id = 101; UPDATE t SET id = id + 100 WHERE part = 'b'",
        );
        p.recorded(&["~t 101,b>1,b | ~t 1,b>101,b"])
    }),
    ("a partition that is a foreign table", |p| {
        p.run("CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER away FOREIGN DATA WRAPPER nothing");
        p.run("CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE f (id int NOT NULL, v text) PARTITION BY RANGE (id);
               CREATE FOREIGN TABLE away PARTITION OF f FOR VALUES FROM (0) TO (10) SERVER away");
        p.run("SELECT threadline.audit_enable('t')");
        p.refused("SELECT threadline.audit_enable('f', key_columns => '{id}')", "42809")
    }),
    ("row trigger of a leaf that writes another leaf", |p| {
        tree(p, "(1, 'a', 'x'), (900, 'a', 'x')");
        p.run(
            "CREATE FUNCTION spread() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET v = NEW.v || '!' WHERE id = 900; RETURN NULL; END $$;
             CREATE TRIGGER spread AFTER UPDATE ON t_low FOR EACH ROW EXECUTE FUNCTION spread(); UPDATE t SET v = 'y' WHERE id = 1",
        );
        p.recorded(&["~t 1,a v:x>y | ~t 900,a v:x>y!"])
    }),
    ("a leaf captured for itself, its parent not", |p| {
        p.run(TREE);
        p.run("SELECT threadline.audit_enable('t_low'); INSERT INTO t VALUES (1, 'a', 'x'), (900, 'a', 'x'); UPDATE t SET v = 'y'");
        p.recorded(&["+t_low 1,a x | ~t_low 1,a v:x>y"])
    }),
    ("a row that moves from a captured leaf to one that is not", |p| {
        p.run(TREE);
        p.run("SELECT threadline.audit_enable('t_low'); INSERT INTO t VALUES (1, 'a', 'x'); UPDATE t SET id = 900; UPDATE t SET id = 2");
        p.recorded(&["+t_low 1,a x | -t_low 1,a x | +t_low 2,a x"])
    }),
    ("old-style inheritance: a child written through its parent", |p| {
        p.tables(
            "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE c (extra int, PRIMARY KEY (id)) INHERITS (t)",
        );
        p.run("INSERT INTO t VALUES (1, 'a'); INSERT INTO c VALUES (2, 'b', 7)");
        p.prepared();
        p.run("UPDATE t SET v = v || '!'; UPDATE ONLY t SET v = 'only'; DELETE FROM t WHERE id = 2");
        p.recorded(&["~c 2 v:b>b!; ~t 1 v:a>a! | ~t 1 v:a!>only | -c 2 b! 7"])
    }),
];
