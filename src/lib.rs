//! Row-change capture, time travel and incident forensics inside PostgreSQL.
//!
//! Arrows point down: SQL surface (`sql/install`), features, `catalog` and `context`, `pg`. See README.md.

use pgrx::prelude::*;

pub mod capture;
pub mod catalog;
pub mod context;
pub mod error;
pub mod history;
pub mod pg;
pub mod replay;
pub mod symbols;

::pgrx::pg_module_magic!(name = c"threadline_forensics", version = c"0.1.0");

extension_sql_file!("../sql/install/schema.sql", name = "schema", bootstrap);
extension_sql_file!("../sql/install/storage.sql", name = "storage", requires = ["schema"]);
extension_sql_file!("../sql/install/library.sql", name = "library", requires = ["storage"]);
extension_sql_file!("../sql/install/context.sql", name = "context", requires = ["library"]);
extension_sql_file!("../sql/install/key_choice.sql", name = "key_choice", requires = ["context"]);
extension_sql_file!("../sql/install/capture.sql", name = "capture", requires = ["key_choice"]);
extension_sql_file!("../sql/install/policy.sql", name = "policy", requires = ["capture"]);
extension_sql_file!("../sql/install/triggers.sql", name = "triggers", requires = ["policy"]);
extension_sql_file!("../sql/install/views.sql", name = "views", requires = ["triggers"]);
extension_sql_file!("../sql/install/truncate.sql", name = "truncate", requires = ["views"]);
extension_sql_file!("../sql/install/full_row.sql", name = "full_row", requires = ["truncate"]);
extension_sql_file!("../sql/install/partitions.sql", name = "partitions", requires = ["full_row"]);
extension_sql_file!("../sql/install/cost.sql", name = "cost", requires = ["partitions"]);
extension_sql_file!("../sql/install/history.sql", name = "history", requires = ["cost"]);
extension_sql_file!("../sql/install/typed.sql", name = "typed", requires = ["history"]);
extension_sql_file!("../sql/install/asof.sql", name = "asof", requires = ["typed"]);
extension_sql_file!("../sql/install/rewind.sql", name = "rewind", requires = ["asof"]);
extension_sql_file!("../sql/install/typed_asof.sql", name = "typed_asof", requires = ["rewind"]);
extension_sql_file!("../sql/install/diff.sql", name = "diff", requires = ["typed_asof"]);
extension_sql_file!("../sql/install/timeline.sql", name = "timeline", requires = ["diff"]);
extension_sql_file!("../sql/install/table_diff.sql", name = "table_diff", requires = ["timeline"]);
extension_sql_file!("../sql/install/export.sql", name = "export", requires = ["table_diff"]);
extension_sql_file!("../sql/install/statements.sql", name = "statements", requires = ["export"]);
extension_sql_file!("../sql/install/bundle.sql", name = "bundle", requires = ["statements"]);
extension_sql_file!("../sql/install/revert_plan.sql", name = "revert_plan", requires = ["bundle"]);
extension_sql_file!("../sql/install/revert_order.sql", name = "revert_order", requires = ["revert_plan"]);
extension_sql_file!("../sql/install/revert_check.sql", name = "revert_check", requires = ["revert_order"]);
extension_sql_file!("../sql/install/revert.sql", name = "revert", requires = ["revert_check"]);
extension_sql_file!("../sql/install/restore.sql", name = "restore", requires = ["revert"]);
extension_sql_file!("../sql/install/time_travel.sql", name = "time_travel", requires = ["restore"]);
extension_sql_file!("../sql/install/bisect_state.sql", name = "bisect_state", requires = ["time_travel"]);
extension_sql_file!("../sql/install/bisect.sql", name = "bisect", requires = ["bisect_state"]);
extension_sql_file!("../sql/install/replay.sql", name = "replay", requires = ["bisect"]);
extension_sql_file!("../sql/install/replay_model.sql", name = "replay_model", requires = ["replay"]);
extension_sql_file!("../sql/install/replay_invariant.sql", name = "replay_invariant", requires = ["replay_model"]);
extension_sql_file!("../sql/install/replay_stream.sql", name = "replay_stream", requires = ["replay_invariant"]);
extension_sql_file!("../sql/install/replay_run.sql", name = "replay_run", requires = ["replay_stream"]);
extension_sql_file!("../sql/install/replay_result.sql", name = "replay_result", requires = ["replay_run"]);
extension_sql_file!("../sql/install/replay_query.sql", name = "replay_query", requires = ["replay_result"]);
extension_sql_file!("../sql/install/replay_check.sql", name = "replay_check", requires = ["replay_query"]);
extension_sql_file!("../sql/install/replay_why.sql", name = "replay_why", requires = ["replay_check"]);
extension_sql_file!("../sql/install/replay_cause.sql", name = "replay_cause", requires = ["replay_why"]);
extension_sql_file!("../sql/install/replay_without.sql", name = "replay_without", requires = ["replay_cause"]);
extension_sql_file!("../sql/install/replay_test.sql", name = "replay_test", requires = ["replay_without"]);
extension_sql_file!("../sql/install/replay_report.sql", name = "replay_report", requires = ["replay_test"]);
extension_sql_file!("../sql/install/replay_monitor.sql", name = "replay_monitor", requires = ["replay_report"]);
extension_sql_file!("../sql/install/replay_sums.sql", name = "replay_sums", requires = ["replay_monitor"]);
extension_sql_file!("../sql/install/retention.sql", name = "retention", requires = ["replay_sums"]);
extension_sql_file!("../sql/install/operate.sql", name = "operate", requires = ["retention"]);
extension_sql_file!("../sql/install/coverage.sql", name = "coverage", requires = ["operate"]);
extension_sql_file!("../sql/install/schema_capture.sql", name = "schema_capture", requires = ["coverage"]);
extension_sql_file!("../sql/install/health.sql", name = "health", requires = ["schema_capture"]);
extension_sql_file!("../sql/install/grants.sql", name = "grants", finalize);

/// Runs when a session first uses the extension; no preloading is needed.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    if pg::settings::is_binary_upgrade() {
        return;
    }
    context::settings::define();
    pg::call_stack::register();
    pg::planner::register(history::keyed::visit);
    pg::xact::register(
        on_transaction_event,
        capture::transaction::on_subtransaction_event,
        catalog::cache::invalidate,
        capture::cost::session_ends,
    );
}

fn on_transaction_event(event: pg::xact::TransactionEvent) {
    if let pg::xact::TransactionEvent::Ended { .. } = event {
        replay::face::forget();
        replay::table_face::forget();
    }
    capture::transaction::on_transaction_event(event);
}
