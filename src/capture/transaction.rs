//! The transaction's own row: written once, in pre-commit, with everything known by then.

use std::cell::RefCell;
use std::ffi::CString;

use pgrx::pg_sys;

use super::buffer::{self, Summary, Uuid};
use super::cost;
use super::log::{self, TRANSACTION_FIELDS};
use super::{known_partition, loss, partition_move, whole_table};
use crate::catalog::cache;
use crate::catalog::policy;
use crate::context::cause;
use crate::context::settings::{self, FromComments, LastJson};
use crate::context::statement::Statements;
use crate::error::{Error, OrRaise};
use crate::pg::datum::{self, Value, text_datum};
use crate::pg::direct_insert::Field;
use crate::pg::subtransaction::{being_committed, survive};
use crate::pg::xact::{SubTransactionEvent, TransactionEvent};
use crate::pg::{memory, relation, settings as session, spi, types, user, xact};

pub fn on_transaction_event(event: TransactionEvent) {
    match event {
        TransactionEvent::PreCommit => end(false).or_raise(),
        TransactionEvent::PrePrepare => end(true).or_raise(),
        TransactionEvent::Ended { aborted } => {
            buffer::forget();
            cost::transaction_ended(aborted);
            partition_move::forget(None);
            whole_table::forget_marks();
            known_partition::forget_emptied();
            cause::forget();
            cache::forget_unfinished(aborted, true);
        }
    }
}

pub fn on_subtransaction_event(event: SubTransactionEvent) {
    match event {
        SubTransactionEvent::PreCommit { id, parent } => being_committed(|| finish_savepoint(id, parent)).or_raise(),
        SubTransactionEvent::Committed { id, parent } => buffer::subtransaction_committed(id, parent),
        SubTransactionEvent::Aborted { id } => {
            buffer::subtransaction_aborted(id);
            partition_move::forget(Some(id));
            cache::forget_unfinished(true, false);
        }
    }
}

/// A savepoint is released: its changes go on waiting with its parent's, unless they are too many together.
fn finish_savepoint(id: u32, parent: u32) -> Result<(), Error> {
    if partition_move::is_under_way_in(id) {
        xact::with_snapshot(partition_move::settle)?;
    }
    if buffer::is_too_much_together(id, parent) { xact::with_snapshot(buffer::flush) } else { Ok(()) }
}

fn end(prepared: bool) -> Result<(), Error> {
    if known_partition::any_emptied() {
        xact::with_snapshot(known_partition::note_emptied)?;
    }
    finish(prepared)
}

/// Writes what waits in the buffer and the transaction's row.
fn finish(prepared: bool) -> Result<(), Error> {
    if buffer::is_empty() {
        return Ok(());
    }
    if relation::own_relation(c"transaction_log").is_none() && !relation::extension_exists() {
        // Dropped in this very transaction, and the log with it: there is nothing to write to, by the owner's will.
        return Ok(());
    }
    xact::with_snapshot(|| {
        let measured = cost::Stretch::end_of_transaction();
        partition_move::settle()?;
        buffer::flush()?;
        let Some(summary) = buffer::summary() else { return Ok(()) };
        let stamp = || {
            // Drawn after every change's id, and after every commit number that this transaction can have seen; and only now,
            // since whoever draws and stamps meanwhile has number and time the other way round.
            let commit_no = xact::next_block(c"change_id_seq")?;
            memory::in_transaction_context(|| {
                with_fields(&summary, Some((commit_no, types::now())), prepared, |fields| {
                    log::write_transaction(&summary.id, fields)
                })
            })?;
            if prepared { note_prepared(&summary.id) } else { Ok(()) }
        };
        if summary.strict {
            stamp()?;
        } else if let Err(refusal) = survive(stamp) {
            loss::note_transaction(&summary.tolerant, &refusal);
        }
        if !summary.tolerant.is_empty() {
            loss::write_gaps();
        }
        buffer::set_stamped();
        drop(measured);
        // Nobody knows what becomes of a prepared transaction.
        if !prepared {
            cost::save_when_due();
        }
        Ok(())
    })
}

/// Until its second phase nobody sees the transaction.
fn note_prepared(id: &Uuid) -> Result<(), Error> {
    let arguments = [(pg_sys::UUIDOID, Some(Value::new(datum::bytes_datum(id))))];
    user::as_owner_through(c"prepared_transaction", || spi::execute("SELECT threadline.note_prepared($1)", &arguments))
}

/// Builds the fields of the transaction's row, in the log's column order; without a commit for a
/// transaction that is still running.
pub fn with_fields<R>(
    summary: &Summary,
    commit: Option<(i64, i64)>,
    prepared: bool,
    use_fields: impl FnOnce(&[Field; TRANSACTION_FIELDS]) -> R,
) -> R {
    let text = |text: Option<CString>| match text {
        Some(text) => Field::Datum(text_datum(text.as_bytes())),
        None => Field::Null,
    };
    let datum = |datum: Option<pg_sys::Datum>| datum.map_or(Field::Null, Field::Datum);
    let role = |role: pg_sys::Oid| Field::Datum(text_datum(user::role_name(role).as_bytes()));
    let said = &summary.statements;
    let claims = settings::read(&FromComments { trace_id: said.trace_id(), application: said.application() });
    let ranges = summary.ranges.to_multirange(pg_sys::INT8MULTIRANGEOID.to_u32());
    let (commit_no, committed_at) = match commit {
        Some((number, at)) => (Field::I64(number), Field::I64(at)),
        None => (Field::Null, Field::Null),
    };
    use_fields(&[
        Field::Uuid(&summary.id),
        commit_no,
        Field::I64(xact::started_at()),
        Field::I64(summary.occurred_at),
        committed_at,
        Field::I64(xact::system_identifier()),
        Field::I64(xact::full_xid() as i64),
        Field::I64(summary.changes),
        Field::I32(xact::backend_pid()),
        Field::Bool(prepared),
        Field::Bool(xact::has_one_snapshot()),
        summary.action.as_ref().map_or(Field::Null, Field::Uuid),
        Field::Varlena(&ranges),
        summary.snapshot.as_deref().map_or(Field::Null, |image| Field::Datum(datum::bytes_datum(image))),
        role(summary.session_user),
        role(summary.outer_user),
        text(session::application_name()),
        datum(session::client_address()),
        datum(claims.actor_ref),
        text(claims.correlation_id),
        text(claims.request_id),
        text(claims.job_id),
        text(claims.source),
        datum(claims.context),
        datum(statements_datum(said)),
    ])
}

/// Statements that take more are not worth keeping.
const LARGE_STATEMENTS: usize = 8192;

thread_local! {
    /// The statements of the last transaction: a session does the same again and again.
    static LAST_STATEMENTS: RefCell<LastJson> = RefCell::default();
}

/// What the transaction's statements were; nothing when their changes say it all.
fn statements_datum(statements: &Statements) -> Option<pg_sys::Datum> {
    // Text may hold what a redacted column is to hide, whichever table the statement named.
    let with_text = statements.have_text() && !policy::anything_is_redacted();
    let json = CString::new(statements.to_json(with_text)?).ok()?;
    LAST_STATEMENTS.with_borrow_mut(|last| {
        let is_large = json.count_bytes() > LARGE_STATEMENTS;
        let datum = last.datum_of(json);
        if is_large {
            *last = LastJson::default();
        }
        datum
    })
}
