//! The words of a model: values, rows, events, and invariants whose SQL stands beside the Rust that means the same.

use std::collections::{BTreeMap, HashMap};

#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub enum Value {
    Int(i64),
    /// Averages.
    Real(f64),
    Text(String),
}

impl Value {
    pub fn text(&self) -> String {
        match self {
            Value::Int(n) => n.to_string(),
            Value::Real(x) => x.to_string(),
            Value::Text(text) => text.clone(),
        }
    }
}

/// By column; NULL is None.
pub type Row = BTreeMap<&'static str, Option<Value>>;
/// A violation's state, NULL where there is none.
pub type State = Option<Row>;
/// The values of a key as text.
pub type Texts = Vec<Option<String>>;
/// The live rows by table and identity.
pub type Contents<'a> = BTreeMap<&'static str, BTreeMap<u64, &'a Row>>;

pub fn live<'a>(contents: &'a Contents, table: &str) -> impl Iterator<Item = &'a Row> {
    contents.get(table).into_iter().flat_map(|rows| rows.values().copied())
}

pub fn int(row: &Row, column: &str) -> Option<i64> {
    match row.get(column) {
        Some(Some(Value::Int(n))) => Some(*n),
        Some(None) => None,
        other => panic!("{column} is no integer: {other:?}"),
    }
}

pub fn text<'a>(row: &'a Row, column: &str) -> Option<&'a str> {
    match row.get(column) {
        Some(Some(Value::Text(text))) => Some(text),
        Some(None) => None,
        other => panic!("{column} is no text: {other:?}"),
    }
}

/// A column's value as text.
pub fn shown(row: &Row, column: &str) -> Option<String> {
    row[column].as_ref().map(Value::text)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Insert,
    Update,
    Delete,
    Snapshot,
}

#[derive(Clone, Debug)]
pub struct Event {
    /// The driver's number of it, whatever the order.
    pub id: usize,
    pub table: &'static str,
    pub op: Op,
    pub old: Option<Row>,
    pub new: Option<Row>,
    pub transaction: usize,
    pub statement: usize,
    /// When its transaction committed, in microseconds since 1970.
    pub at: i64,
    /// The row's identity, which a new primary key does not change.
    pub row: u64,
    pub primary_key: &'static [&'static str],
}

impl Event {
    /// What a key expression reads: the new row, of a delete the old one.
    pub fn subject(&self) -> &Row {
        self.new.as_ref().or(self.old.as_ref()).expect("an event has a row")
    }

    pub fn primary_key_texts(&self) -> Texts {
        self.primary_key.iter().map(|column| shown(self.subject(), column)).collect()
    }

    pub fn rows(&self) -> Rows<'_> {
        Rows { new: self.new.as_ref(), old: self.old.as_ref() }
    }
}

/// Gives every event its row's identity: what an insert begins, an update carries to the row's new key. A row that is inserted with the
/// primary key of a deleted one is that row again.
pub fn identify(events: &mut [Event]) {
    let mut known: HashMap<(&'static str, Texts), u64> = HashMap::new();
    let mut next = 0;
    for event in events {
        let key_of = |row: &Row| (event.table, event.primary_key.iter().map(|column| shown(row, column)).collect());
        let old = event.old.as_ref().map(key_of);
        let new = event.new.as_ref().map(key_of);
        let continued = match (&old, &new) {
            (Some(old), None) => known.get(old).copied(),
            (Some(old), Some(_)) => known.remove(old),
            (None, Some(new)) => known.get(new).copied(),
            (None, None) => None,
        };
        event.row = continued.unwrap_or_else(|| {
            next += 1;
            next
        });
        if let Some(new) = new {
            known.insert(new, event.row);
        }
    }
}

/// What a predicate sees: all columns are NULL where there is no such row.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub new: Option<&'a Row>,
    pub old: Option<&'a Row>,
}

impl<'a> Rows<'a> {
    pub fn new_int(self, column: &str) -> Option<i64> {
        int(self.new?, column)
    }

    pub fn old_int(self, column: &str) -> Option<i64> {
        int(self.old?, column)
    }

    pub fn new_text(self, column: &str) -> Option<&'a str> {
        text(self.new?, column)
    }

    pub fn old_text(self, column: &str) -> Option<&'a str> {
        text(self.old?, column)
    }
}

/// SQL over `new` and `old`, and the same in Rust; None is NULL.
#[derive(Clone)]
pub struct Predicate {
    pub sql: &'static str,
    pub holds: fn(Rows) -> Option<bool>,
}

impl Predicate {
    /// As a check.
    pub fn passes(&self, event: &Event) -> bool {
        (self.holds)(event.rows()) != Some(false)
    }

    /// As a condition.
    pub fn matches(&self, event: &Event) -> bool {
        (self.holds)(event.rows()) == Some(true)
    }
}

/// SQL over the columns of one row.
#[derive(Clone)]
pub struct KeyOf {
    pub sql: &'static str,
    pub of: fn(&Row) -> Option<String>,
}

#[derive(Clone)]
pub struct Where {
    pub sql: &'static str,
    pub holds: fn(&Row) -> Option<bool>,
}

impl Where {
    pub fn admits(condition: &Option<Where>, row: &Row) -> bool {
        condition.as_ref().is_none_or(|condition| (condition.holds)(row) == Some(true))
    }
}

/// SQL over `value`.
#[derive(Clone)]
pub struct ValueCheck {
    pub sql: &'static str,
    pub holds: fn(Option<f64>) -> Option<bool>,
}

#[derive(Clone, Copy)]
pub enum Aggregate {
    CountRows,
    Count(&'static str),
    Sum(&'static str),
    Avg(&'static str),
    Min(&'static str),
    Max(&'static str),
}

#[derive(Clone)]
pub struct Aggregated {
    pub table: &'static str,
    /// None: one key for all rows.
    pub key: Option<KeyOf>,
    pub aggregate: Aggregate,
    pub condition: Option<Where>,
    pub check: ValueCheck,
}

#[derive(Clone)]
pub struct Projection {
    pub name: &'static str,
    pub source: &'static str,
    pub key: KeyOf,
    pub init_sql: &'static str,
    pub init: fn() -> Row,
    pub step_sql: &'static str,
    pub step: fn(&Row, &Event) -> Row,
}

#[derive(Clone)]
pub struct Deadline {
    pub table: &'static str,
    pub key: Option<KeyOf>,
    pub open: Predicate,
    pub close: Predicate,
    /// Microseconds, as everywhere.
    pub within: i64,
}

#[derive(Clone)]
pub enum Kind {
    Row {
        table: &'static str,
        check: Predicate,
    },
    KeyBound(Aggregated),
    /// The check is `value = equals`.
    Balance(Aggregated, i64),
    Unique {
        table: &'static str,
        columns: &'static [&'static str],
        condition: Option<Where>,
    },
    References {
        table: &'static str,
        columns: &'static [&'static str],
        to: &'static str,
        to_columns: &'static [&'static str],
        condition: Option<Where>,
    },
    Projection {
        projection: Projection,
        check_sql: &'static str,
        check: fn(&Row) -> Option<bool>,
    },
    Query {
        sql: &'static str,
        tables: &'static [&'static str],
        finds: fn(&Contents) -> bool,
    },
    Transition {
        table: &'static str,
        column: &'static str,
        initial: Option<&'static [&'static str]>,
        allowed: &'static [(&'static str, &'static [&'static str])],
        terminal: &'static [&'static str],
    },
    Requires {
        table: &'static str,
        key: Option<KeyOf>,
        event: Predicate,
        earlier: Predicate,
        within: Option<i64>,
    },
    Forbids {
        table: &'static str,
        key: Option<KeyOf>,
        event: Predicate,
        since: Option<Predicate>,
        unless: Option<Predicate>,
    },
    Rate {
        table: &'static str,
        key: Option<KeyOf>,
        event: Predicate,
        at_most: usize,
        per: i64,
    },
    Monotone {
        table: &'static str,
        key: Option<KeyOf>,
        column: &'static str,
        strict: bool,
    },
    Deadline(Deadline),
}

impl Kind {
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Row { .. } => "row",
            Kind::KeyBound(_) => "key_bound",
            Kind::Balance(..) => "balance",
            Kind::Unique { .. } => "unique",
            Kind::References { .. } => "references",
            Kind::Projection { .. } => "projection",
            Kind::Query { .. } => "query",
            Kind::Transition { .. } => "transition",
            Kind::Requires { .. } => "requires",
            Kind::Forbids { .. } => "forbids",
            Kind::Rate { .. } => "rate",
            Kind::Monotone { .. } => "monotone",
            Kind::Deadline(_) => "deadline",
        }
    }

    /// The tables whose changes are events of a model with it.
    pub fn tables(&self) -> Vec<&'static str> {
        match self {
            Kind::References { table, to, .. } => vec![table, to],
            Kind::Query { tables, .. } => tables.to_vec(),
            Kind::Projection { projection, .. } => vec![projection.source],
            Kind::KeyBound(aggregated) | Kind::Balance(aggregated, _) => vec![aggregated.table],
            Kind::Deadline(deadline) => vec![deadline.table],
            Kind::Row { table, .. }
            | Kind::Unique { table, .. }
            | Kind::Transition { table, .. }
            | Kind::Requires { table, .. }
            | Kind::Forbids { table, .. }
            | Kind::Rate { table, .. }
            | Kind::Monotone { table, .. } => vec![table],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CheckAt {
    Event,
    Statement,
    Commit,
    Events(usize),
    Interval(i64),
    End,
}

#[derive(Clone)]
pub struct Invariant {
    pub name: String,
    pub kind: Kind,
    pub check_at: CheckAt,
}
