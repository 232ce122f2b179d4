//! Values through the server's own `to_jsonb`, spelt the same whatever the session has set.

use std::cell::OnceCell;
use std::sync::atomic::Ordering::Relaxed;

use pgrx::pg_sys;

use super::datum::Value;
use super::ffi;
use super::memory::OwnedContext;

/// The output settings that are plain variables of the server, at their canonical values until dropped:
/// TimeZone UTC, DateStyle ISO, IntervalStyle postgres, bytea_output hex, extra_float_digits 1,
/// quote_all_identifiers off (the reg types look at it).
/// Assigning them is what makes this affordable per row; setting them through SET costs microseconds each.
struct PlainSettings {
    date_style: i32,
    interval_style: i32,
    bytea_output: i32,
    extra_float_digits: i32,
    quote_all_identifiers: bool,
    timezone: *mut pg_sys::pg_tz,
}

thread_local! {
    static UTC: OnceCell<*mut pg_sys::pg_tz> = const { OnceCell::new() };
}

impl PlainSettings {
    fn enter() -> PlainSettings {
        // SAFETY: plain variables of this single-threaded backend; pg_tzset caches and never frees a zone.
        unsafe {
            let saved = PlainSettings {
                date_style: pg_sys::DateStyle,
                interval_style: pg_sys::IntervalStyle,
                bytea_output: ffi::bytea_output.load(Relaxed),
                extra_float_digits: pg_sys::extra_float_digits,
                quote_all_identifiers: pg_sys::quote_all_identifiers,
                timezone: pg_sys::session_timezone,
            };
            let utc = UTC.with(|utc| *utc.get_or_init(|| pg_sys::pg_tzset(c"UTC".as_ptr())));
            pg_sys::DateStyle = pg_sys::USE_ISO_DATES as i32;
            pg_sys::IntervalStyle = pg_sys::INTSTYLE_POSTGRES as i32;
            ffi::bytea_output.store(1, Relaxed); // BYTEA_OUTPUT_HEX
            pg_sys::extra_float_digits = 1;
            pg_sys::quote_all_identifiers = false;
            if !utc.is_null() {
                pg_sys::session_timezone = utc;
            }
            saved
        }
    }
}

impl Drop for PlainSettings {
    fn drop(&mut self) {
        // SAFETY: gives back what was there; assignments only, so harmless while an error unwinds.
        unsafe {
            pg_sys::DateStyle = self.date_style;
            pg_sys::IntervalStyle = self.interval_style;
            ffi::bytea_output.store(self.bytea_output, Relaxed);
            pg_sys::extra_float_digits = self.extra_float_digits;
            pg_sys::quote_all_identifiers = self.quote_all_identifiers;
            pg_sys::session_timezone = self.timezone;
        }
    }
}

/// Runs `work` with canonical output settings; `all` also sets lc_monetary and search_path, which
/// have no plain variable, through the settings machinery. An error unwinds both: the variables by
/// the guard, the settings by the abort of the (sub)transaction.
pub fn with_canonical_settings<R>(all: bool, work: impl FnOnce() -> R) -> R {
    let _plain = PlainSettings::enter();
    if !all {
        return work();
    }
    // SAFETY: a nested level of settings is opened and closed again in the same call.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    set_locally(c"lc_monetary", c"C");
    // A temporary table may bear the name of one of the catalog's, and pg_temp comes first unless it is named.
    set_locally(c"search_path", c"pg_catalog, pg_temp");
    let result = work();
    // SAFETY: closes the level opened above, and with it the two settings.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
    result
}

fn set_locally(name: &core::ffi::CStr, value: &core::ffi::CStr) {
    // SAFETY: both strings are NUL-terminated; GUC_ACTION_SAVE ties the value to the open nest level.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// A function of the server's, prepared. It goes with the plan that calls it, or the types of dropped tables would
/// stay with the session.
struct Prepared {
    function: *mut pg_sys::FmgrInfo,
    context: OwnedContext,
}

impl Prepared {
    fn new(oid: pg_sys::Oid) -> Prepared {
        let context = OwnedContext::new(c"threadline function");
        // SAFETY: the call information, and what the function keeps in it, is allocated in a context of its own.
        let function = unsafe {
            let size = core::mem::size_of::<pg_sys::FmgrInfo>();
            let function: *mut pg_sys::FmgrInfo = pg_sys::MemoryContextAllocZero(context.as_ptr(), size).cast();
            pg_sys::fmgr_info_cxt(oid, function, context.as_ptr());
            function
        };
        Prepared { function, context }
    }
}

/// The output function of a type.
pub struct Output(Prepared);

impl Output {
    pub fn for_type(type_oid: pg_sys::Oid) -> Output {
        let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
        // SAFETY: the look-up fills the function's OID.
        unsafe { pg_sys::getTypeOutputInfo(type_oid, &mut output, &mut varlena) };
        Output(Prepared::new(output))
    }

    /// The value's text, in the current memory context.
    pub fn text<'row>(&self, value: Value) -> &'row [u8] {
        // SAFETY: an output function returns a NUL-terminated string.
        unsafe { core::ffi::CStr::from_ptr(pg_sys::OutputFunctionCall(self.0.function, value.datum())).to_bytes() }
    }
}

/// The server's `to_jsonb` for one type.
pub struct ToJsonb(Prepared);

impl ToJsonb {
    pub fn for_type(type_oid: pg_sys::Oid) -> ToJsonb {
        let oid = pg_sys::Oid::from(pg_sys::F_TO_JSONB);
        let prepared = Prepared::new(oid);
        // SAFETY: to_jsonb(anyelement) learns its argument's type from the call expression, for which a constant of
        // the type will do; it lives as long as the function.
        prepared.context.with(|| unsafe {
            let argument = pg_sys::makeNullConst(type_oid, -1, pg_sys::InvalidOid);
            let call = pg_sys::makeFuncExpr(
                oid,
                pg_sys::JSONBOID,
                pg_sys::lappend(core::ptr::null_mut(), argument.cast()),
                pg_sys::InvalidOid,
                pg_sys::InvalidOid,
                pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
            );
            (*prepared.function).fn_expr = call.cast();
        });
        ToJsonb(prepared)
    }

    /// The same for a type json, None when jsonb cannot hold the value.
    pub fn root_container_of_json<'row>(&self, value: Value) -> Option<&'row [u8]> {
        // What is left to raise once the value is fetched is the parser.
        let text = value.unpacked();
        if_jsonb_can(|| self.root_container(text))
    }

    /// The root container of the jsonb form of `value`, in the current memory context.
    pub fn root_container<'row>(&self, value: Value) -> &'row [u8] {
        // SAFETY: to_jsonb is strict and never returns NULL for a non-NULL value.
        let json = unsafe { pg_sys::FunctionCall1Coll(self.0.function, pg_sys::InvalidOid, value.datum()) };
        Value::new(json).payload()
    }
}

/// Runs `work`, which makes a jsonb of a text; None when jsonb cannot hold what the text says.
pub fn if_jsonb_can<T>(work: impl FnOnce() -> T) -> Option<T> {
    use pgrx::PgSqlErrorCode as Code;
    // The parser allocates and raises, and holds nothing else: catching its error needs no subtransaction.
    let work = std::panic::AssertUnwindSafe(work);
    let mut tried = pgrx::PgTryBuilder::new(move || Some({ work }.0()));
    for refusal in [
        Code::ERRCODE_INVALID_TEXT_REPRESENTATION,
        Code::ERRCODE_UNTRANSLATABLE_CHARACTER,
        Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        Code::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
        Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        Code::ERRCODE_STATEMENT_TOO_COMPLEX,
        // An escape of a character beyond ASCII where the database's encoding has none.
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
    ] {
        tried = tried.catch_when(refusal, |_| None);
    }
    tried.execute()
}

/// Why the server could not make a value's JSON form.
pub struct Refusal {
    pub code: pgrx::PgSqlErrorCode,
    pub message: String,
}

/// Runs `work`; an error of the server's about a value it was given (not a cancellation, a lack of memory or a conflict)
/// is raised by `report` instead, which knows the value's place.
pub fn reporting<R>(work: impl FnOnce() -> R, report: impl Fn(Refusal) -> R) -> R {
    use pgrx::PgSqlErrorCode as Code;
    use pgrx::pg_sys::panic::CaughtError;
    let (work, report) = (std::panic::AssertUnwindSafe(work), std::panic::AssertUnwindSafe(report));
    pgrx::PgTryBuilder::new(move || { work }.0())
        .catch_others(move |caught| {
            let report = &report;
            let CaughtError::PostgresError(error) = &caught else { caught.rethrow() };
            let code = error.sql_error_code();
            let class = |code: Code| code as i32 & 0xFFF;
            let elsewhere = [
                Code::ERRCODE_OPERATOR_INTERVENTION,
                Code::ERRCODE_INSUFFICIENT_RESOURCES,
                Code::ERRCODE_TRANSACTION_ROLLBACK,
            ];
            if elsewhere.into_iter().any(|other| class(other) == class(code)) {
                caught.rethrow();
            }
            let mut message = error.message().to_string();
            if let Some(detail) = error.detail() {
                message.push_str(": ");
                message.push_str(detail);
            }
            report(Refusal { code, message })
        })
        .execute()
}
