//! Tests through ordinary client connections: real sessions, real commits, real crashes.
//!
//! They need PGHOST, PGPORT, PGUSER (a superuser) and PGBIN; `make test` sets them.

#[path = "client/bad_input.rs"]
mod bad_input;
#[path = "client/bisect.rs"]
mod bisect;
#[path = "client/bundle.rs"]
mod bundle;
#[path = "client/capture.rs"]
mod capture;
#[path = "client/cause.rs"]
mod cause;
#[path = "client/cluster.rs"]
mod cluster;
#[path = "client/context.rs"]
mod context;
#[path = "client/cost.rs"]
mod cost;
#[path = "client/coverage.rs"]
mod coverage;
#[path = "client/crash.rs"]
mod crash;
#[path = "client/delta.rs"]
mod delta;
#[path = "client/dump.rs"]
mod dump;
#[path = "client/exact.rs"]
mod exact;
#[path = "client/export.rs"]
mod export;
#[path = "client/full_row.rs"]
mod full_row;
#[path = "client/health.rs"]
mod health;
#[path = "client/history.rs"]
mod history;
#[path = "client/keys.rs"]
mod keys;
#[path = "client/limits.rs"]
mod limits;
#[path = "client/log_changes.rs"]
mod log_changes;
#[path = "client/mask_paths.rs"]
mod mask_paths;
#[path = "client/memory.rs"]
mod memory;
#[path = "client/on_error.rs"]
mod on_error;
#[path = "client/partitions.rs"]
mod partitions;
#[path = "client/playbook.rs"]
mod playbook;
#[path = "client/purge.rs"]
mod purge;
#[path = "client/readme.rs"]
mod readme;
#[path = "client/redaction.rs"]
mod redaction;
#[path = "client/replay.rs"]
mod replay;
#[path = "client/replay_known.rs"]
mod replay_known;
#[path = "client/replay_log.rs"]
mod replay_log;
#[path = "client/replay_models.rs"]
mod replay_models;
#[path = "client/replay_monitor.rs"]
mod replay_monitor;
#[path = "client/replay_query.rs"]
mod replay_query;
#[path = "client/replay_table.rs"]
mod replay_table;
#[path = "client/replay_tables.rs"]
mod replay_tables;
#[path = "client/replay_why.rs"]
mod replay_why;
#[path = "client/replica_writes.rs"]
mod replica_writes;
#[path = "client/restore.rs"]
mod restore;
#[path = "client/revert.rs"]
mod revert;
#[path = "client/revert_rows.rs"]
mod revert_rows;
#[path = "client/roles.rs"]
mod roles;
#[path = "client/row_at_once.rs"]
mod row_at_once;
#[path = "client/schema_capture.rs"]
mod schema_capture;
#[path = "client/standby_reads.rs"]
mod standby_reads;
#[path = "client/support.rs"]
mod support;
#[path = "client/table_diff.rs"]
mod table_diff;
#[path = "client/time_travel.rs"]
mod time_travel;
#[path = "client/timeline.rs"]
mod timeline;
#[path = "client/triggers.rs"]
mod triggers;
#[path = "client/truncate.rs"]
mod truncate;
#[path = "client/two_phase.rs"]
mod two_phase;
#[path = "client/typed_as_of.rs"]
mod typed_as_of;
#[path = "client/upgrade.rs"]
mod upgrade;
#[path = "client/write_paths.rs"]
mod write_paths;
