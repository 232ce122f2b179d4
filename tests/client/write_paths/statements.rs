//! The statements that write, and what they write through.

use super::{Path, WritePath};
use crate::cluster::client_output;

pub const PATHS: &[WritePath] = &[
    ("INSERT … VALUES of several rows", |p| {
        p.t("");
        p.run("INSERT INTO t VALUES (1, 'a'), (2, NULL), (3, 'c')");
        p.recorded(&["+t 1 a; +t 2 NULL; +t 3 c"])
    }),
    ("INSERT … SELECT from the same table", |p| {
        p.t("(1, 'a'), (2, 'b')");
        p.run("INSERT INTO t SELECT id + 10, v FROM t");
        p.recorded(&["+t 11 a; +t 12 b"])
    }),
    ("INSERT … RETURNING, DEFAULT VALUES, identity and generated columns", |p| {
        p.tables("CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int DEFAULT 7, twice int GENERATED ALWAYS AS (n * 2) STORED)");
        assert_eq!(p.s.column("INSERT INTO t DEFAULT VALUES RETURNING twice"), ["14"]);
        p.run("UPDATE t SET n = 8");
        p.recorded(&["+t 1 7 14", "~t 1 n:7>8 twice:14>16"])
    }),
    ("UPDATE … FROM", |p| {
        p.t("(1, 'a'), (2, 'b'), (3, 'c')");
        p.run("UPDATE t SET v = x.v FROM (VALUES (1, 'A'), (3, 'C'), (9, 'Z')) AS x (id, v) WHERE x.id = t.id");
        p.recorded(&["~t 1 v:a>A; ~t 3 v:c>C"])
    }),
    ("UPDATE of the key, keys shifted along", |p| {
        p.t("(1, 'a'), (2, 'b'), (3, 'c')");
        p.run("UPDATE t SET id = id + 3");
        p.run("BEGIN; UPDATE t SET id = -id; UPDATE t SET id = 10 + id; COMMIT");
        p.recorded(&["~t 1>4; ~t 2>5; ~t 3>6", "~t 4>-4; ~t 5>-5; ~t 6>-6 | ~t -4>6; ~t -5>5; ~t -6>4"])
    }),
    ("UPDATE that changes nothing", |p| {
        p.t("(1, 'a')");
        p.run("UPDATE t SET v = v");
        p.recorded(&["~t 1"])
    }),
    ("UPDATE that changes nothing, skip_noop", |p| {
        p.t("(1, 'a')");
        p.run(r#"SELECT threadline.audit_enable('t', options => '{"skip_noop": true}'); UPDATE t SET v = v"#);
        p.recorded(&[])
    }),
    ("DELETE … USING", |p| {
        p.t("(1, 'a'), (2, 'b'), (3, 'c')");
        p.run("DELETE FROM t USING generate_series(2, 9) AS g WHERE g = t.id");
        p.recorded(&["-t 2 b; -t 3 c"])
    }),
    ("INSERT … ON CONFLICT DO NOTHING", |p| {
        p.t("(1, 'a')");
        p.run("INSERT INTO t VALUES (1, 'x'), (2, 'b'), (2, 'y') ON CONFLICT DO NOTHING");
        p.recorded(&["+t 2 b"])
    }),
    ("INSERT … ON CONFLICT DO UPDATE, with and without WHERE", |p| {
        p.t("(1, 'a'), (2, 'b')");
        p.run("INSERT INTO t AS o VALUES (1, 'x'), (2, 'y'), (3, 'z') ON CONFLICT (id) DO UPDATE SET v = o.v || excluded.v WHERE o.v <> 'b'");
        p.recorded(&["+t 3 z; ~t 1 v:a>ax"])
    }),
    ("MERGE", |p| {
        if let Some(no) = p.too_old(150_000) {
            return no;
        }
        p.t("(1, 'a'), (2, 'b'), (3, 'c')");
        p.run(
            "MERGE INTO t USING (VALUES (1, 'A'), (2, NULL), (4, 'D'), (5, NULL)) AS x (id, v) ON x.id = t.id
             WHEN MATCHED AND x.v IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET v = x.v
             WHEN NOT MATCHED AND x.v IS NULL THEN DO NOTHING WHEN NOT MATCHED THEN INSERT VALUES (x.id, x.v)",
        );
        p.recorded(&["+t 4 D; -t 2 b; ~t 1 v:a>A"])
    }),
    ("MERGE … WHEN NOT MATCHED BY SOURCE", |p| {
        if let Some(no) = p.too_old(170_000) {
            return no;
        }
        p.t("(1, 'a'), (2, 'b'), (3, 'c')");
        p.run(
            "MERGE INTO t USING (VALUES (1, 'A'), (4, 'D')) AS x (id, v) ON x.id = t.id
             WHEN MATCHED THEN UPDATE SET v = x.v WHEN NOT MATCHED THEN INSERT VALUES (x.id, x.v)
             WHEN NOT MATCHED BY SOURCE AND t.id = 2 THEN DELETE WHEN NOT MATCHED BY SOURCE THEN UPDATE SET v = 'left'",
        );
        p.recorded(&["+t 4 D; -t 2 b; ~t 1 v:a>A; ~t 3 v:c>left"])
    }),
    ("COPY FROM, text", |p| {
        p.t("");
        assert_eq!(p.s.copy_in("COPY t FROM STDIN", "1\ta\n2\t\\N\n").expect("copied"), 2);
        p.recorded(&["+t 1 a; +t 2 NULL"])
    }),
    ("COPY FROM, csv with a WHERE", |p| {
        p.t("");
        p.s.copy_in("COPY t FROM STDIN (FORMAT csv, HEADER) WHERE id <> 2", "id,v\n1,\"a,b\"\n2,x\n3,\n")
            .expect("copied");
        p.recorded(&["+t 1 a,b; +t 3 NULL"])
    }),
    ("COPY FROM, binary", |p| {
        p.t("");
        let mut data = Vec::new();
        let mut reader =
            p.s.client.copy_out("COPY (VALUES (1, 'a'), (2, NULL)) TO STDOUT (FORMAT binary)").expect("copied out");
        std::io::copy(&mut reader, &mut data).expect("read");
        drop(reader);
        let mut writer = p.s.client.copy_in("COPY t FROM STDIN (FORMAT binary)").expect("copy");
        std::io::copy(&mut data.as_slice(), &mut writer).expect("sent");
        assert_eq!(writer.finish().expect("copied"), 2);
        p.recorded(&["+t 1 a; +t 2 NULL"])
    }),
    ("COPY … (FREEZE) after TRUNCATE", |p| {
        p.t("(1, 'a')");
        p.run("BEGIN; TRUNCATE t");
        p.s.copy_in("COPY t FROM STDIN (FREEZE)", "1\tfrozen\n2\tfrozen\n").expect("copied");
        p.run("UPDATE t SET v = 'thawed' WHERE id = 2; COMMIT");
        p.recorded(&["!t 1 a | +t 1 frozen; +t 2 frozen | ~t 2 v:frozen>thawed"])
    }),
    ("COPY that the client aborts half way", |p| {
        p.t("");
        let lines: String = (1..=5000).map(|i| format!("{i}\tx\n")).collect();
        let mut writer = p.s.client.copy_in("COPY t FROM STDIN").expect("copy");
        std::io::copy(&mut lines.as_bytes(), &mut writer).expect("sent");
        drop(writer);
        p.run("INSERT INTO t VALUES (1, 'after')");
        p.recorded(&["+t 1 after"])
    }),
    ("COPY with a bad line", |p| {
        p.t("");
        let lines: String = (1..=2000).map(|i| format!("{i}\tx\n")).collect();
        assert!(p.s.copy_in("COPY t FROM STDIN", &(lines + "bad\tx\n")).is_err());
        p.run("INSERT INTO t VALUES (1, 'after')");
        p.recorded(&["+t 1 after"])
    }),
    ("writable CTEs, several on one table", |p| {
        p.t("(1, 'a'), (2, 'b'), (3, 'c')");
        p.run(
            "WITH gone AS (DELETE FROM t WHERE id = 1 RETURNING *), new AS (UPDATE t SET v = 'B' WHERE id = 2 RETURNING *),
                  more AS (INSERT INTO t SELECT id + 10, v FROM gone RETURNING *)
             INSERT INTO t SELECT id + 20, v FROM new",
        );
        p.recorded(&["+t 11 a; +t 22 B; -t 1 a; ~t 2 v:b>B"])
    }),
    ("writable CTE: one key deleted and inserted by one statement", |p| {
        p.t("(1, 'a')");
        p.run("WITH gone AS (DELETE FROM t RETURNING id) INSERT INTO t SELECT id, 'b' FROM gone");
        p.recorded(&["+t 1 b; -t 1 a"])
    }),
    ("writable CTEs, several tables, one row twice", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)");
        p.run("INSERT INTO t VALUES (1, 'a')");
        p.prepared();
        // The second update of one row in one statement does nothing.
        p.run("WITH one AS (UPDATE t SET v = 'b' RETURNING *), two AS (UPDATE t SET v = v || '!' WHERE id = 2) INSERT INTO u SELECT * FROM one");
        p.recorded(&["+u 1 b; ~t 1 v:a>b"])
    }),
    ("cursor, WHERE CURRENT OF", |p| {
        p.t("(1, 'a'), (2, 'b'), (3, 'c')");
        p.run("BEGIN; DECLARE c CURSOR FOR SELECT * FROM t ORDER BY id FOR UPDATE; FETCH c; UPDATE t SET v = 'A' WHERE CURRENT OF c; FETCH c; DELETE FROM t WHERE CURRENT OF c; COMMIT");
        p.recorded(&["~t 1 v:a>A | -t 2 b"])
    }),
    ("SELECT … FOR UPDATE", |p| {
        p.t("(1, 'a')");
        p.run("BEGIN; SELECT * FROM t FOR UPDATE; SELECT * FROM t FOR SHARE; COMMIT");
        p.recorded(&[])
    }),
    ("prepared statement, custom plans", |p| prepared(p, "force_custom_plan")),
    ("prepared statement, generic plan", |p| prepared(p, "force_generic_plan")),
    ("prepared statement kept over a change of the policy and the table", |p| {
        p.t("(1, 'a')");
        p.run("SET plan_cache_mode = force_generic_plan; PREPARE up (text) AS UPDATE t SET v = $1; EXECUTE up('b')");
        p.session().run("SELECT threadline.audit_enable('t', mask => '{v}')");
        p.run("EXECUTE up('c')");
        p.session().run("SELECT threadline.audit_enable('t', mask => '{}'); ALTER TABLE t ADD COLUMN w int");
        p.run("EXECUTE up('d')");
        p.reshaped = true;
        p.recorded(&["~t 1 v:a>b", "~t 1 v:[REDACTED]>[REDACTED]", "~t 1 v:c>d"])
    }),
    ("pipelined extended protocol", |p| {
        p.t("");
        let inserts: String = (1..=20).map(|i| format!("INSERT INTO {}.t VALUES ({i}, 'x');\n", p.schema)).collect();
        let script =
            format!("\\startpipeline\n{inserts}UPDATE {}.t SET v = 'y' WHERE id > 10;\n\\endpipeline\n", p.schema);
        client_output(
            "pgbench",
            &p.db.at,
            &p.db.name,
            &["-n", "-M", "extended", "-t", "1", "-f", "-"],
            script.as_bytes(),
        );
        let found = p.changes();
        assert_eq!(found.len(), 1, "a pipeline without a COMMIT is one transaction");
        assert_eq!(found[0].split(" | ").count(), 21, "each statement on its own: {found:?}");
        p.adds_up();
        "30 changes of 21 statements, replay holds".into()
    }),
    ("several statements in one simple query", |p| {
        p.t("");
        p.run("INSERT INTO t VALUES (1, 'a'); UPDATE t SET v = 'b'; DELETE FROM t");
        p.recorded(&["+t 1 a | ~t 1 v:a>b | -t 1 b"])
    }),
    ("several statements in one simple query, with BEGIN and COMMIT inside", |p| {
        p.t("");
        p.run("INSERT INTO t VALUES (1, 'a'); BEGIN; UPDATE t SET v = 'b'; COMMIT; INSERT INTO t VALUES (2, 'c')");
        p.recorded(&["+t 1 a | ~t 1 v:a>b", "+t 2 c"])
    }),
    ("several statements in one simple query, the last one fails", |p| {
        p.t("(1, 'a')");
        assert_eq!(p.s.failure("UPDATE t SET v = 'b'; INSERT INTO t VALUES (1, 'twice')").code, "23505");
        p.recorded(&[])
    }),
    ("PL/pgSQL function: statements, loop, RETURN QUERY", |p| {
        p.t("(1, 'a')");
        p.run(
            "CREATE FUNCTION work() RETURNS SETOF t LANGUAGE plpgsql AS $$ BEGIN
                 FOR i IN 2..3 LOOP INSERT INTO t VALUES (i, 'loop'); END LOOP;
                 RETURN QUERY UPDATE t SET v = upper(v) RETURNING t.*; END $$; SELECT * FROM work()",
        );
        p.recorded(&["+t 2 loop | +t 3 loop | ~t 1 v:a>A; ~t 2 v:loop>LOOP; ~t 3 v:loop>LOOP"])
    }),
    ("PL/pgSQL EXECUTE of a text, in DO", |p| {
        p.t("(1, 'a')");
        p.run("DO $$ BEGIN EXECUTE format('UPDATE %I SET v = $1', 't') USING 'b'; EXECUTE 'DELETE FROM t'; END $$");
        p.recorded(&["~t 1 v:a>b | -t 1 b"])
    }),
    ("SQL function in a SELECT, old and new style", |p| {
        p.t("");
        p.run(
            "CREATE FUNCTION old_style(i int) RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES ($1, $$o$$) RETURNING id';
             CREATE FUNCTION new_style(i int) RETURNS int LANGUAGE sql BEGIN ATOMIC INSERT INTO t VALUES (i, 'n') RETURNING id; END;
             SELECT old_style(1), new_style(2)",
        );
        p.recorded(&["+t 1 o | +t 2 n"])
    }),
    ("rule DO ALSO on a table", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)");
        p.run("CREATE RULE also AS ON INSERT TO t DO ALSO INSERT INTO u VALUES (NEW.id, 'also')");
        p.run("INSERT INTO t VALUES (1, 'a')");
        p.recorded(&["+t 1 a | +u 1 also"])
    }),
    ("rule DO INSTEAD on a table", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)");
        p.run("INSERT INTO t VALUES (1, 'a'); CREATE RULE instead AS ON DELETE TO t DO INSTEAD UPDATE t SET v = 'deleted' WHERE id = OLD.id");
        p.prepared();
        p.run("DELETE FROM t");
        p.recorded(&["~t 1 v:a>deleted"])
    }),
    ("rule DO INSTEAD on a view", |p| {
        p.t("(1, 'a')");
        p.run("CREATE VIEW w AS SELECT count(*) AS n FROM t; CREATE RULE instead AS ON INSERT TO w DO INSTEAD INSERT INTO t VALUES (NEW.n, 'rule')");
        p.run("INSERT INTO w VALUES (7)");
        p.recorded(&["+t 7 rule"])
    }),
    ("INSTEAD OF triggers of a view", |p| {
        p.t("(1, 'a')");
        p.run(
            "CREATE VIEW w AS SELECT id AS k, upper(v) AS shout FROM t;
             CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 CASE TG_OP WHEN 'INSERT' THEN INSERT INTO t VALUES (NEW.k, lower(NEW.shout)); RETURN NEW;
                            WHEN 'UPDATE' THEN UPDATE t SET v = lower(NEW.shout) WHERE id = OLD.k; RETURN NEW;
                            ELSE DELETE FROM t WHERE id = OLD.k; RETURN OLD; END CASE; END $$;
             CREATE TRIGGER instead INSTEAD OF INSERT OR UPDATE OR DELETE ON w FOR EACH ROW EXECUTE FUNCTION instead()",
        );
        p.run(
            "INSERT INTO w VALUES (2, 'B'), (3, 'C'); UPDATE w SET shout = 'X' WHERE k < 3; DELETE FROM w WHERE k = 3",
        );
        p.recorded(&["+t 2 b | +t 3 c | ~t 1 v:a>x | ~t 2 v:b>x | -t 3 c"])
    }),
    ("auto-updatable view of a view", |p| {
        p.t("(1, 'a')");
        p.run("CREATE VIEW w AS SELECT id AS k, v FROM t WHERE id < 10; CREATE VIEW x AS SELECT * FROM w");
        p.run("INSERT INTO x VALUES (2, 'b'), (20, 'outside'); UPDATE x SET v = v || '!'; DELETE FROM x WHERE k = 2");
        p.recorded(&["+t 2 b; +t 20 outside | ~t 1 v:a>a!; ~t 2 v:b>b! | -t 2 b!"])
    }),
    ("view WITH CHECK OPTION, kept and broken", |p| {
        p.t("(1, 'a')");
        p.run("CREATE VIEW w AS SELECT * FROM t WHERE id < 10 WITH CASCADED CHECK OPTION; UPDATE w SET id = 5");
        assert_eq!(p.s.failure("UPDATE w SET id = id + 7").code, "44000");
        p.recorded(&["~t 1>5"])
    }),
    ("CREATE TABLE AS and SELECT INTO from an audited table", |p| {
        p.t("(1, 'a')");
        p.run("CREATE TABLE copied AS SELECT * FROM t; SELECT * INTO again FROM t");
        p.recorded(&[])
    }),
    ("CREATE TABLE AS with parallel workers, INSERT … SELECT of it", |p| {
        p.tables("CREATE TABLE t (id int PRIMARY KEY, v text)");
        p.run(
            "CREATE TABLE source AS SELECT g AS id, 'v' || g AS v FROM generate_series(1, 20000) g; ANALYZE source;
             SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
             SET max_parallel_workers_per_gather = 2",
        );
        // An INSERT itself is planned without workers.
        let select = "SELECT count(*), max(v) FROM source WHERE length(v) > 1";
        let plan = p.s.column(&format!("EXPLAIN (COSTS OFF) {select}")).join("\n");
        assert!(plan.contains("Gather"), "a parallel plan: {plan}");
        p.run(&format!("BEGIN; CREATE TABLE read AS {select}; INSERT INTO t SELECT count::int, max FROM read; INSERT INTO t SELECT id, v FROM source WHERE id <= 3; COMMIT"));
        p.recorded(&["+t 20000 v9999 | +t 1 v1; +t 2 v2; +t 3 v3"])
    }),
];

pub const LARGE: &[WritePath] = &[
    ("100,000 rows in one statement", |p| {
        p.t("");
        p.run("INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 100000) g");
        p.run("UPDATE t SET v = v || '!' WHERE id % 2 = 0; DELETE FROM t WHERE id % 4 = 0");
        let sums = p.s.one(&format!(
            "SELECT concat_ws(' ', sum((data_after ->> 'id')::bigint) FILTER (WHERE op = 'insert'), sum((data_after ->> 'id')::bigint) FILTER (WHERE op = 'update'),
                    sum((changed_from ->> 'id')::bigint) FILTER (WHERE op = 'delete'), count(*) FILTER (WHERE op = 'update' AND data_after ->> 'v' = (changed_from ->> 'v') || '!'))
             FROM threadline.audit_changes WHERE {}", p.ours()
        ));
        assert_eq!(sums, "5000050000 2500050000 1250050000 50000");
        p.counted("25000 delete, 100000 insert, 50000 update", 2)
    }),
    ("TRUNCATE of 100,000 rows and of one more, truncate_cap not set", |p| {
        p.t("");
        p.run("INSERT INTO t SELECT g, 'v' FROM generate_series(1, 100000) g");
        p.prepared();
        p.run("BEGIN; TRUNCATE t");
        assert_eq!(
            p.s.number(&format!(
                "SELECT count(*) FROM threadline.audit_changes WHERE op = 'truncate' AND {}",
                p.ours()
            )),
            100_000
        );
        p.run("ROLLBACK; INSERT INTO t VALUES (0, 'v')");
        p.prepared();
        p.run("TRUNCATE t");
        assert_eq!(p.changes(), ["!t *"]);
        p.s.assert_replay_holds("t");
        "1 change, replay holds".into()
    }),
];

fn prepared(p: &mut Path, mode: &str) -> String {
    p.t("(1, 'a'), (2, 'b')");
    p.run(&format!(
        "SET plan_cache_mode = {mode}; PREPARE up (int, text) AS UPDATE t SET v = $2 WHERE id = $1; BEGIN; EXECUTE up(1, 'x'); EXECUTE up(2, 'y'); COMMIT"
    ));
    let delete = p.s.client.prepare("DELETE FROM t WHERE id = $1 AND v = $2").expect("prepared");
    assert_eq!(p.s.client.execute(&delete, &[&1_i32, &"x"]).expect("executed"), 1);
    p.recorded(&["~t 1 v:a>x | ~t 2 v:b>y", "-t 1 x"])
}
