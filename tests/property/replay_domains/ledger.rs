//! Accounts, and postings that balance by journal.

use super::*;
use crate::replay_oracle::{Aggregate, Aggregated, Event, Projection, ValueCheck, live, text};

static TABLES: [Table; 2] = [
    Table {
        name: "account",
        primary_key: &["id"],
        columns: &["id", "owner", "balance", "version", "status"],
        sql: "CREATE TABLE account (id int PRIMARY KEY, owner text, balance int, version int, status text)",
    },
    Table {
        name: "posting",
        primary_key: &["id"],
        columns: &["id", "journal_id", "account_id", "amount", "kind"],
        sql: "CREATE TABLE posting (id int PRIMARY KEY, journal_id int, account_id int, amount int, kind text)",
    },
];
static ACCOUNT: &Table = &TABLES[0];
static POSTING: &Table = &TABLES[1];

pub static DOMAIN: Domain = Domain { name: "ledger", tables: &TABLES, invariants, plan };

fn by_account() -> KeyOf {
    KeyOf { sql: "account_id", of: |row| shown(row, "account_id") }
}

fn of_postings(
    key: Option<KeyOf>,
    aggregate: Aggregate,
    condition: Option<Where>,
    sql: &'static str,
    holds: fn(Option<f64>) -> Option<bool>,
) -> Aggregated {
    Aggregated { table: "posting", key, aggregate, condition, check: ValueCheck { sql, holds } }
}

/// The running sum of an account's postings, its lowest and how many events made it: all depend on the order.
fn running() -> Projection {
    Projection {
        name: "running",
        source: "posting",
        key: by_account(),
        init_sql: r#"{"events": 0, "net": 0, "low": 0}"#,
        init: || Row::from([("events", n(0)), ("net", n(0)), ("low", n(0))]),
        step_sql: "jsonb_build_object(
            'events', (state->>'events')::int + 1,
            'net', (state->>'net')::int + coalesce((event->'new'->>'amount')::int, 0)
                - coalesce((event->'old'->>'amount')::int, 0),
            'low', least((state->>'low')::int, (state->>'net')::int + coalesce((event->'new'->>'amount')::int, 0)
                - coalesce((event->'old'->>'amount')::int, 0)))",
        step: step_running,
    }
}

fn step_running(state: &Row, event: &Event) -> Row {
    let amount = |row: Option<&Row>| row.and_then(|row| int(row, "amount")).unwrap_or(0);
    let net = id(state, "net") + amount(event.rows().new) - amount(event.rows().old);
    Row::from([("events", n(id(state, "events") + 1)), ("net", n(net)), ("low", n(id(state, "low").min(net)))])
}

fn invariants() -> Vec<(&'static str, Kind)> {
    let by_journal = || key("journal_id", |row| shown(row, "journal_id"));
    let balance =
        |key, condition| of_postings(key, Aggregate::Sum("amount"), condition, "value = 0", |v| Some(v? == 0.0));
    vec![
        (
            "not_overdrawn",
            Kind::Row { table: "account", check: predicate("new.balance >= 0", |r| Some(r.new_int("balance")? >= 0)) },
        ),
        (
            "small_steps",
            Kind::Row {
                table: "account",
                check: predicate("new.balance > old.balance - 45", |r| {
                    Some(r.new_int("balance")? > r.old_int("balance")? - 45)
                }),
            },
        ),
        (
            "postings_bound",
            Kind::KeyBound(of_postings(
                Some(by_account()),
                Aggregate::Sum("amount"),
                only("kind <> 'void'", |row| Some(text(row, "kind")? != "void")),
                "value >= -50",
                |v| Some(v? >= -50.0),
            )),
        ),
        (
            "short_journals",
            Kind::KeyBound(of_postings(by_journal(), Aggregate::CountRows, None, "value <= 4", |v| Some(v? <= 4.0))),
        ),
        (
            "fair_journals",
            Kind::KeyBound(of_postings(by_journal(), Aggregate::Avg("amount"), None, "value < 10.5", |v| {
                Some(v? < 10.5)
            })),
        ),
        (
            "smallest_posting",
            Kind::KeyBound(of_postings(Some(by_account()), Aggregate::Min("amount"), None, "value > -50", |v| {
                Some(v? > -50.0)
            })),
        ),
        ("journal_balance", Kind::Balance(balance(by_journal(), None), 0)),
        (
            "fees_balance",
            Kind::Balance(balance(None, only("kind = 'fee'", |row| Some(text(row, "kind")? == "fee"))), 0),
        ),
        (
            "postings_account",
            Kind::References {
                table: "posting",
                columns: &["account_id"],
                to: "account",
                to_columns: &["id"],
                condition: None,
            },
        ),
        ("owner_once", Kind::Unique { table: "account", columns: &["owner"], condition: None }),
        (
            "never_low",
            Kind::Projection {
                projection: running(),
                check_sql: "(state->>'low')::int > -40 OR (state->>'net')::int > (state->>'low')::int + 15",
                check: |state| {
                    let low = int(state, "low")?;
                    Some(low > -40 || int(state, "net")? > low + 15)
                },
            },
        ),
        (
            "frozen_even",
            Kind::Query {
                sql: "SELECT sum(balance) FROM account WHERE status = 'frozen' HAVING sum(balance) % 2 <> 0",
                tables: &["account"],
                finds: |contents| {
                    let frozen = live(contents, "account").filter(|row| text(row, "status") == Some("frozen"));
                    frozen.filter_map(|row| int(row, "balance")).sum::<i64>() % 2 != 0
                },
            },
        ),
    ]
}

fn posting(r: &mut Random, base: i64, journal: i64, account: i64, amount: i64, kind: &str) -> Row {
    Row::from([
        ("id", n(base + r.between(1, 60))),
        ("journal_id", n(journal)),
        ("account_id", or_null(n(account), r, 4)),
        ("amount", or_null(n(amount), r, 3)),
        ("kind", or_null(t(kind), r, 4)),
    ])
}

fn transfer(r: &mut Random, base: i64, view: &View, statements: &mut Vec<Statement>) {
    let (from, to) = (view.any_id(r, ACCOUNT, base, 5), view.any_id(r, ACCOUNT, base, 5));
    let journal = base + r.between(1, 8);
    let most = if r.percent(15) { 70 } else { 30 };
    let amount = r.between(1, most);
    let received = if r.percent(12) { amount + 1 } else { amount };
    let kind = *r.pick(&["move", "move", "void"]);
    let rows = [posting(r, base, journal, from, -amount, kind), posting(r, base, journal, to, received, kind)];
    if r.percent(50) {
        statements.push(Statement::Insert { table: POSTING, rows: rows.to_vec() });
    } else {
        statements.extend(rows.map(|row| Statement::Insert { table: POSTING, rows: vec![row] }));
    }
    for (account, amount) in [(from, -amount), (to, received)] {
        if let Some(row) = view.rows(ACCOUNT).into_iter().find(|row| id(row, "id") == account && !r.percent(10)) {
            statements.push(update(ACCOUNT, row, vec![("balance", Set::Plus(amount)), ("version", Set::Plus(1))]));
        }
    }
}

fn account_work(r: &mut Random, base: i64, view: &View) -> Option<Statement> {
    let row = view.any(r, ACCOUNT)?;
    Some(match r.below(7) {
        0 => delete(ACCOUNT, row),
        1 => update(ACCOUNT, row, vec![("id", Set::To(n(base + r.between(1, 5))))]),
        2 => update(ACCOUNT, row, vec![("balance", Set::To(or_null(n(100), r, 20)))]),
        3 => update(ACCOUNT, row, vec![("owner", Set::Itself), ("version", Set::Itself)]),
        4 => update(ACCOUNT, row, vec![("status", Set::To(t("open")))]),
        5 => update(ACCOUNT, row, vec![("status", Set::To(t("frozen")))]),
        _ => update(ACCOUNT, row, vec![("owner", Set::To(t(&owner(r, base))))]),
    })
}

fn posting_work(r: &mut Random, base: i64, view: &View) -> Option<Statement> {
    let row = view.any(r, POSTING)?;
    Some(match r.below(7) {
        0 => delete(POSTING, row),
        1 => update(POSTING, row, vec![("amount", Set::Plus(r.between(-10, 10)))]),
        2 => update(POSTING, row, vec![("account_id", Set::To(or_null(n(base + r.between(1, 5)), r, 20)))]),
        3 => update(POSTING, row, vec![("kind", Set::To(t(r.pick::<&str>(&["move", "void", "fee"]))))]),
        4 => update(POSTING, row, vec![("amount", Set::Itself)]),
        n => {
            let same = |other: &&Row| other["journal_id"] == row["journal_id"];
            let keys = view.rows(POSTING).into_iter().filter(same).map(|row| POSTING.key_of(row)).collect();
            if n == 5 {
                Statement::Delete { table: POSTING, keys }
            } else {
                let journal = Set::To(super::n(base + r.between(1, 8)));
                Statement::Update { table: POSTING, keys, set: vec![("journal_id", journal)] }
            }
        }
    })
}

fn owner(r: &mut Random, base: i64) -> String {
    format!("o'{}", base + r.between(1, 12))
}

fn plan(r: &mut Random, base: i64, view: &View) -> Vec<Statement> {
    let mut statements = Vec::new();
    for _ in 0..r.between(1, 2) {
        if view.rows(ACCOUNT).len() < 4 && r.percent(60) {
            let row = Row::from([
                ("id", n(base + r.between(1, 5))),
                ("owner", or_null(t(&owner(r, base)), r, 10)),
                ("balance", or_null(n(r.between(-3, 100)), r, 5)),
                ("version", n(1)),
                ("status", t("open")),
            ]);
            statements.push(Statement::Insert { table: ACCOUNT, rows: vec![row] });
        }
        match r.below(10) {
            0..=4 => transfer(r, base, view, &mut statements),
            5 => {
                let (account, journal) = (view.any_id(r, ACCOUNT, base, 5), base + 9);
                let back = if r.percent(50) { -1 } else { -2 };
                let rows =
                    vec![posting(r, base, journal, account, 1, "fee"), posting(r, base, journal, account, back, "fee")];
                statements.push(Statement::Insert { table: POSTING, rows });
            }
            6 | 7 => statements.extend(account_work(r, base, view)),
            _ => statements.extend(posting_work(r, base, view)),
        }
    }
    statements
}
