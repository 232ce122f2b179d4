//! The seven kinds of bugs, three ways each, and what a correct application would have recorded instead. Each way leaves
//! out of the model what would only say the same at once, so that some failures show long after, by an innocent transaction.

use serde_json::{Value, json};

use super::application::{Application, Available, QUOTA, REFUNDS, TENANTS, cash, tenant_of};

pub const KINDS: [&str; 7] = [
    "duplicate apply",
    "lost update",
    "sign flip",
    "skipped check",
    "bad transition",
    "partial transaction",
    "wrong tenant",
];

/// Of each kind.
pub const WAYS: usize = 3;

/// What a correct application would have recorded in place of the planted transaction. Amounts are floats here, as those that
/// are read from the test are: the images of a row have to be spelt alike.
#[derive(Default, Debug)]
pub struct Correction {
    /// Nothing.
    pub remove: bool,
    /// (table, key, column, value) of the row that it left.
    pub values: Vec<(&'static str, i64, &'static str, Value)>,
    /// Events that it would have made, too.
    pub added: Vec<Value>,
    /// Accounts whose balances would be so much more from then on.
    pub shifts: Vec<(i64, i64)>,
    /// Rows that were there and that the corrected events refer to.
    pub context: Vec<Value>,
}

pub struct Planted {
    pub id: String,
    pub correction: Correction,
}

/// (name, kind, spec, check_at)
const INVARIANTS: [(&str, &str, &str, &str); 16] = [
    (
        "journal_balances",
        "balance",
        r#"{"table": "entries", "group": "journal_id", "aggregate": "sum(amount)", "equals": 0}"#,
        "commit",
    ),
    (
        "no_overdraft",
        "key_bound",
        r#"{"table": "entries", "key": "account_id", "aggregate": "sum(amount)", "check": "value >= 0", "where": "account_id % 100 <> 0"}"#,
        "commit",
    ),
    (
        "balance_not_negative",
        "row",
        r#"{"table": "accounts", "check": "new.kind = 'cash' OR new.balance >= 0"}"#,
        "event",
    ),
    (
        "balance_moves_by_amount",
        "row",
        r#"{"table": "accounts", "check": "new.balance - old.balance = new.last_amount"}"#,
        "event",
    ),
    ("version_grows", "monotone", r#"{"table": "accounts", "column": "version", "strict": true}"#, "event"),
    ("balances_sum_to_zero", "balance", r#"{"table": "accounts", "aggregate": "sum(balance)", "equals": 0}"#, "commit"),
    (
        "withdrawals_take",
        "row",
        r#"{"table": "entries", "check": "new.kind NOT IN ('withdrawal', 'deposit') OR (new.amount < 0) = ((new.kind = 'withdrawal') = (new.account_id % 100 <> 0))"}"#,
        "event",
    ),
    ("applied_once", "unique", r#"{"table": "entries", "columns": ["request_ref", "account_id"]}"#, "commit"),
    (
        "order_states",
        "transition",
        r#"{"table": "orders", "column": "status", "initial": ["new"], "allowed": {"new": ["paid", "cancelled"], "paid": ["shipped"], "shipped": ["delivered"], "delivered": ["refunded"]}, "terminal": ["cancelled", "refunded"]}"#,
        "event",
    ),
    (
        "shipped_is_paid",
        "requires",
        r#"{"table": "orders", "key": "id", "event": "new.status = 'shipped'", "earlier": "new.status = 'paid'"}"#,
        "event",
    ),
    (
        "not_after_cancel",
        "forbids",
        r#"{"table": "orders", "key": "id", "event": "new.status IN ('paid', 'shipped')", "since": "new.status = 'cancelled'"}"#,
        "event",
    ),
    (
        "paid_has_payment",
        "references",
        r#"{"table": "orders", "columns": ["id"], "to": "payments", "to_columns": ["order_id"], "where": "status IN ('paid', 'shipped', 'delivered')"}"#,
        "commit",
    ),
    ("paid_once", "unique", r#"{"table": "payments", "columns": ["order_id"], "where": "amount > 0"}"#, "commit"),
    (
        "refund_rate",
        "rate",
        r#"{"table": "payments", "key": "tenant_id", "event": "new.amount < 0", "at_most": 3, "per": "1 day"}"#,
        "event",
    ),
    (
        "entry_of_tenant",
        "references",
        r#"{"table": "entries", "columns": ["account_id", "tenant_id"], "to": "accounts", "to_columns": ["id", "tenant_id"]}"#,
        "commit",
    ),
    ("tenant_stays", "row", r#"{"table": "orders", "check": "new.tenant_id = old.tenant_id"}"#, "commit"),
];

pub struct Scenario {
    pub kind: usize,
    pub way: usize,
}

impl Scenario {
    pub fn available(&self) -> Available {
        if self.kind == 1 && self.way == 2 { Available::Entries } else { Available::Balance }
    }

    fn left_out(&self) -> &'static [&'static str] {
        match (self.kind, self.way) {
            (0, 1) => &["applied_once"],
            (1, 1) => &["balance_moves_by_amount", "version_grows"],
            (1, 2) => &["balance_moves_by_amount", "version_grows", "balances_sum_to_zero"],
            (2, 1) => &["withdrawals_take", "journal_balances"],
            (2, 2) => &["balance_moves_by_amount", "balance_not_negative"],
            (4, 1) => &["order_states"],
            (4, 2) => &["order_states", "shipped_is_paid"],
            (5, 1) => &["journal_balances"],
            _ => &[],
        }
    }

    pub fn define_model(&self, app: &mut Application) {
        app.s().run("SELECT threadline.replay_define_model('shop', 'what must be true of the shop')");
        for (name, kind, spec, check_at) in INVARIANTS {
            if !self.left_out().contains(&name) {
                app.s().run(&format!(
                    "SELECT threadline.replay_add_invariant('shop', '{name}', '{kind}', $spec${spec}$spec$, '{check_at}')"
                ));
            }
        }
        app.s().run(&format!(
            r#"SELECT threadline.replay_add_invariant('shop', 'order_quota', 'key_bound', '{{"table": "orders", "key": "tenant_id", "aggregate": "count(*)", "check": "value <= {QUOTA}", "where": "status IN (''new'', ''paid'')"}}')"#
        ));
    }

    /// What has to be there for the bug: a customer with money, orders in every state.
    pub fn prepare(&self, app: &mut Application, account: i64) {
        for _ in 0..app.random.between(2, 4) {
            let amount = app.amount();
            app.deposit(account, amount + 15);
        }
        app.withdraw(account, 5);
        app.withdraw(account, 10);
        let tenant = tenant_of(account);
        for status in ["new", "paid", "shipped"] {
            app.place(tenant);
            app.place(tenant);
            app.advance(tenant, status);
        }
    }

    /// Does something wrong, once.
    pub fn plant(&self, app: &mut Application, account: i64) -> Planted {
        match (self.kind, self.way) {
            (0, 2) => paid_twice(app, account),
            (0, way) => applied_twice(app, account, way == 0),
            (1, way) => overwritten(app, account, way == 2),
            (2, way) => wrong_sign(app, account, way),
            (3, 0) => overdrawn(app, account),
            (3, 1) => one_refund_too_many(app, tenant_of(account)),
            (3, _) => one_order_too_many(app, tenant_of(account)),
            (4, way) => out_of_order(app, tenant_of(account), way),
            (5, 2) => paid_without_payment(app, tenant_of(account)),
            (5, _) => half_a_transfer(app, account),
            (6, 0) => entry_of_another(app, account),
            (6, 1) => order_of_another(app, account),
            _ => order_given_away(app, account),
        }
    }

    /// What goes on after: enough for the failure to show, and always right by the application's own lights.
    pub fn finish(&self, app: &mut Application, account: i64) {
        match (self.kind, self.way) {
            (0, 1) | (1, 2) | (2, 1) => {
                for _ in 0..40 {
                    let left = app.available(0, account);
                    if left <= 0 {
                        break;
                    }
                    let amount = app.amount().min(left);
                    app.withdraw(account, amount);
                }
            }
            (6, 1) => while app.place(another(account)).is_some() {},
            _ => {}
        }
    }
}

fn another(account: i64) -> i64 {
    tenant_of(account) % TENANTS + 1
}

fn now(app: &mut Application, account: i64) -> i64 {
    app.s().number(&format!("SELECT balance::int FROM accounts WHERE id = {account}"))
}

/// A withdrawal that the client sends again is done again; or only its entries are written again by a second consumer.
fn applied_twice(app: &mut Application, account: i64, whole: bool) -> Planted {
    let amount = app.amount();
    app.deposit(account, 3 * amount);
    let (_, mut call) = app.withdraw(account, amount).expect("there is enough");
    let reference = call.request.clone();
    for _ in 0..app.random.below(4) {
        app.everyday();
    }
    // A retry may have a request number of its own.
    if call.correlation.is_some() && app.random.percent(50) {
        call.request = format!("req-{}", app.number());
    }
    if app.available(0, account) < amount {
        app.deposit(account, amount);
    }
    let id = app.begin(0, &call);
    if whole {
        app.pay(0, "withdrawal", account, cash(call.tenant), amount, &reference);
    } else {
        let journal = app.number();
        app.post(0, (journal, account, call.tenant), "withdrawal", -amount, &reference);
        app.post(0, (journal, cash(call.tenant), call.tenant), "withdrawal", amount, &reference);
    }
    app.commit(0);
    Planted {
        id,
        correction: Correction {
            remove: true,
            shifts: if whole { vec![(account, amount), (cash(call.tenant), -amount)] } else { vec![] },
            ..Correction::default()
        },
    }
}

fn paid_twice(app: &mut Application, account: i64) -> Planted {
    let tenant = tenant_of(account);
    while app.an_order(tenant, "paid").is_none() {
        if app.advance(tenant, "new").is_none() {
            app.place(tenant);
        }
    }
    let order = app.an_order(tenant, "paid").expect("one is paid");
    let call = app.call(tenant, "order.pay");
    let id = app.begin(0, &call);
    app.insert_payment(order, tenant, 1, &call.request);
    app.commit(0);
    Planted { id, correction: Correction { remove: true, ..Correction::default() } }
}

/// Reads a balance, and writes what follows from it after another transaction has changed it.
fn overwritten(app: &mut Application, account: i64, too_little: bool) -> Planted {
    let tenant = tenant_of(account);
    let (amount, other) = (5, app.amount() + 20);
    app.deposit(account, 10);
    let (late, early) = (
        app.call(tenant, "account.withdraw"),
        app.call(tenant, if too_little { "account.deposit" } else { "account.withdraw" }),
    );
    let seen = now(app, account);
    if !too_little && seen < other + amount {
        app.deposit(account, other + amount);
    }
    let id = app.begin(0, &late);
    let seen = now(app, account);
    let version = app.s().number(&format!("SELECT version FROM accounts WHERE id = {account}"));
    app.begin(1, &early);
    if too_little {
        app.pay(1, "deposit", cash(tenant), account, other, &early.request);
    } else {
        app.pay(1, "withdrawal", account, cash(tenant), other, &early.request);
    }
    app.commit(1);
    let journal = app.number();
    app.post(0, (journal, account, tenant), "withdrawal", -amount, &late.request);
    app.post(0, (journal, cash(tenant), tenant), "withdrawal", amount, &late.request);
    app.move_balance(0, cash(tenant), amount);
    app.s().run(&format!(
        "UPDATE accounts SET balance = {}, last_amount = {}, version = {} WHERE id = {account}",
        seen - amount,
        -amount,
        version + 1
    ));
    app.commit(0);
    let lost = if too_little { other } else { -other };
    Planted {
        id,
        correction: Correction {
            values: vec![
                ("accounts", account, "balance", json!((seen + lost - amount) as f64)),
                ("accounts", account, "version", json!(version + 2)),
            ],
            shifts: vec![(account, lost)],
            ..Correction::default()
        },
    }
}

fn wrong_sign(app: &mut Application, account: i64, way: usize) -> Planted {
    let (tenant, amount) = (tenant_of(account), app.amount());
    let deposits = way == 1;
    if now(app, account) < amount {
        app.deposit(account, 2 * amount);
    }
    let call = app.call(tenant, if deposits { "account.deposit" } else { "account.withdraw" });
    let kind = if deposits { "deposit" } else { "withdrawal" };
    let right = if deposits { amount } else { -amount };
    let id = app.begin(0, &call);
    let journal = app.number();
    let wrong_entry = way != 2;
    let entry = app.post(0, (journal, account, tenant), kind, if wrong_entry { -right } else { right }, &call.request);
    app.post(0, (journal, cash(tenant), tenant), kind, -right, &call.request);
    app.move_balance(0, cash(tenant), -right);
    let before = now(app, account);
    app.move_balance(0, account, if wrong_entry { right } else { -right });
    app.commit(0);
    let correction = if wrong_entry {
        Correction { values: vec![("entries", entry, "amount", json!(right as f64))], ..Correction::default() }
    } else {
        Correction {
            values: vec![
                ("accounts", account, "balance", json!((before + right) as f64)),
                ("accounts", account, "last_amount", json!(right as f64)),
            ],
            shifts: vec![(account, 2 * right)],
            ..Correction::default()
        }
    };
    Planted { id, correction }
}

fn overdrawn(app: &mut Application, account: i64) -> Planted {
    let tenant = tenant_of(account);
    let amount = now(app, account) + app.amount();
    let call = app.call(tenant, "account.withdraw");
    let id = app.begin(0, &call);
    app.pay(0, "withdrawal", account, cash(tenant), amount, &call.request);
    app.commit(0);
    Planted {
        id,
        correction: Correction {
            remove: true,
            shifts: vec![(account, amount), (cash(tenant), -amount)],
            ..Correction::default()
        },
    }
}

fn delivered(app: &mut Application, tenant: i64) {
    while app.an_order(tenant, "delivered").is_none() {
        for status in ["shipped", "paid", "new"] {
            if app.advance(tenant, status).is_some() {
                break;
            }
        }
        app.place(tenant);
    }
}

fn one_refund_too_many(app: &mut Application, tenant: i64) -> Planted {
    while app.refunds(tenant) < REFUNDS {
        delivered(app, tenant);
        app.advance(tenant, "delivered");
    }
    delivered(app, tenant);
    let order = app.an_order(tenant, "delivered").expect("one is delivered");
    let call = app.call(tenant, "order.refund");
    let id = app.begin(0, &call);
    app.set_status(order, "refunded");
    app.insert_payment(order, tenant, -1, &call.request);
    app.commit(0);
    Planted { id, correction: Correction { remove: true, ..Correction::default() } }
}

fn one_order_too_many(app: &mut Application, tenant: i64) -> Planted {
    while app.place(tenant).is_some() {}
    let call = app.call(tenant, "order.place");
    let id = app.begin(0, &call);
    app.insert_order(tenant);
    app.count_order(tenant, 1);
    app.commit(0);
    Planted { id, correction: Correction { remove: true, ..Correction::default() } }
}

fn out_of_order(app: &mut Application, tenant: i64, way: usize) -> Planted {
    let (from, to, instead) = match way {
        0 if app.random.percent(50) => ("paid", "delivered", "shipped"),
        0 | 1 => ("new", "shipped", "paid"),
        _ => ("cancelled", "paid", "cancelled"),
    };
    while app.an_order(tenant, from).is_none() {
        let advanced = from != "new" && app.advance(tenant, "new").is_some();
        // There may be no room for another order before one is shipped.
        if !advanced && app.place(tenant).is_none() {
            app.advance(tenant, "paid");
        }
    }
    let order = app.an_order(tenant, from).expect("there is one");
    let call = app.call(
        tenant,
        match to {
            "paid" => "order.pay",
            "shipped" => "order.ship",
            _ => "order.deliver",
        },
    );
    let id = app.begin(0, &call);
    app.set_status(order, to);
    if to == "paid" {
        app.insert_payment(order, tenant, 1, &call.request);
    } else if to == "shipped" {
        app.insert_payment(order, tenant, 1, &call.request);
        app.count_order(tenant, -1);
    }
    app.commit(0);
    Planted {
        id,
        correction: Correction { values: vec![("orders", order, "status", json!(instead))], ..Correction::default() },
    }
}

fn paid_without_payment(app: &mut Application, tenant: i64) -> Planted {
    if app.an_order(tenant, "new").is_none() {
        app.advance(tenant, "paid");
        app.place(tenant);
    }
    let order = app.an_order(tenant, "new").expect("there is one");
    let call = app.call(tenant, "order.pay");
    let id = app.begin(0, &call);
    app.set_status(order, "paid");
    app.commit(0);
    let (payment, total) = (app.number(), app.s().number(&format!("SELECT total::int FROM orders WHERE id = {order}")));
    let added = json!({"table": "SCHEMA.payments", "op": "insert", "key": payment.to_string(), "statement": 9,
        "new": {"id": payment, "order_id": order, "tenant_id": tenant, "amount": total as f64, "request_ref": call.request}});
    Planted { id, correction: Correction { added: vec![added], ..Correction::default() } }
}

/// The money leaves one account, and does not arrive at the other.
fn half_a_transfer(app: &mut Application, account: i64) -> Planted {
    let (tenant, amount) = (tenant_of(account), app.amount());
    let to = if account == cash(tenant) + 1 { account + 1 } else { cash(tenant) + 1 };
    if now(app, account) < amount {
        app.deposit(account, amount);
    }
    app.transfer(account, to, 1);
    let call = app.call(tenant, "account.transfer");
    let id = app.begin(0, &call);
    let journal = app.number();
    app.post(0, (journal, account, tenant), "transfer", -amount, &call.request);
    app.move_balance(0, account, -amount);
    app.commit(0);
    let entry = app.number();
    let balance = now(app, to);
    let version = app.s().number(&format!("SELECT version FROM accounts WHERE id = {to}"));
    let last = app.s().number(&format!("SELECT last_amount::int FROM accounts WHERE id = {to}"));
    let row = |balance: i64, last: i64, version: i64| json!({"id": to, "tenant_id": tenant, "kind": "customer", "balance": balance as f64, "last_amount": last as f64, "version": version});
    let added = vec![
        json!({"table": "SCHEMA.entries", "op": "insert", "key": entry.to_string(), "statement": 9,
            "new": {"id": entry, "journal_id": journal, "account_id": to, "tenant_id": tenant, "kind": "transfer", "amount": amount as f64, "request_ref": call.request}}),
        json!({"table": "SCHEMA.accounts", "op": "update", "key": to.to_string(), "statement": 9,
            "old": row(balance, last, version), "new": row(balance + amount, amount, version + 1)}),
    ];
    Planted { id, correction: Correction { added, shifts: vec![(to, amount)], ..Correction::default() } }
}

/// A deposit whose entry names another tenant than the account has.
fn entry_of_another(app: &mut Application, account: i64) -> Planted {
    let (tenant, amount) = (tenant_of(account), app.amount());
    let call = app.call(tenant, "account.deposit");
    let id = app.begin(0, &call);
    let journal = app.number();
    let entry = app.post(0, (journal, account, another(account)), "deposit", amount, &call.request);
    app.post(0, (journal, cash(tenant), tenant), "deposit", -amount, &call.request);
    app.move_balance(0, cash(tenant), -amount);
    app.move_balance(0, account, amount);
    app.commit(0);
    let context = json!({"table": "SCHEMA.accounts", "op": "snapshot", "key": account.to_string(), "transaction": 0, "statement": 0,
        "new": {"id": account, "tenant_id": tenant, "kind": "customer", "balance": 0.0, "last_amount": 0.0, "version": 0}});
    Planted {
        id,
        correction: Correction {
            values: vec![("entries", entry, "tenant_id", json!(tenant))],
            context: vec![context],
            ..Correction::default()
        },
    }
}

/// An order that is counted where it belongs, and entered elsewhere.
fn order_of_another(app: &mut Application, account: i64) -> Planted {
    let tenant = tenant_of(account);
    while app.open_orders(tenant) >= QUOTA {
        app.advance(tenant, "paid");
        app.advance(tenant, "new");
    }
    let call = app.call(tenant, "order.place");
    let id = app.begin(0, &call);
    let order = app.insert_order(another(account));
    app.count_order(tenant, 1);
    app.commit(0);
    Planted {
        id,
        correction: Correction { values: vec![("orders", order, "tenant_id", json!(tenant))], ..Correction::default() },
    }
}

fn order_given_away(app: &mut Application, account: i64) -> Planted {
    let tenant = tenant_of(account);
    while app.an_order(tenant, "paid").is_none() {
        if app.advance(tenant, "new").is_none() {
            app.place(tenant);
        }
    }
    let order = app.an_order(tenant, "paid").expect("one is paid");
    let call = app.call(tenant, "order.ship");
    let id = app.begin(0, &call);
    app.s().run(&format!("UPDATE orders SET status = 'shipped', tenant_id = {} WHERE id = {order}", another(account)));
    app.count_order(tenant, -1);
    app.commit(0);
    Planted {
        id,
        correction: Correction { values: vec![("orders", order, "tenant_id", json!(tenant))], ..Correction::default() },
    }
}
