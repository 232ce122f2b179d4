//! Relations: opening, naming, columns, partition trees.

use std::cell::RefCell;
use std::ptr::NonNull;

use pgrx::pg_sys;

use super::compat;
use super::datum::{Storage, Value, for_message};
use super::ffi;

/// A relation held open until dropped. The lock stays until the end of the transaction.
pub struct OpenRelation {
    relation: NonNull<pg_sys::RelationData>,
}

/// A live column of a relation.
#[derive(Clone, Debug)]
pub struct Column {
    /// 0-based place in a deformed row.
    pub index: usize,
    pub attnum: i16,
    pub name: Vec<u8>,
    pub type_oid: pg_sys::Oid,
    pub type_modifier: i32,
    pub storage: Storage,
    /// Generated on read (PostgreSQL 18): the stored row does not hold it.
    pub virtual_generated: bool,
}

impl OpenRelation {
    pub fn open(relid: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> OpenRelation {
        // SAFETY: table_open raises an error or returns a relation.
        let relation = unsafe { pg_sys::table_open(relid, lock) };
        OpenRelation { relation: NonNull::new(relation).expect("table_open returned NULL") }
    }

    pub fn as_ptr(&self) -> pg_sys::Relation {
        self.relation.as_ptr()
    }

    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open.
        unsafe { (*self.as_ptr()).rd_id }
    }

    pub fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: the relation is open.
        unsafe { (*self.as_ptr()).rd_att }
    }

    pub fn kind(&self) -> u8 {
        // SAFETY: the relation is open.
        unsafe { (*(*self.as_ptr()).rd_rel).relkind as u8 }
    }

    pub fn is_partition(&self) -> bool {
        // SAFETY: the relation is open.
        unsafe { (*(*self.as_ptr()).rd_rel).relispartition }
    }

    /// The partitions of a partitioned table, in the order of their ranges, the default partition last.
    pub fn partitions(&self) -> Vec<pg_sys::Oid> {
        // SAFETY: the relation is open and partitioned; the description has nparts OIDs and lives as long as the relation is open.
        unsafe {
            let partitions = &*pg_sys::RelationGetPartitionDesc(self.as_ptr(), true);
            (0..partitions.nparts as usize).map(|place| *partitions.oids.add(place)).collect()
        }
    }

    /// The role that owns it.
    pub fn owner(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open.
        unsafe { (*(*self.as_ptr()).rd_rel).relowner }
    }

    /// The columns that are not dropped.
    pub fn columns(&self) -> Vec<Column> {
        // SAFETY: the relation is open, and with it its descriptor.
        unsafe { columns_of(self.descriptor()) }
    }
}

/// The attributes of a composite type that are not dropped.
pub fn attributes_of(type_oid: pg_sys::Oid) -> Vec<Column> {
    // SAFETY: raises an error for what is no composite type; the copy is not reference-counted.
    unsafe { columns_of(pg_sys::lookup_rowtype_tupdesc_copy(type_oid, -1)) }
}

/// # Safety
/// `desc` is a descriptor that lives as long as the call.
unsafe fn columns_of(desc: pg_sys::TupleDesc) -> Vec<Column> {
    // SAFETY: by the caller's promise; a descriptor has natts attributes.
    unsafe {
        (0..(*desc).natts as usize)
            .map(|index| (index, &*compat::attribute(desc, index)))
            .filter(|(_, attribute)| !attribute.attisdropped)
            .map(|(index, attribute)| Column {
                index,
                attnum: attribute.attnum,
                name: core::ffi::CStr::from_ptr(attribute.attname.data.as_ptr()).to_bytes().to_vec(),
                type_oid: attribute.atttypid,
                type_modifier: attribute.atttypmod,
                storage: Storage { len: attribute.attlen, by_value: attribute.attbyval },
                virtual_generated: attribute.attgenerated as u8 == b'v',
            })
            .collect()
    }
}

impl Drop for OpenRelation {
    fn drop(&mut self) {
        // While an error unwinds, the transaction's resource owner closes it.
        if !std::thread::panicking() {
            // SAFETY: opened by us and not closed since; NoLock keeps the lock until the transaction ends.
            unsafe { pg_sys::table_close(self.as_ptr(), pg_sys::NoLock as i32) }
        }
    }
}

/// A row taken apart: one entry an attribute, dropped ones included.
pub struct Row {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

/// The allocations of a row that is gone.
type Emptied = (Vec<pg_sys::Datum>, Vec<bool>);

thread_local! {
    /// A row is taken apart for every change, so its allocations are used again.
    static EMPTIED: RefCell<Vec<Emptied>> = const { RefCell::new(Vec::new()) };
}

/// More rows than this are seldom apart at once.
const KEPT_EMPTY: usize = 4;

impl Drop for Row {
    fn drop(&mut self) {
        let kept = (std::mem::take(&mut self.values), std::mem::take(&mut self.nulls));
        EMPTIED.with_borrow_mut(|emptied| {
            if emptied.len() < KEPT_EMPTY {
                emptied.push(kept);
            }
        });
    }
}

impl Row {
    /// # Safety
    /// `tuple` is a row of the type `desc` and outlives the `Row`.
    pub unsafe fn deform(tuple: pg_sys::HeapTuple, desc: pg_sys::TupleDesc) -> Row {
        // SAFETY: heap_deform_tuple fills natts entries of each array.
        unsafe {
            let count = (*desc).natts as usize;
            let (mut values, mut nulls) = EMPTIED.with_borrow_mut(Vec::pop).unwrap_or_default();
            values.clear();
            nulls.clear();
            values.reserve(count);
            nulls.reserve(count);
            let mut row = Row { values, nulls };
            pg_sys::heap_deform_tuple(tuple, desc, row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
            row.values.set_len(count);
            row.nulls.set_len(count);
            row
        }
    }

    /// # Safety
    /// `slot` holds a row and keeps it while the `Row` is used.
    pub unsafe fn of_slot(slot: *mut pg_sys::TupleTableSlot) -> Row {
        // SAFETY: by the caller's promise.
        unsafe { Row::of_first(slot, (*(*slot).tts_tupleDescriptor).natts as usize) }
    }

    /// The row's first columns.
    ///
    /// # Safety
    /// As `of_slot`; the row has that many columns.
    pub unsafe fn of_first(slot: *mut pg_sys::TupleTableSlot, count: usize) -> Row {
        // SAFETY: by the caller's promise; the slot's arrays hold tts_nvalid entries.
        unsafe {
            if ((*slot).tts_nvalid as usize) < count {
                pg_sys::slot_getsomeattrs_int(slot, count as i32);
            }
            Row {
                values: core::slice::from_raw_parts((*slot).tts_values, count).to_vec(),
                nulls: core::slice::from_raw_parts((*slot).tts_isnull, count).to_vec(),
            }
        }
    }

    /// A row made of values that are none of a table's, such as a key typed by a caller.
    pub fn of_values(values: Vec<Option<Value>>) -> Row {
        Row {
            nulls: values.iter().map(Option::is_none).collect(),
            values: values.into_iter().map(|value| value.map_or(pg_sys::Datum::from(0usize), Value::datum)).collect(),
        }
    }

    pub fn get(&self, index: usize) -> Option<Value> {
        if self.nulls[index] { None } else { Some(Value::new(self.values[index])) }
    }
}

/// `schema.name`, quoted where the server would quote it.
pub fn qualified_name(relid: pg_sys::Oid) -> String {
    match schema_and_name(relid) {
        // SAFETY: both strings are NUL-terminated; the result is palloc'd.
        Some((schema, name)) => unsafe {
            let quoted = pg_sys::quote_qualified_identifier(schema.as_ptr(), name.as_ptr());
            for_message(&super::datum::take_cstring(quoted)).into_owned()
        },
        None => format!("with OID {}", relid.to_u32()),
    }
}

/// The schema and name of a relation that exists.
pub fn schema_and_name(relid: pg_sys::Oid) -> Option<(std::ffi::CString, std::ffi::CString)> {
    // SAFETY: catalog look-ups; the names are palloc'd copies or NULL.
    unsafe {
        let name = pg_sys::get_rel_name(relid);
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relid));
        if name.is_null() || schema.is_null() {
            return None;
        }
        Some((core::ffi::CStr::from_ptr(schema).to_owned(), core::ffi::CStr::from_ptr(name).to_owned()))
    }
}

thread_local! {
    /// Our own relations as found, until the server tells of a change of theirs.
    static OWN: RefCell<Vec<(&'static core::ffi::CStr, pg_sys::Oid)>> = const { RefCell::new(Vec::new()) };
}

/// One of our own relations, by name; None when it does not exist.
pub fn own_relation(name: &'static core::ffi::CStr) -> Option<pg_sys::Oid> {
    let known = OWN.with_borrow(|own| own.iter().find(|(known, _)| *known == name).map(|(_, relid)| *relid));
    if known.is_some() {
        return known;
    }
    // SAFETY: catalog look-ups with NUL-terminated names.
    let relid = unsafe {
        let schema = pg_sys::get_namespace_oid(c"threadline".as_ptr(), true);
        if schema == pg_sys::InvalidOid {
            return None;
        }
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    let found = (relid != pg_sys::InvalidOid).then_some(relid)?;
    OWN.with_borrow_mut(|own| own.push((name, found)));
    Some(found)
}

/// The relation (or, without one, every relation) changed: it may be gone.
pub(super) fn forget_own(relid: Option<pg_sys::Oid>) {
    OWN.with_borrow_mut(|own| own.retain(|(_, known)| relid.is_some_and(|relid| relid != *known)));
}

/// Whether this extension is (still) installed in the database.
pub fn extension_exists() -> bool {
    // SAFETY: catalog look-up with a NUL-terminated name.
    unsafe { pg_sys::get_extension_oid(c"threadline_forensics".as_ptr(), true) != pg_sys::InvalidOid }
}

/// The relation, then its partition ancestors, nearest first. While DETACH CONCURRENTLY waits, a partition is still one:
/// it has its table's triggers until the end.
pub fn with_ancestors(relid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut found = vec![relid];
    let mut lowest = relid;
    // SAFETY: catalog look-ups; a partition has a parent.
    unsafe {
        while pg_sys::get_rel_relispartition(lowest) {
            lowest = ffi::get_partition_parent(lowest);
            found.push(lowest);
        }
    }
    found
}

/// The relation and, if it is partitioned, all below it, each locked in `lock`.
pub fn with_partitions(relid: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> Vec<pg_sys::Oid> {
    // SAFETY: catalog look-ups; the list is of OIDs.
    unsafe {
        if pg_sys::get_rel_relkind(relid) as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
            return vec![relid];
        }
        let list = ffi::find_all_inheritors(relid, lock);
        (0..list_length(list)).map(|place| pg_sys::list_nth_oid(list, place)).collect()
    }
}

/// # Safety
/// `list` is NIL or a list of the server's.
unsafe fn list_length(list: *mut pg_sys::List) -> i32 {
    // SAFETY: by the caller's promise.
    if list.is_null() { 0 } else { unsafe { (*list).length } }
}

/// The relation whose row type `type_oid` is.
pub fn of_row_type(type_oid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: catalog look-up.
    let relid = unsafe { pg_sys::get_typ_typrelid(type_oid) };
    (relid != pg_sys::InvalidOid).then_some(relid)
}

/// How many rows the relation has, as far as its statistics tell.
pub fn estimated_rows(relid: pg_sys::Oid) -> Option<f64> {
    let relation = OpenRelation::open(relid, pg_sys::AccessShareLock as i32);
    // SAFETY: the relation is open.
    let rows = f64::from(unsafe { (*(*relation.as_ptr()).rd_rel).reltuples });
    (rows > 0.0).then_some(rows)
}

/// Tells every session to forget what it has cached of the relation, at the end of this transaction.
pub fn invalidate(relid: pg_sys::Oid) {
    // SAFETY: raises an error for a relation that does not exist; callers pass existing ones.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relid) }
}

pub fn exists(relid: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-up; '\0' stands for "no such relation".
    unsafe { pg_sys::get_rel_relkind(relid) != 0 }
}

/// Whether the relation is a temporary one of this session.
pub fn is_own_temporary(relid: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-up; reads the session state.
    unsafe { pg_sys::isTempNamespace(pg_sys::get_rel_namespace(relid)) }
}

/// From now on the server drops `dependent` whenever it drops `with`.
pub fn drop_together(dependent: pg_sys::Oid, with: pg_sys::Oid) {
    let address =
        |relid| pg_sys::ObjectAddress { classId: pg_sys::RelationRelationId, objectId: relid, objectSubId: 0 };
    // SAFETY: both addresses live as long as the call, which writes a row of pg_depend.
    unsafe { pg_sys::recordDependencyOn(&address(dependent), &address(with), pg_sys::DependencyType::DEPENDENCY_AUTO) }
}

/// Locks the relation unless that would take waiting; says whether it did.
pub fn lock_if_free(relid: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> bool {
    // SAFETY: takes any OID; the lock stays until the transaction ends.
    unsafe { pg_sys::ConditionalLockRelationOid(relid, lock) }
}

/// Whether TRUNCATE of the relation calls our truncate function, here and now.
pub fn has_truncate_trigger(relid: pg_sys::Oid) -> bool {
    let relation = OpenRelation::open(relid, pg_sys::AccessShareLock as i32);
    // SAFETY: the relation is open; its trigger description, if any, has numtriggers entries.
    unsafe {
        super::trigger::triggers_of(relation.as_ptr()).iter().any(|trigger| {
            super::trigger::fires_on_truncate(trigger) && {
                let name = pg_sys::get_func_name(trigger.tgfoid);
                !name.is_null()
                    && core::ffi::CStr::from_ptr(name) == c"capture_truncate"
                    && pg_sys::get_func_namespace(trigger.tgfoid)
                        == pg_sys::get_namespace_oid(c"threadline".as_ptr(), true)
            }
        })
    }
}
