//! The hot path: from a trigger's call to a row in the log, in the transaction that made the change.
//!
//! `trigger` is where the server calls in; `image` turns rows into images; `buffer` holds them by subtransaction
//! until a statement ends; `log` writes them below the executor; `transaction` adds the transaction's own row in
//! pre-commit; `whole_table` records a table's every row, for baselines and TRUNCATE, `known_partition` those that come or go with a
//! partition; `loss` notes what a table that warns could not record; `mask` hides what is inside JSON documents; `cost` counts what
//! all this costs.

pub mod buffer;
pub mod cost;
pub mod encode;
pub mod face;
pub mod image;
pub mod jsonb;
pub mod known_partition;
pub mod log;
pub mod loss;
pub mod mask;
pub mod partition_move;
pub mod ranges;
pub mod row_key;
pub mod transaction;
pub mod trigger;
pub mod whole_table;
