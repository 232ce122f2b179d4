//! Partitions: noting one when its first row is recorded, and recording the rows that come or go with one. What is
//! noted, and why, stands in sql/install/partitions.sql.

use std::cell::RefCell;

use pgrx::pg_sys;

use super::image::op;
use super::{loss, whole_table};
use crate::catalog::plan::Plan;
use crate::catalog::policy::{self, Policy};
use crate::error::{Error, OrRaise};
use crate::pg::datum::Value;
use crate::pg::function::Call;
use crate::pg::relation::{self, OpenRelation};
use crate::pg::subtransaction::survive;
use crate::pg::trigger::TriggerCall;
use crate::pg::{event_trigger, scan, spi, user, xact};

/// The places of threadline.known_partition's columns (sql/install/storage.sql).
mod column {
    pub const TABLE_ID: usize = 0;
    pub const RELATION: usize = 1;
    pub const ORIGIN: usize = 2;
    pub const TRIGGER_ID: usize = 3;
    pub const FILENODE: usize = 4;
}

#[derive(Clone, Copy)]
struct Emptied {
    leaf: pg_sys::Oid,
    /// The table that it is of, and whether that may lose what is to be said.
    table_id: i32,
    tolerant: bool,
    /// It held no row.
    was_empty: bool,
}

thread_local! {
    /// Partitions that this transaction's TRUNCATEs emptied. What is to be said of them is not said at once: it would
    /// take a command number, and the TRUNCATE's other triggers would seem to belong to another statement.
    static EMPTIED: RefCell<Vec<Emptied>> = const { RefCell::new(Vec::new()) };
}

/// TRUNCATE of the partition is being recorded; the partition still holds what it holds.
pub fn emptied(leaf: pg_sys::Oid, policy: &Policy) {
    let was_empty = !whole_table::holds_more_rows(&[leaf], 0);
    let (table_id, tolerant) = (policy.table_id, policy.tolerates_loss());
    EMPTIED.with_borrow_mut(|leaves| leaves.push(Emptied { leaf, table_id, tolerant, was_empty }));
}

pub fn any_emptied() -> bool {
    EMPTIED.with_borrow(|leaves| !leaves.is_empty())
}

/// The transaction is over.
pub fn forget_emptied() {
    EMPTIED.with_borrow_mut(Vec::clear);
}

/// Says what is to be said of emptied partitions.
pub fn note_emptied() -> Result<(), Error> {
    let leaves = EMPTIED.take();
    if relation::own_relation(c"known_partition").is_none() {
        return Ok(());
    }
    for emptied in leaves {
        if !emptied.tolerant {
            note_emptied_one(emptied)?;
        } else if let Err(refusal) = survive(|| note_emptied_one(emptied)) {
            loss::note_emptied(emptied.table_id, &refusal);
        }
    }
    Ok(())
}

fn note_emptied_one(emptied: Emptied) -> Result<(), Error> {
    let arguments = [
        (pg_sys::INT4OID, Some(Value::new(emptied.table_id.into()))),
        (pg_sys::OIDOID, Some(Value::new(emptied.leaf.into()))),
        (pg_sys::BOOLOID, Some(Value::new(emptied.was_empty.into()))),
    ];
    user::as_owner(|| spi::execute("SELECT threadline.note_emptied($1, $2, $3)", &arguments))
}

/// Notes the partition that the row is of, unless that was done: once a session and plan.
pub fn note(plan: &Plan, trigger: &TriggerCall) -> Result<(), Error> {
    let table_id = plan.policy.table_id;
    let emptied =
        EMPTIED.with_borrow_mut(|leaves| leaves.extract_if(.., |emptied| emptied.leaf == trigger.relation()).last());
    emptied.map_or(Ok(()), note_emptied_one)?;
    let triggers = trigger.same_function();
    if !is_known(table_id, trigger.relation(), &triggers)? {
        let newest = triggers.iter().copied().max().unwrap_or(0);
        let arguments = [
            (pg_sys::INT4OID, Some(Value::new(table_id.into()))),
            (pg_sys::OIDOID, Some(Value::new(trigger.relation().into()))),
            (pg_sys::OIDOID, Some(Value::new(newest.into()))),
        ];
        // If this transaction is undone, the plan is made anew and the partition noted again.
        plan.is_unfinished.set(true);
        user::as_owner(|| spi::execute("SELECT threadline.note_partition($1, $2, $3)", &arguments))?;
    }
    plan.is_noted.set(true);
    Ok(())
}

/// Whether the partition was noted as one of the table with one of these triggers, as it is committed now, and not
/// emptied by TRUNCATE since.
fn is_known(table_id: i32, leaf: pg_sys::Oid, triggers: &[u32]) -> Result<bool, Error> {
    let table = relation::own_relation(c"known_partition")
        .ok_or_else(|| Error::StorageMissing { relation: "known_partition".into() })?;
    let origin = xact::system_identifier();
    let mut known = false;
    scan::each_current_row(table, |row| {
        let get = |index: usize| row.get(index).expect("a NOT NULL column of known_partition");
        known |= get(column::TABLE_ID).as_i32() == table_id
            && get(column::RELATION).as_i32() as u32 == leaf.to_u32()
            && get(column::FILENODE).as_i32() != 0
            // Triggers of another cluster have other numbers: in a restored copy the name decides, until audit_maintain().
            && (get(column::ORIGIN).datum().value() as i64 != origin
                || triggers.contains(&(get(column::TRIGGER_ID).as_i32() as u32)));
    });
    Ok(known)
}

/// `threadline.holds_older_rows(table_id, leaf, trigger_id, attached_by)`
pub fn holds_older_rows(call: &mut Call) -> pg_sys::Datum {
    let (Some(table_id), Some(leaf), Some(trigger)) = (call.value(0).map(Value::as_i32), call.oid(1), call.oid(2))
    else {
        return call.return_null();
    };
    let attached_by = call.value(3).map(Value::as_i32);
    let relation = OpenRelation::open(leaf, pg_sys::AccessShareLock as i32);
    let holds = scan::holds_older_rows(&relation, attached_by);
    // A row committed by whoever noted the partition first is none that was there before.
    if holds && is_known(table_id, leaf, &[trigger.to_u32()]).or_raise() {
        return call.return_null();
    }
    call.return_value(Some(holds.into()))
}

/// `threadline.is_own_xid(id)`
pub fn is_own_xid(call: &mut Call) -> pg_sys::Datum {
    let own = call.value(0).is_some_and(|id| xact::is_own_xid(id.as_i32() as u32));
    call.return_value(Some(own.into()))
}

/// `threadline.record_partition(root, leaf, arrives)`
pub fn record_partition(call: &mut Call) -> pg_sys::Datum {
    let (Some(root), Some(leaf), Some(arrives)) = (call.oid(0), call.oid(1), call.value(2)) else {
        return call.return_null();
    };
    let count = record(root, leaf, if arrives.as_bool() { op::INSERT } else { op::DELETE }).or_raise();
    call.return_value(count.map(Into::into))
}

fn record(root: pg_sys::Oid, leaf: pg_sys::Oid, kind: i16) -> Result<Option<i64>, Error> {
    let Some(policy) = policy::find(root)?.filter(|policy| policy.enabled) else { return Ok(None) };
    if whole_table::holds_more_rows(&[leaf], policy.options.partition_rows()) {
        return Ok(None);
    }
    let plan = Plan::build_for(leaf, policy)?;
    let relation = OpenRelation::open(leaf, pg_sys::AccessShareLock as i32);
    user::as_owner_of(&relation, || whole_table::record_rows(&relation, &plan, kind)).map(Some)
}

/// `threadline.before_drop()`: event trigger.
pub fn before_drop(call: &mut Call) -> pg_sys::Datum {
    for table in call.event_trigger().map(event_trigger::tables_to_drop).unwrap_or_default() {
        // Who may not drop it is not to have it locked.
        if user::owns(table) || user::owns_schema_of(table) {
            let arguments = [(pg_sys::REGCLASSOID, Some(Value::new(table.into())))];
            user::as_owner(|| spi::execute("SELECT threadline.witness_drop($1)", &arguments)).or_raise();
        }
    }
    call.return_null()
}
