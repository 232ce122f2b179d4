//! A table for each type, so that a failure names the type.

use crate::images_oracle::{Oracle, Writers};
use crate::kinds::{self, literal};
use crate::random::{Random, seed};
use crate::random_table::Table;
use crate::support::{Database, Session};

/// Runs `check` over a table of one column for each type and its array.
fn each_type(test: &str, check: impl Fn(&mut Session, &mut Oracle, &mut Writers, &mut Random, &Table)) {
    let seed = seed(test);
    let mut r = Random::new(seed);
    let db = Database::new(test);
    let mut admin = db.session();
    let kinds = kinds::create(&mut admin);
    let mut oracle = Oracle::new(&db);
    let mut writers = Writers::new(&db, &mut r);
    let mut failed = Vec::new();
    let arrays = kinds.iter().map(|kind| format!("{kind}[]"));
    for (number, kind) in kinds.iter().map(|kind| kind.to_string()).chain(arrays).enumerate() {
        let table = Table::of_columns(&format!("one{number}"), &[("c0", &kind)]);
        table.create(&mut admin, &mut r);
        admin.run(&format!("SELECT threadline.audit_enable('{}')", table.qualified()));
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            check(&mut admin, &mut oracle, &mut writers, &mut r, &table)
        }));
        if tried.is_err() {
            failed.push(kind);
        }
    }
    assert!(failed.is_empty(), "types that fail: {failed:?}");
}

#[test]
fn images_type_by_type() {
    each_type("images_types", |admin, oracle, writers, r, table| {
        let insert = table.insert(r, 0..20);
        oracle.step(writers, r, table, &insert);
        let value = literal(r, &table.columns[0].kind);
        let update = format!("UPDATE {} SET c0 = {value} WHERE k % 2 = 0", table.qualified());
        oracle.step(writers, r, table, &update);
        oracle.step(writers, r, table, &format!("DELETE FROM {} WHERE k % 3 = 0", table.qualified()));
        admin.assert_replay_holds(&table.qualified());
    });
}

/// -0, the spelling of a json, array bounds, jsonb null, types whose input does not read their JSON form: the row as it
/// was is the row, to the last character.
#[test]
fn typed_rows_type_by_type() {
    each_type("typed_rows", |admin, _, writers, r, table| {
        for options in ["{}", r#"{"image": "delta"}"#] {
            admin.run(&format!("SELECT threadline.audit_enable('{}', options => '{options}')", table.qualified()));
            writers.run(r, &format!("DELETE FROM {}", table.qualified()));
            let insert = table.insert(r, 0..60);
            writers.run(r, &insert);
            for _ in 0..3 {
                let update = table.update(r);
                writers.run(r, &update);
            }
            writers.assert_typed_rows(r, table);
        }
    });
}
