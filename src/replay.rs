//! Invariants over recorded history: an engine that is fed the changes in commit order, and knows where each invariant stops to
//! hold. What a change means for an invariant (predicates, keys, arguments of aggregates) is worked out by the
//! query that feeds it, in sql/install/replay_stream.sql, so that users' expressions run as they would anywhere.

mod aggregate;
pub mod decimal;
mod engine;
pub mod face;
mod image;
mod image_sum;
mod integrity;
mod judged;
mod keyed;
mod plan;
mod sequence;
mod table_check;
pub mod table_face;
mod tuples;
mod violations;
