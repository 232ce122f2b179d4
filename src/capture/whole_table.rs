//! Recording every row of a table: as its baseline, or as what TRUNCATE removes.

use std::cell::RefCell;

use pgrx::pg_sys;

use super::buffer::Place;
use super::image::{Change, Encoded, Key, op};
use super::jsonb;
use super::trigger::{plan_of, record};
use super::{buffer, cost, known_partition, loss, partition_move};
use crate::catalog::plan::Plan;
use crate::catalog::policy::Truncate;
use crate::context::cause::Asked;
use crate::error::{Error, OrRaise};
use crate::pg::datum::Value;
use crate::pg::function::Call;
use crate::pg::relation::{self, OpenRelation};
use crate::pg::{memory::Arena, scan, spi, types, user, xact};

/// `threadline.take_baseline(table_id, relation)`: records every row as op snapshot, with the first id that may
/// belong to it. The caller holds off writers.
pub fn take_baseline(call: &mut Call) -> pg_sys::Datum {
    let (Some(table_id), Some(target)) = (call.value(0).map(Value::as_i32), call.oid(1)) else {
        return call.return_null();
    };
    let count = baseline(table_id, target).or_raise();
    call.return_value(Some(count.into()))
}

fn baseline(table_id: i32, target: pg_sys::Oid) -> Result<i64, Error> {
    // What this transaction has changed so far belongs to what was before, and so does the shape that it starts with.
    partition_move::settle()?;
    buffer::visit_pending(|_, _, _| {})?;
    plan_of(target)?.version()?;
    let first_id = xact::next_block(c"change_id_seq")?;
    // An empty table's baseline is a fact of this transaction too.
    buffer::note(None);
    let mut count = 0;
    for leaf in relation::with_partitions(target, pg_sys::AccessShareLock as i32) {
        // Baselines are taken with the extension owner's rights; casts to json of the table's types are not to have them.
        let relation = OpenRelation::open(leaf, pg_sys::AccessShareLock as i32);
        count += user::as_owner_of(&relation, || record_all(leaf, op::SNAPSHOT))?;
    }
    buffer::flush()?;
    spi::execute(
        "INSERT INTO threadline.baseline (table_id, first_change_id, transaction_id, row_count, taken_at)
         VALUES ($1, $2, $3, $4, $5)",
        &[
            (pg_sys::INT4OID, Some(Value::new(table_id.into()))),
            (pg_sys::INT8OID, Some(Value::new(first_id.into()))),
            (pg_sys::UUIDOID, Some(Value::new(buffer::transaction_id().as_ptr().into()))),
            (pg_sys::INT8OID, Some(Value::new(count.into()))),
            (pg_sys::TIMESTAMPTZOID, Some(Value::new(types::now().into()))),
        ],
    );
    Ok(count)
}

/// What the server calls one TRUNCATE may reach us through several triggers: the table's own, then each leaf's.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Marked {
    table_id: i32,
    command: i32,
    subtransaction: u32,
}

thread_local! {
    /// The tables that this transaction's TRUNCATEs left a mark of.
    static MARKED: RefCell<Vec<Marked>> = const { RefCell::new(Vec::new()) };
}

/// The transaction is over.
pub fn forget_marks() {
    MARKED.with_borrow_mut(Vec::clear);
}

/// A trigger on a partitioned table sees one TRUNCATE for all its leaves; a leaf that has our trigger of its
/// own records itself. A mark speaks for the whole table, so of single partitions each row is recorded.
pub fn record_truncate(target: pg_sys::Oid, plan: &Plan) -> Result<(), Error> {
    let policy = &plan.policy;
    if policy.options.truncate == Truncate::Block {
        return Err(Error::TruncateBlocked { table: plan.table.clone() });
    }
    let marked = Marked {
        table_id: policy.table_id,
        command: xact::current_command(),
        subtransaction: xact::current_subtransaction(),
    };
    if MARKED.with_borrow(|marks| marks.contains(&marked)) {
        return Ok(());
    }
    let leaves = relation::with_partitions(target, pg_sys::AccessExclusiveLock as i32);
    leaves.iter().filter(|leaf| **leaf != policy.root).for_each(|leaf| known_partition::emptied(*leaf, policy));
    if target == policy.root && holds_more_rows(&leaves, policy.options.truncated_rows()) {
        mark(plan, marked.command)?;
        MARKED.with_borrow_mut(|marks| marks.push(marked));
        return Ok(());
    }
    for leaf in &leaves {
        if *leaf == target || !relation::has_truncate_trigger(*leaf) {
            record_all(*leaf, op::TRUNCATE)?;
        }
    }
    buffer::flush()
}

/// Whether the relations hold more than `limit` rows together.
pub fn holds_more_rows(relations: &[pg_sys::Oid], limit: u64) -> bool {
    let mut left = limit.saturating_add(1);
    for relid in relations {
        let relation = OpenRelation::open(*relid, pg_sys::AccessShareLock as i32);
        if relation.kind() == pg_sys::RELKIND_RELATION {
            left -= scan::count_rows(&relation, left);
        }
        if left == 0 {
            return true;
        }
    }
    false
}

/// One change in place of every row's: see threadline.change_log in storage.sql.
fn mark(plan: &Plan, statement_no: i32) -> Result<(), Error> {
    let mut bytes = Vec::new();
    let start = jsonb::begin_varlena(&mut bytes);
    let key = Key { row_key: i64::MIN, text: jsonb::end_varlena(&mut bytes, start) };
    let tolerant = plan.policy.tolerates_loss();
    let Some(version) = loss::survived(plan, tolerant, || plan.version())? else { return Ok(()) };
    let (table_id, schema_version) = (plan.policy.table_id, version.number);
    let place = Place { table_id, schema_version, statement_no, asked: Asked::ByCommand, tolerant };
    let encoded = Encoded { op: op::TRUNCATE, key, old_key: None, old: None, new: None };
    buffer::add(&place, encoded, &bytes)?;
    buffer::flush()
}

/// Records each row that the relation itself holds; says how many.
fn record_all(relid: pg_sys::Oid, kind: i16) -> Result<i64, Error> {
    let relation = OpenRelation::open(relid, pg_sys::AccessShareLock as i32);
    if relation.kind() != pg_sys::RELKIND_RELATION {
        return Ok(0);
    }
    let plan = plan_of(relid)?;
    record_rows(&relation, &plan, kind)
}

/// Records each row of an open table by a plan, as one that arrives or leaves.
pub fn record_rows(relation: &OpenRelation, plan: &Plan, kind: i16) -> Result<i64, Error> {
    let command = xact::current_command();
    let arena = Arena::for_one_use(c"threadline whole table");
    let timer = cost::RowTimer::start();
    let mut count = 0;
    scan::each_row(relation, |row| {
        let change = match kind {
            op::TRUNCATE | op::DELETE => Change::Leaves(kind, row),
            _ => Change::Arrives(kind, row),
        };
        arena.with(|| record(plan, command, &change, Asked::ByCommand)).or_raise();
        arena.reset();
        count += 1;
    });
    timer.stop(plan.policy.table_id);
    Ok(count)
}
