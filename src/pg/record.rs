//! Anonymous records, as a query hands them to a function.

use pgrx::{pg_sys, varlena};

use super::compat;
use super::datum::Value;
use super::relation::Row;

struct Shape {
    /// Which of the session's anonymous types.
    modifier: i32,
    desc: pg_sys::TupleDesc,
    columns: Vec<pg_sys::Oid>,
}

/// Reads records of a few types over and over, inside one transaction.
#[derive(Default)]
pub struct RecordReader {
    known: Vec<Shape>,
}

impl RecordReader {
    /// The types of its columns, and their values, valid as long as the record is. None of a row of a named type, which may be altered.
    pub fn read(&mut self, record: Value) -> Option<(&[pg_sys::Oid], Row)> {
        // SAFETY: a composite datum, whose header names a type that was registered when the record was made and stays as it is; the
        // copy of its descriptor lives as long as the transaction, and so does the reader.
        unsafe {
            let header = pg_sys::pg_detoast_datum(record.datum().cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
            if (*header).t_choice.t_datum.datum_typeid != pg_sys::RECORDOID {
                return None;
            }
            let modifier = (*header).t_choice.t_datum.datum_typmod;
            let place = match self.known.iter().position(|shape| shape.modifier == modifier) {
                Some(place) => place,
                None => {
                    self.known.push(Shape::look_up(modifier));
                    self.known.len() - 1
                }
            };
            let Shape { desc, columns, .. } = &self.known[place];
            let mut tuple = pg_sys::HeapTupleData {
                t_len: varlena::varsize_any(header.cast()) as u32,
                t_data: header,
                ..Default::default()
            };
            Some((columns, Row::deform(&mut tuple, *desc)))
        }
    }
}

impl Shape {
    /// # Safety
    /// The type is one that a record has.
    unsafe fn look_up(modifier: i32) -> Shape {
        // SAFETY: by the caller's promise; the copy is made in memory of the transaction's, and has natts attributes.
        unsafe {
            let previous = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = pg_sys::TopTransactionContext;
            let desc = pg_sys::lookup_rowtype_tupdesc_copy(pg_sys::RECORDOID, modifier);
            pg_sys::CurrentMemoryContext = previous;
            let columns = (0..(*desc).natts as usize).map(|index| (*compat::attribute(desc, index)).atttypid).collect();
            Shape { modifier, desc, columns }
        }
    }
}
