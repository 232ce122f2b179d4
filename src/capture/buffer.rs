//! Changes captured and not yet in the log, and what is known of the transaction they belong to.
//!
//! One level a subtransaction: a savepoint's changes must be written under its own xid or under that of a parent
//! that it committed into, never under that of a child. Writing the parent's rows when a child starts made rows
//! vanish with the child's rollback; so only the current subtransaction's level is ever written, and the others wait.

use std::cell::RefCell;
use std::ops::Range;

use super::image::{Encoded, op};
use super::loss::{self, Loss};
use super::ranges::Ranges;
use super::{cost, log};
use crate::context::cause::{self, Asked};
use crate::context::identity;
use crate::context::statement::Statements;
use crate::error::Error;
use crate::pg::direct_insert::MAX_BATCH;
use crate::pg::subtransaction::survive;
use crate::pg::{types, user, xact};

pub type Uuid = [u8; 16];

/// A change waiting to be written; ranges are into its level's bytes.
#[derive(Clone)]
pub struct Pending {
    /// 0 until drawn.
    pub id: i64,
    pub captured_at: i64,
    pub row_key: i64,
    pub table_id: i32,
    pub statement_no: i32,
    pub schema_version: i32,
    pub op: i16,
    pub key: Range<usize>,
    pub old_key: Option<Range<usize>>,
    pub old_image: Option<Range<usize>>,
    pub new_image: Option<Range<usize>>,
    pub old_exact: Option<Range<usize>>,
    pub new_exact: Option<Range<usize>>,
}

impl Pending {
    /// Helper rows of a key change are not changes of their own.
    pub fn counts(&self) -> bool {
        self.table_id > 0 && self.op != op::MOVED
    }

    /// Whether it may be lost rather than fail the write. A baseline is asked for, no matter whose.
    fn is_tolerated(&self, tolerant: &[i32]) -> bool {
        self.op != op::SNAPSHOT && tolerant.contains(&self.table_id.abs())
    }

    /// What its keys and images take.
    pub fn variable_bytes(&self) -> usize {
        let optional = [&self.old_key, &self.old_image, &self.new_image, &self.old_exact, &self.new_exact];
        self.key.len() + optional.into_iter().flatten().map(Range::len).sum::<usize>()
    }
}

/// Rows laid out for writing.
#[derive(Default)]
pub struct Batch {
    pub rows: Vec<Pending>,
    pub bytes: Vec<u8>,
}

impl Batch {
    fn is_full(&self, room_for: usize) -> bool {
        self.rows.len() + room_for > MAX_BATCH || self.bytes.len() > LARGE_BATCH
    }

    /// Empties it, keeping its allocations unless an unusually large row made them.
    fn clear(&mut self) {
        self.rows.clear();
        if self.bytes.capacity() > LARGE_BATCH {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
    }
}

/// A batch this large is written without waiting for more rows. A smaller one waits for the end of the transaction:
/// its reader finds it in memory, and several statements' rows are written at the price of one.
pub const LARGE_BATCH: usize = 1 << 20;

/// What one subtransaction has captured.
#[derive(Default)]
struct Level {
    subtransaction: u32,
    /// The last statement that captured something, and the snapshot it saw.
    statement_no: Option<i32>,
    snapshot: Option<Vec<u8>>,
    statements: Statements,
    batch: Batch,
    /// Changes written to the log.
    written: i64,
    ranges: Ranges,
    action: Option<Uuid>,
    /// Something happened that deserves a transaction row even without a change.
    noteworthy: bool,
    /// What must be recorded or fail the transaction was captured.
    strict: bool,
    /// The tables with on_error warn that were written.
    tolerant: Vec<i32>,
    /// What of them could not be recorded.
    losses: Vec<Loss>,
}

impl Level {
    fn absorb(&mut self, child: Level) {
        let shift = self.batch.bytes.len().next_multiple_of(8);
        if !child.batch.rows.is_empty() {
            self.batch.bytes.resize(shift, 0);
            self.batch.bytes.extend_from_slice(&child.batch.bytes);
            let moved = |range: Range<usize>| range.start + shift..range.end + shift;
            self.batch.rows.extend(child.batch.rows.into_iter().map(|row| Pending {
                key: moved(row.key),
                old_key: row.old_key.map(moved),
                old_image: row.old_image.map(moved),
                new_image: row.new_image.map(moved),
                old_exact: row.old_exact.map(moved),
                new_exact: row.new_exact.map(moved),
                ..row
            }));
        }
        self.statements.absorb(child.statements);
        self.written += child.written;
        self.ranges.extend(&child.ranges);
        if child.statement_no.is_some() {
            self.statement_no = child.statement_no;
            self.snapshot = child.snapshot;
        }
        self.action = child.action.or(self.action);
        self.noteworthy |= child.noteworthy;
        self.strict |= child.strict;
        child.tolerant.into_iter().for_each(|table_id| self.tolerate(table_id));
        for loss in child.losses {
            loss.join(&mut self.losses);
        }
    }

    fn tolerate(&mut self, table_id: i32) {
        if !self.tolerant.contains(&table_id) {
            self.tolerant.push(table_id);
        }
    }
}

/// The transaction that captures.
struct Transaction {
    id: Uuid,
    occurred_at: Option<i64>,
    session_user: pgrx::pg_sys::Oid,
    outer_user: pgrx::pg_sys::Oid,
    /// Its row is in the log: what is captured after that is written at once.
    stamped: bool,
    levels: Vec<Level>,
}

/// What a transaction's row says of its changes.
pub struct Summary {
    pub id: Uuid,
    pub occurred_at: i64,
    pub session_user: pgrx::pg_sys::Oid,
    pub outer_user: pgrx::pg_sys::Oid,
    pub changes: i64,
    pub ranges: Ranges,
    pub snapshot: Option<Vec<u8>>,
    pub statements: Statements,
    pub action: Option<Uuid>,
    /// Whether the transaction may not commit without its row.
    pub strict: bool,
    /// The tables whose changes may be lost.
    pub tolerant: Vec<i32>,
}

thread_local! {
    static CURRENT: RefCell<Option<Transaction>> = const { RefCell::new(None) };
}

/// Runs `work` on the transaction's state, made if there is none. `work` must not call into the server.
fn with_transaction<R>(work: impl FnOnce(&mut Transaction) -> R) -> R {
    CURRENT.with_borrow_mut(|current| {
        work(current.get_or_insert_with(|| Transaction {
            id: identity::new_transaction_id(),
            occurred_at: None,
            session_user: user::session_user(),
            outer_user: user::outer_user(),
            stamped: false,
            levels: Vec::new(),
        }))
    })
}

impl Transaction {
    fn level(&mut self, subtransaction: u32) -> &mut Level {
        if self.levels.last().is_none_or(|level| level.subtransaction != subtransaction) {
            self.levels.push(Level { subtransaction, ..Level::default() });
        }
        self.levels.last_mut().expect("pushed if there was none")
    }

    /// The level that this subtransaction's would be absorbed by.
    fn level_below(&self, subtransaction: u32) -> Option<&Level> {
        self.levels.iter().rev().find(|level| level.subtransaction != subtransaction)
    }
}

/// The transaction's id in the record, the same from its first use to the end of the transaction.
pub fn transaction_id() -> Uuid {
    with_transaction(|transaction| transaction.id)
}

/// Marks the current transaction as deserving a row even if it changes nothing, with the action behind it.
pub fn note(action: Option<Uuid>) {
    let subtransaction = xact::current_subtransaction();
    let now = types::now();
    with_transaction(|transaction| {
        transaction.occurred_at.get_or_insert(now);
        let level = transaction.level(subtransaction);
        level.noteworthy = true;
        level.strict = true;
        level.action = action.or(level.action);
    });
}

/// Where a captured change belongs.
pub struct Place {
    pub table_id: i32,
    pub schema_version: i32,
    pub statement_no: i32,
    pub asked: Asked,
    /// The change may be lost rather than fail the write.
    pub tolerant: bool,
}

/// Takes a change in; writes the buffer out when it is full.
pub fn add(place: &Place, encoded: Encoded, bytes: &[u8]) -> Result<(), Error> {
    let subtransaction = xact::current_subtransaction();
    let captured_at = types::now();
    // A key change adds two rows, and a batch shares one block of ids.
    let room_for = if encoded.old_key.is_some() { 3 } else { 1 };
    let (full, new_statement, is_known) = with_transaction(|transaction| {
        transaction.occurred_at.get_or_insert(captured_at);
        let level = transaction.level(subtransaction);
        let new_statement = level.statement_no != Some(place.statement_no);
        (level.batch.is_full(room_for), new_statement, level.statements.knows(place.statement_no))
    });
    if full {
        flush()?;
    }
    let snapshot = if new_statement { xact::active_snapshot() } else { None };
    let what = (!is_known).then(|| cause::of_statement(place.statement_no, place.asked));
    let at_once = with_transaction(|transaction| {
        // See is_too_much_together: of a savepoint with such changes nothing is written when it is released.
        let crowded = place.tolerant && transaction.level_below(subtransaction).is_some_and(|l| l.batch.is_full(0));
        let at_once = transaction.stamped || crowded;
        let level = transaction.level(subtransaction);
        if place.tolerant {
            level.tolerate(place.table_id);
        } else {
            level.strict = true;
        }
        if new_statement {
            level.statement_no = Some(place.statement_no);
            level.snapshot = snapshot;
        }
        if let Some(what) = what {
            level.statements.begin(place.statement_no, what);
        }
        level.statements.count(place.statement_no, op::command(encoded.op));
        let batch = &mut level.batch;
        let shift = batch.bytes.len().next_multiple_of(8);
        batch.bytes.resize(shift, 0);
        batch.bytes.extend_from_slice(bytes);
        let moved = |range: Range<usize>| range.start + shift..range.end + shift;
        let row = Pending {
            id: 0,
            captured_at,
            row_key: encoded.key.row_key,
            table_id: place.table_id,
            statement_no: place.statement_no,
            schema_version: place.schema_version,
            op: encoded.op,
            key: moved(encoded.key.text),
            old_key: encoded.old_key.as_ref().map(|old| moved(old.text.clone())),
            old_image: encoded.old.as_ref().map(|image| moved(image.json.clone())),
            new_image: encoded.new.as_ref().map(|image| moved(image.json.clone())),
            old_exact: encoded.old.and_then(|image| image.exact).map(moved),
            new_exact: encoded.new.and_then(|image| image.exact).map(moved),
        };
        if let (Some(old), Some(old_text)) = (&encoded.old_key, &row.old_key) {
            // See threadline.change_log in storage.sql: where the row went, and where it came from.
            let helper = |table_id: i32, row_key: i64, key: &Range<usize>, other: &Range<usize>| Pending {
                table_id,
                row_key,
                op: op::MOVED,
                key: key.clone(),
                old_key: Some(other.clone()),
                old_image: None,
                new_image: None,
                old_exact: None,
                new_exact: None,
                ..row.clone()
            };
            let gone = helper(place.table_id, old.row_key, old_text, &row.key);
            let came = helper(-place.table_id, row.row_key, &row.key, old_text);
            batch.rows.push(gone);
            batch.rows.push(came);
        }
        batch.rows.push(row);
        at_once
    });
    if at_once { flush() } else { Ok(()) }
}

/// Ids drawn and not yet given: a draw serves a block of rows, and what is left of it in the end is discarded.
#[derive(Default)]
struct IdBlock(Range<i64>);

impl IdBlock {
    fn draw(&mut self) -> Result<i64, Error> {
        if self.0.is_empty() {
            let first = xact::next_block(c"change_id_seq")?;
            self.0 = first..first + MAX_BATCH as i64;
        }
        Ok(self.0.next().expect("a block is not empty"))
    }
}

/// Writes what the current subtransaction has captured. The rows' ids are drawn while the locks of the rows are held: at the
/// latest when they are written, never before they were captured.
pub fn flush() -> Result<(), Error> {
    let mut ids = IdBlock::default();
    let subtransaction = xact::current_subtransaction();
    let has_rows = |level: &Level| level.subtransaction == subtransaction && !level.batch.rows.is_empty();
    let taken = CURRENT.with_borrow_mut(|current| {
        let transaction = current.as_mut()?;
        let id = transaction.id;
        let level = transaction.levels.last_mut().filter(|level| has_rows(level))?;
        Some((id, std::mem::take(&mut level.batch), level.tolerant.clone()))
    });
    let Some((id, mut batch, tolerant)) = taken else { return Ok(()) };
    let _measured = cost::Stretch::write();
    if batch.rows.iter().any(|row| row.is_tolerated(&tolerant)) {
        write_what_can_be(&id, &mut batch, &tolerant, &mut ids)?;
    } else {
        write(&id, &mut batch.rows, &batch.bytes, &mut ids)?;
    }
    let changes = batch.rows.iter().filter(|row| row.counts()).count() as i64;
    with_transaction(|transaction| {
        let level = transaction.level(subtransaction);
        level.written += changes;
        batch.rows.iter().for_each(|row| level.ranges.add(row.id, row.id + 1));
        batch.clear();
        // Given back for its allocations, unless a cast that ran meanwhile captured something of its own.
        if level.batch.rows.is_empty() {
            level.batch = batch;
        }
    });
    Ok(())
}

fn write(id: &Uuid, rows: &mut [Pending], bytes: &[u8], ids: &mut IdBlock) -> Result<(), Error> {
    for row in rows.iter_mut().filter(|row| row.id == 0) {
        row.id = ids.draw()?;
    }
    // More than a batch of rows is here only when savepoints were released with rows still waiting.
    for rows in rows.chunks(MAX_BATCH) {
        log::write_changes(id, rows, bytes)?;
        cost::count(rows);
    }
    Ok(())
}

/// Writes a batch with rows that may be lost. If it fails as a whole, the rows that may not are written or fail the
/// transaction, and then each table's others for themselves. Rows that are lost are noted and leave the batch.
fn write_what_can_be(id: &Uuid, batch: &mut Batch, tolerant: &[i32], ids: &mut IdBlock) -> Result<(), Error> {
    let Err(refusal) = survive(|| write(id, &mut batch.rows, &batch.bytes, ids)) else { return Ok(()) };
    let (mut rest, mut written): (Vec<Pending>, Vec<Pending>) =
        batch.rows.drain(..).partition(|row| row.is_tolerated(tolerant));
    write(id, &mut written, &batch.bytes, ids)?;
    let mut is_known_to_fail = written.is_empty();
    while let Some(table_id) = rest.first().map(|row| row.table_id.abs()) {
        let (mut rows, others): (Vec<Pending>, Vec<Pending>) =
            rest.into_iter().partition(|row| row.table_id.abs() == table_id);
        // Nothing but this table's rows was in the batch: trying again could wait for a lock again.
        is_known_to_fail &= others.is_empty();
        let outcome =
            if is_known_to_fail { Err(refusal.clone()) } else { survive(|| write(id, &mut rows, &batch.bytes, ids)) };
        match outcome {
            Ok(()) => written.append(&mut rows),
            Err(refusal) => {
                uncount(&rows);
                loss::note_rows(table_id, refusal, &rows);
            }
        }
        is_known_to_fail = false;
        rest = others;
    }
    batch.rows = written;
    Ok(())
}

/// What statements changed is told without the changes that were lost.
fn uncount(rows: &[Pending]) {
    let subtransaction = xact::current_subtransaction();
    with_transaction(|transaction| {
        let statements = &mut transaction.level(subtransaction).statements;
        rows.iter().filter(|row| row.counts()).for_each(|row| statements.uncount(row.statement_no));
    });
}

/// Takes note of what could not be recorded; whether it is the first of its kind in this subtransaction.
pub fn lose(loss: Loss) -> bool {
    let subtransaction = xact::current_subtransaction();
    with_transaction(|transaction| {
        transaction.occurred_at.get_or_insert(loss.first_at);
        let level = transaction.level(subtransaction);
        level.tolerate(loss.table_id);
        loss.join(&mut level.losses)
    })
}

/// What could not be recorded, if it is time to say so in the record: when the transaction's row is written, or after.
pub fn take_losses() -> Vec<Loss> {
    CURRENT.with_borrow_mut(|current| {
        let levels = current.iter_mut().flat_map(|transaction| &mut transaction.levels);
        levels.flat_map(|level| std::mem::take(&mut level.losses)).collect()
    })
}

pub fn is_stamped() -> bool {
    CURRENT.with_borrow(|current| current.as_ref().is_some_and(|transaction| transaction.stamped))
}

/// Whether what a subtransaction and its parent have waiting is more than one level should hold. Changes that may be
/// lost wait on: while a subtransaction is being committed the server lets none be begun in which they could fail.
pub fn is_too_much_together(id: u32, parent: u32) -> bool {
    CURRENT.with_borrow(|current| {
        let mut levels = current.iter().flat_map(|transaction| &transaction.levels).rev();
        let Some(child) = levels.next().filter(|level| level.subtransaction == id) else { return false };
        let Some(below) = levels.next().filter(|level| level.subtransaction == parent) else { return false };
        (below.batch.is_full(child.batch.rows.len()) || child.batch.is_full(0))
            && !child.batch.rows.iter().any(|row| row.is_tolerated(&child.tolerant))
    })
}

/// Shows `visit` every row not yet written that the current snapshot may see. Ids drawn for it are kept, so a row
/// has the same one in the log.
pub fn visit_pending(mut visit: impl FnMut(&Uuid, &Pending, &[u8])) -> Result<(), Error> {
    let unnumbered =
        CURRENT.with_borrow(|current| current.iter().flat_map(pending_rows).filter(|row| row.id == 0).count());
    let mut ids = IdBlock::default();
    let mut drawn = (0..unnumbered).map(|_| ids.draw()).collect::<Result<Vec<i64>, Error>>()?.into_iter();
    let seen_before = xact::snapshot_command();
    CURRENT.with_borrow_mut(|current| {
        let Some(transaction) = current else { return };
        for level in &mut transaction.levels {
            for row in level.batch.rows.iter_mut().filter(|row| row.id == 0) {
                row.id = drawn.next().expect("one drawn for each");
            }
        }
        for level in &transaction.levels {
            let seen = level.batch.rows.iter().filter(|row| (row.statement_no as u32) < seen_before);
            seen.for_each(|row| visit(&transaction.id, row, &level.batch.bytes));
        }
    });
    Ok(())
}

fn pending_rows(transaction: &Transaction) -> impl Iterator<Item = &Pending> {
    transaction.levels.iter().flat_map(|level| &level.batch.rows)
}

/// The transaction as far as it got; None while it has recorded nothing.
pub fn summary() -> Option<Summary> {
    CURRENT.with_borrow(|current| {
        let transaction = current.as_ref().filter(|transaction| !transaction.stamped)?;
        let mut summary = Summary {
            id: transaction.id,
            occurred_at: transaction.occurred_at?,
            session_user: transaction.session_user,
            outer_user: transaction.outer_user,
            changes: 0,
            ranges: Ranges::default(),
            snapshot: None,
            statements: Statements::default(),
            action: None,
            strict: false,
            tolerant: Vec::new(),
        };
        let mut noteworthy = false;
        for level in &transaction.levels {
            summary.changes += level.written + level.batch.rows.iter().filter(|row| row.counts()).count() as i64;
            summary.ranges.extend(&level.ranges);
            level.batch.rows.iter().filter(|row| row.id != 0).for_each(|row| summary.ranges.add(row.id, row.id + 1));
            summary.snapshot = level.snapshot.clone().or(summary.snapshot);
            summary.statements.absorb(level.statements.clone());
            summary.action = level.action.or(summary.action);
            noteworthy |= level.noteworthy || !level.losses.is_empty();
            summary.strict |= level.strict;
            summary.tolerant.extend_from_slice(&level.tolerant);
        }
        (summary.changes > 0 || noteworthy).then_some(summary)
    })
}

/// Whether the transaction has nothing that could need a row: it may have captured nothing, or asked for its id only.
pub fn is_empty() -> bool {
    CURRENT.with_borrow(|current| {
        current.as_ref().is_none_or(|transaction| transaction.stamped || transaction.levels.is_empty())
    }) && !super::partition_move::is_under_way()
}

/// The transaction's row is written.
pub fn set_stamped() {
    with_transaction(|transaction| transaction.stamped = true);
}

/// The transaction is over in this session.
pub fn forget() {
    CURRENT.with_borrow_mut(|current| *current = None);
}

/// A savepoint was released: its changes are now its parent's.
pub fn subtransaction_committed(id: u32, parent: u32) {
    CURRENT.with_borrow_mut(|current| {
        let Some(transaction) = current else { return };
        if transaction.levels.last().is_none_or(|level| level.subtransaction != id) {
            return;
        }
        let child = transaction.levels.pop().expect("checked above");
        transaction.level(parent).absorb(child);
    });
}

/// A savepoint was rolled back: its changes never were.
pub fn subtransaction_aborted(id: u32) {
    CURRENT.with_borrow_mut(|current| {
        if let Some(transaction) = current {
            transaction.levels.retain(|level| level.subtransaction != id);
        }
    });
}
