//! The session's plans, by relation. Invalidation only marks a plan; it is made anew when next asked for, and a
//! row being captured keeps the plan it started with.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::rc::Rc;

use pgrx::pg_sys;

use super::plan::Plan;
use crate::error::Error;

thread_local! {
    /// Never dropped: plans own memory of the server's, which is in no state to be given back when threads end.
    static PLANS: RefCell<ManuallyDrop<HashMap<pg_sys::Oid, Rc<Plan>>>> = RefCell::new(ManuallyDrop::new(HashMap::new()));
    /// Invalidations that arrived while the map was borrowed.
    static ALL_STALE: Cell<bool> = const { Cell::new(false) };
}

/// The plan for a relation, whether or not it is captured now; None when it never was.
pub fn plan(relid: pg_sys::Oid) -> Result<Option<Rc<Plan>>, Error> {
    if ALL_STALE.replace(false) {
        PLANS.with_borrow_mut(|plans| plans.clear());
    }
    let cached = PLANS.with_borrow(|plans| plans.get(&relid).filter(|plan| plan.valid.get()).cloned());
    if cached.is_some() {
        return Ok(cached);
    }
    let Some(plan) = Plan::build(relid)?.map(Rc::new) else { return Ok(None) };
    PLANS.with_borrow_mut(|plans| plans.insert(relid, plan.clone()));
    Ok(Some(plan))
}

/// The captured relation of a table that this session has captured changes of.
pub fn root_of(table_id: i32) -> Option<pg_sys::Oid> {
    PLANS.with_borrow(|plans| plans.values().map(|plan| &plan.policy).find(|p| p.table_id == table_id).map(|p| p.root))
}

/// The relation (or, without one, every relation) changed in a way that may matter to its plan. Called from the
/// server's invalidation callback: it may come at any time, so it only marks.
pub fn invalidate(relid: Option<pg_sys::Oid>) {
    PLANS.with(|plans| match plans.try_borrow() {
        Ok(plans) => match relid {
            // A partition's plan depends on its captured parent too, and a plan on its columns' composite types.
            Some(relid) => plans
                .iter()
                .filter(|(key, plan)| **key == relid || plan.depends_on(relid))
                .for_each(|(_, plan)| plan.valid.set(false)),
            None => plans.values().for_each(|plan| plan.valid.set(false)),
        },
        Err(_) => ALL_STALE.set(true),
    });
}

/// A transaction or savepoint ended: what it recorded of a relation is now everyone's, or gone with it.
pub fn forget_unfinished(rolled_back: bool, whole_transaction: bool) {
    PLANS.with_borrow_mut(|plans| {
        for plan in plans.values().filter(|plan| plan.is_unfinished.get()) {
            if rolled_back {
                plan.valid.set(false);
            }
            if whole_transaction {
                plan.is_unfinished.set(false);
            }
        }
        // Until now changes of a table dropped meanwhile may have needed `root_of`.
        if whole_transaction {
            plans.retain(|_, plan| plan.valid.get());
        }
    });
}
