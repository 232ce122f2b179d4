//! Everything that differs between server versions.

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

/// Begins a row of insertions into one index with an IndexInfo that outlives it. What a BRIN keeps in it (brininsert) points
/// into the server's description of the index: it is of use for the next row of insertions only while that is the same,
/// and since PostgreSQL 17 not at all. Otherwise it goes with the current context.
///
/// # Safety
/// `info` is a live IndexInfo. Once `has_changed` it is not used again beyond the current context's end.
pub unsafe fn begin_index_insert(info: *mut pg_sys::IndexInfo, has_changed: bool) {
    let kept = cfg!(any(feature = "pg14", feature = "pg15", feature = "pg16")) && !has_changed;
    if !kept {
        // SAFETY: by the caller's promise.
        unsafe {
            (*info).ii_AmCache = core::ptr::null_mut();
            (*info).ii_Context = pg_sys::CurrentMemoryContext;
        }
    }
}

/// Ends a row of insertions into one index, which some access methods have to be told since PostgreSQL 17.
///
/// # Safety
/// `index` is open; `info` is what was passed to its insertions.
pub unsafe fn finish_index_insert(index: pg_sys::Relation, info: *mut pg_sys::IndexInfo) {
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: by the caller's promise.
    unsafe {
        pg_sys::index_insert_cleanup(index, info)
    }
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    let _ = (index, info);
}

/// Begins to read a table by an index.
///
/// # Safety
/// Table and index are open; the snapshot lives as long as the scan.
pub unsafe fn begin_index_scan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: by the caller's promise.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return pg_sys::index_beginscan(table, index, snapshot, keys, 0);
        #[cfg(feature = "pg18")]
        return pg_sys::index_beginscan(table, index, snapshot, core::ptr::null_mut(), keys, 0);
    }
}

/// The analysis of a statement without parameters.
///
/// # Safety
/// `statement` is what the parser made of `query`.
pub unsafe fn analyse(statement: *mut pg_sys::RawStmt, query: &core::ffi::CStr) -> *mut pg_sys::Query {
    let (none, environment) = (core::ptr::null::<pg_sys::Oid>(), core::ptr::null_mut());
    // SAFETY: by the caller's promise; there are no parameters.
    unsafe {
        #[cfg(feature = "pg14")]
        return pg_sys::parse_analyze(statement, query.as_ptr(), none.cast_mut(), 0, environment);
        #[cfg(not(feature = "pg14"))]
        return pg_sys::parse_analyze_fixedparams(statement, query.as_ptr(), none, 0, environment);
    }
}

/// Whether `role` owns the relation (or is a superuser).
pub fn owns_relation(relid: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-up with plain values.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        return pg_sys::pg_class_ownercheck(relid, role);
        #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
        return pg_sys::object_ownercheck(pg_sys::RelationRelationId, relid, role);
    }
}

/// Whether `role` owns the schema (or is a superuser).
pub fn owns_schema(schema: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-up with plain values.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        return pg_sys::pg_namespace_ownercheck(schema, role);
        #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
        return pg_sys::object_ownercheck(pg_sys::NamespaceRelationId, schema, role);
    }
}

/// Attribute `index` (0-based) of a tuple descriptor.
///
/// # Safety
/// `desc` is a live tuple descriptor and `index` below its `natts`.
pub unsafe fn attribute(desc: pg_sys::TupleDesc, index: usize) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: within bounds by the caller's promise. PostgreSQL 18 moved the full attributes behind
    // the compact ones (TupleDescAttr).
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17"))]
        return (*desc).attrs.as_ptr().add(index);
        #[cfg(feature = "pg18")]
        return (*desc)
            .compact_attrs
            .as_ptr()
            .add((*desc).natts as usize)
            .cast::<pg_sys::FormData_pg_attribute>()
            .add(index);
    }
}

/// The server reserves a setting prefix from PostgreSQL 15 on; before, it only warns.
pub fn reserve_setting_prefix(prefix: &'static core::ffi::CStr) {
    // SAFETY: a static, NUL-terminated string.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(prefix.as_ptr());
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
    }
}

/// The server's list of backends, read anew.
pub fn backends() -> Vec<pg_sys::LocalPgBackendStatus> {
    // SAFETY: the entries are this backend's local copies, valid until the list is next cleared; places count from 1.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::pgstat_clear_snapshot();
        #[cfg(not(feature = "pg14"))]
        pg_sys::pgstat_clear_backend_activity_snapshot();
        (1..=pg_sys::pgstat_fetch_stat_numbackends())
            .filter_map(|place| {
                #[cfg(any(feature = "pg14", feature = "pg15"))]
                let entry = pg_sys::pgstat_fetch_stat_local_beentry(place);
                #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
                let entry = pg_sys::pgstat_get_local_beentry_by_index(place);
                entry.as_ref().copied()
            })
            .collect()
    }
}

/// How a PLpgSQL_execstate starts (plpgsql.h), the same in all versions.
#[repr(C)]
pub struct PlpgsqlState {
    pub function: *const PlpgsqlFunction,
    /// NULL unless a trigger called.
    pub trigger: *const pg_sys::TriggerData,
}

/// How a PLpgSQL_function starts.
#[repr(C)]
pub struct PlpgsqlFunction {
    #[cfg(feature = "pg18")]
    _cached: CachedFunction,
    _signature: *const core::ffi::c_char,
    pub oid: pg_sys::Oid,
}

/// utils/funccache.h
#[cfg(feature = "pg18")]
#[repr(C)]
struct CachedFunction {
    _hash_key: *const core::ffi::c_void,
    _xmin: pg_sys::TransactionId,
    _tid: pg_sys::ItemPointerData,
    _delete_callback: *const core::ffi::c_void,
    _use_count: u64,
}

mod nbtree {
    use pgrx::pg_sys;

    /// BTScanInsertData, BTStackData: only handed on.
    type Key = *mut core::ffi::c_void;
    type Stack = *mut core::ffi::c_void;

    unsafe extern "C-unwind" {
        pub fn _bt_mkscankey(index: pg_sys::Relation, entry: pg_sys::IndexTuple) -> Key;
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        pub fn _bt_search(
            index: pg_sys::Relation,
            key: Key,
            leaf: *mut pg_sys::Buffer,
            access: core::ffi::c_int,
            snapshot: pg_sys::Snapshot,
        ) -> Stack;
        #[cfg(feature = "pg16")]
        pub fn _bt_search(
            index: pg_sys::Relation,
            table: pg_sys::Relation,
            key: Key,
            leaf: *mut pg_sys::Buffer,
            access: core::ffi::c_int,
            snapshot: pg_sys::Snapshot,
        ) -> Stack;
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        pub fn _bt_search(
            index: pg_sys::Relation,
            table: pg_sys::Relation,
            key: Key,
            leaf: *mut pg_sys::Buffer,
            access: core::ffi::c_int,
        ) -> Stack;
        pub fn _bt_freestack(stack: Stack);
    }
}

/// The leaf of a btree that an entry belongs on, locked for writing (access/nbtree.h). None in an index of an old format.
///
/// # Safety
/// `index` is an open btree of the open `table`; the entry is one of its, with every column and its row's place.
#[allow(ffi_unwind_calls, reason = "protected by pg_guard_ffi_boundary")]
pub unsafe fn lock_btree_leaf(
    index: pg_sys::Relation,
    table: pg_sys::Relation,
    entry: pg_sys::IndexTuple,
) -> Option<pg_sys::Buffer> {
    let mut leaf: pg_sys::Buffer = 0;
    // SAFETY: by the caller's promise; the key is allocated in the current context, and its first field (heapkeyspace)
    // says whether entries are ordered by their rows' places too. A server error is turned into a Rust panic at the
    // boundary, where nothing needs to be dropped.
    let found = unsafe {
        pg_guard_ffi_boundary(|| {
            let key = nbtree::_bt_mkscankey(index, entry);
            let found = *key.cast::<bool>();
            if found {
                let access = pg_sys::BUFFER_LOCK_EXCLUSIVE as i32;
                #[cfg(any(feature = "pg14", feature = "pg15"))]
                let stack = nbtree::_bt_search(index, key, &mut leaf, access, core::ptr::null_mut());
                #[cfg(feature = "pg16")]
                let stack = nbtree::_bt_search(index, table, key, &mut leaf, access, core::ptr::null_mut());
                #[cfg(any(feature = "pg17", feature = "pg18"))]
                let stack = nbtree::_bt_search(index, table, key, &mut leaf, access);
                nbtree::_bt_freestack(stack);
            }
            pg_sys::pfree(key);
            found
        })
    };
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    let _ = table;
    (found && leaf != 0).then_some(leaf)
}
