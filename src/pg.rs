//! The server, behind safe faces. All `unsafe` of the library lives here; nothing here knows of capture.

pub mod btree_batch;
pub mod btree_page;
pub mod call_stack;
pub mod canonical;
pub mod catalog_names;
pub mod compat;
pub mod datum;
pub mod direct_insert;
pub mod event_trigger;
pub mod ffi;
pub mod function;
pub mod index_insert;
pub mod leaf;
pub mod memory;
pub mod planner;
pub mod plans;
pub mod relation;
pub mod scan;
pub mod settings;
pub mod spi;
pub mod statement;
pub mod subtransaction;
pub mod trigger;
pub mod types;
pub mod user;
pub mod xact;
