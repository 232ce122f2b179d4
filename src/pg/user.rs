//! Who runs the statement, and acting as the extension's owner.

use pgrx::pg_sys;

use super::compat;
use super::datum::for_message;
use super::relation::{OpenRelation, own_relation};
use crate::error::Error;

/// Whether the current role owns the relation.
pub fn owns(relid: pg_sys::Oid) -> bool {
    // SAFETY: reads the session state.
    compat::owns_relation(relid, unsafe { pg_sys::GetUserId() })
}

/// Whether the current role owns the relation's schema.
pub fn owns_schema_of(relid: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up; reads the session state.
    unsafe { compat::owns_schema(pg_sys::get_rel_namespace(relid), pg_sys::GetUserId()) }
}

/// Whether the current role may SELECT from the relation.
pub fn may_select(relid: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-up; the relation exists.
    unsafe {
        let mode = pg_sys::AclMode::from(pg_sys::ACL_SELECT);
        pg_sys::pg_class_aclcheck(relid, pg_sys::GetUserId(), mode) == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Whether the current role may read every row of the relation.
pub fn may_read(relid: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-up; InvalidOid stands for the current role.
    super::relation::exists(relid)
        && may_select(relid)
        && unsafe { pg_sys::check_enable_rls(relid, pg_sys::InvalidOid, true) }
            != pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
}

/// Whether the current role owns the schema; also when there is none of the name, which whoever asks on will find.
pub fn may_rule_schema(name: &[u8]) -> bool {
    let Ok(name) = std::ffi::CString::new(name) else { return true };
    // SAFETY: a catalog look-up with a NUL-terminated name; reads the session state.
    unsafe {
        let schema = pg_sys::get_namespace_oid(name.as_ptr(), true);
        schema == pg_sys::InvalidOid || compat::owns_schema(schema, pg_sys::GetUserId())
    }
}

/// The role the session logged in as (or SET SESSION AUTHORIZATION to).
pub fn session_user() -> pg_sys::Oid {
    // SAFETY: reads the session state.
    unsafe { pg_sys::GetSessionUserId() }
}

/// The role SET ROLE chose, outside any SECURITY DEFINER function.
pub fn outer_user() -> pg_sys::Oid {
    // SAFETY: reads the session state.
    unsafe { pg_sys::GetOuterUserId() }
}

pub fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: with noerr the result is a palloc'd string or NULL.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() {
            return format!("{}", role.to_u32());
        }
        for_message(&super::datum::take_cstring(name)).into_owned()
    }
}

/// Runs `work` with the rights of the extension's owner, and with the caller's again afterwards.
/// An error gives them back through the abort of the (sub)transaction.
pub fn as_owner<R>(work: impl FnOnce() -> R) -> Result<R, Error> {
    as_owner_through(c"change_log", work)
}

/// The same for work on one of our own tables, for which no other need be there.
pub fn as_owner_through<R>(table: &'static core::ffi::CStr, work: impl FnOnce() -> R) -> Result<R, Error> {
    let relid = own_relation(table)
        .ok_or_else(|| Error::StorageMissing { relation: for_message(table.to_bytes()).into_owned() })?;
    let owner = OpenRelation::open(relid, pg_sys::AccessShareLock as i32).owner();
    Ok(as_role(owner, pg_sys::SECURITY_LOCAL_USERID_CHANGE, work))
}

/// Runs `work`, which may call functions of the relation's owner (a cast to json), with that owner's rights and no
/// others, as the server does when it rebuilds an index: settings those functions change are put back.
pub fn as_owner_of<R>(relation: &OpenRelation, work: impl FnOnce() -> R) -> R {
    // SAFETY: a nested level of settings is opened here and closed below; an error closes it with the (sub)transaction.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    let result = as_role(relation.owner(), pg_sys::SECURITY_RESTRICTED_OPERATION, work);
    // SAFETY: closes the level opened above.
    unsafe { pg_sys::AtEOXact_GUC(false, level) };
    result
}

fn as_role<R>(role: pg_sys::Oid, restriction: u32, work: impl FnOnce() -> R) -> R {
    let (mut caller, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: the pair is saved and given back, as the server does around referential-integrity queries.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut caller, &mut context);
        pg_sys::SetUserIdAndSecContext(role, context | restriction as i32);
    }
    let result = work();
    // SAFETY: as above.
    unsafe { pg_sys::SetUserIdAndSecContext(caller, context) };
    result
}
