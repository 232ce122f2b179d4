//! Stock, and reservations of it by lines of a composite key.

use super::*;
use crate::replay_oracle::{Aggregate, Aggregated, Deadline, ValueCheck, live, text};

static TABLES: [Table; 2] = [
    Table {
        name: "stock",
        primary_key: &["sku"],
        columns: &["sku", "on_hand", "version", "warehouse"],
        sql: "CREATE TABLE stock (sku int PRIMARY KEY, on_hand int, version int, warehouse text)",
    },
    Table {
        name: "reservation",
        primary_key: &["sku", "line"],
        columns: &["sku", "line", "qty", "slot", "state", "warehouse"],
        sql: "CREATE TABLE reservation (
            sku int, line int, qty int, slot int, state text, warehouse text, PRIMARY KEY (sku, line)
        )",
    },
];
static STOCK: &Table = &TABLES[0];
static RESERVATION: &Table = &TABLES[1];

pub static DOMAIN: Domain = Domain { name: "inventory", tables: &TABLES, invariants, plan };

fn held() -> Option<Where> {
    only("state = 'held'", |row| Some(text(row, "state")? == "held"))
}

fn by_sku() -> Option<KeyOf> {
    key("sku", |row| shown(row, "sku"))
}

fn bound(
    aggregate: Aggregate,
    condition: Option<Where>,
    sql: &'static str,
    holds: fn(Option<f64>) -> Option<bool>,
) -> Kind {
    let check = ValueCheck { sql, holds };
    Kind::KeyBound(Aggregated { table: "reservation", key: by_sku(), aggregate, condition, check })
}

fn invariants() -> Vec<(&'static str, Kind)> {
    let state_is_held = predicate("new.state = 'held'", |r| Some(r.new_text("state")? == "held"));
    let ended = predicate("new.sku IS NULL OR new.state IN ('taken', 'released')", |r| {
        either(Some(r.new_int("sku").is_none()), r.new_text("state").map(|s| matches!(s, "taken" | "released")))
    });
    vec![
        ("slot_once", Kind::Unique { table: "reservation", columns: &["sku", "slot"], condition: held() }),
        (
            "reserved_exists",
            Kind::References {
                table: "reservation",
                columns: &["sku", "warehouse"],
                to: "stock",
                to_columns: &["sku", "warehouse"],
                condition: held(),
            },
        ),
        ("held_bound", bound(Aggregate::Sum("qty"), held(), "value <= 10", |v| Some(v? <= 10.0))),
        // No comparison with a number: the server judges each value.
        ("held_thirds", bound(Aggregate::Sum("qty"), held(), "value % 3 <> 1", |v| Some(v? % 3.0 != 1.0))),
        ("slots_bound", bound(Aggregate::Count("slot"), None, "value <= 2", |v| Some(v? <= 2.0))),
        ("largest", bound(Aggregate::Max("qty"), None, "value < 8", |v| Some(v? < 8.0))),
        (
            "state_steps",
            Kind::Transition {
                table: "reservation",
                column: "state",
                initial: None,
                allowed: &[("held", &["taken", "released"])],
                terminal: &["taken", "released"],
            },
        ),
        ("version_grows", Kind::Monotone { table: "stock", key: None, column: "version", strict: true }),
        (
            "taken_was_held",
            Kind::Requires {
                table: "reservation",
                key: None,
                event: predicate("new.state = 'taken'", |r| Some(r.new_text("state")? == "taken")),
                earlier: state_is_held.clone(),
                within: Some(25 * MILLISECOND),
            },
        ),
        (
            "few_reservations",
            Kind::Rate {
                table: "reservation",
                key: by_sku(),
                event: predicate("old.line IS NULL", |r| Some(r.old_int("line").is_none())),
                at_most: 4,
                per: HOUR,
            },
        ),
        (
            "held_shortly",
            Kind::Deadline(Deadline {
                table: "reservation",
                key: None,
                open: state_is_held,
                close: ended,
                within: 15 * MILLISECOND,
            }),
        ),
        (
            "held_not_one_more",
            Kind::Query {
                sql: "SELECT count(*) FROM stock s JOIN reservation r ON r.sku = s.sku
                    WHERE r.state = 'held' AND r.qty > s.on_hand HAVING count(*) % 3 = 1",
                tables: &["stock", "reservation"],
                finds: |contents| {
                    let held = live(contents, "reservation").filter(|row| text(row, "state") == Some("held"));
                    let short = held.filter(|row| {
                        let stock = live(contents, "stock").find(|stock| stock["sku"] == row["sku"]);
                        let on_hand = stock.and_then(|stock| int(stock, "on_hand"));
                        int(row, "qty").zip(on_hand).is_some_and(|(qty, on_hand)| qty > on_hand)
                    });
                    short.count() % 3 == 1
                },
            },
        ),
    ]
}

fn warehouse(r: &mut Random) -> Option<Value> {
    t(r.pick::<&str>(&["east", "west", "west", "west"]))
}

fn stock_work(r: &mut Random, base: i64, view: &View) -> Option<Statement> {
    let row = view.any(r, STOCK)?;
    let version = ("version", Set::Plus(*r.pick(&[1, 1, 1, 0])));
    Some(match r.below(8) {
        0 => delete(STOCK, row),
        1 => update(STOCK, row, vec![("sku", Set::To(n(base + r.between(1, 4)))), version]),
        2 => update(STOCK, row, vec![("on_hand", Set::Itself)]),
        3 => update(STOCK, row, vec![("warehouse", Set::To(warehouse(r))), version]),
        4 => update(STOCK, row, vec![("version", Set::To(None))]),
        _ => update(STOCK, row, vec![("on_hand", Set::Plus(r.between(-4, 4))), version]),
    })
}

fn reserve(r: &mut Random, base: i64, view: &View) -> Statement {
    let sku = view.any_id(r, STOCK, base, 4);
    let state = if r.percent(85) { "held" } else { "taken" };
    let stock = view.rows(STOCK).into_iter().find(|row| id(row, "sku") == sku && !r.percent(10));
    let place = stock.map_or_else(|| warehouse(r), |row| row["warehouse"].clone());
    let row = |r: &mut Random| {
        let most = if r.percent(10) { 9 } else { 4 };
        Row::from([
            ("sku", n(sku)),
            ("line", n(base + r.between(1, 5))),
            ("qty", or_null(n(r.between(1, most)), r, 5)),
            ("slot", or_null(n(base + r.between(1, 4)), r, 25)),
            ("state", or_null(t(state), r, 4)),
            ("warehouse", or_null(place.clone(), r, 5)),
        ])
    };
    let rows = (0..r.between(1, 2)).map(|_| row(r)).collect();
    Statement::Insert { table: RESERVATION, rows }
}

fn reservation_work(r: &mut Random, base: i64, view: &View) -> Option<Statement> {
    let row = view.any(r, RESERVATION)?;
    let state = if r.percent(80) { *r.pick(&["taken", "released"]) } else { "held" };
    Some(match r.below(10) {
        0..=3 => update(RESERVATION, row, vec![("state", Set::To(t(state)))]),
        4 => update(RESERVATION, row, vec![("sku", Set::To(n(base + r.between(1, 4))))]),
        5 => update(RESERVATION, row, vec![("line", Set::To(n(base + r.between(1, 5))))]),
        6 => update(RESERVATION, row, vec![("slot", Set::To(or_null(n(base + r.between(1, 4)), r, 30)))]),
        7 => delete(RESERVATION, row),
        8 => update(RESERVATION, row, vec![("qty", Set::Itself), ("state", Set::Itself)]),
        _ => {
            let same = |other: &&Row| other["sku"] == row["sku"];
            let keys: Vec<Texts> =
                view.rows(RESERVATION).into_iter().filter(same).map(|row| RESERVATION.key_of(row)).collect();
            if r.percent(40) {
                Statement::Delete { table: RESERVATION, keys }
            } else {
                Statement::Update { table: RESERVATION, keys, set: vec![("qty", Set::Plus(r.between(-2, 2)))] }
            }
        }
    })
}

fn plan(r: &mut Random, base: i64, view: &View) -> Vec<Statement> {
    let mut statements = Vec::new();
    for _ in 0..r.between(1, 3) {
        if view.rows(STOCK).len() < 4 && r.percent(30) {
            let row = Row::from([
                ("sku", n(base + r.between(1, 4))),
                ("on_hand", or_null(n(r.between(0, 5)), r, 5)),
                ("version", or_null(n(1), r, 5)),
                ("warehouse", or_null(warehouse(r), r, 5)),
            ]);
            statements.push(Statement::Insert { table: STOCK, rows: vec![row] });
        }
        match r.below(10) {
            0..=1 => statements.extend(stock_work(r, base, view)),
            2..=5 => statements.push(reserve(r, base, view)),
            _ => statements.extend(reservation_work(r, base, view)),
        }
    }
    statements
}
