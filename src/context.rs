//! Who is behind a transaction, and what names it in the record.

pub mod identity;
pub mod settings;
