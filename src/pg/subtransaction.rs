//! Work whose failure is survived: it runs in a subtransaction of its own, which is rolled back when it fails. To go on
//! after an error of the server's without one would be unsafe.

use std::cell::Cell;

use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::error::Error;

/// Why work failed.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: PgSqlErrorCode,
    pub message: String,
    /// The message is this library's, and so holds no row's values.
    pub is_ours: bool,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal { code: error.code(), message: error.message(), is_ours: true }
    }
}

thread_local! {
    /// A subtransaction is being committed: the server refuses to start another one inside it.
    static BEING_COMMITTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, which the server calls while it commits a subtransaction.
pub fn being_committed<R>(work: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            BEING_COMMITTED.set(self.0);
        }
    }
    let _before = Restore(BEING_COMMITTED.replace(true));
    work()
}

/// Runs `work`. If it fails, nothing that it wrote is left, and the transaction goes on. What says that the
/// transaction is to end (a cancellation, a deadlock, a serialization failure, no memory left) is raised on, and so is
/// a panic of this library's.
pub fn survive<R>(work: impl FnOnce() -> Result<R, Error>) -> Result<R, Refusal> {
    if BEING_COMMITTED.get() {
        return work().map_err(Refusal::from);
    }
    // SAFETY: what exec_stmt_block (pl/plpgsql/src/pl_exec.c) does around a block with an EXCEPTION clause: the
    // caller's memory context and resource owner are current during `work` (the context) and after it (both). The
    // callers run inside a transaction, and not while a subtransaction is being committed.
    let (context, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(core::ptr::null());
        pg_sys::CurrentMemoryContext = before.0;
        before
    };
    let work = std::panic::AssertUnwindSafe(work);
    let outcome = pgrx::PgTryBuilder::new(move || {
        let result = { work }.0();
        if result.is_ok() {
            // SAFETY: the subtransaction begun above is the current one: `work` ends those that it begins.
            unsafe { pg_sys::ReleaseCurrentSubTransaction() };
        }
        Ok(result)
    })
    .catch_others(|caught| Err(Box::new(caught)))
    .execute();
    let failed = !matches!(outcome, Ok(Ok(_)));
    // SAFETY: as above; after an error the subtransaction begun above is current, or one that `work` began inside it,
    // which then did not survive it either: whoever begins one ends it before an error leaves.
    unsafe {
        if failed {
            pg_sys::CurrentMemoryContext = context;
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::CurrentMemoryContext = context;
        pg_sys::CurrentResourceOwner = owner;
    }
    match outcome {
        Ok(result) => result.map_err(Refusal::from),
        Err(caught) => Err(refusal(*caught)),
    }
}

fn refusal(caught: CaughtError) -> Refusal {
    let of = |report: &ErrorReportWithLevel, is_ours| Refusal {
        code: report.sql_error_code(),
        message: report.message().to_string(),
        is_ours,
    };
    let refusal = match &caught {
        CaughtError::PostgresError(report) => of(report, false),
        CaughtError::ErrorReport(report) => of(report, true),
        CaughtError::RustPanic { .. } => caught.rethrow(),
    };
    if ends_transaction(refusal.code) { caught.rethrow() } else { refusal }
}

fn ends_transaction(code: PgSqlErrorCode) -> bool {
    let class = |code: PgSqlErrorCode| code as i32 & 0xFFF;
    code == PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY
        || class(code) == class(PgSqlErrorCode::ERRCODE_OPERATOR_INTERVENTION)
        || class(code) == class(PgSqlErrorCode::ERRCODE_TRANSACTION_ROLLBACK)
}

/// A SQLSTATE's five characters (MAKE_SQLSTATE in utils/elog.h).
pub fn sqlstate(code: PgSqlErrorCode) -> String {
    (0..5).map(|place| char::from((code as i32 >> (6 * place) & 0x3F) as u8 + b'0')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_are_spelt_as_everywhere() {
        assert_eq!(sqlstate(PgSqlErrorCode::ERRCODE_DISK_FULL), "53100");
        assert_eq!(sqlstate(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE), "55P03");
    }

    #[test]
    fn what_ends_the_transaction_is_not_survived() {
        use PgSqlErrorCode::*;
        let ending = [
            ERRCODE_QUERY_CANCELED,
            ERRCODE_ADMIN_SHUTDOWN,
            ERRCODE_T_R_DEADLOCK_DETECTED,
            ERRCODE_T_R_SERIALIZATION_FAILURE,
            ERRCODE_OUT_OF_MEMORY,
        ];
        assert!(ending.into_iter().all(ends_transaction));
        let survived =
            [ERRCODE_DISK_FULL, ERRCODE_LOCK_NOT_AVAILABLE, ERRCODE_NOT_NULL_VIOLATION, ERRCODE_DATA_CORRUPTED];
        assert!(!survived.into_iter().any(ends_transaction));
    }
}
