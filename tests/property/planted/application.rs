//! A small shop with a ledger for several tenants, as an application would write it: it looks before it writes, says who
//! it acts for, and does each operation in one transaction. Its tests of what may be done are its own, not the model's.

use crate::random::Random;
use crate::support::Session;

pub const TENANTS: i64 = 3;
pub const CUSTOMERS: i64 = 4;
pub const QUOTA: i64 = 8;
pub const REFUNDS: i64 = 3;
/// Stands in a masked and in an excluded column of every row that has one.
pub const SECRET: &str = "hush-5309";

pub const TABLES: &str = "
    CREATE TABLE tenants (id int PRIMARY KEY, name text NOT NULL, open_orders int NOT NULL DEFAULT 0);
    CREATE TABLE accounts (id int PRIMARY KEY, tenant_id int NOT NULL, kind text NOT NULL, balance numeric(12,2) NOT NULL DEFAULT 0,
                           last_amount numeric(12,2) NOT NULL DEFAULT 0, version int NOT NULL DEFAULT 0, email text, token text);
    CREATE TABLE entries (id int PRIMARY KEY, journal_id int NOT NULL, account_id int NOT NULL, tenant_id int NOT NULL, kind text NOT NULL,
                          amount numeric(12,2) NOT NULL, request_ref text, email text, token text);
    CREATE TABLE orders (id int PRIMARY KEY, tenant_id int NOT NULL, status text NOT NULL, total numeric(12,2) NOT NULL, email text, token text);
    CREATE TABLE payments (id int PRIMARY KEY, order_id int NOT NULL, tenant_id int NOT NULL, amount numeric(12,2) NOT NULL, request_ref text);";

/// What the application goes by when it looks whether an account can pay.
#[derive(Clone, Copy, PartialEq)]
pub enum Available {
    Balance,
    Entries,
}

#[derive(Clone, Debug)]
pub struct Call {
    pub actor: (&'static str, String),
    pub tenant: i64,
    pub action: &'static str,
    pub request: String,
    pub correlation: Option<String>,
    pub job: Option<String>,
}

pub struct Application {
    pub random: Random,
    pub sessions: [Session; 2],
    pub available: Available,
    pub transactions: i64,
    next: i64,
}

pub fn cash(tenant: i64) -> i64 {
    tenant * 100
}

pub fn tenant_of(account: i64) -> i64 {
    account / 100
}

impl Application {
    pub fn new(random: Random, mut sessions: [Session; 2], available: Available) -> Self {
        let s = &mut sessions[0];
        s.run(TABLES);
        for tenant in 1..=TENANTS {
            s.run(&format!("INSERT INTO tenants VALUES ({tenant}, 'tenant {tenant}')"));
            s.run(&format!("INSERT INTO accounts VALUES ({}, {tenant}, 'cash')", cash(tenant)));
            for customer in 1..=CUSTOMERS {
                s.run(&format!(
                    "INSERT INTO accounts VALUES ({}, {tenant}, 'customer', 0, 0, 0, '{SECRET}@example.org', 'token {SECRET}')",
                    cash(tenant) + customer
                ));
            }
        }
        for table in ["tenants", "payments"] {
            s.run(&format!("SELECT threadline.audit_enable('{table}')"));
        }
        for table in ["accounts", "entries", "orders"] {
            s.run(&format!("SELECT threadline.audit_enable('{table}', mask => '{{email}}', exclude => '{{token}}')"));
        }
        Application { random, sessions, available, transactions: 0, next: 0 }
    }

    pub fn s(&mut self) -> &mut Session {
        &mut self.sessions[0]
    }

    pub fn number(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    pub fn amount(&mut self) -> i64 {
        *self.random.pick(&[5, 10, 10, 20, 25, 40])
    }

    pub fn customer(&mut self, tenant: i64) -> i64 {
        cash(tenant) + self.random.between(1, CUSTOMERS)
    }

    /// A user of a tenant asks for something.
    pub fn call(&mut self, tenant: i64, action: &'static str) -> Call {
        let request = self.number();
        let user = self.random.between(1, 3);
        let correlation = self.random.percent(50).then(|| format!("cor-{request}"));
        Call {
            actor: ("user", format!("u-{tenant}-{user}")),
            tenant,
            action,
            request: format!("req-{request}"),
            correlation,
            job: None,
        }
    }

    /// Begins the transaction of a call; returns its id.
    pub fn begin(&mut self, session: usize, call: &Call) -> String {
        self.transactions += 1;
        let (kind, id) = &call.actor;
        let with_context = self.random.percent(30);
        let mut sql = format!(
            "BEGIN; SELECT threadline.set_actor('{kind}', '{id}'); SET LOCAL threadline.request_id = '{}'; SELECT threadline.record_action('{}', reason => 'asked for');",
            call.request, call.action
        );
        if let Some(correlation) = &call.correlation {
            sql += &format!("SET LOCAL threadline.correlation_id = '{correlation}';");
        }
        if let Some(job) = &call.job {
            sql += &format!("SET LOCAL threadline.job_id = '{job}';");
        }
        if with_context {
            sql += &format!("SELECT threadline.put_context('{{\"tenant\": {}}}');", call.tenant);
        }
        self.sessions[session].run(&sql);
        self.sessions[session].one("SELECT threadline.current_audit_transaction_id()")
    }

    pub fn commit(&mut self, session: usize) {
        self.sessions[session].run("COMMIT");
    }

    pub fn post(
        &mut self,
        session: usize,
        (journal, account, tenant): (i64, i64, i64),
        kind: &str,
        amount: i64,
        reference: &str,
    ) -> i64 {
        let id = self.number();
        self.sessions[session].run(&format!(
            "INSERT INTO entries VALUES ({id}, {journal}, {account}, {tenant}, '{kind}', {amount}, '{reference}', '{SECRET}@example.org', 'token {SECRET}')"
        ));
        id
    }

    pub fn move_balance(&mut self, session: usize, account: i64, amount: i64) {
        self.sessions[session].run(&format!(
            "UPDATE accounts SET balance = balance + {amount}, last_amount = {amount}, version = version + 1 WHERE id = {account}"
        ));
    }

    /// Moves money: an entry and a new balance on either side.
    pub fn pay(&mut self, session: usize, kind: &str, from: i64, to: i64, amount: i64, reference: &str) {
        let journal = self.number();
        self.post(session, (journal, from, tenant_of(from)), kind, -amount, reference);
        self.post(session, (journal, to, tenant_of(to)), kind, amount, reference);
        // In one order, so that no two wait for each other.
        let mut moves = [(from, -amount), (to, amount)];
        moves.sort_unstable();
        for (account, amount) in moves {
            self.move_balance(session, account, amount);
        }
    }

    pub fn available(&mut self, session: usize, account: i64) -> i64 {
        let sql = match self.available {
            Available::Balance => format!("SELECT balance::int FROM accounts WHERE id = {account} FOR UPDATE"),
            Available::Entries => {
                format!("SELECT coalesce(sum(amount), 0)::int FROM entries WHERE account_id = {account}")
            }
        };
        self.sessions[session].number(&sql)
    }

    pub fn deposit(&mut self, account: i64, amount: i64) -> String {
        let call = self.call(tenant_of(account), "account.deposit");
        let id = self.begin(0, &call);
        self.pay(0, "deposit", cash(call.tenant), account, amount, &call.request);
        self.commit(0);
        id
    }

    /// Takes money out where there is enough.
    pub fn withdraw(&mut self, account: i64, amount: i64) -> Option<(String, Call)> {
        let call = self.call(tenant_of(account), "account.withdraw");
        let id = self.begin(0, &call);
        if self.available(0, account) < amount {
            self.s().run("ROLLBACK");
            self.transactions -= 1;
            return None;
        }
        self.pay(0, "withdrawal", account, cash(call.tenant), amount, &call.request);
        self.commit(0);
        Some((id, call))
    }

    pub fn transfer(&mut self, from: i64, to: i64, amount: i64) {
        let call = self.call(tenant_of(from), "account.transfer");
        self.begin(0, &call);
        if self.available(0, from) < amount || from == to {
            self.s().run("ROLLBACK");
            self.transactions -= 1;
            return;
        }
        self.pay(0, "transfer", from, to, amount, &call.request);
        self.commit(0);
    }

    /// Once a while a job takes a fee of every account of a tenant, each in a transaction of its own.
    pub fn fees(&mut self, tenant: i64) {
        let job = format!("fees-{}", self.number());
        for customer in 1..=CUSTOMERS {
            let account = cash(tenant) + customer;
            let mut call = self.call(tenant, "account.fee");
            call.actor = ("job", "billing".into());
            call.job = Some(job.clone());
            self.begin(0, &call);
            if self.available(0, account) < 1 {
                self.s().run("ROLLBACK");
                self.transactions -= 1;
                continue;
            }
            self.pay(0, "fee", account, cash(tenant), 1, &call.request);
            self.commit(0);
        }
    }

    /// Two deposits that overlap in time, each as it should be.
    pub fn side_by_side(&mut self, account: i64) {
        let (tenant, amount, other) = (tenant_of(account), self.amount(), self.amount());
        let (late, early) = (self.call(tenant, "account.deposit"), self.call(tenant, "account.deposit"));
        self.begin(0, &late);
        self.s().run(&format!("SELECT balance FROM accounts WHERE id = {account}"));
        self.begin(1, &early);
        self.pay(1, "deposit", cash(tenant), account, amount, &early.request);
        self.commit(1);
        self.pay(0, "deposit", cash(tenant), account, other, &late.request);
        self.commit(0);
    }

    pub fn open_orders(&mut self, tenant: i64) -> i64 {
        self.s().number(&format!("SELECT open_orders FROM tenants WHERE id = {tenant} FOR UPDATE"))
    }

    pub fn insert_order(&mut self, tenant: i64) -> i64 {
        let (id, total) = (self.number(), self.amount());
        self.s().run(&format!(
            "INSERT INTO orders VALUES ({id}, {tenant}, 'new', {total}, '{SECRET}@example.org', 'token {SECRET}')"
        ));
        id
    }

    pub fn count_order(&mut self, tenant: i64, by: i64) {
        self.s().run(&format!("UPDATE tenants SET open_orders = open_orders + {by} WHERE id = {tenant}"));
    }

    /// An order, where the tenant may have one more open.
    pub fn place(&mut self, tenant: i64) -> Option<i64> {
        let call = self.call(tenant, "order.place");
        self.begin(0, &call);
        if self.open_orders(tenant) >= QUOTA {
            self.s().run("ROLLBACK");
            self.transactions -= 1;
            return None;
        }
        let id = self.insert_order(tenant);
        self.count_order(tenant, 1);
        self.commit(0);
        Some(id)
    }

    pub fn an_order(&mut self, tenant: i64, status: &str) -> Option<i64> {
        let all = self
            .s()
            .column(&format!("SELECT id FROM orders WHERE tenant_id = {tenant} AND status = '{status}' ORDER BY id"));
        (!all.is_empty()).then(|| self.random.pick(&all).parse().expect("an id"))
    }

    pub fn set_status(&mut self, order: i64, status: &str) {
        self.s().run(&format!("UPDATE orders SET status = '{status}' WHERE id = {order}"));
    }

    pub fn insert_payment(&mut self, order: i64, tenant: i64, sign: i64, reference: &str) -> i64 {
        let id = self.number();
        self.s().run(&format!("INSERT INTO payments SELECT {id}, id, {tenant}, {sign} * total, '{reference}' FROM orders WHERE id = {order}"));
        id
    }

    /// One step of an order: to the next status, with what belongs to it.
    pub fn advance(&mut self, tenant: i64, from: &str) -> Option<i64> {
        let order = self.an_order(tenant, from)?;
        let (action, to) = match from {
            "new" if self.random.percent(15) => ("order.cancel", "cancelled"),
            "new" => ("order.pay", "paid"),
            "paid" => ("order.ship", "shipped"),
            "shipped" => ("order.deliver", "delivered"),
            _ => ("order.refund", "refunded"),
        };
        if to == "refunded" && self.refunds(tenant) >= REFUNDS {
            return None;
        }
        let call = self.call(tenant, action);
        self.begin(0, &call);
        self.set_status(order, to);
        match to {
            "paid" => {
                self.insert_payment(order, tenant, 1, &call.request);
            }
            "refunded" => {
                self.insert_payment(order, tenant, -1, &call.request);
            }
            "shipped" | "cancelled" => self.count_order(tenant, -1),
            _ => {}
        }
        self.commit(0);
        Some(order)
    }

    pub fn refunds(&mut self, tenant: i64) -> i64 {
        self.s().number(&format!("SELECT count(*) FROM payments WHERE tenant_id = {tenant} AND amount < 0"))
    }

    /// One operation of everyday.
    pub fn everyday(&mut self) {
        let tenant = self.random.between(1, TENANTS);
        let (account, other, amount) = (self.customer(tenant), self.customer(tenant), self.amount());
        match self.random.below(20) {
            0..=4 => {
                self.deposit(account, amount);
            }
            5..=7 => {
                self.withdraw(account, amount);
            }
            8..=10 => self.transfer(account, other, amount),
            11 if self.random.percent(50) => self.fees(tenant),
            11 | 12 => self.side_by_side(account),
            13..=15 => {
                self.place(tenant);
            }
            n => {
                let from = ["new", "new", "paid", "shipped", "delivered"][(n + self.random.below(2)) as usize % 5];
                self.advance(tenant, from);
            }
        }
    }
}
