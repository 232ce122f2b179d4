//! The check of a table by sums in SQL (sql/install/replay_sums.sql): a query each for the recorded changes and the table's rows feeds
//! it. Checks end with their transaction at the latest.

use std::cell::RefCell;
use std::hash::Hasher;

use pgrx::pg_sys;
use rustc_hash::FxHasher;

use super::table_check::{Change, Check, Images, MOST_SUSPECTS, Version};
use crate::capture::image;
use crate::error::{Error, OrRaise};
use crate::history::key::plan_of_history;
use crate::history::log::commit_order;
use crate::pg::datum::Value;
use crate::pg::function::{Call, composite_argument};
use crate::pg::{scan, types, xact};

type Uuid = [u8; 16];

/// Changes of a few transactions may be mixed in the log.
const REMEMBERED: usize = 256;

struct Open {
    number: i32,
    check: Check,
    /// The caller's own transaction, which is the last.
    own: Option<Uuid>,
    transactions: Vec<Option<(Uuid, Option<i64>)>>,
    last: Option<Uuid>,
}

thread_local! {
    static OPEN: RefCell<Vec<Open>> = const { RefCell::new(Vec::new()) };
    static ROW: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The transaction ended.
pub fn forget() {
    OPEN.take();
}

fn with_open<R>(call: &Call, work: impl FnOnce(&mut Open) -> R) -> R {
    let number = call.value(0).map_or(0, Value::as_i32);
    let done = OPEN.with_borrow_mut(|all| match all.iter_mut().find(|open| open.number == number) {
        Some(open) => Ok(work(open)),
        None => Err(Error::NoRun { number }),
    });
    done.or_raise()
}

/// `threadline.sums_begin(is_known, own_transaction)`: the number of a check.
pub fn sums_begin(call: &mut Call) -> pg_sys::Datum {
    let check = Check::new(call.value(0).is_some_and(Value::as_bool));
    let own = call.value(1).map(Value::uuid);
    let number = OPEN.with_borrow_mut(|all| {
        let number = all.last().map_or(1, |open| open.number + 1);
        all.push(Open { number, check, own, transactions: vec![None; REMEMBERED], last: None });
        number
    });
    call.return_value(Some(number.into()))
}

/// `threadline.sums_version(check, version, is_opaque, is_whole, names_then, names_now)`: a recorded shape.
pub fn sums_version(call: &mut Call) -> pg_sys::Datum {
    let is = |place: usize| call.value(place).is_some_and(Value::as_bool);
    let names = |place: usize| call.value(place).map(scan::texts_of).unwrap_or_default();
    let names = names(4).into_iter().zip(names(5)).collect();
    let version = Version::new(call.value(1).map_or(0, Value::as_i32), is(2), is(3), names);
    with_open(call, |open| open.check.add_version(version));
    call.return_value(Some(true.into()))
}

/// `threadline.sums_mark(check, commit_order, statement_no)`: a TRUNCATE that stands for every row.
pub fn sums_mark(call: &mut Call) -> pg_sys::Datum {
    let mark = (call.value(1).map_or(0, Value::as_i64), call.value(2).map_or(0, Value::as_i32));
    with_open(call, |open| open.check.add_mark(mark));
    call.return_value(Some(true.into()))
}

/// `threadline.sums_change(check, id, transaction_id, statement_no, version, op, key, old_key, old_image, new_image, old_exact, new_exact)`:
/// its transaction where that is another than of the change before.
pub fn sums_change(call: &mut Call) -> pg_sys::Datum {
    xact::check_interrupts();
    let id = call.value(1).map_or(0, Value::as_i64);
    let transaction = call.value(2).map(Value::uuid).unwrap_or_default();
    let is_another = with_open(call, |open| {
        if open.check.gave_up {
            return false;
        }
        let Some(commit_order) = open.order_of(&transaction) else {
            open.check.gave_up = true;
            return false;
        };
        let part = |place: usize| call.value(place).map(Value::payload);
        open.check.change(&Change {
            order: (
                (commit_order.unwrap_or(id), call.value(3).map_or(0, Value::as_i32)),
                call.value(5).map_or(0, Value::as_i16),
                id,
            ),
            version: call.value(4).map_or(0, Value::as_i32),
            key: call.text(6).unwrap_or_default(),
            old_key: call.text(7),
            images: Images { old: part(8), new: part(9), old_exact: part(10), new_exact: part(11) },
        });
        open.last.replace(transaction) != Some(transaction)
    });
    let transaction = is_another.then(|| call.value(2)).flatten();
    call.return_value(transaction.map(Value::datum))
}

impl Open {
    /// Where a transaction stands; None inside for one that is not known, whose changes stand by their ids. None: no telling.
    fn order_of(&mut self, transaction: &Uuid) -> Option<Option<i64>> {
        if self.own.as_ref() == Some(transaction) {
            return Some(Some(i64::MAX));
        }
        let mut hasher = FxHasher::default();
        hasher.write(transaction);
        let place = &mut self.transactions[hasher.finish() as usize % REMEMBERED];
        match place {
            Some((known, order)) if known == transaction => Some(*order),
            _ => {
                let order = commit_order(transaction)?;
                *place = Some((*transaction, order));
                Some(order)
            }
        }
    }
}

/// `threadline.sums_row(check, row)`: a row of the table.
pub fn sums_row(call: &mut Call) -> pg_sys::Datum {
    xact::check_interrupts();
    let function = "sums_row";
    let made = composite_argument(call, 1).ok_or(Error::NotATableRow { function }).and_then(|(relid, row)| {
        let plan = plan_of_history(relid)?;
        let mut bytes = ROW.take();
        bytes.clear();
        let (key, image) = image::with_settings_of(&plan, || {
            let key = image::key(&plan, &row, &mut bytes)?;
            Ok::<_, Error>((key, image::whole_image(&plan, &row, &mut bytes)?))
        })?;
        Ok((bytes, key.text, image))
    });
    let (bytes, key, image) = made.or_raise();
    with_open(call, |open| {
        // Past their varlena headers.
        let part = |range: std::ops::Range<usize>| &bytes[range.start + 4..range.end];
        if !open.check.gave_up {
            open.check.row(part(key), part(image.json), image.exact.map(part));
        }
    });
    ROW.set(bytes);
    call.return_value(Some(true.into()))
}

/// `threadline.sums_end(check)`: what it found; the check is over. suspects is NULL where there is no saying this way.
pub fn sums_end(call: &mut Call) -> pg_sys::Datum {
    let number = call.value(0).map_or(0, Value::as_i32);
    let mut fields = with_open(call, |open| {
        let check = &mut open.check;
        let replayed = check.end();
        let gave_up = check.gave_up || check.suspects().count() > MOST_SUSPECTS;
        let versions: Vec<String> = check.versions().map(|version| version.to_string()).collect();
        [
            (!gave_up).then(|| types::text_array(check.suspects())),
            Some((check.changes as i64).into()),
            Some(types::text_array(versions.iter().map(String::as_bytes))),
            Some((check.unrecorded as i64).into()),
            Some((replayed as i64).into()),
            Some((check.table_rows as i64).into()),
        ]
    });
    OPEN.with_borrow_mut(|all| all.retain(|open| open.number != number));
    call.return_row(&mut fields)
}
