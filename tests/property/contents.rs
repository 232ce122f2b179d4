//! What tables hold, read by plain SQL and kept as text.

use std::collections::HashSet;

use crate::concurrent_writers::{TABLES, Table};
use crate::support::{Row, Session};

/// One row as it was read.
#[derive(Clone)]
pub struct Kept {
    pub row: String,
    pub key: String,
    pub image: String,
}

/// Every row of each of `TABLES`, in order.
pub type Contents = Vec<Vec<Kept>>;

/// Everything in one statement, hence of one snapshot.
pub fn query() -> String {
    let of = |(number, table): (usize, &Table)| {
        format!("SELECT {number} AS t, t::text, ({})::text, to_jsonb(t)::text FROM {} t", table.key, table.name)
    };
    let parts: Vec<String> = TABLES.iter().enumerate().map(of).collect();
    format!("{} ORDER BY 1, 2", parts.join(" UNION ALL "))
}

/// From the query's result.
pub fn of_rows(rows: Vec<Row>) -> Contents {
    let mut contents: Contents = TABLES.iter().map(|_| Vec::new()).collect();
    for row in rows {
        let mut values = row.into_iter().map(|value| value.expect("not null"));
        let mut next = || values.next().expect("four columns");
        let table: usize = next().parse().expect("a number");
        contents[table].push(Kept { row: next(), key: next(), image: next() });
    }
    contents
}

pub fn read(s: &mut Session) -> Contents {
    of_rows(s.rows(&query()))
}

/// The transactions that are there: each leaves a marker.
pub fn markers(contents: &Contents) -> HashSet<i64> {
    let number = |kept: &Kept| kept.row.trim_matches(['(', ')']).parse().expect("a number");
    contents.last().expect("markers come last").iter().map(number).collect()
}
