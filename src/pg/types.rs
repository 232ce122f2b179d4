//! Questions about data types, and values in and out of their text form.

use std::cell::RefCell;

use pgrx::pg_sys;

use super::datum::{Storage, Value, take_cstring};

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
    // With quote_all_identifiers a name would be another one.
    let text = super::canonical::with_canonical_settings(false, || {
        // SAFETY: returns a palloc'd string.
        unsafe { take_cstring(pg_sys::format_type_extended(type_oid, modifier, flags as _)) }
    });
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

/// Whether the JSON form of an unchanged value may change: names of attributes, labels, relations and roles are looked
/// up when it is made, and anybody's type may get a cast to json.
pub fn form_depends_on_catalog(type_oid: pg_sys::Oid) -> bool {
    let base = base_type(type_oid);
    if let JsonForm::Array(element) = json_form(base) {
        return form_depends_on_catalog(element);
    }
    base.to_u32() >= pg_sys::FirstNormalObjectId
        || base == pg_sys::ACLITEMOID
        || (base != pg_sys::MONEYOID && needs_all_settings(base))
        || json_form(base) == JsonForm::Special
}

/// Whether a value's text is the same under all settings.
pub fn text_is_fixed(type_oid: pg_sys::Oid) -> bool {
    let base = base_type(type_oid);
    // SAFETY: catalog look-up.
    matches!(
        base,
        pg_sys::CHAROID
            | pg_sys::OIDOID
            | pg_sys::TIDOID
            | pg_sys::XIDOID
            | pg_sys::XID8OID
            | pg_sys::CIDOID
            | pg_sys::INETOID
            | pg_sys::CIDROID
            | pg_sys::MACADDROID
            | pg_sys::MACADDR8OID
            | pg_sys::BITOID
            | pg_sys::VARBITOID
            | pg_sys::TSVECTOROID
            | pg_sys::PG_LSNOID
    ) || unsafe { pg_sys::type_is_enum(base) }
}

/// How to_jsonb() treats the values of a type that it does not know by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonForm {
    /// An array of elements of the type.
    Array(pg_sys::Oid),
    /// The value's text as a string.
    Text,
    /// An object, or whatever the type's cast to json makes of it.
    Special,
}

/// Whether the type's values are JSON documents, or arrays of them.
pub fn holds_json(type_oid: pg_sys::Oid) -> bool {
    match base_type(type_oid) {
        pg_sys::JSONOID | pg_sys::JSONBOID => true,
        base => matches!(json_form(base), JsonForm::Array(element) if holds_json(element)),
    }
}

/// What the server's json_categorize_type (utils/adt/jsonfuncs.c) decides.
pub fn json_form(base: pg_sys::Oid) -> JsonForm {
    // SAFETY: catalog look-ups; the function's OID is written, not read.
    unsafe {
        let element = pg_sys::get_element_type(base);
        if element != pg_sys::InvalidOid {
            return JsonForm::Array(element);
        }
        if pg_sys::type_is_rowtype(base) {
            return JsonForm::Special;
        }
        if base.to_u32() < pg_sys::FirstNormalObjectId {
            return JsonForm::Text;
        }
        let mut function = pg_sys::InvalidOid;
        let explicit = pg_sys::CoercionContext::COERCION_EXPLICIT;
        match pg_sys::find_coercion_pathway(pg_sys::JSONOID, base, explicit, &mut function) {
            pg_sys::CoercionPathType::COERCION_PATH_FUNC => JsonForm::Special,
            _ => JsonForm::Text,
        }
    }
}

/// What a type is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    Plain,
    Enum,
    Composite,
    /// … of elements of the type.
    Array(pg_sys::Oid),
    /// … with bounds of the type.
    Range(pg_sys::Oid),
    /// … of ranges of the type.
    Multirange(pg_sys::Oid),
}

/// What a type, under any domains, is made of.
pub fn structure(type_oid: pg_sys::Oid) -> Structure {
    let base = base_type(type_oid);
    // SAFETY: catalog look-ups.
    unsafe {
        let element = pg_sys::get_element_type(base);
        if element != pg_sys::InvalidOid {
            return Structure::Array(element);
        }
        match pg_sys::get_typtype(base) as u8 {
            pg_sys::TYPTYPE_ENUM => Structure::Enum,
            pg_sys::TYPTYPE_COMPOSITE => Structure::Composite,
            pg_sys::TYPTYPE_RANGE => Structure::Range(pg_sys::get_range_subtype(base)),
            pg_sys::TYPTYPE_MULTIRANGE => Structure::Multirange(pg_sys::get_multirange_range(base)),
            _ => Structure::Plain,
        }
    }
}

/// The labels of an enum in its order, each with its OID.
pub fn labels(type_oid: pg_sys::Oid) -> Vec<(u32, String)> {
    let mut labels = Vec::new();
    super::scan::each_current_row(pg_sys::EnumRelationId, |row| {
        // pg_enum: oid, enumtypid, enumsortorder, enumlabel, all NOT NULL.
        let get = |index: usize| row.get(index).expect("a NOT NULL column of pg_enum");
        if get(1).as_i32() as u32 == type_oid.to_u32() {
            let label = super::datum::for_message(get(3).name_bytes()).into_owned();
            labels.push((get(2).as_f32(), get(0).as_i32() as u32, label));
        }
    });
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    labels.into_iter().map(|(_, oid, label)| (oid, label)).collect()
}

/// Whether a cast makes the JSON form of a type's values.
pub fn has_cast_to_json(base: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-up.
    json_form(base) == JsonForm::Special && !unsafe { pg_sys::type_is_rowtype(base) }
}

/// An array taken apart.
pub struct ArrayParts {
    /// How many values there are in each dimension; none for an empty array.
    pub lengths: Vec<usize>,
    /// In storage order.
    pub values: Vec<Option<Value>>,
    /// The lower bound of every dimension is the usual one.
    pub starts_at_one: bool,
}

pub fn array_values(array: Value, element: pg_sys::Oid, storage: Storage, align: core::ffi::c_char) -> ArrayParts {
    // SAFETY: the array is of the element type that storage and alignment belong to; deconstruct_array allocates its
    // results in the current context.
    unsafe {
        let array = pg_sys::pg_detoast_datum(array.datum().cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let dimensions = (*array).ndim as usize;
        let lengths = array.add(1).cast::<core::ffi::c_int>();
        let starts_at_one = (0..dimensions).all(|at| *lengths.add(dimensions + at) == 1);
        let lengths = (0..dimensions).map(|at| *lengths.add(at) as usize).collect();
        let (mut datums, mut nulls, mut count) = (core::ptr::null_mut(), core::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            element,
            storage.len.into(),
            storage.by_value,
            align,
            &mut datums,
            &mut nulls,
            &mut count,
        );
        let value = |at: usize| (!*nulls.add(at)).then(|| Value::new(*datums.add(at)));
        ArrayParts { lengths, values: (0..count as usize).map(value).collect(), starts_at_one }
    }
}

/// How a type's values are stored, with their alignment (`pg_type.typalign`).
pub fn storage_of(type_oid: pg_sys::Oid) -> (Storage, core::ffi::c_char) {
    let (mut len, mut by_value, mut align) = (0, false, 0);
    // SAFETY: catalog look-up that fills the three.
    unsafe { pg_sys::get_typlenbyvalalign(type_oid, &mut len, &mut by_value, &mut align) };
    (Storage { len, by_value }, align)
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

/// A jsonb document of JSON text that we made.
pub fn jsonb_datum(json: &str) -> pg_sys::Datum {
    let text = std::ffi::CString::new(json).expect("JSON escapes NUL");
    parse(&text, pg_sys::JSONBOID, -1).datum()
}

/// The text of a jsonb document.
pub fn jsonb_text(value: Value) -> Vec<u8> {
    // SAFETY: F_JSONB_OUT takes a jsonb and returns a palloc'd C string.
    unsafe { take_cstring(pg_sys::OidOutputFunctionCall(pg_sys::Oid::from(pg_sys::F_JSONB_OUT), value.datum())) }
}

/// The names that an object has at its top, in the order that the server keeps them in.
pub fn object_keys<'row>(object: Value) -> Vec<&'row [u8]> {
    let mut keys = Vec::new();
    // SAFETY: a jsonb document; the detoasted copy, if one is made, lives in the current context, and keys point into the
    // document. An iterator told to skip what is nested gives keys with their values, which are strings.
    unsafe {
        let document = pg_sys::pg_detoast_datum(object.datum().cast_mut_ptr()).cast::<pg_sys::Jsonb>();
        let mut iterator = pg_sys::JsonbIteratorInit(&mut (*document).root);
        let mut value = pg_sys::JsonbValue::default();
        loop {
            match pg_sys::JsonbIteratorNext(&mut iterator, &mut value, true) {
                pg_sys::JsonbIteratorToken::WJB_DONE => return keys,
                pg_sys::JsonbIteratorToken::WJB_KEY => {
                    let key = value.val.string;
                    keys.push(core::slice::from_raw_parts(key.val.cast::<u8>(), key.len as usize));
                }
                _ => {}
            }
        }
    }
}

/// A one-dimensional array of OIDs.
pub fn oid_array(oids: &[pg_sys::Oid]) -> pg_sys::Datum {
    let mut elements: Vec<pg_sys::Datum> = oids.iter().map(|oid| (*oid).into()).collect();
    // SAFETY: the elements are OIDs, whose storage is as said (pg_type); the array is a copy.
    unsafe {
        pg_sys::construct_array(
            elements.as_mut_ptr(),
            elements.len() as i32,
            pg_sys::OIDOID,
            size_of::<pg_sys::Oid>() as i32,
            true,
            b'i' as core::ffi::c_char,
        )
        .into()
    }
}

/// A one-dimensional array of texts.
pub fn text_array<'t>(texts: impl IntoIterator<Item = &'t [u8]>) -> pg_sys::Datum {
    let mut elements: Vec<pg_sys::Datum> = texts.into_iter().map(super::datum::text_datum).collect();
    // SAFETY: the elements are texts, whose storage is as said (pg_type); the array is a copy.
    unsafe {
        let (values, count) = (elements.as_mut_ptr(), elements.len() as i32);
        pg_sys::construct_array(values, count, pg_sys::TEXTOID, -1, false, b'i' as core::ffi::c_char).into()
    }
}

/// A float as the server prints it with extra_float_digits above 0: the fewest digits that read back the same.
pub fn float_text(value: f64, buffer: &mut [u8; 32]) -> &[u8] {
    // SAFETY: the function writes at most 25 bytes (DOUBLE_SHORTEST_DECIMAL_LEN) and says how many.
    let length = unsafe { super::ffi::double_to_shortest_decimal_bufn(value, buffer.as_mut_ptr().cast()) };
    &buffer[..length as usize]
}

/// As `float_text`, for a real.
pub fn real_text(value: f32, buffer: &mut [u8; 32]) -> &[u8] {
    // SAFETY: the function writes at most 16 bytes (FLOAT_SHORTEST_DECIMAL_LEN) and says how many.
    let length = unsafe { super::ffi::float_to_shortest_decimal_bufn(value, buffer.as_mut_ptr().cast()) };
    &buffer[..length as usize]
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

thread_local! {
    /// Random bytes fetched and not yet given out: a fetch costs a system call, whatever its size.
    static RANDOM: RefCell<Vec<[u8; 8]>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that cannot be guessed.
pub fn random_bytes() -> [u8; 8] {
    if let Some(bytes) = RANDOM.with_borrow_mut(Vec::pop) {
        return bytes;
    }
    let mut fetched = [[0u8; 8]; 32];
    // SAFETY: fills as many bytes as the array has.
    if !unsafe { pg_sys::pg_strong_random(fetched.as_mut_ptr().cast(), core::mem::size_of_val(&fetched)) } {
        pgrx::error!("could not generate random values");
    }
    let (first, rest) = (fetched[0], &fetched[1..]);
    RANDOM.with_borrow_mut(|random| random.extend_from_slice(rest));
    first
}
