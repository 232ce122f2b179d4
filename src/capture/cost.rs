//! What capture costs, counted by capture itself: changes, bytes, WAL and time of each table, gathered by the session
//! and saved to threadline.capture_cost now and then. Counting must stay far below what it counts, and looking at the
//! clock is the dearest of it: time is taken of each full buffer that is written, and of a sample of rows and of ends of
//! transactions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::buffer::Pending;
use crate::error::Error;
use crate::pg::direct_insert::{Field, MAX_BATCH, PartitionKey, TableWriter};
use crate::pg::{relation, xact};

/// What a table, or a stretch of work, has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub changes: i64,
    pub bytes: i64,
    pub wal_bytes: i64,
    pub nanoseconds: i64,
}

impl Cost {
    fn add(&mut self, other: Cost) {
        self.changes += other.changes;
        self.bytes += other.bytes;
        self.wal_bytes += other.wal_bytes;
        self.nanoseconds += other.nanoseconds;
    }
}

/// A session's first rows and ends of transactions are timed one by one, so that short sessions count exactly; after
/// them each SAMPLED-th is, and counts for as many. A prime, as work comes in patterns of a few.
const TIMED_FIRST: u32 = 64;
const SAMPLED: u32 = 61;

#[derive(Default)]
struct Sampler {
    timed_first: u32,
    skipped: u32,
}

impl Sampler {
    /// Whether to time the next one, and for how many it stands.
    fn next(&mut self) -> Option<u32> {
        if self.timed_first < TIMED_FIRST {
            self.timed_first += 1;
            return Some(1);
        }
        self.skipped += 1;
        if self.skipped < SAMPLED {
            return None;
        }
        self.skipped = 0;
        Some(SAMPLED)
    }
}

/// A session saves with its first transaction, so that the shortest counts, and then not more often than this.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// What a row of the log takes beside its values of variable length: tuple header, its pointer, the other columns.
const FIXED_BYTES: usize = 24 + 4 + 54;

#[derive(Default)]
struct Session {
    /// Counted since it was last saved.
    unsaved: HashMap<i32, Cost>,
    /// Saved by the transaction under way: unsaved again if it aborts.
    saving: Vec<(i32, Cost)>,
    /// When the transaction started that saved last.
    saved_at: Option<i64>,
    in_stretch: bool,
    /// What the stretch under way wrote, or, until it has written anything, the last one of the transaction.
    written: Vec<(i32, Cost)>,
    written_before: bool,
    /// Time spent in stretches, for leaving it out of the rows that caused them.
    stretches: Duration,
    rows: Sampler,
    transactions: Sampler,
}

thread_local! {
    static SESSION: RefCell<Session> = RefCell::default();
    static COSTS: TableWriter = TableWriter::new(
        c"capture_cost",
        &[pg_sys::INT4OID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID],
    );
}

impl Session {
    fn charge(&mut self, table_id: i32, cost: Cost) {
        self.unsaved.entry(table_id).or_default().add(cost);
    }

    /// Shares what a stretch took among the tables that it wrote for, by their bytes.
    fn share(&mut self, nanoseconds: i64, wal_bytes: i64) {
        let written = std::mem::take(&mut self.written);
        let all: i64 = written.iter().map(|(_, cost)| cost.bytes).sum();
        let part = |whole: i64, bytes: i64| (i128::from(whole) * i128::from(bytes) / i128::from(all.max(1))) as i64;
        for (table_id, cost) in &written {
            let counted = if self.written_before { Cost::default() } else { *cost };
            let (nanoseconds, wal_bytes) = (part(nanoseconds, cost.bytes), part(wal_bytes, cost.bytes));
            self.charge(*table_id, Cost { nanoseconds, wal_bytes, ..counted });
        }
        self.written = written;
        self.written_before = true;
    }
}

/// A piece of work whose time and WAL are measured until it is dropped; inside another one it is part of that.
pub struct Stretch {
    /// None inside another one.
    wal_before: Option<u64>,
    timed: Option<(Instant, u32)>,
}

impl Stretch {
    /// The buffer is written out.
    pub fn write() -> Stretch {
        Stretch::begin(|_| Some(1))
    }

    /// A transaction ends: timed if it is its turn.
    pub fn end_of_transaction() -> Stretch {
        Stretch::begin(|session| session.transactions.next())
    }

    fn begin(stands_for: impl FnOnce(&mut Session) -> Option<u32>) -> Stretch {
        SESSION.with_borrow_mut(|session| {
            if std::mem::replace(&mut session.in_stretch, true) {
                return Stretch { wal_before: None, timed: None };
            }
            let timed = stands_for(session).map(|count| (Instant::now(), count));
            Stretch { wal_before: Some(xact::wal_bytes()), timed }
        })
    }
}

impl Drop for Stretch {
    fn drop(&mut self) {
        let Some(wal_before) = self.wal_before else { return };
        let wal = xact::wal_bytes() - wal_before;
        let (elapsed, stands_for) = self.timed.map_or_else(Default::default, |(begun, count)| (begun.elapsed(), count));
        SESSION.with_borrow_mut(|session| {
            session.in_stretch = false;
            session.stretches += elapsed;
            session.share(elapsed.as_nanos() as i64 * i64::from(stands_for), wal as i64);
        });
    }
}

/// Rows went into the log.
pub fn count(rows: &[Pending]) {
    SESSION.with_borrow_mut(|session| {
        if std::mem::take(&mut session.written_before) {
            session.written.clear();
        }
        for row in rows {
            let table_id = row.table_id.abs();
            let place = match session.written.iter().rposition(|(known, _)| *known == table_id) {
                Some(place) => place,
                None => {
                    session.written.push((table_id, Cost::default()));
                    session.written.len() - 1
                }
            };
            let cost = &mut session.written[place].1;
            cost.changes += i64::from(row.counts());
            cost.bytes += (FIXED_BYTES + row.variable_bytes()) as i64;
        }
    });
}

/// The time of a row, or of several, apart from writing the buffer out, which is a stretch.
pub struct RowTimer(Option<(Instant, Duration, u32)>);

impl RowTimer {
    /// Of one row, if it is its turn.
    pub fn sample() -> RowTimer {
        SESSION.with_borrow_mut(|session| {
            let stands_for = session.rows.next();
            RowTimer(stands_for.map(|count| (Instant::now(), session.stretches, count)))
        })
    }

    /// Of what follows, whatever it is.
    pub fn start() -> RowTimer {
        RowTimer(Some((Instant::now(), SESSION.with_borrow(|session| session.stretches), 1)))
    }

    pub fn stop(self, table_id: i32) {
        let Some((begun, stretches_before, stands_for)) = self.0 else { return };
        let elapsed = begun.elapsed();
        SESSION.with_borrow_mut(|session| {
            let own = elapsed.saturating_sub(session.stretches - stretches_before);
            let nanoseconds = own.as_nanos() as i64 * i64::from(stands_for);
            session.charge(table_id, Cost { nanoseconds, ..Cost::default() });
        });
    }
}

/// Saves what the session has counted, if it is time to. No write fails or waits for it.
pub fn save_when_due() {
    let due = SESSION.with_borrow(|session| {
        let long_ago = |saved: i64| xact::started_at() - saved >= SAVE_EVERY.as_micros() as i64;
        !session.unsaved.is_empty() && session.saved_at.is_none_or(long_ago)
    });
    if due {
        save();
    }
}

fn save() {
    // Whoever sums the table up, drops or alters it is not waited for.
    let Some(table) = relation::own_relation(c"capture_cost") else { return };
    if !relation::lock_if_free(table, pg_sys::RowExclusiveLock as i32) {
        return;
    }
    let counted: Vec<(i32, Cost)> =
        SESSION.with_borrow(|session| session.unsaved.iter().map(|(t, c)| (*t, *c)).collect());
    for rows in counted.chunks(MAX_BATCH) {
        let written = COSTS.with(|writer| {
            writer.insert(
                rows.len(),
                |_| PartitionKey::None,
                |index, sink| {
                    let (table_id, cost) = rows[index];
                    sink.push(Field::I32(table_id));
                    [cost.changes, cost.bytes, cost.wal_bytes, cost.nanoseconds]
                        .into_iter()
                        .for_each(|value| sink.push(Field::I64(value)));
                },
            )
        });
        // Somebody altered the table: then nothing is saved, which is no reason to fail a write.
        let Ok(()): Result<(), Error> = written else { return };
    }
    SESSION.with_borrow_mut(|session| {
        session.unsaved.clear();
        session.saving = counted;
        session.saved_at = Some(xact::started_at());
    });
}

/// The transaction is over.
pub fn transaction_ended(aborted: bool) {
    SESSION.with_borrow_mut(|session| {
        for (table_id, cost) in std::mem::take(&mut session.saving) {
            if aborted {
                session.charge(table_id, cost);
            }
        }
        session.in_stretch = false;
        session.written.clear();
        session.written_before = false;
    });
}

/// The session ends: what it counted since it last saved is saved now, in a transaction of its own.
pub fn session_ends() {
    if SESSION.with_borrow(|session| !session.unsaved.is_empty()) {
        xact::in_last_transaction(save);
    }
}

/// What this session has counted and not saved.
pub fn unsaved() -> Vec<(i32, Cost)> {
    SESSION.with_borrow(|session| session.unsaved.iter().map(|(table_id, cost)| (*table_id, *cost)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(session: &mut Session, tables: &[(i32, i64, i64)]) {
        session.written_before = false;
        session.written = tables
            .iter()
            .map(|(table_id, changes, bytes)| (*table_id, Cost { changes: *changes, bytes: *bytes, ..Cost::default() }))
            .collect();
    }

    #[test]
    fn tables_share_a_stretch_by_their_bytes() {
        let mut session = Session::default();
        written(&mut session, &[(1, 3, 300), (2, 1, 100)]);
        session.share(4000, 800);
        assert_eq!(session.unsaved[&1], Cost { changes: 3, bytes: 300, wal_bytes: 600, nanoseconds: 3000 });
        assert_eq!(session.unsaved[&2], Cost { changes: 1, bytes: 100, wal_bytes: 200, nanoseconds: 1000 });
    }

    #[test]
    fn a_stretch_that_wrote_nothing_is_charged_to_the_tables_written_before() {
        let mut session = Session::default();
        written(&mut session, &[(1, 3, 300)]);
        session.share(1000, 100);
        session.share(500, 60);
        assert_eq!(session.unsaved[&1], Cost { changes: 3, bytes: 300, wal_bytes: 160, nanoseconds: 1500 });
    }
}
