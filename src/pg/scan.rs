//! Reading tables below the executor.

use pgrx::pg_sys;

use super::relation::{OpenRelation, Row};

/// Visits every row of one of our small tables as the latest catalog snapshot sees it: what is committed
/// now counts, whatever the transaction's own snapshot says.
pub fn each_current_row(table: pg_sys::Oid, mut visit: impl FnMut(&Row)) {
    let relation = OpenRelation::open(table, pg_sys::AccessShareLock as i32);
    // SAFETY: a heap scan with a NULL snapshot takes the catalog snapshot, which for a relation outside the
    // system caches is made anew each time; tuples stay valid until the next fetch.
    unsafe {
        let scan = pg_sys::systable_beginscan(
            relation.as_ptr(),
            pg_sys::InvalidOid,
            false,
            core::ptr::null_mut(),
            0,
            core::ptr::null_mut(),
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            visit(&Row::deform(tuple, relation.descriptor()));
        }
        pg_sys::systable_endscan(scan);
    }
}

/// Visits every row of a user's table as the latest snapshot sees it, its own partitions or children not included.
/// Row security and privileges do not apply: the caller answers for them.
pub fn each_row(relation: &OpenRelation, mut visit: impl FnMut(&Row)) {
    // SAFETY: takes a snapshot of now.
    let snapshot = unsafe { pg_sys::GetLatestSnapshot() };
    each_slot(relation, snapshot, |slot| {
        // SAFETY: the slot holds a row of the relation.
        visit(&unsafe { Row::of_slot(slot) });
        true
    });
}

/// Visits the rows of a table that the active snapshot shows, as long as `visit` says.
pub fn each_seen_row(relation: &OpenRelation, mut visit: impl FnMut(&Row) -> bool) {
    // SAFETY: a read function runs under an active snapshot.
    let snapshot = unsafe { pg_sys::GetActiveSnapshot() };
    // SAFETY: the slot holds a row of the relation.
    each_slot(relation, snapshot, |slot| visit(&unsafe { Row::of_slot(slot) }));
}

/// How many rows `each_row` would visit; no more than `at_most` are looked at.
pub fn count_rows(relation: &OpenRelation, at_most: u64) -> u64 {
    let mut count = 0;
    if at_most > 0 {
        // SAFETY: takes a snapshot of now.
        let snapshot = unsafe { pg_sys::GetLatestSnapshot() };
        each_slot(relation, snapshot, |_| {
            count += 1;
            count < at_most
        });
    }
    count
}

/// Whether the table holds, or held until a transaction that has not ended deleted it, a row that a committed
/// transaction wrote, or that the current one wrote before its command `before_command`. Stops at the first one.
pub fn holds_older_rows(relation: &OpenRelation, before_command: Option<i32>) -> bool {
    let mut holds = false;
    // SAFETY: a variable of the server's, made for scans of every row version there is.
    let any = core::ptr::addr_of_mut!(pg_sys::SnapshotAnyData);
    each_slot(relation, any, |slot| {
        // SAFETY: the slot holds a row version of the heap; what is read is its header and the state of transactions.
        holds = unsafe {
            let mut copied = false;
            let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut copied);
            let older = is_older((*tuple).t_data, before_command);
            if copied {
                pg_sys::heap_freetuple(tuple);
            }
            older
        };
        !holds
    });
    holds
}

/// # Safety
/// The header is of a row version in a table.
unsafe fn is_older(header: pg_sys::HeapTupleHeader, before_command: Option<i32>) -> bool {
    // SAFETY: by the caller's promise. Deleted by a committed transaction: as nobody noted the partition when that was
    // captured, it was no partition yet.
    unsafe {
        let bits = u32::from((*header).t_infomask);
        let writer = (*header).t_choice.t_heap.t_xmin;
        if pg_sys::TransactionIdIsCurrentTransactionId(writer) {
            return before_command.is_some_and(|attached| super::trigger::command_of_insert(header) < attached);
        }
        let frozen = pg_sys::HEAP_XMIN_COMMITTED | pg_sys::HEAP_XMIN_INVALID;
        if bits & frozen != frozen
            && (pg_sys::TransactionIdIsInProgress(writer) || !pg_sys::TransactionIdDidCommit(writer))
        {
            return false;
        }
        if bits & (pg_sys::HEAP_XMAX_INVALID | pg_sys::HEAP_XMAX_LOCK_ONLY | pg_sys::HEAP_XMAX_IS_MULTI) != 0 {
            return true;
        }
        let deleter = (*header).t_choice.t_heap.t_xmax;
        pg_sys::TransactionIdIsCurrentTransactionId(deleter)
            || pg_sys::TransactionIdIsInProgress(deleter)
            || !pg_sys::TransactionIdDidCommit(deleter)
    }
}

/// Goes on as long as `visit` says.
fn each_slot(
    relation: &OpenRelation,
    snapshot: pg_sys::Snapshot,
    mut visit: impl FnMut(*mut pg_sys::TupleTableSlot) -> bool,
) {
    // SAFETY: the snapshot is registered while the scan runs, the slot is of the table's own kind, and both are
    // released at the end; an error leaves them to the resource owner.
    unsafe {
        let snapshot = pg_sys::RegisterSnapshot(snapshot);
        let scan = pg_sys::table_beginscan(relation.as_ptr(), snapshot, 0, core::ptr::null_mut());
        let slot = pg_sys::table_slot_create(relation.as_ptr(), core::ptr::null_mut());
        while pg_sys::table_scan_getnextslot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
            super::xact::check_interrupts();
            if !visit(slot) {
                break;
            }
        }
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::table_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
    }
}

/// The elements of a one-dimensional array of names.
pub fn names_of(value: super::datum::Value) -> Vec<Vec<u8>> {
    elements(value, pg_sys::NAMEOID, 64, false, b'c').into_iter().map(|v| v.name_bytes().to_vec()).collect()
}

/// The elements of a one-dimensional array of smallint.
pub fn smallints_of(value: super::datum::Value) -> Vec<i16> {
    elements(value, pg_sys::INT2OID, 2, true, b's').into_iter().map(|v| v.as_i16()).collect()
}

/// The elements of a one-dimensional array of text.
pub fn texts_of(value: super::datum::Value) -> Vec<Vec<u8>> {
    elements(value, pg_sys::TEXTOID, -1, false, b'i').into_iter().map(|v| v.payload().to_vec()).collect()
}

fn elements(
    value: super::datum::Value,
    element: pg_sys::Oid,
    len: i32,
    by_value: bool,
    align: u8,
) -> Vec<super::datum::Value> {
    // SAFETY: the array's element type is the column's, as this extension's own DDL declares it; the columns are NOT NULL arrays without NULLs.
    unsafe {
        let array = pg_sys::pg_detoast_datum(value.datum().cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let (mut datums, mut nulls, mut count) = (core::ptr::null_mut(), core::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            element,
            len,
            by_value,
            align as core::ffi::c_char,
            &mut datums,
            &mut nulls,
            &mut count,
        );
        (0..count as usize).map(|place| super::datum::Value::new(*datums.add(place))).collect()
    }
}
