//! Reading the record. What SQL can say stands in sql/install; here is what needs the encoders.

pub mod at_once;
pub mod key;
pub mod keyed;
pub mod log;
pub mod respelling;
pub mod row;
pub mod stretches;
mod text_form;
pub mod travel;
