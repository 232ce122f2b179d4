//! Where the server calls in: the two trigger functions. Triggers carry no arguments; what to do with a table
//! stands in its policy.

use std::cell::Cell;

use pgrx::pg_sys;

use super::buffer::{self, Place};
use super::image::{self, Change, op};
use super::{cost, known_partition, loss, partition_move, whole_table};
use crate::catalog::cache;
use crate::catalog::plan::Plan;
use crate::context::cause::Asked;
use crate::error::{Error, OrRaise};
use crate::pg::function::Call;
use crate::pg::relation;
use crate::pg::trigger::{RowEvent, TriggerCall};

/// The trigger that arm_partitions() makes.
const LEAF_TRUNCATE_TRIGGER: &core::ffi::CStr = c"threadline_truncate_leaf";

thread_local! {
    /// Where a row is laid out before it joins the buffer. Taken out while in use: a cast to json may run
    /// statements that are captured themselves.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// `threadline.capture_row()`: AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW.
pub fn capture_row(call: &mut Call) -> pg_sys::Datum {
    let timer = cost::RowTimer::sample();
    if let Some(table_id) = record_row(call).or_raise() {
        timer.stop(table_id);
    }
    pg_sys::Datum::from(0usize)
}

/// `threadline.capture_truncate()`: BEFORE TRUNCATE FOR EACH STATEMENT.
pub fn capture_truncate(call: &mut Call) -> pg_sys::Datum {
    let function = "capture_truncate";
    let recorded = called_by_trigger(call, function).and_then(|trigger| {
        if !trigger.is_before_truncate() {
            return Err(Error::WrongTriggerKind { function, expected: "BEFORE TRUNCATE … FOR EACH STATEMENT" });
        }
        if trigger.repeats_truncate() {
            return Ok(());
        }
        match plan_of(trigger.relation()) {
            Ok(plan) => whole_table::record_truncate(trigger.relation(), &plan),
            // Row triggers go when a partition is detached; this one stays until audit_maintain().
            Err(Error::NotUnderCapture { .. }) if trigger.is_named(LEAF_TRUNCATE_TRIGGER) => Ok(()),
            Err(error) => loss::without_plan(trigger.relation(), error),
        }
    });
    recorded.or_raise();
    pg_sys::Datum::from(0usize)
}

fn called_by_trigger<'call>(call: &'call Call, function: &'static str) -> Result<TriggerCall<'call>, Error> {
    call.trigger().ok_or(Error::NotATrigger { function })
}

/// The plan of a table under capture. A trigger on any other table is not one that we made.
pub fn plan_of(relid: pg_sys::Oid) -> Result<std::rc::Rc<Plan>, Error> {
    cache::plan(relid)?
        .filter(|plan| plan.policy.enabled)
        .ok_or_else(|| Error::NotUnderCapture { table: relation::qualified_name(relid) })
}

/// The id of the table whose row it is; None when another trigger records the row.
fn record_row(call: &Call) -> Result<Option<i32>, Error> {
    let function = "capture_row";
    let trigger = called_by_trigger(call, function)?;
    let event = trigger
        .after_row_event()
        .ok_or(Error::WrongTriggerKind { function, expected: "AFTER INSERT OR UPDATE OR DELETE … FOR EACH ROW" })?;
    // A second trigger on the function would record every change twice: one that somebody added, or that of a table
    // captured for itself beside the clone of its partitioned table's.
    if trigger.is_repeated() {
        return Ok(None);
    }
    let plan = match plan_of(trigger.relation()) {
        Ok(plan) => plan,
        Err(error) => return loss::without_plan(trigger.relation(), error).map(|()| None),
    };
    if !plan.is_noted.get() {
        let note = || known_partition::note(&plan, &trigger);
        if loss::survived(&plan, plan.policy.tolerates_loss(), note)?.is_none() {
            return Ok(None);
        }
    }
    let table_id = plan.policy.table_id;
    let statement_no = trigger.command(event);
    let asked = |updates, deletes| Asked::ByRow { relation: trigger.relation(), updates, deletes };
    match event {
        RowEvent::Insert => match partition_move::taken_by_insert(&plan, statement_no)? {
            Some(source) => {
                let (old, new) = (&source.row.row(), &trigger.row());
                let change = Change::Updates { old_plan: &source.plan, old, new, written_by: None };
                record(&plan, statement_no, &change, asked(true, false))?
            }
            None => {
                let change = Change::Arrives(op::INSERT, &trigger.row());
                record(&plan, statement_no, &change, asked(false, false))?
            }
        },
        RowEvent::Update => {
            partition_move::settle()?;
            let written_by = trigger.old_version_written_by();
            let change = Change::Updates { old_plan: &plan, old: &trigger.row(), new: &trigger.new_row(), written_by };
            record(&plan, statement_no, &change, asked(true, false))?
        }
        RowEvent::Delete => {
            partition_move::settle()?;
            if trigger.moved_to_another_partition() {
                partition_move::begin(plan, trigger.keep_row(), statement_no);
            } else {
                record(&plan, statement_no, &Change::Leaves(op::DELETE, &trigger.row()), asked(false, true))?
            }
        }
    }
    Ok(Some(table_id))
}

/// Encodes a change and hands it to the buffer.
pub fn record(plan: &Plan, statement_no: i32, change: &Change, asked: Asked) -> Result<(), Error> {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let tolerant = plan.policy.tolerates_loss() && !matches!(change, Change::Arrives(op::SNAPSHOT, _));
    let encode = || {
        let Some(encoded) = image::encode(plan, change, &mut scratch)? else { return Ok(None) };
        Ok(Some((encoded, plan.version()?.number)))
    };
    if let Some((encoded, schema_version)) = loss::survived(plan, tolerant, encode)?.flatten() {
        let place = Place { table_id: plan.policy.table_id, schema_version, statement_no, asked, tolerant };
        buffer::add(&place, encoded, &scratch)?;
    }
    // What an unusually large row took is given back.
    if scratch.capacity() <= buffer::LARGE_BATCH {
        SCRATCH.set(scratch);
    }
    Ok(())
}
