//! SQL-callable functions: the call, its arguments, its results. The DDL stands in sql/install/library.sql;
//! `sql_functions!` makes the C symbols that it names.

use pgrx::pg_sys;

use super::datum::{Value, for_message};
use super::trigger::TriggerCall;

/// A call of one of our functions.
pub struct Call<'call> {
    fcinfo: &'call mut pg_sys::FunctionCallInfoBaseData,
}

impl<'call> Call<'call> {
    /// # Safety
    /// `fcinfo` is what the server passed to a version-1 function, for the duration of the call.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Call<'call> {
        // SAFETY: by the caller's promise.
        Call { fcinfo: unsafe { &mut *fcinfo } }
    }

    pub fn trigger(&self) -> Option<TriggerCall<'_>> {
        TriggerCall::of(self.fcinfo)
    }

    /// None unless an event trigger made the call.
    pub fn event_trigger(&self) -> Option<&pg_sys::EventTriggerData> {
        // SAFETY: what CALLED_AS_EVENT_TRIGGER tests: the context node, if any, carries a tag.
        unsafe {
            let context = self.fcinfo.context.as_ref()?;
            (context.type_ == pg_sys::NodeTag::T_EventTriggerData)
                .then(|| &*self.fcinfo.context.cast::<pg_sys::EventTriggerData>())
        }
    }

    /// Argument `index`, None when NULL.
    pub fn value(&self, index: usize) -> Option<Value> {
        assert!(index < self.fcinfo.nargs as usize);
        // SAFETY: the argument array has nargs entries.
        let argument = unsafe { &*self.fcinfo.args.as_ptr().add(index) };
        (!argument.isnull).then(|| Value::new(argument.value))
    }

    pub fn oid(&self, index: usize) -> Option<pg_sys::Oid> {
        self.value(index).map(|value| pg_sys::Oid::from(value.datum().value() as u32))
    }

    /// A text argument's bytes.
    pub fn text(&self, index: usize) -> Option<&[u8]> {
        self.value(index).map(Value::payload)
    }

    /// The type of argument `index` in the calling query.
    pub fn argument_type(&self, index: i32) -> pg_sys::Oid {
        // SAFETY: flinfo is set for every call through fmgr.
        unsafe { pg_sys::get_fn_expr_argtype(self.fcinfo.flinfo, index) }
    }

    /// The types of the arguments, looked up once for each place of a query that calls the function, for which it keeps nothing else.
    pub fn argument_types(&self) -> &[pg_sys::Oid] {
        let count = self.fcinfo.nargs as usize;
        // SAFETY: flinfo is set for every call through fmgr, and fn_extra is the called function's own: NULL at first, and in the memory
        // of flinfo, where the number of arguments stays what it is.
        unsafe {
            let info = &mut *self.fcinfo.flinfo;
            if info.fn_extra.is_null() {
                let types = pg_sys::MemoryContextAlloc(info.fn_mcxt, count * size_of::<pg_sys::Oid>());
                for index in 0..count {
                    types.cast::<pg_sys::Oid>().add(index).write(self.argument_type(index as i32));
                }
                info.fn_extra = types;
            }
            core::slice::from_raw_parts(info.fn_extra.cast(), count)
        }
    }

    pub fn return_null(&mut self) -> pg_sys::Datum {
        self.fcinfo.isnull = true;
        pg_sys::Datum::from(0usize)
    }

    pub fn return_value(&mut self, value: Option<pg_sys::Datum>) -> pg_sys::Datum {
        match value {
            Some(datum) => datum,
            None => self.return_null(),
        }
    }

    /// Returns one row of the function's declared OUT columns.
    pub fn return_row(&mut self, fields: &mut [Option<pg_sys::Datum>]) -> pg_sys::Datum {
        let (mut values, mut nulls) = split(fields);
        // SAFETY: the declared row type has as many columns as `fields`, which is asserted.
        unsafe {
            let mut desc: pg_sys::TupleDesc = core::ptr::null_mut();
            pg_sys::get_call_result_type(self.fcinfo, core::ptr::null_mut(), &mut desc);
            assert!(!desc.is_null() && (*desc).natts as usize == fields.len());
            let desc = pg_sys::BlessTupleDesc(desc);
            let tuple = pg_sys::heap_form_tuple(desc, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::heap_copy_tuple_as_datum(tuple, desc)
        }
    }

    /// Returns a set of rows of the function's declared row type, one for each item.
    pub fn return_rows(&mut self, rows: impl IntoIterator<Item = Vec<Option<pg_sys::Datum>>>) -> pg_sys::Datum {
        // SAFETY: what every function that materialises its result does: the store and its descriptor are made
        // in the query's memory and handed over through ReturnSetInfo, after checking that the caller accepts it.
        unsafe {
            let info = self.fcinfo.resultinfo.cast::<pg_sys::ReturnSetInfo>();
            let accepts = !info.is_null()
                && (*info).type_ == pg_sys::NodeTag::T_ReturnSetInfo
                && (*info).allowedModes & pg_sys::SetFunctionReturnMode::SFRM_Materialize as i32 != 0;
            if !accepts {
                pgrx::ereport!(
                    ERROR,
                    pgrx::PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                    "set-valued function called in context that cannot accept a set"
                );
            }
            let mut desc: pg_sys::TupleDesc = core::ptr::null_mut();
            pg_sys::get_call_result_type(self.fcinfo, core::ptr::null_mut(), &mut desc);
            if desc.is_null() {
                // Of one column, which makes no row type.
                desc = (*info).expectedDesc;
            }
            assert!(!desc.is_null());
            let previous = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = (*(*info).econtext).ecxt_per_query_memory;
            let desc = pg_sys::CreateTupleDescCopy(desc);
            let store = pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem);
            pg_sys::CurrentMemoryContext = previous;
            for mut row in rows {
                assert_eq!(row.len(), (*desc).natts as usize);
                let (mut values, mut nulls) = split(&mut row);
                pg_sys::tuplestore_putvalues(store, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
            }
            (*info).returnMode = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
            (*info).setResult = store;
            (*info).setDesc = desc;
        }
        self.return_null()
    }
}

fn split(fields: &mut [Option<pg_sys::Datum>]) -> (Vec<pg_sys::Datum>, Vec<bool>) {
    (
        fields.iter().map(|field| field.unwrap_or(pg_sys::Datum::from(0usize))).collect(),
        fields.iter().map(Option::is_none).collect(),
    )
}

/// A composite argument: its relation, if its type is a table's row type, and its columns.
pub fn composite_argument(call: &Call, index: usize) -> Option<(pg_sys::Oid, super::relation::Row)> {
    let value = call.value(index)?;
    // SAFETY: the function is declared on a polymorphic type and the argument's type is checked to be a row type
    // before the datum is read as one; the detoasted copy and the descriptor live in the current context.
    unsafe {
        let relid = super::relation::of_row_type(super::types::base_type(call.argument_type(index as i32)))?;
        let header = pg_sys::pg_detoast_datum(value.datum().cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
        let type_oid = (*header).t_choice.t_datum.datum_typeid;
        let modifier = (*header).t_choice.t_datum.datum_typmod;
        let desc = pg_sys::lookup_rowtype_tupdesc_copy(type_oid, modifier);
        let mut tuple = pg_sys::HeapTupleData {
            t_len: pgrx::varlena::varsize_any(header.cast()) as u32,
            t_data: header,
            ..Default::default()
        };
        let row = super::relation::Row::deform(&mut tuple, desc);
        Some((relid, row))
    }
}

/// An argument as text for messages.
pub fn lossy(bytes: &[u8]) -> String {
    for_message(bytes).into_owned()
}

/// Makes the version-1 C symbols for functions declared in sql/install/library.sql.
#[macro_export]
macro_rules! sql_functions {
    ($($symbol:ident / $info:ident => $handler:path;)*) => {
        $(
            #[unsafe(no_mangle)]
            pub extern "C-unwind" fn $info() -> *const pgrx::pg_sys::Pg_finfo_record {
                const RECORD: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &RECORD
            }

            /// # Safety
            /// Called by the server's function manager only.
            #[unsafe(no_mangle)]
            #[pgrx::pg_guard]
            pub unsafe extern "C-unwind" fn $symbol(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
                // SAFETY: the function manager passes a valid call.
                let mut call = unsafe { $crate::pg::function::Call::new(fcinfo) };
                $handler(&mut call)
            }
        )*
    };
}
