//! What is under capture and how: policies, the plan made of each for the hot path, and the shapes recorded.

pub mod cache;
pub mod definition;
pub mod plan;
pub mod policy;
pub mod version;
