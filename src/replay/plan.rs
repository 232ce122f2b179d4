//! What a run is asked to do: sources of events, and the invariants over them with where their inputs stand in an event's values. Made by
//! replay_plan() in sql/install/replay_stream.sql.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub sources: Vec<Source>,
    pub invariants: Vec<Invariant>,
    pub stop: bool,
    /// Violations since this time are reported; microseconds since 2000-01-01.
    pub since: i64,
    /// The time at the end of the run.
    pub until: i64,
    /// So many changes of a key are listed with its violation.
    pub recent: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    pub name: String,
    /// Its rows are states of a projection, which the engine keeps.
    pub is_projection: bool,
    /// Its events are steps of the run.
    pub is_counted: bool,
    /// The table whose changes a projection is made of.
    #[serde(default)]
    pub of: Option<usize>,
    /// Every row of it was recorded when it came.
    pub is_known: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Invariant {
    pub name: String,
    pub kind: Kind,
    pub check_at: CheckAt,
    /// The commit by which all rows of its sources are known; before its end nothing is judged, and never if there is none.
    pub known_from: Option<i64>,
    /// Its violations fail no run.
    pub is_warning: bool,
    pub inputs: Vec<Input>,
}

/// An invariant's inputs from one source: the place of the first among the values, and their number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    pub source: usize,
    pub first: usize,
    pub count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckAt {
    Event,
    Statement,
    Commit,
    Events(u64),
    /// Microseconds.
    Slices(i64),
    End,
}

/// Inputs of each kind, in their order. A key that is not among them is the row itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Whether the check holds.
    Row,
    /// The same of a projection's state.
    State,
    /// Whether the row counts, the group's key, the argument.
    Aggregate { function: Aggregate, test: Test },
    /// The value, as text.
    Transition { initial: Option<Vec<String>>, allowed: BTreeMap<String, Vec<String>> },
    /// Whether the row counts, the columns.
    Unique,
    /// Of either source: whether the row counts, the columns. The second source is the one referred to.
    References,
    /// event, earlier, key.
    Requires { within: Option<i64>, by_row: bool },
    /// event, since, unless, key.
    Forbids { from_the_beginning: bool, by_row: bool },
    /// event, key.
    Rate { at_most: usize, per: i64, by_row: bool },
    /// The value, a number, a time or a text, key.
    Monotone { strict: bool, by_row: bool },
    /// open, close, key.
    Deadline { within: i64, by_row: bool },
}

impl Kind {
    /// Whether its keys are rows, so that a row that comes back under its key is to be known again.
    pub fn is_by_row(&self) -> bool {
        match self {
            Kind::Row | Kind::State | Kind::Transition { .. } => true,
            Kind::Aggregate { .. } | Kind::Unique | Kind::References => false,
            Kind::Requires { by_row, .. }
            | Kind::Forbids { by_row, .. }
            | Kind::Rate { by_row, .. }
            | Kind::Monotone { by_row, .. }
            | Kind::Deadline { by_row, .. } => *by_row,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aggregate {
    Sum,
    Avg,
    Count,
    Min,
    Max,
}

/// What is asked of an aggregate's value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Test {
    /// Comparisons with numbers, all of which hold.
    All(Vec<(Comparison, String)>),
    /// The query asks, and tells with `replay_judge`.
    Elsewhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    Less,
    AtMost,
    Equal,
    Unequal,
    AtLeast,
    More,
}

impl Comparison {
    pub fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Comparison::Less => order.is_lt(),
            Comparison::AtMost => order.is_le(),
            Comparison::Equal => order.is_eq(),
            Comparison::Unequal => order.is_ne(),
            Comparison::AtLeast => order.is_ge(),
            Comparison::More => order.is_gt(),
        }
    }
}
