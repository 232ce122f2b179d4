//! Server functions and variables that pgrx's bindings leave out, as the server's headers declare them.

use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::AtomicI32;

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
    pub fn double_to_shortest_decimal_bufn(value: f64, result: *mut c_char) -> c_int;
    pub fn float_to_shortest_decimal_bufn(value: f32, result: *mut c_char) -> c_int;
    /// dlfcn.h, locale.h
    pub fn dladdr(address: *const c_void, found: *mut DlInfo) -> c_int;
    pub fn newlocale(mask: c_int, name: *const c_char, base: Locale) -> Locale;
    pub fn uselocale(locale: Locale) -> Locale;
    /// utils/bytea.h: the variable behind the setting of that name, an int that only the backend's one thread reads and writes.
    #[allow(non_upper_case_globals)]
    pub static bytea_output: AtomicI32;
}

/// `Dl_info`
#[repr(C)]
pub struct DlInfo {
    pub file_name: *const c_char,
    _file_base: *mut c_void,
    _symbol_name: *const c_char,
    _symbol: *mut c_void,
}

impl Default for DlInfo {
    fn default() -> DlInfo {
        let none = core::ptr::null_mut();
        DlInfo { file_name: core::ptr::null(), _file_base: none, _symbol_name: core::ptr::null(), _symbol: none }
    }
}

/// `locale_t`
pub type Locale = *mut c_void;

/// As Linux has it; elsewhere newlocale gives a locale of other categories, or none.
pub const LC_MESSAGES_MASK: c_int = 1 << 5;

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
