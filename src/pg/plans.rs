//! Cached plans, and what a stored query calls.

use std::cell::Cell;

use pgrx::pg_sys;

use super::relation::OpenRelation;

thread_local! {
    /// Whether plans were forgotten in this transaction: what changed the meaning of names may be rolled back.
    static FORGOTTEN: Cell<bool> = const { Cell::new(false) };
}

/// Makes every cached plan of the session look its names up anew when it is next used, as DISCARD PLANS does. A plan goes by
/// itself when what it reads is dropped, but not when something comes to stand before it.
pub fn forget() {
    reset();
    FORGOTTEN.set(true);
}

/// A savepoint, or the transaction, was rolled back.
pub fn rolled_back() {
    if FORGOTTEN.get() {
        reset();
    }
}

pub fn transaction_ended(aborted: bool) {
    if aborted {
        rolled_back();
    }
    FORGOTTEN.set(false);
}

fn reset() {
    // SAFETY: marks the session's plans invalid; reads no catalog, allocates nothing and raises no error.
    unsafe { pg_sys::ResetPlanCache() }
}

/// Whether a view's query calls a function that is not stable; None for what is no view.
pub fn view_is_volatile(relid: pg_sys::Oid) -> Option<bool> {
    let view = OpenRelation::open(relid, pg_sys::AccessShareLock as i32);
    // SAFETY: the view is open, and with it its query. A copy of it is looked at, for the look-up notes functions in operators.
    (view.kind() == pg_sys::RELKIND_VIEW).then(|| unsafe {
        let query = pg_sys::copyObjectImpl(pg_sys::get_view_query(view.as_ptr()).cast());
        pg_sys::contain_volatile_functions(query.cast())
    })
}

/// What a query reads, relations in its subqueries included, and whether it calls a function that is not stable. Errors are the
/// parser's own.
pub fn query_findings(query: &core::ffi::CStr) -> (Vec<pg_sys::Oid>, bool) {
    // SAFETY: parses and analyses a NUL-terminated string of one statement; what comes of it lives in the current context.
    unsafe {
        let statements = pg_sys::pg_parse_query(query.as_ptr());
        let statement = pg_sys::list_nth(statements, 0).cast::<pg_sys::RawStmt>();
        let analysed = super::compat::analyse(statement, query);
        let (mut relations, mut items, mut row_security) = (core::ptr::null_mut(), core::ptr::null_mut(), false);
        // What it notes of functions in operators, it notes in the tree.
        let volatile = pg_sys::contain_volatile_functions(analysed.cast());
        pg_sys::extract_query_dependencies(analysed.cast(), &mut relations, &mut items, &mut row_security);
        let count = if relations.is_null() { 0 } else { (*relations).length };
        ((0..count).map(|place| pg_sys::list_nth_oid(relations, place)).collect(), volatile)
    }
}
