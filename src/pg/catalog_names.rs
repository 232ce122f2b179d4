//! Names in the catalogs: of functions, schemas and foreign keys.

use core::ffi::CStr;

use pgrx::pg_sys;

use super::datum::take_cstring;
use super::relation::OpenRelation;

/// A function's schema, name and number of input arguments.
pub struct FunctionName {
    pub schema: Vec<u8>,
    pub name: Vec<u8>,
    pub arguments: i32,
}

pub fn function_name(function: pg_sys::Oid) -> Option<FunctionName> {
    // SAFETY: catalog look-ups; the function is known to exist before its arguments are counted. Names are palloc'd.
    unsafe {
        let name = pg_sys::get_func_name(function);
        if name.is_null() {
            return None;
        }
        let schema = schema_name(pg_sys::get_func_namespace(function))?;
        Some(FunctionName { schema, name: take_cstring(name), arguments: pg_sys::get_func_nargs(function) })
    }
}

pub fn schema_name(schema: pg_sys::Oid) -> Option<Vec<u8>> {
    // SAFETY: a catalog look-up; the name is palloc'd or NULL.
    unsafe {
        let name = pg_sys::get_namespace_name(schema);
        (!name.is_null()).then(|| take_cstring(name))
    }
}

/// The only function of a name, whatever its schema; None when there are several, or none.
pub fn only_function_named(name: &[u8]) -> Option<pg_sys::Oid> {
    let name = std::ffi::CString::new(name).ok()?;
    let unused = pg_sys::Datum::from(0usize);
    // SAFETY: a partial look-up by a NUL-terminated name; the list has n_members entries, rows of pg_proc, until it is
    // released.
    unsafe {
        let list = pg_sys::SearchSysCacheList(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            1,
            pg_sys::Datum::from(name.as_ptr()),
            unused,
            unused,
        );
        let only = ((*list).n_members == 1).then(|| {
            let member = *(*list).members.as_ptr();
            (*pg_sys::GETSTRUCT(&raw mut (*member).tuple).cast::<pg_sys::FormData_pg_proc>()).oid
        });
        pg_sys::ReleaseCatCacheList(list);
        only
    }
}

/// A foreign key of a table and what it does to the table's rows: `pg_constraint.confupdtype` and `confdeltype`.
pub struct ForeignKey {
    pub name: Vec<u8>,
    pub on_update: u8,
    pub on_delete: u8,
}

pub fn foreign_keys(relid: pg_sys::Oid) -> Vec<ForeignKey> {
    let relation = OpenRelation::open(relid, pg_sys::AccessShareLock as i32);
    // SAFETY: the relation is open; its list, if any, is of ForeignKeyCacheInfo. The list is left before anything that
    // could rebuild it.
    let constraints: Vec<pg_sys::Oid> = unsafe {
        let list = pg_sys::RelationGetFKeyList(relation.as_ptr());
        let length = if list.is_null() { 0 } else { (*list).length };
        (0..length).map(|at| (*pg_sys::list_nth(list, at).cast::<pg_sys::ForeignKeyCacheInfo>()).conoid).collect()
    };
    constraints.into_iter().filter_map(foreign_key).collect()
}

/// A partition's foreign key bears the name of the partitioned table's.
fn foreign_key(constraint: pg_sys::Oid) -> Option<ForeignKey> {
    let on_update = constraint_column(constraint, c"confupdtype")?.value() as u8;
    let on_delete = constraint_column(constraint, c"confdeltype")?.value() as u8;
    let mut named = constraint;
    while let Some(parent) = constraint_column(named, c"conparentid").map(|parent| parent.value() as u32)
        && parent != 0
    {
        named = pg_sys::Oid::from(parent);
    }
    // SAFETY: a catalog look-up; the name is palloc'd or NULL.
    let name = unsafe {
        let name = pg_sys::get_constraint_name(named);
        if name.is_null() {
            return None;
        }
        take_cstring(name)
    };
    Some(ForeignKey { name, on_update, on_delete })
}

/// A column, passed by value, of the constraint's row. Its place differs between versions.
fn constraint_column(constraint: pg_sys::Oid, column: &CStr) -> Option<pg_sys::Datum> {
    const PG_CONSTRAINT: u32 = 2606;
    let cache = pg_sys::SysCacheIdentifier::CONSTROID as i32;
    // SAFETY: catalog look-ups; the row is released once the value, which is no pointer into it, is read.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(cache, constraint.into());
        if tuple.is_null() {
            return None;
        }
        let place = pg_sys::get_attnum(pg_sys::Oid::from(PG_CONSTRAINT), column.as_ptr());
        let mut is_null = false;
        let value = pg_sys::SysCacheGetAttr(cache, tuple, place, &raw mut is_null);
        pg_sys::ReleaseSysCache(tuple);
        (!is_null).then_some(value)
    }
}
