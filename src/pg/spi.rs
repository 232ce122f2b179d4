//! Statements of ours through SPI, with values passed on untouched.

use pgrx::pg_sys;
use pgrx::spi::Spi;

use super::datum::Value;

/// An argument: its type, and its value or NULL.
pub type Argument = (pg_sys::Oid, Option<Value>);

/// Runs a statement that writes. Errors are the server's own.
pub fn execute(statement: &str, arguments: &[Argument]) {
    let arguments: Vec<pgrx::datum::DatumWithOid> = arguments
        .iter()
        .map(|(type_oid, value)| match value {
            // SAFETY: callers pair each value with its type.
            Some(value) => unsafe { pgrx::datum::DatumWithOid::new(value.datum(), *type_oid) },
            None => pgrx::datum::DatumWithOid::null_oid(*type_oid),
        })
        .collect();
    Spi::connect_mut(|client| {
        if let Err(error) = client.update(statement, None, &arguments) {
            pgrx::error!("{error}");
        }
    });
}
