//! The number under which the index of transactions has an actor.

use pgrx::pg_sys;

use crate::pg::function::Call;
use crate::pg::settings;

/// `threadline.key_of_actor(actor)` → integer: one for all actors of the same type and id, whatever else they say; 0 for
/// those that lack one of them.
pub fn key_of_actor(call: &mut Call) -> pg_sys::Datum {
    let part = |name| call.value(0).and_then(|actor| settings::field_text(actor.datum(), name));
    let key = match (part(b"type"), part(b"id")) {
        (Some(kind), Some(id)) => key_of(&kind, &id),
        _ => 0,
    };
    call.return_value(Some(key.into()))
}

/// FNV-1a: what is in the indexes stays what it is, whatever the server or this library's dependencies do.
fn key_of(kind: &[u8], id: &[u8]) -> i32 {
    let bytes = kind.iter().chain(&[0]).chain(id);
    bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_an_actor_never_changes() {
        assert_eq!(key_of(b"", b""), 0x050c_5d1f);
        assert_ne!(key_of(b"user", b"7"), key_of(b"use", b"r7"));
        assert_ne!(key_of(b"user", b"7"), key_of(b"job", b"7"));
    }
}
