//! Orders that go through states, and the log of their payments.

use super::*;
use crate::replay_oracle::Deadline;

static TABLES: [Table; 2] = [
    Table {
        name: "orders",
        primary_key: &["id"],
        columns: &["id", "customer", "status", "total", "version"],
        sql: "CREATE TABLE orders (id int PRIMARY KEY, customer int, status text, total int, version int)",
    },
    Table {
        name: "payment",
        primary_key: &["id"],
        columns: &["id", "order_id", "kind", "amount", "seq"],
        sql: "CREATE TABLE payment (id int PRIMARY KEY, order_id int, kind text, amount int, seq int)",
    },
];
static ORDERS: &Table = &TABLES[0];
static PAYMENT: &Table = &TABLES[1];

pub static DOMAIN: Domain = Domain { name: "orders", tables: &TABLES, invariants, plan };

fn shipped() -> Predicate {
    predicate("new.status = 'shipped' AND old.status IS DISTINCT FROM 'shipped'", |r| {
        Some(r.new_text("status")? == "shipped" && r.old_text("status") != Some("shipped"))
    })
}

fn paid() -> Predicate {
    predicate("new.status = 'paid'", |r| Some(r.new_text("status")? == "paid"))
}

/// An entry of the payments' log as it is made.
fn payment() -> Predicate {
    predicate("old.id IS NULL AND new.kind = 'payment'", |r| {
        Some(r.old_int("id").is_none() && r.new_text("kind")? == "payment")
    })
}

fn refund() -> Predicate {
    predicate("new.kind = 'refund'", |r| Some(r.new_text("kind")? == "refund"))
}

fn close() -> Predicate {
    predicate("new.kind = 'close'", |r| Some(r.new_text("kind")? == "close"))
}

fn reopen() -> Predicate {
    predicate("new.kind IN ('reopen', 'close') AND new.amount > 50", |r| {
        Some(matches!(r.new_text("kind")?, "reopen" | "close") && r.new_int("amount")? > 50)
    })
}

fn of_payments(event: Predicate, since: Option<Predicate>, unless: Option<Predicate>) -> Kind {
    Kind::Forbids { table: "payment", key: by_order(), event, since, unless }
}

fn by_order() -> Option<KeyOf> {
    key("order_id", |row| shown(row, "order_id"))
}

fn by_customer() -> Option<KeyOf> {
    key("customer", |row| shown(row, "customer"))
}

fn invariants() -> Vec<(&'static str, Kind)> {
    let changes_status =
        predicate("new.status IS DISTINCT FROM old.status", |r| Some(r.new_text("status") != r.old_text("status")));
    let done = predicate("new.id IS NULL OR new.status IN ('shipped', 'cancelled')", |r| {
        either(
            Some(r.new_int("id").is_none()),
            r.new_text("status").map(|status| matches!(status, "shipped" | "cancelled")),
        )
    });
    vec![
        (
            "status_steps",
            Kind::Transition {
                table: "orders",
                column: "status",
                initial: Some(&["new"]),
                allowed: &[("new", &["paid", "cancelled"]), ("paid", &["shipped", "cancelled"])],
                terminal: &["cancelled"],
            },
        ),
        (
            "paid_has_total",
            Kind::Row {
                table: "orders",
                check: predicate("new.status <> 'paid' OR new.total > 0", |r| {
                    either(r.new_text("status").map(|s| s != "paid"), r.new_int("total").map(|total| total > 0))
                }),
            },
        ),
        (
            "shipped_was_paid",
            Kind::Requires { table: "orders", key: None, event: shipped(), earlier: paid(), within: None },
        ),
        (
            "customer_paid_lately",
            Kind::Requires {
                table: "orders",
                key: by_customer(),
                event: shipped(),
                earlier: paid(),
                within: Some(15 * MILLISECOND),
            },
        ),
        (
            "refund_follows_payment",
            Kind::Requires { table: "payment", key: by_order(), event: refund(), earlier: payment(), within: None },
        ),
        ("closed_is_closed", of_payments(payment(), Some(close()), Some(reopen()))),
        ("refund_needs_payment", of_payments(refund(), None, Some(payment()))),
        (
            "nothing_large_once_closed",
            of_payments(predicate("new.amount > 70", |r| Some(r.new_int("amount")? > 70)), Some(close()), None),
        ),
        (
            "few_payments",
            Kind::Rate { table: "payment", key: by_order(), event: payment(), at_most: 1, per: 8 * MILLISECOND },
        ),
        ("calm_orders", Kind::Rate { table: "orders", key: None, event: changes_status, at_most: 3, per: HOUR }),
        ("version_grows", Kind::Monotone { table: "orders", key: None, column: "version", strict: false }),
        ("sequence_grows", Kind::Monotone { table: "payment", key: by_order(), column: "seq", strict: true }),
        (
            "ship_in_time",
            Kind::Deadline(Deadline {
                table: "orders",
                key: None,
                open: paid(),
                close: done.clone(),
                within: 12 * MILLISECOND,
            }),
        ),
        (
            "customer_served",
            Kind::Deadline(Deadline { table: "orders", key: by_customer(), open: paid(), close: done, within: HOUR }),
        ),
        (
            "reopened_in_time",
            Kind::Deadline(Deadline {
                table: "payment",
                key: by_order(),
                open: close(),
                close: reopen(),
                within: 30 * MILLISECOND,
            }),
        ),
        (
            "payments_order",
            Kind::References {
                table: "payment",
                columns: &["order_id"],
                to: "orders",
                to_columns: &["id"],
                condition: only("kind <> 'close'", |row| Some(crate::replay_oracle::text(row, "kind")? != "close")),
            },
        ),
    ]
}

fn new_order(r: &mut Random, base: i64) -> Statement {
    let status = if r.percent(85) { "new" } else { "paid" };
    let row = Row::from([
        ("id", n(base + r.between(1, 6))),
        ("customer", n(base + r.between(1, 3))),
        ("status", or_null(t(status), r, 4)),
        ("total", or_null(n(r.between(-3, 15)), r, 5)),
        ("version", or_null(n(1), r, 5)),
    ]);
    Statement::Insert { table: ORDERS, rows: vec![row] }
}

fn order_work(r: &mut Random, base: i64, view: &View) -> Option<Statement> {
    let row = view.any(r, ORDERS)?;
    let good = match crate::replay_oracle::text(row, "status") {
        Some("new") => "paid",
        Some("paid") => *r.pick(&["shipped", "shipped", "cancelled"]),
        _ => "new",
    };
    let any = *r.pick(&["new", "paid", "shipped", "cancelled"]);
    let status = if r.percent(62) { good } else { any };
    let step = *r.pick(&[1, 1, 1, 1, 0, -1]);
    Some(match r.below(14) {
        0..=7 => update(ORDERS, row, vec![("status", Set::To(or_null(t(status), r, 4))), ("version", Set::Plus(step))]),
        8 => delete(ORDERS, row),
        9 => update(ORDERS, row, vec![("id", Set::To(n(base + r.between(1, 6)))), ("version", Set::Plus(step))]),
        10 => update(ORDERS, row, vec![("status", Set::Itself)]),
        11 => update(ORDERS, row, vec![("customer", Set::To(n(base + r.between(1, 3))))]),
        12 => update(ORDERS, row, vec![("version", Set::To(or_null(n(r.between(0, 5)), r, 30)))]),
        _ => update(ORDERS, row, vec![("total", Set::To(or_null(n(r.between(-3, 15)), r, 10)))]),
    })
}

fn entry(r: &mut Random, base: i64, order: i64, seq: i64) -> Row {
    let kind = *r.pick(&["payment", "payment", "payment", "refund", "close", "reopen"]);
    let seq = if r.percent(15) { seq - r.between(0, 3) } else { seq };
    Row::from([
        ("id", n(base + r.between(1, 60))),
        ("order_id", n(order)),
        ("kind", or_null(t(kind), r, 3)),
        ("amount", or_null(n(r.between(1, 80)), r, 3)),
        ("seq", or_null(n(seq), r, 5)),
    ])
}

fn log_payments(r: &mut Random, base: i64, view: &View) -> Statement {
    let order = view.any_id(r, ORDERS, base, 6);
    let entries = view.rows(PAYMENT);
    let of_order = entries.into_iter().filter(|row| int(row, "order_id") == Some(order));
    let next = of_order.filter_map(|row| int(row, "seq")).max().unwrap_or(0) + 1;
    let rows = (0..r.between(1, 2)).map(|i| entry(r, base, order, next + i)).collect();
    Statement::Insert { table: PAYMENT, rows }
}

fn payment_work(r: &mut Random, base: i64, view: &View) -> Option<Statement> {
    let row = view.any(r, PAYMENT)?;
    Some(match r.below(5) {
        0 => delete(PAYMENT, row),
        1 => update(PAYMENT, row, vec![("order_id", Set::To(n(base + r.between(1, 6))))]),
        2 => update(PAYMENT, row, vec![("seq", Set::Itself)]),
        _ => {
            let same = |other: &&Row| other["order_id"] == row["order_id"];
            let keys = view.rows(PAYMENT).into_iter().filter(same).map(|row| PAYMENT.key_of(row)).collect();
            let set = vec![("amount", Set::Plus(r.between(-5, 5)))];
            Statement::Update { table: PAYMENT, keys, set }
        }
    })
}

fn plan(r: &mut Random, base: i64, view: &View) -> Vec<Statement> {
    let mut statements = Vec::new();
    for _ in 0..r.between(1, 3) {
        match r.below(12) {
            0 | 1 => statements.push(new_order(r, base)),
            2..=6 => statements.extend(order_work(r, base, view)),
            7..=10 => statements.push(log_payments(r, base, view)),
            _ => statements.extend(payment_work(r, base, view)),
        }
    }
    statements
}
