//! The functions that are running, as the server's error context tells them.

use core::ffi::{CStr, c_int, c_void};
use std::cell::{Cell, RefCell};

use pgrx::{pg_guard, pg_sys};

use super::compat::{PlpgsqlFunction, PlpgsqlState};
use super::datum::take_cstring;
use super::ffi;

/// What PL/pgSQL itself says of a function of its that is running.
pub struct Running {
    /// InvalidOid for an anonymous block.
    pub function: pg_sys::Oid,
    pub trigger: Option<RunningTrigger>,
}

/// The trigger that called the function.
pub struct RunningTrigger {
    pub name: Vec<u8>,
    pub table: Vec<u8>,
    pub schema: pg_sys::Oid,
    pub deferrable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Never tells of a function.
    Other,
    Plpgsql,
    Function,
}

thread_local! {
    /// The callbacks that were seen, by address: what kind of text each makes.
    static KINDS: RefCell<Vec<(usize, Kind)>> = const { RefCell::new(Vec::new()) };
    static NAMES_CHANGED: Cell<bool> = const { Cell::new(false) };
}

const PLPGSQL: &[u8] = b"PL/pgSQL function ";

/// Registers the session's callback, once.
pub fn register() {
    // SAFETY: the function is guarded and lives as long as the library, which is never unloaded.
    unsafe {
        for cache in [pg_sys::SysCacheIdentifier::PROCOID, pg_sys::SysCacheIdentifier::NAMESPACEOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(names_callback), pg_sys::Datum::from(0usize));
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn names_callback(_arg: pg_sys::Datum, _cache: c_int, _hash: u32) {
    NAMES_CHANGED.set(true);
}

/// Whether a function or a schema changed since this was last asked.
pub fn names_changed() -> bool {
    NAMES_CHANGED.replace(false)
}

/// Whether nothing is running that has anything to say.
pub fn is_empty() -> bool {
    // SAFETY: a plain variable.
    unsafe { pg_sys::error_context_stack.is_null() }
}

/// Shows `visit` what each entry of the error context says, innermost first, in English; it answers whether that told of
/// a function, and those that never do are not asked again. It goes on until `visit` has seen `at_most` functions.
pub fn each_entry(at_most: usize, mut visit: impl FnMut(&[u8], Option<&Running>) -> bool) {
    let _language = Untranslated::enter();
    // SAFETY: the server's own list; its entries are on the stacks of functions that called us.
    let whole = WholeStack(unsafe { pg_sys::error_context_stack });
    let mut next = whole.0;
    let mut seen = 0;
    // SAFETY: as above.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.previous;
        let address = entry.callback.map_or(0, |callback| callback as usize);
        let kind = KINDS.with_borrow(|kinds| kinds.iter().find(|(known, _)| *known == address).map(|(_, kind)| *kind));
        if kind == Some(Kind::Other) {
            continue;
        }
        let Some(text) = whole.text_of(entry) else { continue };
        let is_plpgsql = match kind {
            Some(kind) => kind == Kind::Plpgsql,
            None => text.starts_with(PLPGSQL) && is_of_plpgsql(address),
        };
        // SAFETY: what PL/pgSQL's callback (plpgsql_exec_error_callback) takes its argument for.
        let running = is_plpgsql.then(|| unsafe { Running::of(entry.arg) });
        let told = visit(&text, running.as_ref());
        if kind.is_none() {
            let kind = match told {
                true if is_plpgsql => Kind::Plpgsql,
                true => Kind::Function,
                false => Kind::Other,
            };
            KINDS.with_borrow_mut(|kinds| kinds.push((address, kind)));
        }
        seen += usize::from(told);
        if seen == at_most {
            break;
        }
    }
}

/// The server's list, put back when dropped.
struct WholeStack(*mut pg_sys::ErrorContextCallback);

impl WholeStack {
    /// What a single entry says; None when it keeps silent.
    fn text_of(&self, entry: &pg_sys::ErrorContextCallback) -> Option<Vec<u8>> {
        let mut alone =
            pg_sys::ErrorContextCallback { previous: core::ptr::null_mut(), callback: entry.callback, arg: entry.arg };
        // SAFETY: the list consists of one live entry while the server reads it; should that raise an error, our drop
        // puts the whole one back before anybody reads it again. The text is palloc'd.
        unsafe {
            pg_sys::error_context_stack = &raw mut alone;
            let text = pg_sys::GetErrorContextStack();
            pg_sys::error_context_stack = self.0;
            (!text.is_null()).then(|| take_cstring(text))
        }
    }
}

impl Drop for WholeStack {
    fn drop(&mut self) {
        // SAFETY: assignment of what was there.
        unsafe { pg_sys::error_context_stack = self.0 }
    }
}

impl Running {
    /// # Safety
    /// `state` is a PLpgSQL_execstate of a function that is running.
    unsafe fn of(state: *const c_void) -> Running {
        // SAFETY: by the caller's promise. A trigger's data lives while its function runs, with an open relation.
        unsafe {
            let state = &*state.cast::<PlpgsqlState>();
            let function =
                state.function.as_ref().map_or(pg_sys::InvalidOid, |function: &PlpgsqlFunction| function.oid);
            let trigger = state.trigger.as_ref().map(|data| {
                let table = &*(*data.tg_relation).rd_rel;
                RunningTrigger {
                    name: CStr::from_ptr((*data.tg_trigger).tgname).to_bytes().to_vec(),
                    table: CStr::from_ptr(table.relname.data.as_ptr()).to_bytes().to_vec(),
                    schema: table.relnamespace,
                    deferrable: (*data.tg_trigger).tgdeferrable,
                }
            });
            Running { function, trigger }
        }
    }
}

/// Whether the server's own PL/pgSQL brought the function at `address`: another library's could say the same and mean
/// another structure.
fn is_of_plpgsql(address: usize) -> bool {
    let mut found = ffi::DlInfo::default();
    // SAFETY: dladdr takes any address and fills the structure, whose strings live as long as the library.
    unsafe {
        if ffi::dladdr(address as *const c_void, &raw mut found) == 0 || found.file_name.is_null() {
            return false;
        }
        let path = CStr::from_ptr(found.file_name).to_bytes();
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        name.split(|byte| *byte == b'.').next() == Some(b"plpgsql")
    }
}

/// While it lives, this thread's messages are not translated, whatever lc_messages is.
struct Untranslated {
    before: ffi::Locale,
}

impl Untranslated {
    fn enter() -> Untranslated {
        thread_local! {
            // SAFETY: a new locale of the system's, which is kept; NULL when there is none.
            static ENGLISH: ffi::Locale = unsafe { ffi::newlocale(ffi::LC_MESSAGES_MASK, c"C".as_ptr(), core::ptr::null_mut()) };
        }
        // SAFETY: sets the thread's locale; given NULL it only asks for it.
        Untranslated { before: unsafe { ffi::uselocale(ENGLISH.with(|english| *english)) } }
    }
}

impl Drop for Untranslated {
    fn drop(&mut self) {
        // SAFETY: what it was before.
        unsafe { ffi::uselocale(self.before) };
    }
}
