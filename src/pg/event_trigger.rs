//! What a command that is about to run says it will do.

use pgrx::pg_sys;

/// The tables named by a DROP TABLE, as far as they exist.
pub fn tables_to_drop(data: &pg_sys::EventTriggerData) -> Vec<pg_sys::Oid> {
    // SAFETY: the parse tree of the command lives while its event triggers run; its tag tells its type. The names are
    // looked up as DROP TABLE will, without a lock.
    unsafe {
        if data.parsetree.is_null() || (*data.parsetree).type_ != pg_sys::NodeTag::T_DropStmt {
            return Vec::new();
        }
        let statement = &*data.parsetree.cast::<pg_sys::DropStmt>();
        if statement.removeType != pg_sys::ObjectType::OBJECT_TABLE || statement.objects.is_null() {
            return Vec::new();
        }
        (0..(*statement.objects).length)
            .map(|place| {
                let names = pg_sys::list_nth(statement.objects, place).cast::<pg_sys::List>();
                pg_sys::RangeVarGetRelidExtended(
                    pg_sys::makeRangeVarFromNameList(names),
                    pg_sys::NoLock as i32,
                    pg_sys::RVROption::RVR_MISSING_OK,
                    None,
                    core::ptr::null_mut(),
                )
            })
            .filter(|relid| *relid != pg_sys::InvalidOid)
            .collect()
    }
}
