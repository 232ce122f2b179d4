//! An UPDATE that moves a row to another partition reaches us as a delete in one and an insert in the other,
//! one right after the other. It is recorded as the update that it is, or the row's history would end there.

use std::cell::RefCell;
use std::rc::Rc;

use super::image::{Change, op};
use super::trigger::record;
use crate::catalog::plan::Plan;
use crate::context::cause::Asked;
use crate::error::Error;
use crate::pg::trigger::KeptRow;
use crate::pg::xact;

/// The row that left, as its partition had it.
pub struct Source {
    pub plan: Rc<Plan>,
    pub row: KeptRow,
    statement_no: i32,
    subtransaction: u32,
}

thread_local! {
    static UNDER_WAY: RefCell<Option<Source>> = const { RefCell::new(None) };
}

/// A row left its partition; where it arrives is the next thing we hear.
pub fn begin(plan: Rc<Plan>, row: KeptRow, statement_no: i32) {
    let subtransaction = xact::current_subtransaction();
    UNDER_WAY.set(Some(Source { plan, row, statement_no, subtransaction }));
}

/// The row that a row inserted by the same statement into the same captured table was, if it is on its way.
pub fn taken_by_insert(plan: &Plan, statement_no: i32) -> Result<Option<Source>, Error> {
    let matching = UNDER_WAY.with_borrow_mut(|under_way| {
        under_way.take_if(|source| {
            source.plan.policy.table_id == plan.policy.table_id && source.statement_no == statement_no
        })
    });
    if matching.is_none() {
        settle()?;
    }
    Ok(matching)
}

/// The row arrived nowhere (a BEFORE INSERT trigger of the other partition refused it): it was deleted.
pub fn settle() -> Result<(), Error> {
    match UNDER_WAY.take() {
        Some(source) => {
            let change = Change::Leaves(op::DELETE, &source.row.row());
            record(&source.plan, source.statement_no, &change, Asked::Later)
        }
        None => Ok(()),
    }
}

pub fn is_under_way() -> bool {
    UNDER_WAY.with_borrow(Option::is_some)
}

/// Whether the row is that of a savepoint. One that left before, in what the savepoint is part of, arrives yet.
pub fn is_under_way_in(subtransaction: u32) -> bool {
    UNDER_WAY.with_borrow(|under_way| under_way.as_ref().is_some_and(|source| source.subtransaction == subtransaction))
}

/// The savepoint (or, without one, the transaction) is over, and the row's memory with it.
pub fn forget(subtransaction: Option<u32>) {
    UNDER_WAY.with_borrow_mut(|under_way| {
        under_way.take_if(|source| subtransaction.is_none_or(|ended| source.subtransaction == ended));
    });
}
