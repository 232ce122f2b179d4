//! Who runs the statement, and acting as the extension's owner.

use pgrx::pg_sys;

use super::compat;
use super::datum::for_message;
use super::relation::own_relation;
use crate::error::Error;

/// Whether the current role owns the relation.
pub fn owns(relid: pg_sys::Oid) -> bool {
    // SAFETY: reads the session state.
    compat::owns_relation(relid, unsafe { pg_sys::GetUserId() })
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
    let log = own_relation(c"change_log").ok_or_else(|| Error::StorageMissing { relation: "change_log".into() })?;
    let owner = {
        let relation = super::relation::OpenRelation::open(log, pg_sys::AccessShareLock as i32);
        // SAFETY: the relation is open.
        unsafe { (*(*relation.as_ptr()).rd_rel).relowner }
    };
    let (mut caller, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: the pair is saved and given back, as the server does around referential-integrity queries.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut caller, &mut context);
        pg_sys::SetUserIdAndSecContext(owner, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
    }
    let result = work();
    // SAFETY: as above.
    unsafe { pg_sys::SetUserIdAndSecContext(caller, context) };
    Ok(result)
}
