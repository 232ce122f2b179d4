//! Rows straight into a table of ours and its indexes, below the executor: no privileges of the writer are
//! asked for, no plan is made, no partition routing is set up. What the executor would check is checked here:
//! column types, the table's access method, the partition a row belongs to.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::mem::ManuallyDrop;

use pgrx::pg_sys;

use super::compat;
use super::leaf::Leaf;
use super::memory::{Arena, in_session_context};
use super::relation::{OpenRelation, own_relation};
use crate::error::Error;

/// Rows a batch may have: a page of them, more gains nothing.
pub const MAX_BATCH: usize = 64;

/// A column of a row to insert.
#[derive(Clone, Copy)]
pub enum Field<'row> {
    Null,
    Bool(bool),
    I16(i16),
    I32(i32),
    I64(i64),
    Uuid(&'row [u8; 16]),
    /// A whole varlena, header included.
    Varlena(&'row [u8]),
    Datum(pg_sys::Datum),
}

impl Field<'_> {
    pub fn datum(self) -> Option<pg_sys::Datum> {
        Some(match self {
            Field::Null => return None,
            Field::Bool(value) => value.into(),
            Field::I16(value) => value.into(),
            Field::I32(value) => value.into(),
            Field::I64(value) => value.into(),
            Field::Uuid(bytes) => bytes.as_ptr().into(),
            Field::Varlena(bytes) => bytes.as_ptr().into(),
            Field::Datum(datum) => datum,
        })
    }
}

/// What decides a row's partition.
#[derive(Clone, Copy)]
pub enum PartitionKey<'row> {
    /// The table is not partitioned.
    None,
    /// A range on timestamptz or bigint.
    I64(i64),
    /// A range on uuid.
    Uuid(&'row [u8; 16]),
}

/// Inserts into one table of ours, partitioned or not. Lives as long as the session.
pub struct TableWriter {
    name: &'static CStr,
    types: &'static [pg_sys::Oid],
    arena: Arena,
    slots: RefCell<Vec<*mut pg_sys::TupleTableSlot>>,
    /// The one last written to. Never dropped: its memory is the server's, which is in no state to be given back when
    /// threads end.
    leaf: ManuallyDrop<Cell<Option<Leaf>>>,
}

/// The fields of the row being built.
pub struct RowSink {
    slot: *mut pg_sys::TupleTableSlot,
    next: usize,
}

impl RowSink {
    pub fn push(&mut self, field: Field) {
        // SAFETY: `insert` makes sure that a row has as many fields as the slot has columns.
        unsafe {
            let slot = &mut *self.slot;
            assert!(self.next < (*slot.tts_tupleDescriptor).natts as usize);
            match field.datum() {
                Some(datum) => {
                    *slot.tts_values.add(self.next) = datum;
                    *slot.tts_isnull.add(self.next) = false;
                }
                None => *slot.tts_isnull.add(self.next) = true,
            }
        }
        self.next += 1;
    }
}

impl TableWriter {
    pub fn new(name: &'static CStr, types: &'static [pg_sys::Oid]) -> TableWriter {
        TableWriter {
            name,
            types,
            arena: Arena::new(c"threadline insert"),
            slots: RefCell::new(Vec::new()),
            leaf: ManuallyDrop::new(Cell::new(None)),
        }
    }

    /// Inserts `count` rows: `key` says where row i belongs, `fill` gives its fields in column order.
    pub fn insert<'row>(
        &self,
        count: usize,
        key: impl Fn(usize) -> PartitionKey<'row>,
        mut fill: impl FnMut(usize, &mut RowSink),
    ) -> Result<(), Error> {
        assert!(count <= MAX_BATCH);
        // A leaf whose insertion fails is not there for the next one.
        let mut last = self.leaf.take();
        let result = self.arena.with(|| {
            let mut first = 0;
            while first < count {
                let (leaf, table) = self.open_leaf(last.take(), key(first))?;
                let mut end = first + 1;
                while end < count && leaf.takes(key(end)) {
                    end += 1;
                }
                self.insert_into(&table, &leaf, first..end, &mut fill);
                last = Some(leaf);
                first = end;
            }
            Ok(())
        });
        self.arena.reset();
        self.leaf.set(last);
        result
    }

    /// The leaf that a row belongs to, locked: the last one, if it is.
    fn open_leaf(&self, last: Option<Leaf>, key: PartitionKey) -> Result<(Leaf, OpenRelation), Error> {
        if let Some(leaf) = last
            && let Some(table) = leaf.reopen_for(key)
        {
            return Ok((leaf, table));
        }
        let parent = own_relation(self.name)
            .ok_or_else(|| Error::StorageMissing { relation: self.name.to_string_lossy().into_owned() })?;
        let (leaf, table) = Leaf::find(parent, key)?;
        self.check_shape(&table)?;
        Ok((leaf, table))
    }

    /// A table that somebody altered would be written wrongly: nothing below the executor checks types.
    fn check_shape(&self, table: &OpenRelation) -> Result<(), Error> {
        let changed =
            |detail: String| Error::StorageChanged { relation: self.name.to_string_lossy().into_owned(), detail };
        // SAFETY: the relation is open.
        unsafe {
            let form = &*(*table.as_ptr()).rd_rel;
            if form.relkind as u8 != pg_sys::RELKIND_RELATION || form.relam != pg_sys::HEAP_TABLE_AM_OID {
                return Err(changed("A partition of it is not a plain heap table.".into()));
            }
            let desc = table.descriptor();
            if (*desc).natts as usize != self.types.len() {
                return Err(changed(format!(
                    "A table has {} columns where {} are expected.",
                    (*desc).natts,
                    self.types.len()
                )));
            }
            for (index, expected) in self.types.iter().enumerate() {
                let attribute = &*compat::attribute(desc, index);
                if attribute.attisdropped || attribute.atttypid != *expected {
                    return Err(changed(format!("Column {} has another type than expected.", index + 1)));
                }
            }
        }
        Ok(())
    }

    fn insert_into(
        &self,
        table: &OpenRelation,
        leaf: &Leaf,
        rows: std::ops::Range<usize>,
        fill: &mut impl FnMut(usize, &mut RowSink),
    ) {
        let count = rows.len();
        self.make_slots(table, count);
        let mut slots = self.slots.borrow_mut();
        // SAFETY: the slots' descriptor has the types of `self.types`, which check_shape found in the table;
        // `fill` pushes one field a column. Everything allocated goes to the arena, which `insert` resets.
        unsafe {
            for (place, row) in rows.enumerate() {
                let slot = slots[place];
                pg_sys::ExecClearTuple(slot);
                let mut sink = RowSink { slot, next: 0 };
                fill(row, &mut sink);
                assert_eq!(sink.next, self.types.len());
                pg_sys::ExecStoreVirtualTuple(slot);
                (*slot).tts_tableOid = (*table.as_ptr()).rd_id;
            }
            pg_sys::heap_multi_insert(
                table.as_ptr(),
                slots.as_mut_ptr(),
                count as i32,
                pg_sys::GetCurrentCommandId(true),
                0,
                core::ptr::null_mut(),
            );
            leaf.enter(table, &slots[..count]);
            for slot in &slots[..count] {
                pg_sys::ExecClearTuple(*slot);
            }
        }
    }

    /// Slots are kept for the life of the session, with a descriptor of their own.
    fn make_slots(&self, table: &OpenRelation, count: usize) {
        let mut slots = self.slots.borrow_mut();
        if slots.len() < count {
            in_session_context(|| {
                // SAFETY: the copied descriptor is not reference-counted and is never freed, like the slots.
                unsafe {
                    let desc = match slots.first() {
                        Some(slot) => (**slot).tts_tupleDescriptor,
                        None => pg_sys::CreateTupleDescCopy(table.descriptor()),
                    };
                    while slots.len() < count {
                        slots.push(pg_sys::MakeSingleTupleTableSlot(desc, &raw const pg_sys::TTSOpsVirtual));
                    }
                }
            });
        }
    }
}
