//! Everything that differs between server versions.

use pgrx::pg_sys;

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
