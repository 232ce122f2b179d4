//! What transactions read of all tables inside themselves, against what `audit_as_seen_by` says they could see.

use crate::concurrent_as_of::{Oracle, Placed};
use crate::concurrent_writers::TABLES;
use crate::contents::{self, Contents};

/// What a transaction read.
pub struct Look {
    /// Before its own writes; not known of a READ COMMITTED transaction that wrote in several statements.
    pub without_own: Option<Contents>,
    /// After them.
    pub with_own: Contents,
    /// That was the statement that wrote the transaction's marker, which it could not see itself.
    pub marker_unseen: bool,
}

/// One that was committed.
pub struct Seen {
    pub transaction: String,
    pub marker: i64,
    pub level: &'static str,
    pub look: Look,
}

pub fn check(oracle: &mut Oracle, seen: &[Seen], order: &[Placed]) {
    for seen in seen {
        if let Some(contents) = &seen.look.without_own {
            compare(oracle, seen, contents, false);
            follows(oracle, seen, contents, order);
        }
        compare(oracle, seen, &seen.look.with_own, true);
    }
}

fn compare(oracle: &mut Oracle, seen: &Seen, contents: &Contents, include_own: bool) {
    for (table, kept) in TABLES.iter().zip(contents) {
        let call = format!("audit_as_seen_by(NULL::{}, '{}', {include_own})", table.name, seen.transaction);
        let found = oracle.s.column(&format!("SELECT r::text FROM threadline.{call} r ORDER BY 1"));
        let mut rows: Vec<String> = kept.iter().map(|kept| kept.row.clone()).collect();
        if include_own && seen.look.marker_unseen && table.name == "marker" {
            rows.push(format!("({})", seen.marker));
            rows.sort();
        }
        oracle.verdict.compare(&format!("{call} of {}", seen.level), rows.iter(), &found);
    }
}

/// Whoever read what another transaction committed comes after it.
fn follows(oracle: &mut Oracle, seen: &Seen, contents: &Contents, order: &[Placed]) {
    let there = contents::markers(contents);
    let own = order.iter().find(|tx| tx.client.marker == seen.marker).expect("it was committed").commit_no;
    let late = order.iter().find(|tx| there.contains(&tx.client.marker) && tx.commit_no >= own);
    oracle.verdict.expect(late.is_none(), || {
        let late = late.expect("there is one").commit_no;
        format!("transaction {} has commit {own} and had seen commit {late}", seen.transaction)
    });
}
