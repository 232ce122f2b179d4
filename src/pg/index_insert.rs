//! Index entries for rows that went into a table of ours below the executor.

use pgrx::pg_sys;

use super::btree_batch::IntegerIndex;
use super::compat;
use super::relation::OpenRelation;

/// An index of a table, as inserting into it needs it. Its memory is that of the leaf it was made for.
pub struct Index {
    oid: pg_sys::Oid,
    info: *mut pg_sys::IndexInfo,
    /// The indexed columns, counted from 0.
    columns: Vec<usize>,
    unique: pg_sys::IndexUniqueCheck::Type,
    /// A BRIN of one timestamptz: of the rows of a page only the ends count.
    only_ends: bool,
    /// Takes many entries at once.
    integers: Option<IntegerIndex>,
}

/// An index that this cannot keep up: it is not one of those that the extension made.
pub struct Unexpected;

/// The table's indexes, each locked for writing until the transaction ends.
pub fn lock_indexes(table: &OpenRelation) -> Vec<pg_sys::Oid> {
    // SAFETY: the table is open; the list is of its indexes' OIDs.
    unsafe {
        let list = pg_sys::RelationGetIndexList(table.as_ptr());
        let count = if list.is_null() { 0 } else { (*list).length };
        let oids: Vec<pg_sys::Oid> = (0..count).map(|place| pg_sys::list_nth_oid(list, place)).collect();
        oids.iter().for_each(|oid| pg_sys::LockRelationOid(*oid, pg_sys::RowExclusiveLock as i32));
        oids
    }
}

impl Index {
    /// One of the table's locked indexes; None while CREATE INDEX CONCURRENTLY has not got it ready for entries. What it
    /// keeps is allocated in the current context.
    pub fn new(oid: pg_sys::Oid, table: &OpenRelation) -> Result<Option<Index>, Unexpected> {
        // SAFETY: the table is open, and so is the index, which has its catalog rows at hand.
        unsafe {
            let relation = pg_sys::index_open(oid, pg_sys::NoLock as i32);
            let info = pg_sys::BuildIndexInfo(relation);
            let count = (*info).ii_NumIndexAttrs as usize;
            let attributes = &(*info).ii_IndexAttrNumbers;
            let columns: Vec<usize> = attributes[..count].iter().map(|n| *n as usize - 1).collect();
            let unique = if (*info).ii_Unique {
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
            } else {
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
            };
            let plain = (*info).ii_Expressions.is_null() && (*info).ii_Predicate.is_null();
            let only_ends = plain
                && (*(*relation).rd_rel).relam == pg_sys::BRIN_AM_OID
                && columns.len() == 1
                && (*compat::attribute(table.descriptor(), columns[0])).atttypid == pg_sys::TIMESTAMPTZOID;
            let integers = if plain { IntegerIndex::of(relation, table, &columns) } else { None };
            pg_sys::index_close(relation, pg_sys::NoLock as i32);
            if !plain {
                return Err(Unexpected);
            }
            Ok((*info).ii_ReadyForInserts.then_some(Index { oid, info, columns, unique, only_ends, integers }))
        }
    }
}

impl Index {
    /// Enters rows that the slots hold, with the places in the table that they were given. The index is the table's;
    /// `has_changed` says whether it was told to have changed since `new`.
    pub fn enter(
        &self,
        table: &OpenRelation,
        slots: &[*mut pg_sys::TupleTableSlot],
        has_changed: impl FnOnce() -> bool,
    ) {
        // SAFETY: raises an error or returns the index, which is closed below; an error leaves that to the transaction's
        // resource owner. The lock stays until the transaction ends: the next batch would ask for it again.
        let relation = unsafe { pg_sys::index_open(self.oid, pg_sys::RowExclusiveLock as i32) };
        // SAFETY: `info` is the index's; the current context lives as long as the batch.
        unsafe { compat::begin_index_insert(self.info, has_changed()) };
        let one = |slot: *mut pg_sys::TupleTableSlot| self.insert(relation, table, slot);
        if self.only_ends {
            self.rows_at_ends(slots).for_each(|place| one(slots[place]));
        } else if let Some(integers) = &self.integers {
            // SAFETY: the index that it was made of, opened above; the slots hold rows of the table.
            unsafe { integers.enter(relation, table, slots, one) };
        } else {
            slots.iter().for_each(|slot| one(*slot));
        }
        // SAFETY: opened above; `info` was passed to its insertions.
        unsafe {
            compat::finish_index_insert(relation, self.info);
            pg_sys::index_close(relation, pg_sys::NoLock as i32);
        }
    }

    fn insert(&self, relation: pg_sys::Relation, table: &OpenRelation, slot: *mut pg_sys::TupleTableSlot) {
        let mut values = [pg_sys::Datum::from(0usize); pg_sys::INDEX_MAX_KEYS as usize];
        let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
        // SAFETY: the slot holds a row of the table with all its columns, and the index's are among them.
        unsafe {
            for (at, column) in self.columns.iter().enumerate() {
                values[at] = *(*slot).tts_values.add(*column);
                nulls[at] = *(*slot).tts_isnull.add(*column);
            }
            pg_sys::index_insert(
                relation,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
                &raw mut (*slot).tts_tid,
                table.as_ptr(),
                self.unique,
                false,
                self.info,
            );
        }
    }

    /// The rows whose entries cover those of all rows of the same page in a range of least and greatest value: the
    /// first of the page, which tells the index that the page is new, the least and the greatest.
    fn rows_at_ends<'s>(&self, slots: &'s [*mut pg_sys::TupleTableSlot]) -> impl Iterator<Item = usize> + 's {
        let column = self.columns[0];
        // SAFETY: the slots hold rows of the table; the column is a timestamptz, passed by value.
        let at = move |place: usize| unsafe {
            let tid = (*slots[place]).tts_tid.ip_blkid;
            let time = (*(*slots[place]).tts_values.add(column)).value() as i64;
            ((tid.bi_hi, tid.bi_lo), time)
        };
        let mut start = 0;
        std::iter::from_fn(move || {
            let page = (start < slots.len()).then(|| at(start).0)?;
            let end = (start..slots.len()).find(|place| at(*place).0 != page).unwrap_or(slots.len());
            let least = (start..end).min_by_key(|place| at(*place).1)?;
            let greatest = (start..end).max_by_key(|place| at(*place).1)?;
            let mut ends = vec![start, least, greatest];
            ends.dedup();
            start = end;
            Some(ends)
        })
        .flatten()
    }
}
