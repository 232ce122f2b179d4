//! The statement that the client sent: its command, its text, its query id.

use core::ffi::CStr;

use pgrx::pg_sys;

/// The command that the client sent, as far as the server says.
pub struct TopCommand {
    /// None when nothing runs that a client sent: at commit, in a background or an apply worker.
    pub tag: Option<&'static str>,
    /// It has run: its transaction is being committed.
    pub over: bool,
    /// `debug_query_string` was sent for this execution, and not once for many.
    pub sent_now: bool,
}

pub fn top_command() -> TopCommand {
    // SAFETY: ActivePortal is NULL or the running portal; the other look-up returns a live portal or NULL. Portals'
    // strings live as long as they do, and tag names for ever.
    unsafe {
        let active = pg_sys::ActivePortal;
        let Some(running) = active.as_ref() else {
            // Workers run without ever having a portal.
            return TopCommand { tag: None, over: pg_sys::MyBgworkerEntry.is_null(), sent_now: false };
        };
        // Cursors that functions read have portals too. The client's is the one whose text is the query string; it has
        // no name unless the client gave it one.
        let is_top = |portal: &pg_sys::PortalData| {
            !portal.sourceText.is_null() && portal.sourceText == pg_sys::debug_query_string
        };
        let unnamed = || {
            pg_sys::GetPortalByName(c"".as_ptr())
                .as_ref()
                .filter(|portal| portal.status == pg_sys::PortalStatus::PORTAL_ACTIVE)
        };
        let (top, sent_now) = if is_top(running) {
            (running, running.prepStmtName.is_null())
        } else {
            match unnamed() {
                Some(portal) => (portal, is_top(portal) && portal.prepStmtName.is_null()),
                None => (running, false),
            }
        };
        // EXECUTE says less than what it executes.
        let said = if top.commandTag == pg_sys::CommandTag::CMDTAG_EXECUTE { running } else { top };
        let tag = (said.commandTag != pg_sys::CommandTag::CMDTAG_UNKNOWN)
            .then(|| CStr::from_ptr(pg_sys::GetCommandTagName(said.commandTag)).to_str().unwrap_or_default());
        TopCommand { tag, over: false, sent_now }
    }
}

/// 0 when none was computed.
pub fn query_id() -> i64 {
    // SAFETY: reads the session's own status. PostgreSQL 18 made it signed.
    #[allow(clippy::unnecessary_cast)]
    unsafe {
        pg_sys::pgstat_get_my_query_id() as i64
    }
}

/// What tells the query string from every other one of the session: where it is, and when it came.
pub fn query_identity() -> (usize, i64) {
    // SAFETY: plain reads.
    unsafe { (pg_sys::debug_query_string as usize, pg_sys::GetCurrentStatementStartTimestamp()) }
}

/// The query string as the client sent it, while `read` runs.
pub fn with_query_string<R>(read: impl FnOnce(&[u8]) -> R) -> Option<R> {
    // SAFETY: NULL or a NUL-terminated string that stays while the command runs.
    unsafe {
        let text = pg_sys::debug_query_string;
        (!text.is_null()).then(|| read(CStr::from_ptr(text).to_bytes()))
    }
}

pub fn database_is_utf8() -> bool {
    // SAFETY: a plain variable behind a function.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
}
