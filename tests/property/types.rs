//! Random tables over every type, random rows, random session settings: every image must be, byte for byte, what
//! `to_jsonb(row)` gives in another session under the canonical settings, and every list of changed columns what a
//! byte comparison of the rows before and after gives.
//!
//! THREADLINE_TYPE_TABLES and THREADLINE_TYPE_ROWS say how much of it.

use crate::images_oracle::{Oracle, Writers};
use crate::kinds;
use crate::random::{Random, seed};
use crate::random_table::Table;
use crate::support::{Database, Session};

fn amount(variable: &str, usual: i64) -> i64 {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Fills a table, changes it, changes its shape, and compares after each statement; returns the rows inserted.
fn exercise(
    admin: &mut Session,
    oracle: &mut Oracle,
    writers: &mut Writers,
    r: &mut Random,
    table: &mut Table,
    kinds: &[&str],
    rows: i64,
) -> i64 {
    let mut next = 0;
    table.create(admin, r);
    if r.percent(30) {
        let first = r.between(1, rows.min(9));
        admin.run(&table.insert(r, 0..first));
        next = first;
        oracle.enable(admin, table);
    } else {
        admin.run(&format!("SELECT threadline.audit_enable('{}')", table.qualified()));
    }
    if r.percent(40) {
        // Updates store changed columns only; the views show whole images all the same.
        admin.run(&format!(
            "SELECT threadline.audit_enable('{}', options => '{{\"image\": \"delta\"}}')",
            table.qualified()
        ));
    }
    let mut inserted = next;
    while inserted < rows {
        let count = r.between(1, 12).min(rows - inserted);
        let insert = table.insert(r, next..next + count);
        oracle.step(writers, r, table, &insert);
        next += count;
        inserted += count;
        for _ in 0..r.below(3) {
            let update = table.update(r);
            oracle.step(writers, r, table, &update);
        }
        if r.percent(15) {
            let count = r.between(1, 9);
            let copy = table.copy(r, 0..count, next);
            oracle.step(writers, r, table, &copy);
            next += count;
        }
        if r.percent(20) {
            let delete = table.delete(r);
            oracle.step(writers, r, table, &delete);
        }
        if r.percent(30) && table.reshape(admin, r, kinds).contains(" ADD COLUMN ") {
            // An image that is older than a column says NULL of it.
            let update = format!("UPDATE {} SET k = k", table.qualified());
            writers.run(r, &update);
        }
        writers.assert_typed_rows(r, table);
    }
    let update = table.update(r);
    oracle.step(writers, r, table, &update);
    let delete = table.delete(r);
    oracle.step(writers, r, table, &delete);
    writers.assert_typed_rows(r, table);
    admin.assert_replay_holds(&table.qualified());
    inserted
}

#[test]
fn images_of_every_type() {
    let seed = seed("types");
    let mut r = Random::new(seed);
    let (tables, rows) = (amount("THREADLINE_TYPE_TABLES", 25), amount("THREADLINE_TYPE_ROWS", 600));
    let db = Database::new("types");
    let mut admin = db.session();
    let kinds = kinds::create(&mut admin);
    let mut oracle = Oracle::new(&db);
    let mut writers = Writers::new(&db, &mut r);
    let mut inserted = 0;
    for number in 0..tables {
        let mut table = Table::random(&mut r, &format!("r{number}"), &kinds);
        // What is left, over the tables that are left.
        let share = (rows - inserted + tables - number - 1) / (tables - number);
        inserted += exercise(&mut admin, &mut oracle, &mut writers, &mut r, &mut table, &kinds, share.max(1));
        // The views take the whole log in, and this one is done with.
        admin.run(&format!("DROP TABLE {}; TRUNCATE threadline.change_log", table.qualified()));
    }
    println!(
        "{tables} tables, {inserted} rows of {} types inserted, {} changes compared",
        kinds.len(),
        oracle.compared
    );
}

#[test]
fn no_built_in_type_is_left_out() {
    let db = Database::bare(&crate::support::Address::from_env(), "types_list");
    let mut s = db.session();
    let kinds = kinds::create(&mut s);
    assert_eq!(kinds::untried(&mut s, &kinds), [""; 0], "built-in types without random values");
}

/// The comparison itself: whatever is wrong in the log, it says so.
#[test]
fn a_wrong_log_is_noticed() {
    // What is wrong then, the values of change_log.op it is tried on (1 delete, 4 insert, 5 update), and how it is done.
    const WRONG: &[(&str, &[i64], &str)] = &[
        ("a value", &[4, 5], "UPDATE threadline.change_log SET new_image = jsonb_set(new_image, '{a}', '\"x\"')"),
        // Equal as jsonb, and not the same.
        ("a scale", &[4, 5], "UPDATE threadline.change_log SET new_image = jsonb_set(new_image, '{n}', '1.5')"),
        ("a column less", &[4, 5], "UPDATE threadline.change_log SET new_image = new_image - 'a'"),
        ("a column more", &[4, 5], "UPDATE threadline.change_log SET new_image = new_image || '{\"more\": 1}'"),
        ("an old value", &[1, 5], "UPDATE threadline.change_log SET old_image = jsonb_set(old_image, '{a}', '\"x\"')"),
        ("an old scale", &[1], "UPDATE threadline.change_log SET old_image = jsonb_set(old_image, '{n}', '1.5')"),
        ("one changed column more", &[5], "UPDATE threadline.change_log SET old_image = old_image || '{\"n\": 1.50}'"),
        ("one changed column less", &[5], "UPDATE threadline.change_log SET old_image = NULL"),
        ("no deleted row", &[1], "UPDATE threadline.change_log SET old_image = NULL"),
        ("another op", &[4, 5], "UPDATE threadline.change_log SET op = 9 - op"),
        ("another row", &[1, 4, 5], "UPDATE threadline.change_log SET key = '77'"),
        ("nothing", &[1, 4, 5], "DELETE FROM threadline.change_log"),
        ("everything twice", &[1, 4, 5], "INSERT INTO threadline.change_log SELECT * FROM threadline.change_log"),
    ];
    let db = Database::new("types_wrong");
    let mut admin = db.session();
    admin.run("CREATE TABLE public.w (k int PRIMARY KEY, a text, n numeric)");
    admin.run("SELECT threadline.audit_enable('public.w')");
    let table = Table::of_columns("w", &[("a", "text"), ("n", "numeric")]);
    let mut oracle = Oracle::new(&db);
    for (op, statement) in [
        (4, "INSERT INTO public.w SELECT g, 'a' || g, 1.50 FROM generate_series(1, 3) g"),
        (5, "UPDATE public.w SET a = 'b' WHERE k = 2"),
        (1, "DELETE FROM public.w WHERE k = 3"),
    ] {
        let since = oracle.copy(&table);
        admin.run(statement);
        assert_eq!(oracle.differences(&table, &since), [""; 0], "after {statement}");
        for (what, _, tamper) in WRONG.iter().filter(|(_, ops, _)| ops.contains(&op)) {
            oracle.session.run("BEGIN");
            let touched = oracle.session.run(&format!("{tamper} WHERE id > {since}"));
            assert!(touched > 0, "nothing to tamper with: {tamper} after {statement}");
            let noticed = oracle.differences(&table, &since);
            oracle.session.run("ROLLBACK");
            assert!(!noticed.is_empty(), "{what} was not noticed after {statement}");
        }
    }
}
