//! One row as of a time, read straight from the log: the usual case of `row_state` in sql/install/asof.sql, by the same
//! rules. What has anything unusual in its way is left to the query there: changes of the caller's own transaction, partitions,
//! deltas, tables without a key or once known by another, marks of TRUNCATE, rows that moved or were never seen, gaps, and
//! times at which something may be in flight. Beside it single questions that the functions in SQL ask often.

use std::rc::Rc;

use pgrx::pg_sys;

use super::key;
use super::log::{Change, Log, Transactions, is_without_gap, keeps_recording, nobody_is_prepared};
use crate::capture::buffer;
use crate::capture::image::op;
use crate::catalog::cache;
use crate::catalog::plan::Plan;
use crate::error::{Error, OrRaise};
use crate::pg::datum::{Value, bytes_datum, text_datum};
use crate::pg::function::Call;
use crate::pg::relation::{self, own_relation};
use crate::pg::{types, user};

/// The timestamp.
const INFINITY: i64 = i64::MAX;

struct State {
    plan: Rc<Plan>,
    key: Value,
    change: Change,
    committed_at: i64,
}

/// `threadline.row_state_at_once(target, key, at)` → audit_row_state, NULL where it is left to the query.
pub fn row_state_at_once(call: &mut Call) -> pg_sys::Datum {
    let (Some(target), Some(at)) = (call.oid(0), call.value(2).map(Value::as_i64)) else { return call.return_null() };
    let Some(found) = call.text(1).map(<[u8]>::to_vec).and_then(|given| find(target, &given, at)) else {
        return call.return_null();
    };
    let (status, image) = match found.change.image {
        Some(image) => ("present", Some(image.datum())),
        None => ("deleted", None),
    };
    call.return_row(&mut [
        Some(text_datum(status.as_bytes())),
        image,
        Some(found.change.id.into()),
        Some(pg_sys::Datum::from(found.change.transaction.as_ptr())),
        Some(found.committed_at.into()),
        Some(true.into()),
        None,
    ])
}

/// `threadline.typed_row_at_once(row_type, key, at)` → (known, key, image): the image, NULL when there was no row, where its values
/// are those of the table's type as they stand.
pub fn typed_row_at_once(call: &mut Call) -> pg_sys::Datum {
    let table = relation::of_row_type(types::base_type(call.argument_type(0)));
    let (Some(table), Some(at)) = (table, call.value(2).map(Value::as_i64)) else { return call.return_null() };
    let found = call.text(1).map(<[u8]>::to_vec).and_then(|given| find(table, &given, at));
    let readable = |found: &State| {
        found.change.image.is_none()
            || !found.change.has_exact && found.plan.reads_as_recorded(found.change.schema_version)
    };
    match found.filter(readable) {
        Some(found) => {
            call.return_row(&mut [Some(true.into()), Some(found.key.datum()), found.change.image.map(Value::datum)])
        }
        None => call.return_null(),
    }
}

/// `threadline.gapless_at_once(target, since, until)`: true where nothing can be missing of a table's record between two times;
/// else false, and readable_gap tells.
pub fn gapless_at_once(call: &mut Call) -> pg_sys::Datum {
    let gapless = || {
        let plan = usual(call.oid(0)?)?;
        let (since, until) = (call.value(1)?.as_i64(), call.value(2)?.as_i64());
        Some(is_without_gap(plan.policy.table_id, since, until)? && keeps_recording(&plan.policy))
    };
    let gapless = gapless().unwrap_or(false);
    call.return_value(Some(gapless.into()))
}

/// `threadline.latest_op_at_once(target, row_key, key)`: the op of the last change of a key that the caller sees, NULL where it
/// is left to latest_change() in history.sql.
pub fn latest_op_at_once(call: &mut Call) -> pg_sys::Datum {
    let latest = || {
        let plan = usual(call.oid(0)?)?;
        let (row_key, key) = (call.value(1)?.as_i64(), call.text(2)?);
        let log = Log::open(plan.policy.table_id)?;
        let (change, _) = log.latest_change(row_key, key, 0, i64::MAX).filter(|_| buffer::is_empty())?;
        Some(change.op)
    };
    let latest = latest();
    call.return_value(latest.map(Into::into))
}

/// `threadline.has_marks(target)`: whether a TRUNCATE of the table is recorded by a mark; true where it is not known at once.
pub fn has_marks(call: &mut Call) -> pg_sys::Datum {
    let known = || {
        let plan = usual(call.oid(0)?).filter(|_| buffer::is_empty())?;
        Log::open(plan.policy.table_id)?.has_mark(0)
    };
    let known = known().unwrap_or(true);
    call.return_value(Some(known.into()))
}

/// `threadline.horizon_at_once(at)`: what commit_horizon() in asof.sql asks of the log.
pub fn horizon_at_once(call: &mut Call) -> pg_sys::Datum {
    let Some(at) = call.value(0).map(Value::as_i64) else { return call.return_null() };
    let horizon = Transactions::open().and_then(|transactions| transactions.commit_horizon(at)).ok_or_else(|| {
        let detail = "A partition of it has no index on (committed_at, commit_no).".into();
        Error::StorageChanged { relation: "transaction_log".into(), detail }
    });
    call.return_value(Some(horizon.or_raise().into()))
}

/// `threadline.has_witness(at)`: what settled() in asof.sql asks of the log.
pub fn has_witness(call: &mut Call) -> pg_sys::Datum {
    let found = call.value(0).map(Value::as_i64).and_then(|at| Transactions::open()?.has_witness(at));
    call.return_value(Some(found.unwrap_or(false).into()))
}

/// A table's plan, if it is one that may be read at once: captured for itself, known by the same key columns ever since, and
/// readable for the caller, as the view readable_table has it.
fn usual(target: pg_sys::Oid) -> Option<Rc<Plan>> {
    let plan = cache::plan(target).ok()??;
    let policy = &plan.policy;
    let readable = || user::may_read(target) || own_relation(c"change_log").is_some_and(user::may_select);
    let usual = plan.identity.is_none() && policy.enabled && !policy.rekeyed && policy.root == target && readable();
    usual.then_some(plan)
}

fn find(target: pg_sys::Oid, given: &[u8], at: i64) -> Option<State> {
    let is_latest = at == INFINITY;
    if !buffer::is_empty() || at > types::now() && !is_latest {
        return None;
    }
    let plan = usual(target)?;
    let (table_id, row_key, key) = key::look_up(target, Some(given)).ok()?;
    let key = Value::new(bytes_datum(&key));
    let log = Log::open(table_id)?;
    let horizon = if is_latest { i64::MAX } else { log.transactions.commit_horizon(at)? };
    let first_change = log.baseline(horizon)?;
    let (change, stamp) = log.latest_change(row_key, key.payload(), first_change, horizon)?;
    let known = match change.op {
        op::TRUNCATE | op::DELETE => change.image.is_none(),
        op::SNAPSHOT | op::INSERT | op::UPDATE => change.image.is_some() && !log.has_mark(first_change)?,
        _ => false,
    };
    let complete = known
        && is_without_gap(table_id, stamp.committed_at, at)?
        && keeps_recording(&plan.policy)
        && (is_latest || nobody_is_prepared(at)? && log.transactions.has_witness(at)?);
    complete.then_some(State { plan, key, change, committed_at: stamp.committed_at })
}
