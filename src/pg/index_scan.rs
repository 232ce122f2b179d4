//! Reading rows of our own tables by their btrees, below the executor, as the active snapshot shows them.

use pgrx::pg_sys;

use super::compat;
use super::relation::{OpenRelation, Row};

/// A value that a column of an index is compared with.
#[derive(Clone, Copy)]
pub enum Operand<'v> {
    I32(i32),
    I64(i64),
    /// Microseconds since 2000-01-01.
    Time(i64),
    Uuid(&'v [u8; 16]),
}

#[derive(Clone, Copy)]
pub enum Comparison {
    Equals,
    AtLeast,
    Above,
    AtMost,
    Below,
}

/// A comparison with the index column of the same place among the columns asked for.
pub type Condition<'v> = (usize, Comparison, Operand<'v>);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// Visits the rows that meet the conditions, in the order of the btree that starts with these columns of the table (places
/// counted from 0), as long as `visit` says. A row has its first `columns_read` columns. None: the table has no such btree.
pub fn each_by_index(
    table: &OpenRelation,
    columns: &[usize],
    conditions: &[Condition],
    direction: Direction,
    columns_read: usize,
    mut visit: impl FnMut(&Row) -> bool,
) -> Option<()> {
    each_found(table, columns, conditions, direction, false, |scan, direction, slot| {
        // SAFETY: scan and slot are of the table; the slot holds a row when one was found.
        unsafe { pg_sys::index_getnext_slot(scan, direction, slot) && visit(&Row::of_first(slot, columns_read)) }
    })
}

/// The same for the entries alone, of rows that are gone or not yet there too; each comes with a way to ask whether its row
/// shows.
pub fn each_entry(
    table: &OpenRelation,
    columns: &[usize],
    conditions: &[Condition],
    direction: Direction,
    mut visit: impl FnMut(&[pg_sys::Datum], &mut dyn FnMut() -> bool) -> bool,
) -> Option<()> {
    each_found(table, columns, conditions, direction, true, |scan, direction, slot| {
        // SAFETY: scan and slot are of the table, and xs_want_itup has the entry at hand after each step. Columns of an index
        // that is read this way are NOT NULL.
        unsafe {
            (!pg_sys::index_getnext_tid(scan, direction).is_null())
                && visit(&parts_of_entry(scan), &mut || pg_sys::index_fetch_heap(scan, slot))
        }
    })
}

/// # Safety
/// The scan has found an entry and keeps it.
unsafe fn parts_of_entry(scan: pg_sys::IndexScanDesc) -> Vec<pg_sys::Datum> {
    // SAFETY: by the caller's promise; an entry has as many parts as its descriptor.
    unsafe {
        let parts = (*(*scan).xs_itupdesc).natts as usize;
        let (mut values, mut nulls) = (vec![pg_sys::Datum::from(0usize); parts], vec![false; parts]);
        pg_sys::index_deform_tuple((*scan).xs_itup, (*scan).xs_itupdesc, values.as_mut_ptr(), nulls.as_mut_ptr());
        values
    }
}

/// Goes from one entry to the next as long as `step` says.
fn each_found(
    table: &OpenRelation,
    columns: &[usize],
    conditions: &[Condition],
    direction: Direction,
    with_entries: bool,
    mut step: impl FnMut(pg_sys::IndexScanDesc, pg_sys::ScanDirection::Type, *mut pg_sys::TupleTableSlot) -> bool,
) -> Option<()> {
    let index = index_on(table, columns)?;
    let mut keys: Vec<pg_sys::ScanKeyData> = conditions.iter().map(scan_key).collect();
    let count = keys.len() as i32;
    let direction = match direction {
        Direction::Forward => pg_sys::ScanDirection::ForwardScanDirection,
        Direction::Backward => pg_sys::ScanDirection::BackwardScanDirection,
    };
    // SAFETY: table and index are open and locked; the keys outlive the scan, and are of the columns' types, which
    // sql/install/storage.sql declares; a read function runs under an active snapshot. An error leaves scan, slot and index
    // to the resource owner.
    unsafe {
        let index = pg_sys::index_open(index, pg_sys::AccessShareLock as i32);
        let scan = compat::begin_index_scan(table.as_ptr(), index, pg_sys::GetActiveSnapshot(), count);
        (*scan).xs_want_itup = with_entries;
        pg_sys::index_rescan(scan, keys.as_mut_ptr(), count, core::ptr::null_mut(), 0);
        let slot = pg_sys::table_slot_create(table.as_ptr(), core::ptr::null_mut());
        while step(scan, direction, slot) {
            super::xact::check_interrupts();
        }
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::index_endscan(scan);
        pg_sys::index_close(index, pg_sys::NoLock as i32);
    }
    Some(())
}

/// Of each btree of the table whose first part is an integer expression, the first and the last value, of rows that are gone too.
pub fn ends_of_expressions(table: &OpenRelation) -> Vec<(i32, i32)> {
    let mut ends = Vec::new();
    each_index(table, |index| {
        // SAFETY: the index is open, with its row of pg_index at hand.
        let is_of_expression = unsafe {
            (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
                && (*(*index).rd_index).indkey.values.as_slice(1)[0] == 0
                && (*compat::attribute((*index).rd_att, 0)).atttypid == pg_sys::INT4OID
        };
        if is_of_expression {
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            let backward = pg_sys::ScanDirection::BackwardScanDirection;
            // SAFETY: table and index are open.
            let both = unsafe { [first_entry(table, index, forward), first_entry(table, index, backward)] };
            if let [Some(first), Some(last)] = both {
                ends.push((first, last));
            }
        }
        true
    });
    ends
}

/// The first part of the first entry in a direction.
///
/// # Safety
/// Table and index are open; the index is a btree, and its first part an int4 that is never NULL.
unsafe fn first_entry(
    table: &OpenRelation,
    index: pg_sys::Relation,
    direction: pg_sys::ScanDirection::Type,
) -> Option<i32> {
    // SAFETY: a read function runs under an active snapshot; an index-only scan has the entry at hand after each step, with
    // as many parts as the index has.
    unsafe {
        let scan = compat::begin_index_scan(table.as_ptr(), index, pg_sys::GetActiveSnapshot(), 0);
        (*scan).xs_want_itup = true;
        pg_sys::index_rescan(scan, core::ptr::null_mut(), 0, core::ptr::null_mut(), 0);
        let found = !pg_sys::index_getnext_tid(scan, direction).is_null();
        let found = found.then(|| parts_of_entry(scan)[0].value() as i32);
        pg_sys::index_endscan(scan);
        found
    }
}

/// Visits the table's indexes, each open as long, while `visit` says.
fn each_index(table: &OpenRelation, mut visit: impl FnMut(pg_sys::Relation) -> bool) {
    // SAFETY: the table is open and locked, so that its indexes stay.
    unsafe {
        let list = pg_sys::RelationGetIndexList(table.as_ptr());
        let count = if list.is_null() { 0 } else { (*list).length };
        for place in 0..count {
            let index = pg_sys::index_open(pg_sys::list_nth_oid(list, place), pg_sys::AccessShareLock as i32);
            let goes_on = visit(index);
            pg_sys::index_close(index, pg_sys::NoLock as i32);
            if !goes_on {
                break;
            }
        }
    }
}

/// The table's whole btree on these columns first.
fn index_on(table: &OpenRelation, columns: &[usize]) -> Option<pg_sys::Oid> {
    let mut found = None;
    each_index(table, |index| {
        // SAFETY: an open index has its row of pg_index at hand, with indnatts numbers in indkey.
        unsafe {
            let form = &*(*index).rd_index;
            let has = form.indkey.values.as_slice(form.indnatts as usize);
            let fits = (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
                && form.indisvalid
                && pg_sys::heap_attisnull(
                    (*index).rd_indextuple,
                    pg_sys::Anum_pg_index_indpred as i32,
                    core::ptr::null_mut(),
                )
                && has.len() >= columns.len()
                && columns.iter().zip(has).all(|(wanted, has)| *wanted as i32 + 1 == i32::from(*has));
            found = fits.then_some((*index).rd_id);
        }
        found.is_none()
    });
    found
}

fn scan_key((place, comparison, operand): &Condition) -> pg_sys::ScanKeyData {
    let (datum, functions) = match operand {
        Operand::I32(value) => (
            (*value).into(),
            [pg_sys::F_INT4EQ, pg_sys::F_INT4GE, pg_sys::F_INT4GT, pg_sys::F_INT4LE, pg_sys::F_INT4LT],
        ),
        Operand::I64(value) => (
            (*value).into(),
            [pg_sys::F_INT8EQ, pg_sys::F_INT8GE, pg_sys::F_INT8GT, pg_sys::F_INT8LE, pg_sys::F_INT8LT],
        ),
        Operand::Time(value) => (
            (*value).into(),
            [
                pg_sys::F_TIMESTAMPTZ_EQ,
                pg_sys::F_TIMESTAMPTZ_GE,
                pg_sys::F_TIMESTAMPTZ_GT,
                pg_sys::F_TIMESTAMPTZ_LE,
                pg_sys::F_TIMESTAMPTZ_LT,
            ],
        ),
        Operand::Uuid(bytes) => (
            pg_sys::Datum::from(bytes.as_ptr()),
            [pg_sys::F_UUID_EQ, pg_sys::F_UUID_GE, pg_sys::F_UUID_GT, pg_sys::F_UUID_LE, pg_sys::F_UUID_LT],
        ),
    };
    let (function, strategy) = match comparison {
        Comparison::Equals => (functions[0], pg_sys::BTEqualStrategyNumber),
        Comparison::AtLeast => (functions[1], pg_sys::BTGreaterEqualStrategyNumber),
        Comparison::Above => (functions[2], pg_sys::BTGreaterStrategyNumber),
        Comparison::AtMost => (functions[3], pg_sys::BTLessEqualStrategyNumber),
        Comparison::Below => (functions[4], pg_sys::BTLessStrategyNumber),
    };
    let mut key = pg_sys::ScanKeyData::default();
    // SAFETY: fills the key given, for a function of the server's by its OID.
    unsafe { pg_sys::ScanKeyInit(&mut key, *place as i16 + 1, strategy as u16, function.into(), datum) };
    key
}
