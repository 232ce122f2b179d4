//! Column values as the server hands them over, with the readings the encoders need.

use std::borrow::Cow;

use pgrx::{pg_sys, varlena};

/// One non-NULL value of a row, valid while the row's memory is. Which reading is right follows from
/// the column's type, which the capture plan checks once per relation.
#[derive(Clone, Copy)]
pub struct Value {
    datum: pg_sys::Datum,
}

/// How a type's values are stored: enough to compare two of them byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// `pg_type.typlen`: a length, -1 for varlena, -2 for C strings.
    pub len: i16,
    pub by_value: bool,
}

impl Value {
    pub fn new(datum: pg_sys::Datum) -> Value {
        Value { datum }
    }

    pub fn datum(self) -> pg_sys::Datum {
        self.datum
    }

    pub fn as_bool(self) -> bool {
        self.datum.value() as u8 != 0
    }

    pub fn as_i16(self) -> i16 {
        self.datum.value() as i16
    }

    pub fn as_i32(self) -> i32 {
        self.datum.value() as i32
    }

    /// Also timestamps: microseconds since 2000-01-01.
    pub fn as_i64(self) -> i64 {
        self.datum.value() as i64
    }

    pub fn as_f32(self) -> f32 {
        f32::from_bits(self.datum.value() as u32)
    }

    pub fn as_f64(self) -> f64 {
        f64::from_bits(self.datum.value() as u64)
    }

    pub fn uuid(self) -> [u8; 16] {
        // SAFETY: a uuid datum points at 16 bytes.
        unsafe { *self.datum.cast_mut_ptr::<[u8; 16]>() }
    }

    /// The NUL-terminated bytes of a `name`.
    pub fn name_bytes<'row>(self) -> &'row [u8] {
        // SAFETY: a name datum points at NUL-terminated storage.
        unsafe { core::ffi::CStr::from_ptr(self.datum.cast_mut_ptr()).to_bytes() }
    }

    /// The payload of a varlena, decompressed and fetched from TOAST if need be.
    pub fn payload<'row>(self) -> &'row [u8] {
        // SAFETY: a varlena datum; the detoasted copy, if one is made, lives in the current memory context.
        unsafe {
            let stored = self.datum.cast_mut_ptr();
            let plain =
                varlena::varatt_is_4b_u(stored) || (varlena::varatt_is_1b(stored) && !varlena::varatt_is_1b_e(stored));
            let packed = if plain { stored } else { pg_sys::pg_detoast_datum_packed(stored) };
            core::slice::from_raw_parts(varlena::vardata_any(packed).cast::<u8>(), varlena::varsize_any_exhdr(packed))
        }
    }

    /// A varlena decompressed and fetched from TOAST if need be.
    pub fn unpacked(self) -> Value {
        // SAFETY: a varlena datum; the copy, if one is made, lives in the current memory context.
        Value::new(unsafe { pg_sys::pg_detoast_datum_packed(self.datum.cast_mut_ptr()) }.into())
    }

    /// A varlena as a copy in the current memory context, decompressed and fetched from TOAST.
    pub fn kept(self) -> Value {
        // SAFETY: a varlena datum.
        Value::new(unsafe { pg_sys::pg_detoast_datum_copy(self.datum.cast_mut_ptr()) }.into())
    }

    /// Whether two values of one column are the same to the last byte.
    pub fn same(self, other: Value, storage: Storage) -> bool {
        if storage.by_value {
            return self.datum.value() == other.datum.value();
        }
        // SAFETY: both values are of the type that `storage` describes.
        unsafe {
            let (a, b) = (self.datum.cast_mut_ptr::<u8>(), other.datum.cast_mut_ptr::<u8>());
            match storage.len {
                -1 => {
                    // An unchanged TOASTed value keeps its pointer: equal without fetching it.
                    if varlena_image(a) == varlena_image(b) {
                        return true;
                    }
                    let toasted = |p: *mut u8| varlena::varatt_is_1b_e(p.cast()) || varlena::varatt_is_4b_c(p.cast());
                    if !toasted(a)
                        && !toasted(b)
                        && varlena::varsize_any_exhdr(a.cast()) != varlena::varsize_any_exhdr(b.cast())
                    {
                        return false;
                    }
                    self.payload() == other.payload()
                }
                -2 => core::ffi::CStr::from_ptr(a.cast()) == core::ffi::CStr::from_ptr(b.cast()),
                len => core::slice::from_raw_parts(a, len as usize) == core::slice::from_raw_parts(b, len as usize),
            }
        }
    }
}

/// The stored bytes of a varlena, header included, TOAST pointers unresolved.
///
/// # Safety
/// `pointer` points at a varlena.
pub unsafe fn varlena_image<'row>(pointer: *mut u8) -> &'row [u8] {
    // SAFETY: by the caller's promise.
    unsafe { core::slice::from_raw_parts(pointer, varlena::varsize_any(pointer.cast())) }
}

/// A palloc'd C string taken over by Rust.
///
/// # Safety
/// `text` is NUL-terminated and palloc'd, and nobody else frees it.
pub unsafe fn take_cstring(text: *mut core::ffi::c_char) -> Vec<u8> {
    // SAFETY: by the caller's promise.
    unsafe {
        let bytes = core::ffi::CStr::from_ptr(text).to_bytes().to_vec();
        pg_sys::pfree(text.cast());
        bytes
    }
}

/// Text for messages; in a database that is not UTF-8 what does not decode is replaced.
pub fn for_message(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// A `text` datum in the current memory context.
pub fn text_datum(bytes: &[u8]) -> pg_sys::Datum {
    // SAFETY: the server copies `len` bytes.
    unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32).into() }
}

/// A message of ours or of the server's as a `text` datum in the current memory context.
pub fn message_datum(message: &str) -> pg_sys::Datum {
    // SAFETY: converts `len` bytes of UTF-8 to the database's encoding; the result is the argument itself or a
    // NUL-terminated copy. What the encoding lacks is an error.
    unsafe {
        let given = message.as_ptr().cast_mut().cast();
        let converted = pg_sys::pg_any_to_server(given, message.len() as i32, pg_sys::pg_enc::PG_UTF8 as i32);
        if converted == given {
            return text_datum(message.as_bytes());
        }
        pg_sys::cstring_to_text(converted).into()
    }
}

/// A copy of a by-reference value's bytes (of a varlena: header included) in the current memory context.
pub fn bytes_datum(image: &[u8]) -> pg_sys::Datum {
    // SAFETY: the allocation has room for the bytes copied.
    unsafe {
        let copy = pg_sys::palloc(image.len()).cast::<u8>();
        core::ptr::copy_nonoverlapping(image.as_ptr(), copy, image.len());
        copy.into()
    }
}
