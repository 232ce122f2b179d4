//! Index entries for rows that went into a table of ours below the executor.

use pgrx::pg_sys;

use super::compat;
use super::relation::OpenRelation;

/// The indexes of a table, open for as long as one batch is inserted.
pub struct OpenIndexes {
    table: pg_sys::Relation,
    indexes: Vec<OpenIndex>,
}

struct OpenIndex {
    relation: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
    /// The indexed columns, counted from 0.
    columns: Vec<usize>,
    unique: pg_sys::IndexUniqueCheck::Type,
    /// A BRIN of one timestamptz: of the rows of a page only the ends count.
    only_ends: bool,
}

/// An index that this cannot keep up: it is not one of those that the extension made.
pub struct Unexpected;

impl OpenIndexes {
    /// The table stays open while this lives.
    pub fn open(table: &OpenRelation) -> Result<OpenIndexes, Unexpected> {
        let mut open = OpenIndexes { table: table.as_ptr(), indexes: Vec::new() };
        // SAFETY: the table is open; the list is of its indexes' OIDs; an open index has its catalog rows at hand.
        unsafe {
            let list = pg_sys::RelationGetIndexList(table.as_ptr());
            let count = if list.is_null() { 0 } else { (*list).length };
            for place in 0..count {
                let oid = pg_sys::list_nth_oid(list, place);
                let relation = pg_sys::index_open(oid, pg_sys::RowExclusiveLock as i32);
                let info = pg_sys::BuildIndexInfo(relation);
                let count = (*info).ii_NumIndexAttrs as usize;
                let attributes = &(*info).ii_IndexAttrNumbers;
                let columns: Vec<usize> = attributes[..count].iter().map(|n| *n as usize - 1).collect();
                let plain = (*info).ii_Expressions.is_null() && (*info).ii_Predicate.is_null();
                let unique = if (*info).ii_Unique {
                    pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
                } else {
                    pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
                };
                let only_ends = (*(*relation).rd_rel).relam == pg_sys::BRIN_AM_OID
                    && count == 1
                    && (*compat::attribute(table.descriptor(), columns[0])).atttypid == pg_sys::TIMESTAMPTZOID;
                let ready = (*info).ii_ReadyForInserts;
                open.indexes.push(OpenIndex { relation, info, columns, unique, only_ends });
                if !plain {
                    return Err(Unexpected);
                }
                // One that CREATE INDEX CONCURRENTLY has not got ready yet takes no entries.
                if !ready {
                    open.indexes.pop().expect("just pushed").close();
                }
            }
        }
        Ok(open)
    }

    /// Enters rows that the slots hold, with the places in the table that they were given.
    pub fn insert(&self, slots: &[*mut pg_sys::TupleTableSlot]) {
        for index in &self.indexes {
            if index.only_ends {
                index.rows_at_ends(slots).for_each(|place| index.insert(self.table, slots[place]));
            } else {
                slots.iter().for_each(|slot| index.insert(self.table, *slot));
            }
        }
    }
}

impl Drop for OpenIndexes {
    fn drop(&mut self) {
        // While an error unwinds, the transaction's resource owner closes them.
        if !std::thread::panicking() {
            self.indexes.drain(..).for_each(OpenIndex::close);
        }
    }
}

impl OpenIndex {
    fn close(self) {
        // SAFETY: opened by `open` and not closed since.
        unsafe {
            compat::finish_index_insert(self.relation, self.info);
            pg_sys::index_close(self.relation, pg_sys::RowExclusiveLock as i32);
        }
    }

    fn insert(&self, table: pg_sys::Relation, slot: *mut pg_sys::TupleTableSlot) {
        let mut values = [pg_sys::Datum::from(0usize); pg_sys::INDEX_MAX_KEYS as usize];
        let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
        // SAFETY: the slot holds a row of the table with all its columns, and the index's are among them.
        unsafe {
            for (at, column) in self.columns.iter().enumerate() {
                values[at] = *(*slot).tts_values.add(*column);
                nulls[at] = *(*slot).tts_isnull.add(*column);
            }
            pg_sys::index_insert(
                self.relation,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
                &raw mut (*slot).tts_tid,
                table,
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
