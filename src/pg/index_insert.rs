//! Index entries for rows that went into a table of ours below the executor.

use pgrx::pg_sys;

use super::btree_batch::IntegerIndex;
use super::compat;
use super::memory::OwnedContext;
use super::relation::OpenRelation;

/// An index of a table, as inserting into it needs it. Its memory is that of the leaf it was made for.
pub struct Index {
    oid: pg_sys::Oid,
    info: *mut pg_sys::IndexInfo,
    parts: Vec<Part>,
    /// Rows whose this column is NULL have no entry.
    only_with: Option<usize>,
    unique: pg_sys::IndexUniqueCheck::Type,
    /// A BRIN of one timestamptz: of the rows of a page only the ends count.
    only_ends: bool,
    /// Takes many entries at once.
    integers: Option<IntegerIndex>,
}

/// What an index has of a row.
struct Part {
    /// The column of the table, counted from 0.
    column: usize,
    /// What is made of its value: a strict function of it alone, with the collation to use.
    function: Option<(*mut pg_sys::FmgrInfo, pg_sys::Oid)>,
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
    /// keeps is allocated in `memory`.
    pub fn new(oid: pg_sys::Oid, table: &OpenRelation, memory: &OwnedContext) -> Result<Option<Index>, Unexpected> {
        // SAFETY: takes the OID of any index; the lists are copies, in the current context.
        let relation = unsafe {
            let relation = pg_sys::index_open(oid, pg_sys::NoLock as i32);
            // Read now, so that what reading the catalogs leaves behind is not kept.
            pg_sys::RelationGetIndexExpressions(relation);
            pg_sys::RelationGetIndexPredicate(relation);
            relation
        };
        // SAFETY: opened above, and closed when it is done with.
        unsafe {
            let index = memory.with(|| Index::of(oid, relation, table));
            pg_sys::index_close(relation, pg_sys::NoLock as i32);
            index
        }
    }

    /// What it keeps is allocated in the current context.
    ///
    /// # Safety
    /// `relation` is the index, open.
    unsafe fn of(
        oid: pg_sys::Oid,
        relation: pg_sys::Relation,
        table: &OpenRelation,
    ) -> Result<Option<Index>, Unexpected> {
        // SAFETY: by the caller's promise; the table is open, too, and an open index has its catalog rows at hand.
        unsafe {
            let info = pg_sys::BuildIndexInfo(relation);
            let parts = parts(&*info);
            let only_with = column_not_null((*info).ii_Predicate);
            let unique = if (*info).ii_Unique {
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
            } else {
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
            };
            // Of which every row has its plain columns.
            let plain: Option<Vec<usize>> = parts.as_deref().and_then(|parts| {
                let columns = parts.iter().map(|part| part.function.is_none().then_some(part.column));
                columns.collect::<Option<_>>().filter(|_| (*info).ii_Predicate.is_null())
            });
            let only_ends = plain.as_deref().is_some_and(|columns| {
                (*(*relation).rd_rel).relam == pg_sys::BRIN_AM_OID
                    && columns.len() == 1
                    && (*compat::attribute(table.descriptor(), columns[0])).atttypid == pg_sys::TIMESTAMPTZOID
            });
            let integers = plain.and_then(|columns| IntegerIndex::of(relation, table, &columns));
            let parts = parts.filter(|_| (*info).ii_Predicate.is_null() || only_with.is_some()).ok_or(Unexpected)?;
            let index = Index { oid, info, parts, only_with, unique, only_ends, integers };
            Ok((*info).ii_ReadyForInserts.then_some(index))
        }
    }
}

/// The parts of an index; None if one is another expression than a function of a column. What is worked out for the functions
/// is allocated in the current context.
///
/// # Safety
/// `info` is what BuildIndexInfo made of an index.
unsafe fn parts(info: &pg_sys::IndexInfo) -> Option<Vec<Part>> {
    let mut expressions = 0;
    let part = |number: &pg_sys::AttrNumber| {
        if *number > 0 {
            return Some(Part { column: *number as usize - 1, function: None });
        }
        // SAFETY: by the caller's promise there is an expression for each number 0, in their order; a node is what its
        // tag says, and a strict function exists while an index is made of it.
        unsafe {
            let call = node::<pg_sys::FuncExpr>(
                pg_sys::list_nth(info.ii_Expressions, expressions),
                pg_sys::NodeTag::T_FuncExpr,
            )?;
            expressions += 1;
            if call.args.is_null() || (*call.args).length != 1 {
                return None;
            }
            let column = column_of(pg_sys::list_nth(call.args, 0))?;
            let function = pg_sys::palloc0(size_of::<pg_sys::FmgrInfo>()).cast::<pg_sys::FmgrInfo>();
            pg_sys::fmgr_info_cxt(call.funcid, function, pg_sys::CurrentMemoryContext);
            (*function).fn_strict.then_some(Part { column, function: Some((function, call.inputcollid)) })
        }
    };
    info.ii_IndexAttrNumbers[..info.ii_NumIndexAttrs as usize].iter().map(part).collect()
}

/// The column of a predicate `column IS NOT NULL`; None for any other.
///
/// # Safety
/// `predicate` is NULL or the predicate of an index, as BuildIndexInfo gives it: conditions of which all must hold.
unsafe fn column_not_null(predicate: *mut pg_sys::List) -> Option<usize> {
    // SAFETY: by the caller's promise.
    unsafe {
        if predicate.is_null() || (*predicate).length != 1 {
            return None;
        }
        let test = node::<pg_sys::NullTest>(pg_sys::list_nth(predicate, 0), pg_sys::NodeTag::T_NullTest)?;
        let is_meant = test.nulltesttype == pg_sys::NullTestType::IS_NOT_NULL && !test.argisrow;
        if is_meant { column_of(test.arg.cast()) } else { None }
    }
}

/// The column, counted from 0, that an expression of an index is.
///
/// # Safety
/// `expression` is a node.
unsafe fn column_of(expression: *mut core::ffi::c_void) -> Option<usize> {
    // SAFETY: by the caller's promise.
    let column = unsafe { node::<pg_sys::Var>(expression, pg_sys::NodeTag::T_Var) }?;
    (column.varattno > 0).then(|| column.varattno as usize - 1)
}

/// The node, if it has this tag.
///
/// # Safety
/// `node` is a node, and those with the tag are a `T`.
unsafe fn node<'n, T>(node: *mut core::ffi::c_void, tag: pg_sys::NodeTag) -> Option<&'n T> {
    // SAFETY: by the caller's promise.
    unsafe { ((*node.cast::<pg_sys::Node>()).type_ == tag).then(|| &*node.cast::<T>()) }
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
        let chosen: Vec<*mut pg_sys::TupleTableSlot>;
        let slots = match self.only_with {
            // SAFETY: the slots hold rows of the table, and the column is one of its.
            Some(column) => unsafe {
                chosen = slots.iter().copied().filter(|slot| !*(**slot).tts_isnull.add(column)).collect();
                chosen.as_slice()
            },
            None => slots,
        };
        if slots.is_empty() {
            return;
        }
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
        // SAFETY: the slot holds a row of the table with all its columns, and the index's are among them; a function is of
        // the column's type, and asked only of what is not NULL.
        unsafe {
            for (at, part) in self.parts.iter().enumerate() {
                values[at] = *(*slot).tts_values.add(part.column);
                nulls[at] = *(*slot).tts_isnull.add(part.column);
                if let Some((function, collation)) = part.function
                    && !nulls[at]
                {
                    values[at] = pg_sys::FunctionCall1Coll(function, collation, values[at]);
                }
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
        let column = self.parts[0].column;
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
