//! The tables that rows of ours are written to: leaves of partitioned tables, with what inserting into one needs to
//! know. Worked out once and used until the server tells of a change of the leaf, its parent or one of its indexes.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use pgrx::pg_sys;

use super::direct_insert::PartitionKey;
use super::index_insert::{Index, Unexpected, lock_indexes};
use super::memory::OwnedContext;
use super::relation::OpenRelation;
use crate::error::Error;

/// Which rows a leaf takes.
enum Rows {
    All,
    /// Keys from the first bound, if there is one, to below the second.
    Range(Option<Bound>, Option<Bound>),
    /// What belongs nowhere else: to be looked up each time.
    Rest,
}

enum Bound {
    I64(i64),
    Uuid([u8; 16]),
}

impl Bound {
    /// # Safety
    /// `datum` is a bound of a range of the key's type.
    unsafe fn of(key: PartitionKey, datum: pg_sys::Datum) -> Bound {
        match key {
            // SAFETY: by the caller's promise a pointer to the 16 bytes of a uuid.
            PartitionKey::Uuid(_) => Bound::Uuid(unsafe { *datum.cast_mut_ptr::<[u8; 16]>() }),
            PartitionKey::I64(_) | PartitionKey::None => Bound::I64(datum.value() as i64),
        }
    }

    fn is_reached_by(&self, key: PartitionKey) -> bool {
        match (self, key) {
            (Bound::I64(bound), PartitionKey::I64(value)) => value >= *bound,
            // Uuids are ordered bytewise.
            (Bound::Uuid(bound), PartitionKey::Uuid(bytes)) => bytes >= bound,
            _ => false,
        }
    }
}

/// What a leaf was worked out from, and whether that has changed since.
struct Watch {
    relations: Vec<pg_sys::Oid>,
    changed: Cell<bool>,
}

thread_local! {
    static WATCHES: RefCell<Vec<Weak<Watch>>> = const { RefCell::new(Vec::new()) };
    /// Everything changed while the list was in use.
    static ALL_CHANGED: Cell<bool> = const { Cell::new(false) };
}

/// The relation (or, without one, every relation) changed. Called from the server's invalidation callback: only marks.
pub(super) fn forget(relid: Option<pg_sys::Oid>) {
    WATCHES.with(|watches| match watches.try_borrow() {
        Ok(watches) => watches
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|watch| relid.is_none_or(|relid| watch.relations.contains(&relid)))
            .for_each(|watch| watch.changed.set(true)),
        Err(_) => ALL_CHANGED.set(true),
    });
}

fn watch(relations: Vec<pg_sys::Oid>) -> Rc<Watch> {
    let watch = Rc::new(Watch { relations, changed: Cell::new(false) });
    WATCHES.with_borrow_mut(|watches| {
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(Rc::downgrade(&watch));
    });
    watch
}

/// A table that rows are written to.
pub struct Leaf {
    oid: pg_sys::Oid,
    rows: Rows,
    indexes: Vec<Index>,
    watch: Rc<Watch>,
    /// Where the indexes have their memory.
    _memory: OwnedContext,
}

impl Leaf {
    /// The leaf of `parent` (itself, if it is not partitioned) that a row belongs to, locked and open.
    pub fn find(parent: pg_sys::Oid, key: PartitionKey) -> Result<(Leaf, OpenRelation), Error> {
        let parent_table = OpenRelation::open(parent, pg_sys::RowExclusiveLock as i32);
        let (table, rows) = match key {
            PartitionKey::None => (parent_table, Rows::All),
            _ => lock_leaf(&parent_table, key),
        };
        let indexes = lock_indexes(&table);
        // From here on we are told of a change, and what is read now is of after the locks.
        let watch = watch([parent, table.oid()].into_iter().chain(indexes.iter().copied()).collect());
        let memory = OwnedContext::new(c"threadline leaf");
        let ready = indexes.into_iter().filter_map(|oid| Index::new(oid, &table, &memory).transpose());
        let indexes = ready.collect::<Result<Vec<Index>, Unexpected>>();
        let indexes = indexes.map_err(|Unexpected| Error::StorageChanged {
            relation: super::relation::qualified_name(table.oid()),
            detail: "An index of it is on another expression than a function of a column, or partial otherwise than by a column IS NOT NULL.".into(),
        })?;
        Ok((Leaf { oid: table.oid(), rows, indexes, watch, _memory: memory }, table))
    }

    /// The table again, locked and open, if nothing has changed and the row belongs there.
    pub fn reopen_for(&self, key: PartitionKey) -> Option<OpenRelation> {
        if !self.takes(key) || self.has_changed() {
            return None;
        }
        // SAFETY: takes any OID. Whoever drops, detaches or alters the table holds a lock against this one, and once it
        // is granted we have been told.
        unsafe { pg_sys::LockRelationOid(self.oid, pg_sys::RowExclusiveLock as i32) };
        (!self.has_changed()).then(|| OpenRelation::open(self.oid, pg_sys::NoLock as i32))
    }

    fn has_changed(&self) -> bool {
        if ALL_CHANGED.replace(false) {
            forget(None);
        }
        self.watch.changed.get()
    }

    pub fn takes(&self, key: PartitionKey) -> bool {
        match &self.rows {
            Rows::All => true,
            Rows::Range(from, below) => {
                from.as_ref().is_none_or(|from| from.is_reached_by(key))
                    && below.as_ref().is_none_or(|below| !below.is_reached_by(key))
            }
            Rows::Rest => false,
        }
    }

    /// Enters rows that were put into the table, which `find` or `reopen_for` gave, into its indexes.
    pub fn enter(&self, table: &OpenRelation, slots: &[*mut pg_sys::TupleTableSlot]) {
        self.indexes.iter().for_each(|index| index.enter(table, slots, || self.has_changed()));
    }
}

/// Locking may wait for, or learn of, a change of the partitions, so the choice is made again under the lock until it
/// stands.
fn lock_leaf(parent: &OpenRelation, key: PartitionKey) -> (OpenRelation, Rows) {
    loop {
        let leaf = OpenRelation::open(leaf_of(parent, key).0, pg_sys::RowExclusiveLock as i32);
        let (chosen, rows) = leaf_of(parent, key);
        if chosen == leaf.oid() {
            return (leaf, rows);
        }
    }
}

/// The partition of an open table in which a row with the key is.
pub fn holding(parent: &OpenRelation, key: PartitionKey) -> pg_sys::Oid {
    leaf_of(parent, key).0
}

/// The partition whose range holds the key, else the default partition.
fn leaf_of(parent: &OpenRelation, key: PartitionKey) -> (pg_sys::Oid, Rows) {
    // SAFETY: the parent is open and locked; a range-partitioned table's bound arrays have ndatums entries,
    // and one index more than bounds (partition_range_datum_bsearch and get_partition_for_tuple).
    unsafe {
        let partitions = &*pg_sys::RelationGetPartitionDesc(parent.as_ptr(), true);
        if partitions.nparts == 0 {
            Error::NoPartition { table: super::relation::qualified_name(parent.oid()) }.raise();
        }
        let bounds = &*partitions.boundinfo;
        let count = bounds.ndatums as usize;
        let is = |place: usize, kind| *(*bounds.kind.add(place)) == kind;
        let value = |place: usize| {
            is(place, pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_VALUE)
                .then(|| Bound::of(key, *(*bounds.datums.add(place))))
        };
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = (low + high) / 2;
            let reached = is(middle, pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_MINVALUE)
                || value(middle).is_some_and(|bound| bound.is_reached_by(key));
            if reached { low = middle + 1 } else { high = middle }
        }
        let mut chosen = if count == 0 { -1 } else { *bounds.indexes.add(low) };
        let mut rows = Rows::Range(low.checked_sub(1).and_then(value), (low < count).then(|| value(low)).flatten());
        if chosen < 0 {
            chosen = bounds.default_index;
            rows = Rows::Rest;
        }
        if chosen < 0 {
            Error::NoPartition { table: super::relation::qualified_name(parent.oid()) }.raise();
        }
        (*partitions.oids.add(chosen as usize), rows)
    }
}
