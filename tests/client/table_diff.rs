//! audit_diff: the net effect of what was committed between two times, and no more.

use crate::support::{Database, Session};

fn table(stem: &str, columns: &str, options: &str) -> (Database, Session) {
    let db = Database::new(stem);
    let mut s = db.session();
    s.run(&format!("CREATE TABLE t ({columns}); SELECT threadline.audit_enable('t'{options})"));
    (db, s)
}

fn now(s: &mut Session) -> String {
    s.one("SELECT clock_timestamp()")
}

fn diff(s: &mut Session, since: &str, until: &str) -> Vec<String> {
    s.column(&format!(
        "SELECT concat_ws(' ', op, table_pk::text, before::text, '->', after::text, changed_fields, changes) FROM threadline.audit_diff('t', '{since}', '{until}')"
    ))
}

#[test]
fn only_the_net_effect_is_told() {
    let (_db, mut s) = table("dif_net", "id int PRIMARY KEY, v text", "");
    s.run("INSERT INTO t SELECT g, 'old' FROM generate_series(1, 6) g");
    let since = now(&mut s);
    s.run("UPDATE t SET v = 'new' WHERE id = 1; UPDATE t SET v = 'newer' WHERE id = 1");
    s.run("UPDATE t SET v = 'away' WHERE id = 2; UPDATE t SET v = 'old' WHERE id = 2");
    s.run("DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (3, 'old')");
    s.run("DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (4, 'other')");
    s.run("DELETE FROM t WHERE id = 5");
    s.run("INSERT INTO t VALUES (7, 'x'); UPDATE t SET v = 'y' WHERE id = 7; INSERT INTO t VALUES (8, 'x'); DELETE FROM t WHERE id = 8");
    let until = now(&mut s);
    s.run("UPDATE t SET v = 'later'");
    assert_eq!(
        diff(&mut s, &since, &until),
        [
            r#"update {"id": "1"} {"v": "old", "id": 1} -> {"v": "newer", "id": 1} {v} 2"#,
            r#"update {"id": "4"} {"v": "old", "id": 4} -> {"v": "other", "id": 4} {v} 2"#,
            r#"delete {"id": "5"} {"v": "old", "id": 5} -> 1"#,
            r#"insert {"id": "7"} -> {"v": "y", "id": 7} 2"#,
        ]
    );
    assert_eq!(diff(&mut s, &until, &until), Vec::<String>::new());
    assert_eq!(s.notices.lock().unwrap().len(), 0, "{:?}", s.notices);
}

#[test]
fn a_row_is_followed_through_changes_of_its_key() {
    let (_db, mut s) = table("dif_moves", "id int PRIMARY KEY, v text", "");
    s.run("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')");
    let since = now(&mut s);
    s.run("UPDATE t SET id = 10 WHERE id = 1; UPDATE t SET id = 11, v = 'moved' WHERE id = 10");
    s.run("BEGIN; UPDATE t SET id = -1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 3; UPDATE t SET id = 3 WHERE id = -1; COMMIT");
    s.run("UPDATE t SET id = 40 WHERE id = 4; UPDATE t SET id = 4 WHERE id = 40");
    s.run("INSERT INTO t VALUES (1, 'another')");
    let until = now(&mut s);
    assert_eq!(
        diff(&mut s, &since, &until),
        [
            r#"insert {"id": "1"} -> {"v": "another", "id": 1} 1"#,
            r#"update {"id": "2"} {"v": "c", "id": 3} -> {"v": "c", "id": 2} {id} 1"#,
            r#"update {"id": "3"} {"v": "b", "id": 2} -> {"v": "b", "id": 3} {id} 2"#,
            r#"update {"id": "11"} {"v": "a", "id": 1} -> {"v": "moved", "id": 11} {id,v} 2"#,
        ]
    );
}

#[test]
fn the_window_is_open_before_and_closed_after_and_goes_by_commit() {
    let (db, mut s) = table("dif_window", "id int PRIMARY KEY, v int", "");
    s.run("INSERT INTO t VALUES (1, 0), (2, 0)");
    let mut long = db.session();
    // Looked at, its change has an id from before the window.
    long.run("BEGIN; UPDATE t SET v = 5 WHERE id = 2; SELECT count(*) FROM threadline.audit_changes");
    s.run("UPDATE t SET v = 1 WHERE id = 1");
    let first = s.one("SELECT max(committed_at) FROM threadline.audit_transactions");
    s.run("UPDATE t SET v = 2 WHERE id = 1");
    let second = s.one("SELECT max(committed_at) FROM threadline.audit_transactions");
    long.run("COMMIT");
    let third = s.one("SELECT max(committed_at) FROM threadline.audit_transactions");
    assert_eq!(diff(&mut s, &first, &second), [r#"update {"id": "1"} {"v": 1, "id": 1} -> {"v": 2, "id": 1} {v} 1"#]);
    assert_eq!(
        diff(&mut s, &second, &third),
        [r#"update {"id": "2"} {"v": 0, "id": 2} -> {"v": 5, "id": 2} {v} 1"#],
        "changed before the window, committed in it"
    );
    assert_eq!(diff(&mut s, &third, "infinity"), Vec::<String>::new());
    s.run("BEGIN; UPDATE t SET v = 9");
    assert_eq!(diff(&mut s, &third, "infinity"), Vec::<String>::new(), "what is not committed is not there");
    s.run("ROLLBACK");
}

/// Whatever is done at random: the earlier state with the difference applied is the later state.
#[test]
fn the_earlier_state_and_the_difference_make_the_later_one() {
    for (stem, options) in [
        ("dif_random", ""),
        ("dif_delta", r#", options => '{"image": "delta"}'"#),
        ("dif_mark", r#", options => '{"truncate": "mark"}'"#),
    ] {
        let (db, mut s) = table(stem, "id int PRIMARY KEY, v int, w text", options);
        s.run("SELECT setseed(0.37)");
        let mut long = db.session();
        let mut moments = vec![now(&mut s)];
        for round in 0..40 {
            if round % 10 == 2 {
                long.run(&format!("BEGIN; INSERT INTO t VALUES ({}, 0, 'long'); SAVEPOINT s; UPDATE t SET w = 'lost' WHERE id = {0}; ROLLBACK TO s", 1000 + round));
            }
            for _ in 0..4 {
                let statement = s.one(
                    "SELECT (ARRAY['INSERT INTO t VALUES (%s, %s, ''i'') ON CONFLICT DO NOTHING', 'INSERT INTO t VALUES (%s, %s, ''u'')',
                                   'DELETE FROM t WHERE id = %s', 'UPDATE t SET v = %2$s WHERE id = %1$s', 'UPDATE t SET id = %2$s WHERE id = %1$s',
                                   'BEGIN; UPDATE t SET id = -1 WHERE id = %1$s; UPDATE t SET id = %1$s WHERE id = %2$s; UPDATE t SET id = %2$s WHERE id = -1; COMMIT',
                                   'BEGIN; DELETE FROM t WHERE id = %1$s; INSERT INTO t VALUES (%1$s, 1, ''again''); UPDATE t SET id = %2$s WHERE id = %1$s; COMMIT'
                                  ])[1 + (random() * 6)::int]",
                );
                let (a, b) = (s.one("SELECT (random() * 12)::int"), s.one("SELECT (random() * 12)::int"));
                let sql = statement
                    .replacen("%1$s", &a, 9)
                    .replacen("%2$s", &b, 9)
                    .replacen("%s", &a, 1)
                    .replacen("%s", &b, 1);
                if s.try_run(&sql).is_err() {
                    s.run("ROLLBACK");
                }
            }
            if round % 10 == 7 {
                long.run("COMMIT");
            }
            if stem == "dif_mark" && round % 20 == 9 {
                s.run("TRUNCATE t");
            }
            moments.push(now(&mut s));
        }
        for (since, until) in
            [(0, 40), (0, 1), (5, 6), (3, 20), (8, 9), (11, 39), (12, 13), (19, 33), (26, 28), (40, 40)]
        {
            let (since, until) = (&moments[since], &moments[until]);
            let wrong = s.column(&format!(
                "WITH d AS MATERIALIZED (SELECT * FROM threadline.audit_diff('t', '{since}', '{until}')),
                      earlier AS MATERIALIZED (SELECT row_data FROM threadline.audit_table_as_of('t', '{since}')),
                      later AS MATERIALIZED (SELECT row_data FROM threadline.audit_table_as_of('t', '{until}')),
                      made AS MATERIALIZED (
                          SELECT row_data FROM earlier WHERE row_data NOT IN (SELECT before FROM d WHERE before IS NOT NULL)
                          UNION ALL SELECT after FROM d WHERE after IS NOT NULL)
                 SELECT concat('not made ', row_data) FROM (SELECT row_data FROM later EXCEPT ALL SELECT row_data FROM made) x
                 UNION ALL SELECT concat('made ', row_data) FROM (SELECT row_data FROM made EXCEPT ALL SELECT row_data FROM later) x
                 UNION ALL SELECT concat('was not there ', before) FROM d WHERE before IS NOT NULL AND before NOT IN (SELECT row_data FROM earlier)
                 UNION ALL SELECT concat('no difference ', before) FROM d WHERE before = after
                 UNION ALL SELECT concat('twice ', table_pk) FROM d WHERE op <> 'delete' GROUP BY table_pk HAVING count(*) > 1"
            ));
            assert_eq!(wrong, Vec::<String>::new(), "{stem} {since} {until}: {:?}", diff(&mut s, since, until));
        }
    }
}

#[test]
fn it_reads_the_changes_and_not_the_table() {
    let (_db, mut s) = table("dif_cost", "id int PRIMARY KEY, v text", "");
    s.run("INSERT INTO t SELECT g, 'a row of some length ' || g FROM generate_series(1, 60000) g");
    let since = now(&mut s);
    s.run("UPDATE t SET v = 'changed' WHERE id IN (7, 30000, 59999)");
    s.run("ANALYZE; ANALYZE threadline.change_log; ANALYZE threadline.transaction_log");
    let read = |s: &mut Session, call: &str| {
        let plan = s
            .column(&format!("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT * FROM {call}"))
            .join("\n");
        let counted = plan.split("hit=").nth(1).unwrap_or_else(|| panic!("{plan}"));
        counted.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<i64>().unwrap()
    };
    // What is read to plan the statements inside is counted too, the first time and whenever the catalogs changed.
    let mut least = |call: String| (0..4).map(|_| read(&mut s, &call)).min().unwrap();
    let of_diff = least(format!("threadline.audit_diff('t', '{since}', 'infinity')"));
    let of_table = least(format!("threadline.audit_table_as_of('t', '{since}')"));
    assert!(of_diff * 2 < of_table, "{of_diff} against {of_table}");
}

#[test]
fn baselines_marks_and_tables_without_a_key() {
    let (_db, mut s) = table("dif_baseline", "id int PRIMARY KEY, v text", "");
    s.run("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')");
    let since = now(&mut s);
    s.run("SELECT threadline.audit_disable('t'); UPDATE t SET v = 'unseen' WHERE id = 2; DELETE FROM t WHERE id = 3; SELECT threadline.audit_enable('t'); INSERT INTO t VALUES (9, 'n')");
    assert_eq!(
        diff(&mut s, &since, "infinity"),
        [
            r#"update {"id": "2"} {"v": "b", "id": 2} -> {"v": "unseen", "id": 2} {v} 1"#,
            r#"delete {"id": "3"} {"v": "c", "id": 3} -> 0"#,
            r#"insert {"id": "9"} -> {"v": "n", "id": 9} 1"#,
        ]
    );
    assert!(s.notices.lock().unwrap().iter().any(|n| n.contains("incomplete")), "a gap is told of: {:?}", s.notices);
    s.run("SET threadline.incomplete = error");
    s.refused(&format!("SELECT * FROM threadline.audit_diff('t', '{since}', 'infinity')"), &["55000"]);

    s.run("RESET threadline.incomplete; CREATE TABLE bag (v text, n int); SELECT threadline.audit_enable('bag', options => '{\"key\": \"full_row\"}')");
    s.run("INSERT INTO bag VALUES ('x', 1), ('x', 1), ('y', 2)");
    let since = now(&mut s);
    s.run("DELETE FROM bag WHERE v = 'x'; INSERT INTO bag VALUES ('x', 1), ('z', 3), ('z', 3); UPDATE bag SET n = 5 WHERE v = 'y'; UPDATE bag SET n = n");
    let told = |s: &mut Session| {
        s.column(&format!("SELECT concat_ws(' ', op, coalesce(before, after)::text) FROM threadline.audit_diff('bag', '{since}', 'infinity') ORDER BY 1"))
    };
    let expected = [
        r#"delete {"n": 1, "v": "x"}"#,
        r#"delete {"n": 2, "v": "y"}"#,
        r#"insert {"n": 3, "v": "z"}"#,
        r#"insert {"n": 3, "v": "z"}"#,
        r#"insert {"n": 5, "v": "y"}"#,
    ];
    assert_eq!(told(&mut s), expected);
    s.run("ALTER TABLE bag ADD COLUMN more int; INSERT INTO bag VALUES ('w', 1, 1); SELECT threadline.audit_enable('bag')");
    s.refused(&format!("SELECT * FROM threadline.audit_diff('bag', '{since}', 'infinity')"), &["0A000"]);
    s.run("CREATE TABLE k (a int UNIQUE NOT NULL, b int UNIQUE NOT NULL); SELECT threadline.audit_enable('k', key_columns => '{a}'); INSERT INTO k VALUES (1, 2)");
    let since = now(&mut s);
    s.run("SELECT threadline.audit_enable('k', key_columns => '{b}'); UPDATE k SET a = 5");
    s.refused(&format!("SELECT * FROM threadline.audit_diff('k', '{since}', 'infinity')"), &["0A000"]);
}

#[test]
fn names_spellings_and_hidden_columns() {
    let (_db, mut s) = table(
        "dif_shape",
        "id int PRIMARY KEY, v text, f float8, doc json, secret text, n numeric",
        ", mask => '{secret}'",
    );
    s.run("INSERT INTO t VALUES (1, 'a', 0, '{}', 'x', 1.0), (2, 'b', 0, '{}', 'x', 1.0), (3, 'c', 0, '{}', 'x', 1.0), (4, 'd', 0, '{}', 'x', 1.0)");
    let since = now(&mut s);
    s.run("UPDATE t SET v = v || '!' WHERE id = 1");
    s.run("ALTER TABLE t RENAME COLUMN v TO word; ALTER TABLE t ADD COLUMN added int");
    s.run("UPDATE t SET f = '-0' WHERE id IN (1, 2); UPDATE t SET doc = '{ }' WHERE id = 2; UPDATE t SET secret = 'y' WHERE id = 3; UPDATE t SET n = 1.00 WHERE id = 4");
    let fields = s.column(&format!("SELECT concat_ws(' ', table_pk ->> 'id', changed_fields, before ->> 'word', after ->> 'word') FROM threadline.audit_diff('t', '{since}', 'infinity')"));
    assert_eq!(fields, ["1 {f,word} a a!", "2 {doc,f} b b", "3 {secret} c c", "4 {n} d d"]);
    let all =
        s.one(&format!("SELECT string_agg(d::text, '') FROM threadline.audit_diff('t', '{since}', 'infinity') d"));
    assert!(all.contains("[REDACTED]") && !all.contains("\"y\""), "{all}");
}

#[test]
fn times_that_cannot_be_answered() {
    let (_db, mut s) = table("dif_times", "id int PRIMARY KEY", "");
    let before = s.one("SELECT now() - interval '1 day'");
    s.run("INSERT INTO t VALUES (1)");
    let after = now(&mut s);
    for (since, until, code) in [
        (format!("'{after}'"), format!("'{before}'"), "22023"),
        ("NULL".into(), format!("'{after}'"), "22023"),
        (format!("'{after}'"), "NULL".into(), "22023"),
        (format!("'{after}'"), "'2999-01-01'".into(), "22023"),
        (format!("'{before}'"), format!("'{after}'"), "55000"),
        ("'-infinity'".into(), "'infinity'".into(), "55000"),
    ] {
        s.refused(&format!("SELECT * FROM threadline.audit_diff('t', {since}, {until})"), &[code]);
    }
    s.run("CREATE TABLE never (id int)");
    s.refused(&format!("SELECT * FROM threadline.audit_diff('never', '{after}', 'infinity')"), &["42704"]);
    s.run("CREATE TABLE bare (id int PRIMARY KEY, v int); INSERT INTO bare VALUES (1, 1); SELECT threadline.audit_enable('bare', baseline => false)");
    let since = now(&mut s);
    s.run("UPDATE bare SET v = 2");
    assert_eq!(
        s.one(&format!(
            "SELECT concat(before ->> 'v', after ->> 'v') FROM threadline.audit_diff('bare', '{since}', 'infinity')"
        )),
        "12",
        "needs no baseline"
    );
}
