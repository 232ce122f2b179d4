//! SQL faces of capture: switching it on and off, and what the current transaction has recorded so far.

use std::collections::HashMap;

use pgrx::pg_sys;

use super::log;
use super::partition_move;
use super::transaction;
use super::trigger::plan_of;
use super::{buffer, cost};
use crate::catalog::cache;
use crate::error::{Error, OrRaise};
use crate::pg::datum::{Value, bytes_datum, for_message, text_datum};
use crate::pg::direct_insert::Field;
use crate::pg::function::Call;
use crate::pg::{relation, spi, user, xact};

/// `threadline.audit_enable(target, exclude, mask, mask_placeholder, key_columns, baseline, options)`
pub fn audit_enable(call: &mut Call) -> pg_sys::Datum {
    const TYPES: [pg_sys::Oid; 7] = [
        pg_sys::REGCLASSOID,
        pg_sys::NAMEARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTOID,
        pg_sys::NAMEARRAYOID,
        pg_sys::BOOLOID,
        pg_sys::JSONBOID,
    ];
    let arguments: Vec<spi::Argument> =
        TYPES.iter().enumerate().map(|(index, type_oid)| (*type_oid, call.value(index))).collect();
    as_owner_of_target(call.oid(0), "SELECT threadline.enable_capture($1, $2, $3, $4, $5, $6, $7)", &arguments)
        .or_raise();
    call.return_null()
}

/// `threadline.audit_disable(target)`
pub fn audit_disable(call: &mut Call) -> pg_sys::Datum {
    let arguments = [(pg_sys::REGCLASSOID, call.value(0))];
    as_owner_of_target(call.oid(0), "SELECT threadline.disable_capture($1)", &arguments).or_raise();
    call.return_null()
}

/// `threadline.enable_schema_checked(schema_name, future, except_tables)`: the part of audit_enable_schema that needs
/// the extension owner's rights, for a schema's owner.
pub fn enable_schema_checked(call: &mut Call) -> pg_sys::Datum {
    let arguments =
        [(pg_sys::NAMEOID, call.value(0)), (pg_sys::BOOLOID, call.value(1)), (pg_sys::NAMEARRAYOID, call.value(2))];
    let foreign = call.value(0).map(|name| name.name_bytes().to_vec()).filter(|name| !user::may_rule_schema(name));
    match foreign {
        Some(name) => Err(Error::NotSchemaOwner { schema: for_message(&name).into_owned() }),
        None => user::as_owner(|| spi::execute("SELECT threadline.enable_schema($1, $2, $3)", &arguments)),
    }
    .or_raise();
    call.return_null()
}

/// `threadline.library_version()`
pub fn library_version(call: &mut Call) -> pg_sys::Datum {
    call.return_value(Some(text_datum(env!("CARGO_PKG_VERSION").as_bytes())))
}

/// Only a table's owner may change its capture; only the extension's owner may write what that changes.
fn as_owner_of_target(target: Option<pg_sys::Oid>, statement: &str, arguments: &[spi::Argument]) -> Result<(), Error> {
    if let Some(target) = target.filter(|target| relation::exists(*target) && !user::owns(*target)) {
        return Err(Error::NotOwner { table: relation::qualified_name(target) });
    }
    user::as_owner(|| spi::execute(statement, arguments))
}

/// `threadline.record_shape(relation)`
pub fn record_shape(call: &mut Call) -> pg_sys::Datum {
    if let Some(target) = call.oid(0) {
        plan_of(target).and_then(|plan| plan.version()).or_raise();
    }
    call.return_null()
}

/// `threadline.invalidate_relation(relation)`: sends every session of the database to read the policy anew.
pub fn invalidate_relation(call: &mut Call) -> pg_sys::Datum {
    if let Some(target) = call.oid(0).filter(|target| relation::exists(*target)) {
        for relid in relation::with_partitions(target, pg_sys::AccessShareLock as i32) {
            relation::invalidate(relid);
        }
    }
    call.return_null()
}

/// `threadline.current_audit_transaction_id()`
pub fn current_audit_transaction_id(call: &mut Call) -> pg_sys::Datum {
    call.return_value(Some(bytes_datum(&buffer::transaction_id())))
}

/// `threadline.note_action(action_id)`
pub fn note_action(call: &mut Call) -> pg_sys::Datum {
    let action = call.value(0).map(Value::uuid);
    buffer::note(action);
    call.return_null()
}

/// `threadline.origin()`
pub fn origin(call: &mut Call) -> pg_sys::Datum {
    call.return_value(Some(xact::system_identifier().into()))
}

/// `threadline.next_xid()`
pub fn next_xid(call: &mut Call) -> pg_sys::Datum {
    call.return_value(Some((xact::next_full_xid() as i64).into()))
}

/// `threadline.oldest_other_writer()`
pub fn oldest_other_writer(call: &mut Call) -> pg_sys::Datum {
    call.return_value(xact::oldest_other_writer().map(Into::into))
}

/// `threadline.pending_changes()`: rows of change_log that wait in this session's buffer, of tables that the caller may
/// read: the rule of the view readable_table.
pub fn pending_changes(call: &mut Call) -> pg_sys::Datum {
    let mut rows = Vec::new();
    partition_move::settle().or_raise();
    let reads_all = relation::own_relation(c"change_log").is_some_and(user::may_select);
    let mut readable = HashMap::new();
    buffer::visit_pending(|transaction, row, bytes| {
        let table_id = row.table_id.abs();
        if reads_all
            || *readable.entry(table_id).or_insert_with(|| cache::root_of(table_id).is_some_and(user::may_read))
        {
            rows.push(log::change_fields(transaction, row, bytes).into_iter().map(owned).collect());
        }
    })
    .or_raise();
    call.return_rows(rows)
}

/// `threadline.pending_transaction()`: the current transaction's row of transaction_log, as far as it is known.
pub fn pending_transaction(call: &mut Call) -> pg_sys::Datum {
    // Its changes have ids once they were looked at.
    buffer::visit_pending(|_, _, _| {}).or_raise();
    let row = buffer::summary().map(|summary| {
        transaction::with_fields(&summary, None, false, |fields| fields.iter().map(|field| owned(*field)).collect())
    });
    call.return_rows(row)
}

/// `threadline.pending_cost()`: what this session has counted and not yet saved to capture_cost.
pub fn pending_cost(call: &mut Call) -> pg_sys::Datum {
    let rows: Vec<_> = cost::unsaved()
        .into_iter()
        .map(|(table_id, cost)| {
            let counts = [cost.changes, cost.bytes, cost.wal_bytes, cost.nanoseconds];
            std::iter::once(table_id.into()).chain(counts.into_iter().map(Into::into)).map(Some).collect()
        })
        .collect();
    call.return_rows(rows)
}

/// A field as a datum that outlives what it was read from.
fn owned(field: Field) -> Option<pg_sys::Datum> {
    match field {
        Field::Varlena(image) => Some(bytes_datum(image)),
        Field::Uuid(bytes) => Some(bytes_datum(bytes)),
        other => other.datum(),
    }
}
