//! What a session needs of the server to read the past under its tables' own names.

use pgrx::pg_sys;

use crate::error::{Error, OrRaise};
use crate::pg::function::Call;
use crate::pg::{plans, relation, types, user, xact};

/// `threadline.in_transaction_block()`
pub fn in_transaction_block(call: &mut Call) -> pg_sys::Datum {
    call.return_value(Some(xact::in_block().into()))
}

/// `threadline.forget_plans()`
pub fn forget_plans(call: &mut Call) -> pg_sys::Datum {
    plans::forget();
    call.return_null()
}

/// `threadline.drop_together(dependent, owner)`
pub fn drop_together(call: &mut Call) -> pg_sys::Datum {
    let of_caller = |index| {
        let relid = call.oid(index).unwrap_or(pg_sys::InvalidOid);
        if relation::is_own_temporary(relid) && user::owns(relid) {
            Ok(relid)
        } else {
            Err(Error::NotOwner { table: relation::qualified_name(relid) })
        }
    };
    let (dependent, owner) = (of_caller(0).or_raise(), of_caller(1).or_raise());
    relation::drop_together(dependent, owner);
    call.return_null()
}

/// `threadline.view_is_volatile(view)`
pub fn view_is_volatile(call: &mut Call) -> pg_sys::Datum {
    let volatile = call.oid(0).filter(|view| relation::exists(*view)).and_then(plans::view_is_volatile);
    call.return_value(volatile.map(Into::into))
}

/// `threadline.query_findings(query)` → (relations, is_volatile)
pub fn query_findings(call: &mut Call) -> pg_sys::Datum {
    let query = call.text(0).and_then(|text| std::ffi::CString::new(text).ok()).unwrap_or_default();
    let (relations, volatile) = plans::query_findings(&query);
    call.return_row(&mut [Some(types::oid_array(&relations)), Some(volatile.into())])
}
