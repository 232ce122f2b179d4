//! What the log and the tables beside it hold, read below the executor as the active snapshot shows it. None, everywhere: it is not
//! to be had this way, since an index that is looked for is not there.

use pgrx::pg_sys;

use crate::catalog::policy::{Fires, Policy};
use crate::pg::datum::Value;
use crate::pg::direct_insert::PartitionKey;
use crate::pg::index_scan::Comparison::{Above, AtLeast, AtMost, Below, Equals};
use crate::pg::index_scan::Direction::{Backward, Forward};
use crate::pg::index_scan::{Operand, each_by_index, each_entry};
use crate::pg::relation::{self, OpenRelation, own_relation};
use crate::pg::{leaf, scan, trigger, xact};

type Uuid = [u8; 16];

/// The places of columns in our tables (sql/install/storage.sql).
mod column {
    pub mod change {
        pub const ID: usize = 0;
        pub const ROW_KEY: usize = 2;
        pub const TRANSACTION_ID: usize = 3;
        pub const TABLE_ID: usize = 4;
        pub const STATEMENT_NO: usize = 5;
        pub const SCHEMA_VERSION: usize = 6;
        pub const OP: usize = 7;
        pub const KEY: usize = 8;
        pub const NEW_IMAGE: usize = 11;
        pub const NEW_EXACT: usize = 13;
    }
    pub mod transaction {
        pub const ID: usize = 0;
        pub const COMMIT_NO: usize = 1;
        pub const STARTED_AT: usize = 2;
        pub const COMMITTED_AT: usize = 4;
        pub const ORIGIN: usize = 5;
        pub const XID: usize = 6;
    }
    pub mod baseline {
        pub const TABLE_ID: usize = 0;
        pub const FIRST_CHANGE_ID: usize = 1;
        pub const TRANSACTION_ID: usize = 2;
        pub const TAKEN_AT: usize = 4;
    }
    pub mod gap {
        pub const TABLE_ID: usize = 1;
        pub const SINCE_AT: usize = 3;
        pub const UNTIL_AT: usize = 4;
    }
    pub mod watermark {
        pub const TABLE_ID: usize = 0;
        pub const PURGED_BEFORE: usize = 1;
    }
    pub mod version {
        pub const TABLE_ID: usize = 0;
        pub const VERSION: usize = 1;
        pub const KEY_SHAPE: usize = 11;
    }
    pub mod prepared {
        pub const STAMPED_AT: usize = 3;
        pub const KNOWN_AT: usize = 4;
    }
    pub mod partition {
        pub const RELATION: usize = 1;
    }
}

/// How many transactions stamped next to a time are looked at: commit numbers are drawn a moment before the stamp, so
/// neighbours may have them in opposite order.
const NEIGHBOURS: usize = 256;

/// More rows than this are not read one after another.
const FEW: usize = 1000;

pub struct Change {
    pub id: i64,
    pub transaction: Uuid,
    statement_no: i32,
    pub schema_version: i32,
    pub op: i16,
    pub image: Option<Value>,
    pub has_exact: bool,
}

impl Change {
    /// What orders a row's changes inside one transaction.
    fn order(&self) -> (i32, i16, i64) {
        (self.statement_no, self.op, self.id)
    }
}

#[derive(Clone, Copy)]
pub struct Stamp {
    pub commit_no: i64,
    pub committed_at: i64,
}

/// The log of transactions.
pub struct Transactions {
    parent: OpenRelation,
    /// The oldest first.
    leaves: Vec<OpenRelation>,
}

/// The log, of one table.
pub struct Log {
    table_id: i32,
    changes: Vec<OpenRelation>,
    pub transactions: Transactions,
}

fn open(name: &'static core::ffi::CStr) -> Option<OpenRelation> {
    Some(OpenRelation::open(own_relation(name)?, pg_sys::AccessShareLock as i32))
}

fn leaves(parent: &OpenRelation) -> Vec<OpenRelation> {
    let open = |oid| OpenRelation::open(oid, pg_sys::AccessShareLock as i32);
    parent.partitions().into_iter().map(open).collect()
}

impl Transactions {
    pub fn open() -> Option<Transactions> {
        let parent = open(c"transaction_log")?;
        Some(Transactions { leaves: leaves(&parent), parent })
    }

    /// The greatest commit_no that counts at a time, 0 when there is none.
    pub fn commit_horizon(&self, at: i64) -> Option<i64> {
        use column::transaction::{COMMIT_NO, COMMITTED_AT};
        let (mut horizon, mut newest) = (0, Vec::<i64>::with_capacity(NEIGHBOURS));
        for leaf in self.leaves.iter().rev() {
            // Of the leaves together the newest count.
            let least = newest.get(NEIGHBOURS - 1).copied().unwrap_or(i64::MIN);
            let mut looked_at = 0;
            let until = [(0, AtMost, Operand::Time(at))];
            each_entry(leaf, &[COMMITTED_AT, COMMIT_NO], &until, Backward, |entry, is_seen| {
                let [stamped_at, commit_no] = [0, 1].map(|part| entry[part].value() as i64);
                if commit_no > horizon && is_seen() {
                    horizon = commit_no;
                }
                newest.push(stamped_at);
                looked_at += 1;
                looked_at < NEIGHBOURS && stamped_at >= least
            })?;
            newest.sort_unstable_by(|a, b| b.cmp(a));
            newest.truncate(NEIGHBOURS);
        }
        Some(horizon)
    }

    fn stamp(&self, transaction: &Uuid) -> Option<Stamp> {
        let holder = leaf::holding(&self.parent, PartitionKey::Uuid(transaction));
        stamp_in(self.leaves.iter().find(|leaf| leaf.oid() == holder)?, transaction)?
    }

    /// Whether a transaction proves that whatever is in flight is stamped later than a time: settled() in asof.sql.
    pub fn has_witness(&self, at: i64) -> Option<bool> {
        use column::transaction::{COMMIT_NO, COMMITTED_AT, ORIGIN, STARTED_AT, XID};
        let (origin, in_flight) = (xact::system_identifier(), xact::oldest_in_flight());
        let mut found = false;
        for leaf in &self.leaves {
            let mut looked_at = 0;
            each_by_index(
                leaf,
                &[COMMITTED_AT, COMMIT_NO],
                &[(0, Above, Operand::Time(at))],
                Forward,
                XID + 1,
                |row| {
                    looked_at += 1;
                    found = required(row, STARTED_AT).as_i64() > at
                        && required(row, ORIGIN).as_i64() == origin
                        && (required(row, XID).as_i64() as u64) < in_flight;
                    !found && looked_at < NEIGHBOURS
                },
            )?;
            if found {
                break;
            }
        }
        Some(found)
    }
}

fn stamp_in(leaf: &OpenRelation, transaction: &Uuid) -> Option<Option<Stamp>> {
    use column::transaction::{COMMIT_NO, COMMITTED_AT, ID};
    let mut stamp = None;
    each_by_index(leaf, &[ID], &[(0, Equals, Operand::Uuid(transaction))], Forward, COMMITTED_AT + 1, |row| {
        stamp = Some(Stamp {
            commit_no: required(row, COMMIT_NO).as_i64(),
            committed_at: required(row, COMMITTED_AT).as_i64(),
        });
        false
    })?;
    Some(stamp)
}

/// The commit_no of a transaction, if it is there.
pub fn commit_order(transaction: &Uuid) -> Option<Option<i64>> {
    let parent = open(c"transaction_log")?;
    let holder = leaf::holding(&parent, PartitionKey::Uuid(transaction));
    let leaf = OpenRelation::open(holder, pg_sys::AccessShareLock as i32);
    Some(stamp_in(&leaf, transaction)?.map(|stamp| stamp.commit_no))
}

impl Log {
    pub fn open(table_id: i32) -> Option<Log> {
        Some(Log { table_id, changes: leaves(&open(c"change_log")?), transactions: Transactions::open()? })
    }

    /// The first change of the newest baseline that counts: state_base() in asof.sql.
    pub fn baseline(&self, horizon: i64) -> Option<i64> {
        use column::baseline::{FIRST_CHANGE_ID, TABLE_ID, TAKEN_AT, TRANSACTION_ID};
        let mut first_change = None;
        each_by_index(
            &open(c"baseline")?,
            &[TABLE_ID, FIRST_CHANGE_ID],
            &[(0, Equals, Operand::I32(self.table_id))],
            Backward,
            TAKEN_AT + 1,
            |row| {
                let first = required(row, FIRST_CHANGE_ID).as_i64();
                let stamp = self.transactions.stamp(&required(row, TRANSACTION_ID).uuid());
                first_change = (stamp.map_or(first, |stamp| stamp.commit_no) <= horizon).then_some(first);
                first_change.is_none()
            },
        )?;
        first_change
    }

    /// The row's last change that counts: latest_change() in history.sql.
    pub fn latest_change(&self, row_key: i64, key: &[u8], first: i64, horizon: i64) -> Option<(Change, Stamp)> {
        let mut best: Option<(i64, Change, Stamp)> = None;
        for leaf in &self.changes {
            let Some((newest, change, stamp)) = self.latest_of_leaf(leaf, row_key, key, first, horizon)? else {
                continue;
            };
            best = match best {
                Some((top, known, _)) if known.transaction == change.transaction => {
                    let last = if change.order() > known.order() { change } else { known };
                    Some((top.max(newest), last, stamp))
                }
                Some(known) if known.0 > newest => Some(known),
                _ => Some((newest, change, stamp)),
            };
        }
        best.map(|(_, change, stamp)| (change, stamp))
    }

    /// The id of the row's newest change there, and the last change of that one's transaction. None: its transaction is not
    /// known.
    fn latest_of_leaf(
        &self,
        leaf: &OpenRelation,
        row_key: i64,
        key: &[u8],
        first: i64,
        horizon: i64,
    ) -> Option<Option<(i64, Change, Stamp)>> {
        use column::change::{
            ID, KEY, NEW_EXACT, NEW_IMAGE, OP, ROW_KEY, SCHEMA_VERSION, STATEMENT_NO, TABLE_ID, TRANSACTION_ID,
        };
        let mut found: Option<(i64, Change, Stamp)> = None;
        let mut too_late: Option<Uuid> = None;
        let mut unknown = false;
        let conditions = [
            (0, Equals, Operand::I32(self.table_id)),
            (1, Equals, Operand::I64(row_key)),
            (2, AtLeast, Operand::I64(first)),
            (2, Below, Operand::I64(horizon)),
        ];
        each_by_index(leaf, &[TABLE_ID, ROW_KEY, ID], &conditions, Backward, NEW_EXACT + 1, |row| {
            let transaction = required(row, TRANSACTION_ID).uuid();
            if required(row, KEY).payload() != key || too_late == Some(transaction) {
                return true;
            }
            let mut change = Change {
                id: required(row, ID).as_i64(),
                transaction,
                statement_no: required(row, STATEMENT_NO).as_i32(),
                schema_version: required(row, SCHEMA_VERSION).as_i32(),
                op: required(row, OP).as_i16(),
                image: None,
                has_exact: row.get(NEW_EXACT).is_some(),
            };
            match &mut found {
                Some((_, last, _)) if last.transaction != transaction => return false,
                Some((_, last, _)) => {
                    if change.order() > last.order() {
                        change.image = row.get(NEW_IMAGE).map(Value::kept);
                        *last = change;
                    }
                }
                None => match self.transactions.stamp(&transaction) {
                    Some(stamp) if stamp.commit_no <= horizon => {
                        change.image = row.get(NEW_IMAGE).map(Value::kept);
                        found = Some((change.id, change, stamp));
                    }
                    Some(_) => too_late = Some(transaction),
                    None => {
                        unknown = true;
                        return false;
                    }
                },
            }
            true
        })?;
        (!unknown).then_some(found)
    }

    /// Whether a TRUNCATE is recorded by a mark.
    pub fn has_mark(&self, first: i64) -> Option<bool> {
        use column::change::{ID, ROW_KEY, TABLE_ID};
        let conditions = [
            (0, Equals, Operand::I32(self.table_id)),
            (1, Equals, Operand::I64(i64::MIN)),
            (2, AtLeast, Operand::I64(first)),
        ];
        let mut found = false;
        for leaf in &self.changes {
            each_by_index(leaf, &[TABLE_ID, ROW_KEY, ID], &conditions, Forward, 1, |_| {
                found = true;
                false
            })?;
        }
        Some(found)
    }
}

fn required(row: &relation::Row, place: usize) -> Value {
    row.get(place).expect("a NOT NULL column")
}

/// Whether nothing is on record that may be missing between two times: readable_gap in views.sql, without what the catalogs
/// show.
pub fn is_without_gap(table_id: i32, since: i64, until: i64) -> Option<bool> {
    let of_table = [(0, Equals, Operand::I32(table_id))];
    let mut without = true;
    each_by_index(&open(c"gap")?, &[column::gap::TABLE_ID], &of_table, Forward, column::gap::UNTIL_AT + 1, |row| {
        let begins = row.get(column::gap::SINCE_AT).map_or(i64::MIN, Value::as_i64);
        let ends = row.get(column::gap::UNTIL_AT).map_or(i64::MAX, Value::as_i64);
        without = ends <= since || begins > until;
        without
    })?;
    if !without {
        return Some(false);
    }
    let (watermark, before) = (column::watermark::TABLE_ID, column::watermark::PURGED_BEFORE);
    each_by_index(&open(c"purge_watermark")?, &[watermark], &of_table, Forward, before + 1, |row| {
        without = required(row, before).as_i64() <= since;
        without
    })?;
    // How keys are spelt changed, some time.
    let mut shape: Option<Vec<u8>> = None;
    let (id, version, key_shape) = (column::version::TABLE_ID, column::version::VERSION, column::version::KEY_SHAPE);
    each_by_index(&open(c"table_version")?, &[id, version], &of_table, Forward, key_shape + 1, |row| {
        let this = row.get(key_shape).map(|shape| shape.payload().to_vec());
        without &= this.is_some() && shape.as_ref().is_none_or(|before| Some(before) == this.as_ref());
        shape = this;
        without
    })?;
    Some(without)
}

/// Whether the catalogs show that the table's changes are recorded: of gaps_now() in triggers.sql the part on plain tables.
pub fn keeps_recording(policy: &Policy) -> bool {
    let table = OpenRelation::open(policy.root, pg_sys::AccessShareLock as i32);
    if table.kind() != pg_sys::RELKIND_RELATION || table.is_partition() {
        return false;
    }
    let mut was_partition = own_relation(c"known_partition").is_none();
    if let Some(known) = own_relation(c"known_partition") {
        scan::each_current_row(known, |row| {
            was_partition |= required(row, column::partition::RELATION).as_i32() as u32 == policy.root.to_u32();
        });
    }
    !was_partition && trigger::is_armed(&table, policy.options.fires == Fires::Always)
}

/// Whether nobody committed in two phases about a time.
pub fn nobody_is_prepared(at: i64) -> Option<bool> {
    let mut looked_at = 0;
    let mut nobody = true;
    scan::each_seen_row(&open(c"prepared_transaction")?, |row| {
        looked_at += 1;
        let known_at = row.get(column::prepared::KNOWN_AT).map_or(i64::MAX, Value::as_i64);
        nobody = looked_at < FEW && (required(row, column::prepared::STAMPED_AT).as_i64() > at || known_at <= at);
        nobody
    });
    Some(nobody)
}
