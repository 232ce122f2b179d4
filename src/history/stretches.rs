//! The stretches of commit numbers that the indexes on what applications say have to be asked for (sql/install/storage.sql).

use pgrx::pg_sys;

use crate::pg::function::Call;
use crate::pg::index_scan::ends_of_expressions;
use crate::pg::relation::{OpenRelation, own_relation};

/// `threadline.commit_stretches(above, below, newest_first)`: as rows, from the stretch of one commit number to that of the other, as far
/// as the indexes have any.
pub fn commit_stretches(call: &mut Call) -> pg_sys::Datum {
    let number = |index: usize| call.value(index).map(|value| stretch_of(value.as_i64()));
    let (above, below) = (number(0).unwrap_or(0), number(1).unwrap_or(i32::MAX));
    let newest_first = call.value(2).is_some_and(|value| value.as_bool());
    let (mut first, mut last) = (i32::MAX, i32::MIN);
    if let Some(log) = own_relation(c"transaction_log") {
        let log = OpenRelation::open(log, pg_sys::AccessShareLock as i32);
        for leaf in log.partitions() {
            let leaf = OpenRelation::open(leaf, pg_sys::AccessShareLock as i32);
            for (low, high) in ends_of_expressions(&leaf) {
                (first, last) = (first.min(low), last.max(high));
            }
        }
    }
    let range = first.max(above)..=last.min(below);
    let row = |stretch: i32| vec![Some(stretch.into())];
    if newest_first { call.return_rows(range.rev().map(row)) } else { call.return_rows(range.map(row)) }
}

/// The stretch of 2^24 commit numbers that one is in.
pub fn stretch_of(commit_no: i64) -> i32 {
    i32::try_from(commit_no >> 24).unwrap_or(i32::MAX)
}

/// `threadline.stretch_of_commit(commit_no)`
pub fn stretch_of_commit(call: &mut Call) -> pg_sys::Datum {
    let commit_no = call.value(0).map_or(0, |number| number.as_i64());
    call.return_value(Some(stretch_of(commit_no).into()))
}

#[cfg(test)]
mod tests {
    use super::stretch_of;

    #[test]
    fn stretches_are_in_order_whatever_the_number() {
        assert_eq!([0, (1 << 24) - 1, 1 << 24, i64::MAX].map(stretch_of), [0, 0, 1, i32::MAX]);
    }
}
