//! Memory contexts of our own, and switching between contexts.

use std::cell::RefCell;

use pgrx::pg_sys;

/// A memory context of our own.
pub struct Arena {
    context: pg_sys::MemoryContext,
}

impl Arena {
    /// One that lives as long as the session.
    pub fn new(name: &'static core::ffi::CStr) -> Arena {
        // SAFETY: TopMemoryContext exists for the life of the session.
        unsafe { Arena::below(pg_sys::TopMemoryContext, name) }
    }

    /// One that lives as long as the current context.
    pub fn for_one_use(name: &'static core::ffi::CStr) -> Arena {
        // SAFETY: the current context is live, and the arena is used only while it is.
        unsafe { Arena::below(pg_sys::CurrentMemoryContext, name) }
    }

    /// # Safety
    /// `parent` is live for as long as the arena is used.
    unsafe fn below(parent: pg_sys::MemoryContext, name: &'static core::ffi::CStr) -> Arena {
        // SAFETY: the parent is live; the name is static, as the server demands.
        let context = unsafe {
            pg_sys::AllocSetContextCreateInternal(
                parent,
                name.as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        };
        Arena { context }
    }

    /// Runs `work` with the arena as current context. What it leaves there stays until `reset`.
    pub fn with<R>(&self, work: impl FnOnce() -> R) -> R {
        let _back = CurrentContext::switch_to(self.context);
        work()
    }

    pub fn reset(&self) {
        // SAFETY: nothing keeps pointers into the arena past a reset: see the callers of `with`.
        unsafe { pg_sys::MemoryContextReset(self.context) }
    }
}

/// A memory context below the session's that goes with its owner.
pub struct OwnedContext(pg_sys::MemoryContext);

thread_local! {
    /// Contexts whose owners went while an error unwound, when nothing of the server's may be called.
    static LEFT: RefCell<Vec<pg_sys::MemoryContext>> = const { RefCell::new(Vec::new()) };
}

impl OwnedContext {
    pub fn new(name: &'static core::ffi::CStr) -> OwnedContext {
        // SAFETY: see `drop`, which left them here.
        LEFT.take().into_iter().for_each(|context| unsafe { pg_sys::MemoryContextDelete(context) });
        OwnedContext(Arena::new(name).context)
    }

    pub fn as_ptr(&self) -> pg_sys::MemoryContext {
        self.0
    }

    /// Runs `work` with it as current context.
    pub fn with<R>(&self, work: impl FnOnce() -> R) -> R {
        let _back = CurrentContext::switch_to(self.0);
        work()
    }
}

impl Drop for OwnedContext {
    fn drop(&mut self) {
        if std::thread::panicking() {
            LEFT.with_borrow_mut(|left| left.push(self.0));
            return;
        }
        // SAFETY: made by `new`, current for nobody, and whoever has pointers into it owns it.
        unsafe { pg_sys::MemoryContextDelete(self.0) }
    }
}

/// Switches the current memory context until dropped.
struct CurrentContext(pg_sys::MemoryContext);

impl CurrentContext {
    fn switch_to(context: pg_sys::MemoryContext) -> CurrentContext {
        // SAFETY: assignment of a live context, as MemoryContextSwitchTo does.
        unsafe {
            let previous = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = context;
            CurrentContext(previous)
        }
    }
}

impl Drop for CurrentContext {
    fn drop(&mut self) {
        // SAFETY: the context that was current outlives the call that switched away from it; assignment only,
        // so it is harmless while an error unwinds.
        unsafe { pg_sys::CurrentMemoryContext = self.0 }
    }
}

/// Runs `work` with TopTransactionContext as current context.
pub fn in_transaction_context<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: read of a global; inside a transaction it is set.
    let _back = CurrentContext::switch_to(unsafe { pg_sys::TopTransactionContext });
    work()
}

/// Runs `work` with TopMemoryContext as current context: what it leaves there lives as long as the session.
pub fn in_session_context<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: read of a global that is always set.
    let _back = CurrentContext::switch_to(unsafe { pg_sys::TopMemoryContext });
    work()
}
