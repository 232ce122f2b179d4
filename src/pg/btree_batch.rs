//! Many entries into a btree at once: one descent, one look at the page and one WAL record for as many of a batch as
//! belong on one leaf, where the server's own insertion takes each of these for every entry. The page is changed through
//! generic WAL, so recovery, standbys and amcheck meet nothing unusual. Splits, lists of duplicates, unique indexes and
//! whatever else is not plain are left to the server.

use std::cell::Cell;

use pgrx::pg_sys;

use super::btree_page::{Entry, Layout, MAX_COLUMNS, Page};
use super::compat;
use super::ffi;
use super::relation::OpenRelation;

/// Fewer entries than this on one leaf are cheaper one by one: finding what changed on a page costs generic WAL as much as
/// three or four insertions.
const MIN_RUN: usize = 5;

/// After a batch whose entries lay far apart, this many are not even tried.
const NOT_TRIED: u32 = 32;

/// An index whose columns are all integers, in their usual order.
pub struct IntegerIndex {
    /// Its columns among the table's, and their widths.
    columns: Vec<(usize, usize)>,
    layout: Layout,
    not_tried: Cell<u32>,
}

/// What came of trying a leaf.
enum Tried {
    /// So many entries are there now.
    Entered(usize),
    /// Not worth it or not possible: it had room for so many, which are not there.
    Left(usize),
}

impl IntegerIndex {
    /// None if the index is of another kind. `columns` are the indexed columns of the table, which are not expressions.
    ///
    /// # Safety
    /// `index` is open and an index of `table`.
    pub unsafe fn of(index: pg_sys::Relation, table: &OpenRelation, columns: &[usize]) -> Option<IntegerIndex> {
        // SAFETY: by the caller's promise; an open index has its catalog row and one entry a key column in these arrays.
        unsafe {
            let form = &*(*index).rd_index;
            let is_plain = |place: usize| {
                let column = &*compat::attribute(table.descriptor(), columns[place]);
                (column.atttypid == pg_sys::INT4OID || column.atttypid == pg_sys::INT8OID)
                    && column.attnotnull
                    && *(*index).rd_opcintype.add(place) == column.atttypid
                    && *(*index).rd_opfamily.add(place) == pg_sys::INTEGER_BTREE_FAM_OID
                    && *(*index).rd_indoption.add(place) == 0
            };
            let all_plain = (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
                && !form.indisunique
                && form.indnatts == form.indnkeyatts
                && columns.len() <= MAX_COLUMNS
                && (0..columns.len()).all(is_plain);
            all_plain.then(|| {
                let width = |column: &usize| (*compat::attribute(table.descriptor(), *column)).attlen as usize;
                let columns: Vec<(usize, usize)> = columns.iter().map(|column| (*column, width(column))).collect();
                let layout = Layout::new(columns.iter().map(|(_, width)| *width));
                IntegerIndex { columns, layout, not_tried: Cell::new(0) }
            })
        }
    }

    /// Enters the rows that the slots hold, with the places in the table that they were given; those that are to be
    /// entered by the server itself are handed to `one_by_one`.
    ///
    /// # Safety
    /// `index` is the one that this was made of, open and locked for writing; the slots hold rows of `table`.
    pub unsafe fn enter(
        &self,
        index: pg_sys::Relation,
        table: &OpenRelation,
        slots: &[*mut pg_sys::TupleTableSlot],
        mut one_by_one: impl FnMut(*mut pg_sys::TupleTableSlot),
    ) {
        let given_up = self.not_tried.get();
        if slots.len() < MIN_RUN || given_up > 0 {
            self.not_tried.set(given_up.saturating_sub(1));
            slots.iter().for_each(|slot| one_by_one(*slot));
            return;
        }
        // SAFETY: by the caller's promise.
        let mut entries: Vec<Entry> =
            slots.iter().enumerate().map(|(row, slot)| unsafe { self.entry(row, *slot) }).collect();
        entries.sort_unstable();
        let mut rest = entries.as_slice();
        let mut alone = 0;
        while !rest.is_empty() {
            let worth_a_try = rest.len() >= MIN_RUN && alone <= slots.len() / 2;
            let tried = if worth_a_try {
                // SAFETY: by the caller's promise; the entries are in order.
                unsafe { self.try_leaf(index, table, rest) }
            } else {
                Tried::Left(rest.len())
            };
            match tried {
                Tried::Entered(count) => rest = &rest[count..],
                Tried::Left(count) => {
                    // One more than fit: that splits the leaf.
                    let (these, others) = rest.split_at(rest.len().min(count + 1));
                    these.iter().for_each(|entry| one_by_one(slots[entry.row]));
                    (rest, alone) = (others, alone + these.len());
                }
            }
        }
        if alone > slots.len() / 2 {
            self.not_tried.set(NOT_TRIED);
        }
    }

    /// # Safety
    /// The slot holds a row of the table.
    unsafe fn entry(&self, row: usize, slot: *mut pg_sys::TupleTableSlot) -> Entry {
        // SAFETY: by the caller's promise; the columns are integers, passed by value and never NULL.
        unsafe {
            let mut key = [0; MAX_COLUMNS];
            for (value, (column, width)) in key.iter_mut().zip(&self.columns) {
                let datum = (*(*slot).tts_values.add(*column)).value();
                *value = if *width == 4 { i64::from(datum as i32) } else { datum as i64 };
            }
            let tid = &(*slot).tts_tid;
            let block = u32::from(tid.ip_blkid.bi_hi) << 16 | u32::from(tid.ip_blkid.bi_lo);
            Entry { key, block, offset: tid.ip_posid, row }
        }
    }

    /// Enters as many of the entries as fit on the leaf that the first belongs on.
    ///
    /// # Safety
    /// As for `enter`; the entries are in order.
    unsafe fn try_leaf(&self, index: pg_sys::Relation, table: &OpenRelation, entries: &[Entry]) -> Tried {
        // SAFETY: the search gives the leaf locked for writing, and it is unlocked on every way out; an error on the way
        // leaves that to the abort of the transaction. The page's image is the server's copy of it, which is changed as
        // the server itself changes a page, and put in its place and into the WAL at once.
        unsafe {
            let mut first = self.layout.bytes_of(&entries[0]);
            let Some(buffer) = compat::lock_btree_leaf(index, table.as_ptr(), first.as_mut_ptr().cast()) else {
                return Tried::Left(0);
            };
            let fitting = self.layout.fitting(&Page(page_bytes(pg_sys::BufferGetPage(buffer))), entries);
            if fitting < MIN_RUN {
                pg_sys::UnlockReleaseBuffer(buffer);
                return Tried::Left(fitting);
            }
            // What the server asks before each insertion: a serializable reader of this leaf depends on us now.
            ffi::check_for_serializable_conflict_in(index, pg_sys::BufferGetBlockNumber(buffer));
            let change = pg_sys::GenericXLogStart(index);
            let image = pg_sys::GenericXLogRegisterBuffer(change, buffer, 0);
            let mut place = 0;
            for entry in &entries[..fitting] {
                let found = self.layout.position(&Page(page_bytes(image)), entry, place);
                let mut bytes = self.layout.bytes_of(entry);
                let added = found.is_some_and(|number| {
                    place = number;
                    let (item, size) = (bytes.as_mut_ptr().cast(), self.layout.size());
                    pg_sys::PageAddItemExtended(image, item, size, number as u16, 0) as usize == number
                });
                if !added {
                    pg_sys::GenericXLogAbort(change);
                    pg_sys::UnlockReleaseBuffer(buffer);
                    return Tried::Left(fitting);
                }
            }
            pg_sys::GenericXLogFinish(change);
            pg_sys::UnlockReleaseBuffer(buffer);
            Tried::Entered(fitting)
        }
    }
}

/// # Safety
/// `page` is a page of a size of BLCKSZ that nobody changes while the slice is in use.
unsafe fn page_bytes<'p>(page: pg_sys::Page) -> &'p [u8] {
    // SAFETY: by the caller's promise.
    unsafe { core::slice::from_raw_parts(page.cast_const().cast(), pg_sys::BLCKSZ as usize) }
}
