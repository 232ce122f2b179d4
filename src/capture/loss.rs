//! Changes of tables with `on_error` warn that could not be recorded. The write goes through; a WARNING says so at
//! once, and when the transaction commits it leaves a gap, so that no answer takes the history for complete.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::PgLogLevel;
use pgrx::{PgSqlErrorCode, pg_sys};

use super::buffer::{self, Pending};
use crate::catalog::cache;
use crate::catalog::plan::Plan;
use crate::catalog::policy;
use crate::error::{self, Error};
use crate::pg::datum::{Value, message_datum, text_datum};
use crate::pg::subtransaction::{Refusal, sqlstate, survive};
use crate::pg::{relation, spi, types, user};

/// What a table lost for one reason.
pub struct Loss {
    pub table_id: i32,
    pub first_at: i64,
    last_at: i64,
    changes: i64,
    code: PgSqlErrorCode,
    message: String,
}

impl Loss {
    /// Adds it to what was lost before; whether that is something new to say.
    pub fn join(self, losses: &mut Vec<Loss>) -> bool {
        let known = losses
            .iter_mut()
            .find(|known| (known.table_id, known.code) == (self.table_id, self.code) && known.message == self.message);
        match known {
            Some(known) => {
                known.changes += self.changes;
                known.first_at = known.first_at.min(self.first_at);
                known.last_at = known.last_at.max(self.last_at);
                false
            }
            None => {
                losses.push(self);
                true
            }
        }
    }
}

/// Runs `work`, which one change cannot be recorded without. None: it failed, and the change is lost, since it may be.
pub fn survived<R>(plan: &Plan, tolerant: bool, work: impl FnOnce() -> Result<R, Error>) -> Result<Option<R>, Error> {
    if !tolerant {
        return work().map(Some);
    }
    Ok(survive(work).map_err(|refusal| note_one(plan.policy.table_id, &plan.table, refusal)).ok())
}

/// A relation's change cannot be recorded because its plan cannot be made.
pub fn without_plan(relid: pg_sys::Oid, error: Error) -> Result<(), Error> {
    if matches!(error, Error::NotUnderCapture { .. }) {
        return Err(error);
    }
    match policy::find(relid)?.filter(|policy| policy.enabled && policy.tolerates_loss()) {
        Some(policy) => {
            note_one(policy.table_id, &relation::qualified_name(relid), error.into());
            Ok(())
        }
        None => Err(error),
    }
}

fn note_one(table_id: i32, table: &str, refusal: Refusal) {
    let now = types::now();
    // The server's message may quote a value of the row, perhaps one that redaction hides.
    let message =
        if refusal.is_ours { refusal.message.clone() } else { "the images of a row could not be made".to_string() };
    note(table, &refusal, Loss { table_id, first_at: now, last_at: now, changes: 1, code: refusal.code, message });
}

/// Rows could not be written to the log, whose errors know nothing of what is in them.
pub fn note_rows(table_id: i32, refusal: Refusal, rows: &[Pending]) {
    let times = || rows.iter().map(|row| row.captured_at);
    let loss = Loss {
        table_id,
        first_at: times().min().unwrap_or_else(types::now),
        last_at: times().max().unwrap_or_else(types::now),
        changes: rows.iter().filter(|row| row.counts()).count() as i64,
        code: refusal.code,
        message: refusal.message.clone(),
    };
    note(&name_of(table_id), &refusal, loss);
}

/// The transaction's own row could not be written: its changes stand in the log without who made them, and when.
pub fn note_transaction(tables: &[i32], refusal: &Refusal) {
    for table_id in tables {
        note_beside_changes(*table_id, "the transaction's own row could not be written", refusal);
    }
}

/// Which partitions a TRUNCATE emptied could not be noted, though the rows are recorded.
pub fn note_emptied(table_id: i32, refusal: &Refusal) {
    note_beside_changes(table_id, "an emptied partition could not be noted", refusal);
}

fn note_beside_changes(table_id: i32, what: &str, refusal: &Refusal) {
    let now = types::now();
    let message = format!("{what}: {}", refusal.message);
    let loss = Loss { table_id, first_at: now, last_at: now, changes: 0, code: refusal.code, message };
    note(&name_of(table_id), refusal, loss);
}

fn name_of(table_id: i32) -> String {
    cache::root_of(table_id).map_or_else(|| format!("with id {table_id}"), relation::qualified_name)
}

fn note(table: &str, refusal: &Refusal, loss: Loss) {
    if buffer::lose(loss) {
        let message = format!("changes of table {table} are not recorded: {}", refusal.message);
        ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "threadline_forensics")
            .set_detail(format!(
                "SQLSTATE {}. The write goes through, since the table has on_error \"warn\".",
                sqlstate(refusal.code)
            ))
            .set_hint(format!(
                "When the cause is mended, take a new baseline: SELECT threadline.audit_enable({});",
                error::literal(table)
            ))
            .report(PgLogLevel::WARNING);
    }
    if buffer::is_stamped() {
        write_gaps();
    }
}

/// Writes what was lost into the record. Where even that fails, the WARNING has to do.
pub fn write_gaps() {
    for loss in buffer::take_losses() {
        let _ = survive(|| user::as_owner_through(c"gap", || insert_gap(&loss)));
    }
}

fn insert_gap(loss: &Loss) {
    let big = |value: i64| Some(Value::new(value.into()));
    let id = buffer::transaction_id();
    spi::execute(
        "INSERT INTO threadline.gap (table_id, reason, since_at, until_at, detail)
         VALUES ($1, 'warn_on_error', $2, $3,
                 pg_catalog.jsonb_build_object('sqlstate', $4, 'message', $5, 'changes', $6, 'transaction_id', $7))",
        &[
            (pg_sys::INT4OID, Some(Value::new(loss.table_id.into()))),
            (pg_sys::TIMESTAMPTZOID, big(loss.first_at)),
            // An interval's end does not belong to it.
            (pg_sys::TIMESTAMPTZOID, big(loss.last_at + 1)),
            (pg_sys::TEXTOID, Some(Value::new(text_datum(sqlstate(loss.code).as_bytes())))),
            (pg_sys::TEXTOID, Some(Value::new(message_datum(&loss.message)))),
            (pg_sys::INT8OID, big(loss.changes)),
            (pg_sys::UUIDOID, Some(Value::new(id.as_ptr().into()))),
        ],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(table_id: i32, message: &str, at: i64) -> Loss {
        let code = PgSqlErrorCode::ERRCODE_DISK_FULL;
        Loss { table_id, first_at: at, last_at: at, changes: 1, code, message: message.into() }
    }

    #[test]
    fn what_is_lost_for_one_reason_is_one_gap() {
        let mut losses = Vec::new();
        assert!(loss(1, "a", 5).join(&mut losses));
        assert!(!loss(1, "a", 3).join(&mut losses));
        assert!(loss(1, "b", 4).join(&mut losses));
        assert!(loss(2, "a", 4).join(&mut losses));
        let first = &losses[0];
        assert_eq!((first.first_at, first.last_at, first.changes), (3, 5, 2));
        assert_eq!(losses.len(), 3);
    }
}
