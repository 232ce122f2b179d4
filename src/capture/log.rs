//! The physical log: which fields a row of threadline.change_log and threadline.transaction_log has
//! (sql/install/storage.sql), and writing them.

use std::ops::Range;

use pgrx::pg_sys;

use super::buffer::{Pending, Uuid};
use crate::error::Error;
use crate::pg::direct_insert::{Field, PartitionKey, TableWriter};

const CHANGE_TYPES: &[pg_sys::Oid] = &[
    pg_sys::INT8OID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::INT8OID,
    pg_sys::UUIDOID,
    pg_sys::INT4OID,
    pg_sys::INT4OID,
    pg_sys::INT4OID,
    pg_sys::INT2OID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::JSONBOID,
    pg_sys::JSONBOID,
    pg_sys::JSONBOID,
    pg_sys::JSONBOID,
];

const TRANSACTION_TYPES: &[pg_sys::Oid] = &[
    pg_sys::UUIDOID,
    pg_sys::INT8OID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::INT8OID,
    pg_sys::XID8OID,
    pg_sys::INT8OID,
    pg_sys::INT4OID,
    pg_sys::BOOLOID,
    pg_sys::BOOLOID,
    pg_sys::UUIDOID,
    pg_sys::INT8MULTIRANGEOID,
    pg_sys::PG_SNAPSHOTOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::INETOID,
    pg_sys::JSONBOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::JSONBOID,
    pg_sys::JSONBOID,
];

thread_local! {
    static CHANGES: TableWriter = TableWriter::new(c"change_log", CHANGE_TYPES);
    static TRANSACTIONS: TableWriter = TableWriter::new(c"transaction_log", TRANSACTION_TYPES);
}

/// The fields of a change, in the log's column order.
pub fn change_fields<'r>(transaction: &'r Uuid, row: &Pending, bytes: &'r [u8]) -> [Field<'r>; 14] {
    let varlena = |range: &Option<Range<usize>>| match range {
        Some(range) => Field::Varlena(&bytes[range.clone()]),
        None => Field::Null,
    };
    [
        Field::I64(row.id),
        Field::I64(row.captured_at),
        Field::I64(row.row_key),
        Field::Uuid(transaction),
        Field::I32(row.table_id),
        Field::I32(row.statement_no),
        Field::I32(row.schema_version),
        Field::I16(row.op),
        Field::Varlena(&bytes[row.key.clone()]),
        varlena(&row.old_key),
        varlena(&row.old_image),
        varlena(&row.new_image),
        varlena(&row.old_exact),
        varlena(&row.new_exact),
    ]
}

pub fn write_changes(transaction: &Uuid, rows: &[Pending], bytes: &[u8]) -> Result<(), Error> {
    CHANGES.with(|writer| {
        writer.insert(
            rows.len(),
            |index| PartitionKey::I64(rows[index].captured_at),
            |index, sink| {
                change_fields(transaction, &rows[index], bytes).into_iter().for_each(|field| sink.push(field));
            },
        )
    })
}

/// How many fields a transaction's row has.
pub const TRANSACTION_FIELDS: usize = TRANSACTION_TYPES.len();

pub fn write_transaction(id: &Uuid, fields: &[Field; TRANSACTION_FIELDS]) -> Result<(), Error> {
    TRANSACTIONS.with(|writer| {
        writer.insert(1, |_| PartitionKey::Uuid(id), |_, sink| fields.iter().for_each(|field| sink.push(*field)))
    })
}
