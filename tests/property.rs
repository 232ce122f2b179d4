//! Random runs against oracles that do not ask the extension what happened.
//!
//! THREADLINE_TEST_SECONDS is the length of each run (default 10), THREADLINE_TEST_SEED repeats one.
//! THREADLINE_REPLAY_HISTORIES is the number of histories that replay models are checked on (default 60).
//! THREADLINE_PLANTED is the number of bugs that are planted in an application (default 14).

#[path = "property/as_of.rs"]
mod as_of;
#[path = "property/as_seen_by.rs"]
mod as_seen_by;
#[path = "property/between.rs"]
mod between;
#[path = "property/concurrent_as_of.rs"]
mod concurrent_as_of;
#[path = "property/concurrent_writers.rs"]
mod concurrent_writers;
#[path = "property/contents.rs"]
mod contents;
#[path = "property/images.rs"]
mod images;
#[path = "property/images_oracle.rs"]
mod images_oracle;
#[path = "property/kinds.rs"]
mod kinds;
#[path = "property/planted.rs"]
mod planted;
#[path = "property/random.rs"]
mod random;
#[path = "property/random_table.rs"]
mod random_table;
#[path = "property/replay_domains.rs"]
mod replay_domains;
#[path = "property/replay_histories.rs"]
mod replay_histories;
#[path = "property/replay_meaning.rs"]
mod replay_meaning;
#[path = "property/replay_models.rs"]
mod replay_models;
#[path = "property/replay_oracle.rs"]
mod replay_oracle;
#[path = "property/replay_sql.rs"]
mod replay_sql;
#[path = "property/revert.rs"]
mod revert;
#[path = "property/stress.rs"]
mod stress;
// Shared with the client tests, which use the rest of it.
#[allow(dead_code)]
#[path = "client/support.rs"]
mod support;
#[path = "property/types.rs"]
mod types;
#[path = "property/under_load.rs"]
mod under_load;
#[path = "property/values.rs"]
mod values;
#[path = "property/workload.rs"]
mod workload;
