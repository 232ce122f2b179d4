//! Transactions, subtransactions, commands, snapshots, and the callbacks at their ends.

use std::cell::Cell;

use pgrx::{pg_guard, pg_sys};

use super::ffi;
use super::relation::own_relation;
use crate::error::Error;

/// The ends of a transaction that capture must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionEvent {
    PreCommit,
    PrePrepare,
    /// Committed, aborted or prepared: this session's part is over.
    Ended {
        aborted: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubTransactionEvent {
    /// The current one is about to commit into its parent.
    PreCommit {
        id: u32,
        parent: u32,
    },
    Committed {
        id: u32,
        parent: u32,
    },
    Aborted {
        id: u32,
    },
}

type Handlers = (fn(TransactionEvent), fn(SubTransactionEvent), fn(Option<pg_sys::Oid>), fn());

thread_local! {
    static HANDLERS: Cell<Option<Handlers>> = const { Cell::new(None) };
}

/// Registers the session's callbacks, once: the server offers no way to take them back.
pub fn register(
    on_transaction: fn(TransactionEvent),
    on_subtransaction: fn(SubTransactionEvent),
    on_invalidation: fn(Option<pg_sys::Oid>),
    on_exit: fn(),
) {
    if HANDLERS.get().is_some() {
        return;
    }
    HANDLERS.set(Some((on_transaction, on_subtransaction, on_invalidation, on_exit)));
    // SAFETY: the functions are guarded and live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_callback), core::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_callback), core::ptr::null_mut());
        pg_sys::CacheRegisterRelcacheCallback(Some(relcache_callback), pg_sys::Datum::from(0usize));
        pg_sys::before_shmem_exit(Some(exit_callback), pg_sys::Datum::from(0usize));
        // A cast to json decides how a type's values are written.
        pg_sys::CacheRegisterSyscacheCallback(
            pg_sys::SysCacheIdentifier::CASTSOURCETARGET as i32,
            Some(catalog_callback),
            pg_sys::Datum::from(0usize),
        );
        // Labels are recorded with a table's shape.
        pg_sys::CacheRegisterSyscacheCallback(
            pg_sys::SysCacheIdentifier::ENUMOID as i32,
            Some(catalog_callback),
            pg_sys::Datum::from(0usize),
        );
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_callback(event: pg_sys::XactEvent::Type, _arg: *mut core::ffi::c_void) {
    let event = match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT => TransactionEvent::PreCommit,
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => TransactionEvent::PrePrepare,
        pg_sys::XactEvent::XACT_EVENT_COMMIT | pg_sys::XactEvent::XACT_EVENT_PREPARE => {
            TransactionEvent::Ended { aborted: false }
        }
        pg_sys::XactEvent::XACT_EVENT_ABORT => TransactionEvent::Ended { aborted: true },
        // Parallel workers change nothing.
        _ => return,
    };
    if let TransactionEvent::Ended { aborted } = event {
        super::plans::transaction_ended(aborted);
    }
    if let Some((handler, ..)) = HANDLERS.get() {
        handler(event);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction_callback(
    event: pg_sys::SubXactEvent::Type,
    id: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _arg: *mut core::ffi::c_void,
) {
    let event = match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_PRE_COMMIT_SUB => SubTransactionEvent::PreCommit { id, parent },
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => SubTransactionEvent::Committed { id, parent },
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => SubTransactionEvent::Aborted { id },
        _ => return,
    };
    if let SubTransactionEvent::Aborted { .. } = event {
        super::plans::rolled_back();
    }
    if let Some((_, handler, ..)) = HANDLERS.get() {
        handler(event);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn relcache_callback(_arg: pg_sys::Datum, relid: pg_sys::Oid) {
    let relid = (relid != pg_sys::InvalidOid).then_some(relid);
    super::relation::forget_own(relid);
    super::leaf::forget(relid);
    if let Some((_, _, handler, _)) = HANDLERS.get() {
        handler(relid);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn exit_callback(code: core::ffi::c_int, _arg: pg_sys::Datum) {
    // A session that is ended by force, or by an error, ends without ado.
    if let Some((.., handler)) = HANDLERS.get().filter(|_| code == 0) {
        handler();
    }
}

/// Runs `work` in a transaction of its own when the session is ending, as the server drops its temporary tables.
pub fn in_last_transaction(work: impl FnOnce()) {
    // SAFETY: the sequence of RemoveTempRelationsCallback (catalog/namespace.c). An error in here ends the session,
    // which is ending already.
    unsafe {
        pg_sys::AbortOutOfAnyTransaction();
        pg_sys::StartTransactionCommand();
        with_snapshot(work);
        pg_sys::CommitTransactionCommand();
    }
}

/// Bytes of WAL that this process has written since it started.
pub fn wal_bytes() -> u64 {
    // SAFETY: a plain variable.
    unsafe { pg_sys::pgWalUsage.wal_bytes }
}

#[pg_guard]
unsafe extern "C-unwind" fn catalog_callback(_arg: pg_sys::Datum, _cache: core::ffi::c_int, _hash: u32) {
    if let Some((_, _, handler, ..)) = HANDLERS.get() {
        handler(None);
    }
}

/// Whether the transaction goes on after the statement that the client sent.
pub fn in_block() -> bool {
    // SAFETY: reads the transaction state.
    unsafe { pg_sys::IsTransactionBlock() }
}

pub fn current_subtransaction() -> u32 {
    // SAFETY: reads the transaction state.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// The number of the current command, without marking it used.
pub fn current_command() -> i32 {
    // SAFETY: reads the transaction state.
    unsafe { pg_sys::GetCurrentCommandId(false) as i32 }
}

/// Whether the current transaction, or a subtransaction of it that was not rolled back, has this xid.
pub fn is_own_xid(xid: u32) -> bool {
    // SAFETY: reads the transaction state; takes any number.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(pg_sys::TransactionId::from(xid)) }
}

/// Makes what this command wrote visible to the commands after it.
pub fn next_command() {
    // SAFETY: allowed outside parallel operations, which write nothing.
    unsafe { pg_sys::CommandCounterIncrement() }
}

/// The transaction's xid with its epoch; assigns one if there is none yet.
pub fn full_xid() -> u64 {
    // SAFETY: inside a transaction.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}

/// The xid that the next transaction to write will get, with its epoch.
pub fn next_full_xid() -> u64 {
    // SAFETY: reads shared memory under its lock.
    unsafe { pg_sys::ReadNextFullTransactionId().value }
}

/// The lowest xid, with its epoch, that may be in flight for the active snapshot, our own excepted; on a standby, where commits may
/// wait to be replayed, the lowest that ended as little for it.
pub fn oldest_in_flight() -> u64 {
    // SAFETY: a read function runs under an active snapshot, whose xip has xcnt entries.
    let lowest = unsafe {
        let snapshot = &*pg_sys::GetActiveSnapshot();
        if snapshot.takenDuringRecovery || pg_sys::RecoveryInProgress() {
            snapshot.xmin
        } else {
            (0..snapshot.xcnt as usize)
                .map(|place| *snapshot.xip.add(place))
                .filter(|xid| !pg_sys::TransactionIdIsCurrentTransactionId(*xid))
                .fold(snapshot.xmax, |low, xid| if pg_sys::TransactionIdPrecedes(xid, low) { xid } else { low })
        }
    };
    let next = next_full_xid();
    // Of the last 2^32 xids the one that ends so.
    next - u64::from((next as u32).wrapping_sub(lowest.into_inner()))
}

/// When the oldest transaction of this database that is writing now, our own excepted, started; None when none is.
pub fn oldest_other_writer() -> Option<i64> {
    // SAFETY: a plain variable.
    let database = unsafe { pg_sys::MyDatabaseId };
    super::compat::backends()
        .iter()
        .filter(|backend| {
            backend.backend_xid != pg_sys::InvalidTransactionId
                && backend.backendStatus.st_databaseid == database
                && backend.backendStatus.st_procpid != backend_pid()
        })
        .map(|backend| backend.backendStatus.st_xact_start_timestamp)
        .min()
}

/// When the transaction started, in microseconds since 2000-01-01.
pub fn started_at() -> i64 {
    // SAFETY: reads the transaction state.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

/// Whether all of the transaction's statements see by one snapshot: REPEATABLE READ, SERIALIZABLE.
pub fn has_one_snapshot() -> bool {
    // SAFETY: reads a variable of the session.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// The active snapshot as a pg_snapshot value; None when no snapshot is active.
pub fn active_snapshot() -> Option<Vec<u8>> {
    // SAFETY: pg_current_snapshot reads the active snapshot, which is checked to exist, and returns a palloc'd varlena.
    unsafe {
        if !pg_sys::ActiveSnapshotSet() {
            return None;
        }
        let datum = pgrx::direct_function_call_as_datum(pg_sys::pg_current_snapshot, &[])?;
        let pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
        let image = core::slice::from_raw_parts(pointer.cast::<u8>(), pgrx::varlena::varsize_any(pointer)).to_vec();
        pg_sys::pfree(pointer.cast());
        Some(image)
    }
}

/// The first command whose effects the active snapshot does not show; without a snapshot it shows all.
pub fn snapshot_command() -> u32 {
    // SAFETY: the active snapshot is checked to exist.
    unsafe { if pg_sys::ActiveSnapshotSet() { (*pg_sys::GetActiveSnapshot()).curcid } else { u32::MAX } }
}

/// Runs `work` with a snapshot pushed, as transaction callbacks have none.
pub fn with_snapshot<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: pushed and popped in pairs; if `work` raises an error, the abort pops it.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let result = work();
    // SAFETY: as above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// The first of a fresh block of ids of one of our sequences, whatever the caller may do with it.
pub fn next_block(sequence: &'static core::ffi::CStr) -> Result<i64, Error> {
    let relid = own_relation(sequence)
        .ok_or_else(|| Error::StorageMissing { relation: sequence.to_string_lossy().into_owned() })?;
    // SAFETY: the sequence exists.
    Ok(unsafe { ffi::nextval_internal(relid, false) })
}

/// The identity of the cluster, made by initdb.
pub fn system_identifier() -> i64 {
    // SAFETY: reads shared memory set at start.
    unsafe { pg_sys::GetSystemIdentifier() as i64 }
}

pub fn backend_pid() -> i32 {
    // SAFETY: a plain variable.
    unsafe { pg_sys::MyProcPid }
}

/// Lets a cancel or a shutdown take effect inside a long loop.
pub fn check_interrupts() {
    pgrx::check_for_interrupts!();
}
