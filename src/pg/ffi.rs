//! Server functions and variables that pgrx's bindings leave out, as the server's headers declare them.

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

mod server {
    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        pub fn nextval_internal(relid: pg_sys::Oid, check_permissions: bool) -> i64;
        pub fn get_partition_parent(relid: pg_sys::Oid, even_if_detached: bool) -> pg_sys::Oid;
        pub fn find_all_inheritors(
            parent: pg_sys::Oid,
            lockmode: pg_sys::LOCKMODE,
            numparents: *mut *mut pg_sys::List,
        ) -> *mut pg_sys::List;
        pub fn CheckForSerializableConflictIn(
            relation: pg_sys::Relation,
            tid: pg_sys::ItemPointer,
            block: pg_sys::BlockNumber,
        );
    }
}

unsafe extern "C" {
    /// common/shortest_dec.h: neither raises an error nor allocates.
    pub fn double_to_shortest_decimal_bufn(value: f64, result: *mut core::ffi::c_char) -> core::ffi::c_int;
    pub fn float_to_shortest_decimal_bufn(value: f32, result: *mut core::ffi::c_char) -> core::ffi::c_int;
    /// utils/bytea.h
    #[allow(non_upper_case_globals)]
    pub static mut bytea_output: core::ffi::c_int;
}

/// commands/sequence.h; `nextval_oid` would check the writer's privileges.
///
/// # Safety
/// `relid` is a sequence.
#[allow(ffi_unwind_calls, reason = "protected by pg_guard_ffi_boundary")]
pub unsafe fn nextval_internal(relid: pg_sys::Oid, check_permissions: bool) -> i64 {
    // SAFETY: by the caller's promise; a server error is turned into a Rust panic at the boundary.
    unsafe { pg_guard_ffi_boundary(|| server::nextval_internal(relid, check_permissions)) }
}

/// catalog/partition.h: the table that a relation is a partition of, though it is being detached.
///
/// # Safety
/// `relid` is a partition.
#[allow(ffi_unwind_calls, reason = "protected by pg_guard_ffi_boundary")]
pub unsafe fn get_partition_parent(relid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: as above.
    unsafe { pg_guard_ffi_boundary(|| server::get_partition_parent(relid, true)) }
}

/// catalog/pg_inherits.h: the relation itself, then all that inherit from it, locked.
///
/// # Safety
/// `parent` is a relation.
#[allow(ffi_unwind_calls, reason = "protected by pg_guard_ffi_boundary")]
pub unsafe fn find_all_inheritors(parent: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> *mut pg_sys::List {
    // SAFETY: as above; the parents' counts are not asked for.
    unsafe { pg_guard_ffi_boundary(|| server::find_all_inheritors(parent, lock, core::ptr::null_mut())) }
}

/// storage/predicate.h: notes, before a page of an index is changed, who of the serializable readers of it depends on us.
///
/// # Safety
/// `index` is open.
#[allow(ffi_unwind_calls, reason = "protected by pg_guard_ffi_boundary")]
pub unsafe fn check_for_serializable_conflict_in(index: pg_sys::Relation, block: pg_sys::BlockNumber) {
    // SAFETY: by the caller's promise; a conflict is a server error, turned into a Rust panic at the boundary.
    unsafe {
        pg_guard_ffi_boundary(|| server::CheckForSerializableConflictIn(index, core::ptr::null_mut(), block));
    }
}
