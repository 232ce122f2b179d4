//! Questions about data types, and values in and out of their text form.

use pgrx::pg_sys;

use super::datum::{Value, take_cstring};

/// The base type under any domains.
pub fn base_type(type_oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: catalog look-up.
    unsafe { pg_sys::getBaseType(type_oid) }
}

/// The SQL name of a type with its modifier, the same whatever search_path says: as `format_type()` prints it
/// with only pg_catalog on the path.
pub fn display_name(type_oid: pg_sys::Oid, modifier: i32) -> String {
    let flags = if type_oid.to_u32() < pg_sys::FirstNormalObjectId {
        pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN
    } else {
        pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY
    };
    // SAFETY: returns a palloc'd string.
    let text = unsafe { take_cstring(pg_sys::format_type_extended(type_oid, modifier, flags as _)) };
    super::datum::for_message(&text).into_owned()
}

/// Whether a value's text depends on more than the output settings that are plain variables
/// (see `canonical`): money on lc_monetary, the reg types on search_path, and whatever the output functions of
/// extensions and composites and the casts to json of anybody's types, enums too, look at.
pub fn needs_all_settings(type_oid: pg_sys::Oid) -> bool {
    let base = base_type(type_oid);
    // SAFETY: catalog look-up.
    let element = unsafe { pg_sys::get_element_type(base) };
    if element != pg_sys::InvalidOid {
        return needs_all_settings(element);
    }
    base.to_u32() >= pg_sys::FirstNormalObjectId
        || matches!(
            base,
            pg_sys::MONEYOID
                | pg_sys::REGPROCOID
                | pg_sys::REGPROCEDUREOID
                | pg_sys::REGOPEROID
                | pg_sys::REGOPERATOROID
                | pg_sys::REGCLASSOID
                | pg_sys::REGTYPEOID
                | pg_sys::REGCOLLATIONOID
                | pg_sys::REGCONFIGOID
                | pg_sys::REGDICTIONARYOID
                | pg_sys::REGNAMESPACEOID
                | pg_sys::REGROLEOID
        )
}

/// Parses a value from its text form; what does not parse is the server's own error.
pub fn parse(text: &core::ffi::CStr, type_oid: pg_sys::Oid, modifier: i32) -> Value {
    // SAFETY: the input function of the type is given a C string, its own I/O parameter and the modifier.
    unsafe {
        let (mut input, mut io_param) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        pg_sys::getTypeInputInfo(type_oid, &mut input, &mut io_param);
        Value::new(pg_sys::OidInputFunctionCall(input, text.as_ptr().cast_mut(), io_param, modifier))
    }
}

/// The text of a numeric, every digit of it.
pub fn numeric_text(value: Value) -> Vec<u8> {
    // SAFETY: F_NUMERIC_OUT takes a numeric and returns a palloc'd C string.
    unsafe { take_cstring(pg_sys::OidOutputFunctionCall(pg_sys::Oid::from(pg_sys::F_NUMERIC_OUT), value.datum())) }
}

/// The text of a numeric without trailing zeros: the same for values that the type calls equal.
pub fn numeric_key_text(value: Value) -> Vec<u8> {
    // SAFETY: F_TRIM_SCALE takes and returns a numeric.
    let trimmed = unsafe {
        pg_sys::OidFunctionCall1Coll(pg_sys::Oid::from(pg_sys::F_TRIM_SCALE), pg_sys::InvalidOid, value.datum())
    };
    numeric_text(Value::new(trimmed))
}

/// The text of a jsonb document.
pub fn jsonb_text(value: Value) -> Vec<u8> {
    // SAFETY: F_JSONB_OUT takes a jsonb and returns a palloc'd C string.
    unsafe { take_cstring(pg_sys::OidOutputFunctionCall(pg_sys::Oid::from(pg_sys::F_JSONB_OUT), value.datum())) }
}

/// Date, timestamp or timestamptz in the ISO form jsonb uses; timestamptz in UTC.
pub fn iso_datetime(value: Value, type_oid: pg_sys::Oid, out: &mut Vec<u8>) {
    let mut buffer = [0 as core::ffi::c_char; pg_sys::MAXDATELEN as usize + 1];
    let utc: core::ffi::c_int = 0;
    let zone = if type_oid == pg_sys::TIMESTAMPTZOID { &raw const utc } else { core::ptr::null() };
    // SAFETY: the buffer has the size the function demands and is NUL-terminated by it.
    unsafe {
        pg_sys::JsonEncodeDateTime(buffer.as_mut_ptr(), value.datum(), type_oid, zone);
        out.extend_from_slice(core::ffi::CStr::from_ptr(buffer.as_ptr()).to_bytes());
    }
}

/// Microseconds since 2000-01-01 by the wall clock.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Bytes that cannot be guessed.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    // SAFETY: fills N bytes of the array.
    let filled = unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), N) };
    if !filled {
        pgrx::error!("could not generate random values");
    }
    bytes
}
