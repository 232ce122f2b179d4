//! Our settings (`SET threadline.…`).

use std::cell::OnceCell;
use std::ffi::{CStr, CString};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

use super::compat;
use super::datum::bytes_datum;

/// A setting that holds text; empty means not set.
pub type TextSetting = GucSetting<Option<CString>>;

pub fn define_text(setting: &'static TextSetting, name: &'static CStr, short: &'static CStr, long: &'static CStr) {
    GucRegistry::define_string_guc(name, short, long, setting, GucContext::Userset, GucFlags::default());
}

/// After this, misspelt settings of ours are errors instead of placeholders.
pub fn reserve_prefix() {
    compat::reserve_setting_prefix(c"threadline");
}

/// The setting's value; None when empty.
pub fn text(setting: &TextSetting) -> Option<CString> {
    setting.get().filter(|value| !value.is_empty())
}

/// `application_name` of the session; None when empty.
pub fn application_name() -> Option<CString> {
    // SAFETY: a NUL-terminated string of the server's, or NULL.
    let value = unsafe {
        if pg_sys::application_name.is_null() {
            return None;
        }
        CStr::from_ptr(pg_sys::application_name).to_owned()
    };
    (!value.is_empty()).then_some(value)
}

thread_local! {
    static CLIENT_ADDRESS: OnceCell<Option<Vec<u8>>> = const { OnceCell::new() };
}

/// The client's address as an inet in the current memory context; None over a Unix socket.
pub fn client_address() -> Option<pg_sys::Datum> {
    // Asked for once: it stays while the session lasts, and the server parses its text anew each time.
    CLIENT_ADDRESS.with(|address| {
        let image = address.get_or_init(|| {
            // SAFETY: inet_client_addr takes no argument, reads the session's port and returns an inet, which is a
            // varlena, or NULL.
            unsafe {
                let inet = pgrx::direct_function_call_as_datum(pg_sys::inet_client_addr, &[])?;
                Some(super::datum::varlena_image(inet.cast_mut_ptr()).to_vec())
            }
        });
        image.as_deref().map(bytes_datum)
    })
}

/// Whether the library is being loaded by pg_upgrade, when nothing of ours may run.
pub fn is_binary_upgrade() -> bool {
    // SAFETY: a plain variable.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// `text` as the bytes of a jsonb, or None when it is not JSON that jsonb can hold.
pub fn parse_jsonb(text: &CStr) -> Option<Vec<u8>> {
    super::canonical::if_jsonb_can(|| {
        let parsed = super::types::parse(text, pg_sys::JSONBOID, -1).datum();
        // SAFETY: a jsonb is a varlena.
        unsafe { super::datum::varlena_image(parsed.cast_mut_ptr()) }.to_vec()
    })
}

/// Two jsonb values joined, the second winning where both have a key.
pub fn concatenate(first: pg_sys::Datum, second: pg_sys::Datum) -> pg_sys::Datum {
    // SAFETY: jsonb_concat takes two jsonb values and never returns NULL.
    unsafe { pgrx::direct_function_call_as_datum(pg_sys::jsonb_concat, &[Some(first), Some(second)]) }
        .expect("jsonb_concat returned NULL")
}

/// A field of a jsonb object as text; None when it has none, when it is null, and of anything but an object.
pub fn field_text(object: pg_sys::Datum, name: &[u8]) -> Option<Vec<u8>> {
    let name = super::datum::text_datum(name);
    // SAFETY: jsonb_object_field_text takes a jsonb and a text, and returns a text, which is a varlena, or NULL.
    unsafe {
        let text = pgrx::direct_function_call_as_datum(pg_sys::jsonb_object_field_text, &[Some(object), Some(name)])?;
        Some(super::datum::Value::new(text).payload().to_vec())
    }
}
