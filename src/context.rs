//! Who is behind a transaction, what made its changes, and what names it in the record.

pub mod cause;
pub mod comment;
pub mod identity;
pub mod identity_key;
pub mod numbers;
pub mod settings;
pub mod stack;
pub mod statement;
