//! Three domains whose random histories keep and break what their invariants say: a ledger, orders with payments, and
//! stock with reservations. Every row belongs to one history by its primary key, so that many live in one set of tables.

use std::collections::BTreeMap;

use crate::random::Random;
use crate::replay_oracle::{Invariant, KeyOf, Kind, Op, Predicate, Row, Texts, Value, Where, int, shown};

#[path = "replay_domains/inventory.rs"]
mod inventory;
#[path = "replay_domains/ledger.rs"]
mod ledger;
#[path = "replay_domains/orders.rs"]
mod orders;

pub const MILLISECOND: i64 = 1000;
pub const HOUR: i64 = 3600 * 1000 * MILLISECOND;

#[derive(Debug)]
pub struct Table {
    pub name: &'static str,
    pub primary_key: &'static [&'static str],
    pub columns: &'static [&'static str],
    pub sql: &'static str,
}

impl Table {
    pub fn key_of(&self, row: &Row) -> Texts {
        self.primary_key.iter().map(|column| shown(row, column)).collect()
    }
}

pub enum Set {
    To(Option<Value>),
    Plus(i64),
    /// A change of nothing is an event, too.
    Itself,
}

impl Set {
    pub fn apply(&self, old: &Option<Value>) -> Option<Value> {
        match (self, old) {
            (Set::To(value), _) => value.clone(),
            (Set::Plus(n), Some(Value::Int(old))) => Some(Value::Int(old + n)),
            (Set::Plus(_), _) => None,
            (Set::Itself, old) => old.clone(),
        }
    }
}

/// One statement of SQL over one table.
pub enum Statement {
    Insert { table: &'static Table, rows: Vec<Row> },
    Update { table: &'static Table, keys: Vec<Texts>, set: Vec<(&'static str, Set)> },
    Delete { table: &'static Table, keys: Vec<Texts> },
}

fn literal(value: &Option<Value>) -> String {
    match value {
        None => "NULL".into(),
        Some(Value::Text(text)) => format!("'{}'", text.replace('\'', "''")),
        Some(value) => value.text(),
    }
}

impl Statement {
    pub fn table(&self) -> &'static Table {
        match self {
            Statement::Insert { table, .. } | Statement::Update { table, .. } | Statement::Delete { table, .. } => {
                table
            }
        }
    }

    pub fn op(&self) -> Op {
        match self {
            Statement::Insert { .. } => Op::Insert,
            Statement::Update { .. } => Op::Update,
            Statement::Delete { .. } => Op::Delete,
        }
    }

    pub fn changes_key(&self) -> bool {
        matches!(self, Statement::Update { table, set, .. }
            if set.iter().any(|(column, _)| table.primary_key.contains(column)))
    }

    /// Returns the keys of the rows it changed, as they are then, in the order in which it changed them.
    pub fn sql(&self) -> String {
        let Table { name, primary_key, columns, .. } = self.table();
        let key_columns = primary_key.join(", ");
        let among = |keys: &[Texts]| {
            let tuples: Vec<String> = keys
                .iter()
                .map(|key| format!("({})", key.iter().flatten().cloned().collect::<Vec<_>>().join(", ")))
                .collect();
            format!("({key_columns}) IN ({})", tuples.join(", "))
        };
        let statement = match self {
            Statement::Insert { rows, .. } => {
                let tuples: Vec<String> = rows
                    .iter()
                    .map(|row| columns.iter().map(|column| literal(&row[column])).collect::<Vec<_>>().join(", "))
                    .collect();
                format!("INSERT INTO {name} ({}) VALUES ({})", columns.join(", "), tuples.join("), ("))
            }
            Statement::Update { keys, set, .. } => {
                let assignments: Vec<String> = set
                    .iter()
                    .map(|(column, set)| match set {
                        Set::To(value) => format!("{column} = {}", literal(value)),
                        Set::Plus(n) => format!("{column} = {column} + {n}"),
                        Set::Itself => format!("{column} = {column}"),
                    })
                    .collect();
                format!("UPDATE {name} SET {} WHERE {}", assignments.join(", "), among(keys))
            }
            Statement::Delete { keys, .. } => format!("DELETE FROM {name} WHERE {}", among(keys)),
        };
        format!("{statement} RETURNING {key_columns}")
    }
}

/// The rows of a history that a transaction sees and that no other is writing.
pub struct View(pub BTreeMap<(&'static str, Texts), Row>);

impl View {
    fn rows(&self, table: &Table) -> Vec<&Row> {
        self.0.iter().filter(|((name, _), _)| *name == table.name).map(|(_, row)| row).collect()
    }

    /// The id of a row, or now and then of one that may not exist.
    fn any_id(&self, r: &mut Random, table: &Table, base: i64, most: i64) -> i64 {
        match self.any(r, table) {
            Some(row) if !r.percent(8) => id(row, table.primary_key[0]),
            _ => base + r.between(1, most),
        }
    }

    fn any<'a>(&'a self, r: &mut Random, table: &Table) -> Option<&'a Row> {
        let rows = self.rows(table);
        if rows.is_empty() { None } else { Some(r.pick::<&Row>(&rows)) }
    }
}

pub struct Domain {
    pub name: &'static str,
    pub tables: &'static [Table],
    pub invariants: fn() -> Vec<(&'static str, Kind)>,
    /// What a transaction is going to do. Ids of the history are above `base`.
    pub plan: fn(&mut Random, base: i64, &View) -> Vec<Statement>,
}

pub static DOMAINS: [&Domain; 3] = [&ledger::DOMAIN, &orders::DOMAIN, &inventory::DOMAIN];

pub fn tables() -> impl Iterator<Item = &'static Table> {
    DOMAINS.into_iter().flat_map(|domain| domain.tables)
}

/// Every invariant of every domain, with the check points that `check_at` gives it by its number.
pub fn invariants(check_at: impl Fn(usize) -> crate::replay_oracle::CheckAt) -> Vec<Invariant> {
    DOMAINS
        .iter()
        .flat_map(|domain| (domain.invariants)().into_iter().map(|(name, kind)| (domain.name, name, kind)))
        .enumerate()
        .map(|(n, (domain, name, kind))| Invariant { name: format!("{domain}_{name}"), kind, check_at: check_at(n) })
        .collect()
}

/// Ids have six digits each, so that they sort as text as they do as numbers.
pub fn base(history: i64) -> i64 {
    assert!(history < 900, "ids of history {history} have more than six digits");
    (100 + history) * 1000
}

/// The history that a row belongs to.
pub fn history_of(id: i64) -> i64 {
    id / 1000 - 100
}

// What the domains write their plans and predicates with.

fn n(n: i64) -> Option<Value> {
    Some(Value::Int(n))
}

fn t(text: &str) -> Option<Value> {
    Some(Value::Text(text.into()))
}

/// NULL in a few cases of 100.
fn or_null(value: Option<Value>, r: &mut Random, percent: u64) -> Option<Value> {
    if r.percent(percent) { None } else { value }
}

fn update(table: &'static Table, row: &Row, set: Vec<(&'static str, Set)>) -> Statement {
    Statement::Update { table, keys: vec![table.key_of(row)], set }
}

fn delete(table: &'static Table, row: &Row) -> Statement {
    Statement::Delete { table, keys: vec![table.key_of(row)] }
}

fn predicate(sql: &'static str, holds: fn(crate::replay_oracle::Rows) -> Option<bool>) -> Predicate {
    Predicate { sql, holds }
}

fn key(sql: &'static str, of: fn(&Row) -> Option<String>) -> Option<KeyOf> {
    Some(KeyOf { sql, of })
}

fn only(sql: &'static str, holds: fn(&Row) -> Option<bool>) -> Option<Where> {
    Some(Where { sql, holds })
}

/// SQL's OR.
fn either(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    if a == Some(true) || b == Some(true) { Some(true) } else { Some(a? || b?) }
}

fn id(row: &Row, column: &str) -> i64 {
    int(row, column).expect("a key is not NULL")
}
