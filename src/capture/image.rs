//! What a change stores: the row's key, its images, and for an update which columns changed.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::jsonb::{self, Keys, TooLarge};
use super::row_key;
use crate::catalog::plan::{Plan, PlannedColumn, SomeColumns};
use crate::catalog::policy;
use crate::error::Error;
use crate::pg::canonical::{reporting, with_canonical_settings};
use crate::pg::datum::{Value, for_message};
use crate::pg::relation::Row;

/// Values of threadline.change_log.op. Within a statement what leaves a key sorts before what arrives at it.
pub mod op {
    pub const TRUNCATE: i16 = 0;
    pub const DELETE: i16 = 1;
    pub const MOVED: i16 = 2;
    pub const SNAPSHOT: i16 = 3;
    pub const INSERT: i16 = 4;
    pub const UPDATE: i16 = 5;
    /// An update whose new image holds the changed columns only.
    pub const DELTA: i16 = 6;

    /// The plain command that makes such changes.
    pub fn command(op: i16) -> &'static str {
        match op {
            INSERT => "INSERT",
            UPDATE | DELTA => "UPDATE",
            DELETE => "DELETE",
            TRUNCATE => "TRUNCATE TABLE",
            _ => "",
        }
    }
}

/// The kinds of change, with the rows they come with.
pub enum Change<'a> {
    /// Insert, or a row of a baseline.
    Arrives(i16, &'a Row),
    /// The old row has a plan of its own: it may come from another partition. `written_by` is the xid that wrote it,
    /// if that is known and the row stayed where it was.
    Updates { old_plan: &'a Plan, old: &'a Row, new: &'a Row, written_by: Option<u64> },
    /// Delete, or a row of a truncated table.
    Leaves(i16, &'a Row),
}

/// A row's key as stored.
pub struct Key {
    pub row_key: i64,
    pub text: Range<usize>,
}

/// A change laid out in `bytes`: ranges of whole varlenas.
pub struct Encoded {
    pub op: i16,
    pub key: Key,
    pub old_key: Option<Key>,
    pub old: Option<Image>,
    pub new: Option<Image>,
}

/// The image of a row or of some of its columns.
pub struct Image {
    pub json: Range<usize>,
    /// Of the values that the JSON form does not give back, by column, what their types' output functions say.
    pub exact: Option<Range<usize>>,
}

thread_local! {
    /// The allocation of the last list of changed columns.
    static CHANGED: Cell<Vec<usize>> = const { Cell::new(Vec::new()) };
}

/// Places of changed columns; gives its allocation back.
struct Changed(Vec<usize>);

impl std::ops::Deref for Changed {
    type Target = Vec<usize>;

    fn deref(&self) -> &Vec<usize> {
        &self.0
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        CHANGED.set(std::mem::take(&mut self.0));
    }
}

/// Lays a change out in `bytes`; None when nothing is to be recorded.
pub fn encode(plan: &Plan, change: &Change, bytes: &mut Vec<u8>) -> Result<Option<Encoded>, Error> {
    with_settings_of(plan, || match change {
        Change::Arrives(op, row) => Ok(Some(Encoded {
            op: *op,
            key: key(plan, row, bytes)?,
            old_key: None,
            old: None,
            new: Some(whole_image(plan, row, bytes)?),
        })),
        Change::Leaves(op, row) => Ok(Some(Encoded {
            op: *op,
            key: key(plan, row, bytes)?,
            old_key: None,
            old: Some(whole_image(plan, row, bytes)?),
            new: None,
        })),
        Change::Updates { old_plan, old, new, written_by } => {
            // Partitions of a table have the same columns, so both plans list them in the same order.
            let differs = |place: usize| differs(&old_plan.columns[place], old, &plan.columns[place], new);
            let mut changed = CHANGED.take();
            changed.clear();
            changed.extend((0..plan.columns.len()).filter(|place| differs(*place)));
            let changed = Changed(changed);
            if changed.is_empty() && plan.policy.options.skip_noop {
                return Ok(None);
            }
            let new_key = key(plan, new, bytes)?;
            let touches_key = match plan.identity {
                Some(_) => !changed.is_empty(),
                None => plan.key.iter().any(|place| changed.contains(place)),
            };
            let old_key = if touches_key {
                // 1.0 -> 1.00 changes a value, not a key.
                Some(key(old_plan, old, bytes)?).filter(|old| bytes[old.text.clone()] != bytes[new_key.text.clone()])
            } else {
                None
            };
            let columns = old_plan.changed_columns(&changed);
            let mut image = |plan: &Plan, of: &SomeColumns, row: &Row| {
                let some = !of.places.is_empty();
                some.then(|| write(plan, &of.keys, |pair| of.places[pair], row, bytes)).transpose()
            };
            let old = image(old_plan, &columns.changed, old)?;
            let (op, new) = if old_key.is_none() && suffices_delta(plan, *written_by, new_key.row_key)? {
                (op::DELTA, image(plan, &columns.delta, new)?)
            } else {
                (op::UPDATE, Some(whole_image(plan, new, bytes)?))
            };
            Ok(Some(Encoded { op, key: new_key, old_key, old, new }))
        }
    })
}

/// One update in this many stores the whole row whatever it changes, which bounds how far back the last whole image
/// of a row is.
const WHOLE_ONE_IN: u64 = 16;

/// Whether the changed columns tell enough of a row. Nothing is read to decide: the version that `written_by` wrote is in
/// the log in the table's present shape if it was written since that was recorded; and by lot, so that every row has its
/// turn whoever updates it, the whole row is stored all the same.
fn suffices_delta(plan: &Plan, written_by: Option<u64>, row_key: i64) -> Result<bool, Error> {
    let (policy::Image::Delta, Some(written_by)) = (plan.policy.options.image, written_by) else { return Ok(false) };
    let lot = (written_by ^ (row_key as u64).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
    Ok(!lot.is_multiple_of(WHOLE_ONE_IN) && written_by >= plan.version()?.first_xid)
}

/// Runs `work`, which encodes by `plan`, with the settings that the plan's types need.
pub fn with_settings_of<R>(plan: &Plan, work: impl FnOnce() -> R) -> R {
    if plan.needs_settings { with_canonical_settings(plan.needs_all_settings, work) } else { work() }
}

/// Changed is decided by the bytes of the value, so 1.0 -> 1.00 is a change.
fn differs(old_column: &PlannedColumn, old: &Row, column: &PlannedColumn, new: &Row) -> bool {
    match (old.get(old_column.index), new.get(column.index)) {
        (Some(old), Some(new)) => !old.same(new, column.storage),
        (old, new) => old.is_some() != new.is_some(),
    }
}

/// The image of a whole row.
pub fn whole_image(plan: &Plan, row: &Row, bytes: &mut Vec<u8>) -> Result<Image, Error> {
    write(plan, &plan.whole, |pair| pair, row, bytes)
}

/// Writes an image; `place` says which of the plan's columns a pair of it is.
fn write(
    plan: &Plan,
    keys: &Keys,
    place: impl Fn(usize) -> usize,
    row: &Row,
    bytes: &mut Vec<u8>,
) -> Result<Image, Error> {
    // What an error says of the place it happened at.
    let (mut largest, at) = ((0, 0), Cell::new(0));
    let lossy_places = RefCell::new(Vec::new());
    let mut value = |pair: usize, out: &mut Vec<u8>| {
        let place = place(pair);
        let column = &plan.columns[place];
        if column.masked {
            return jsonb::push_string(out, &plan.policy.placeholder);
        }
        at.set(place);
        let (before, mut lossy) = (out.len(), false);
        let kind = match row.get(column.index) {
            Some(value) => column.encoder.append(value, out, &mut lossy),
            None => jsonb::NULL,
        };
        if lossy {
            lossy_places.borrow_mut().push(place);
        }
        largest = largest.max((out.len() - before, place));
        kind
    };
    let name = |place: usize| for_message(&plan.columns[place].name).into_owned();
    let mut both = || {
        let json = jsonb::write_object(bytes, keys, &mut value)?;
        let lossy = lossy_places.borrow();
        let exact = if lossy.is_empty() { None } else { Some(write_exact(plan, &lossy, row, &at, bytes)?) };
        Ok(Image { json, exact })
    };
    // Only the server's own forms can be refused.
    let written = if plan.needs_settings {
        reporting(both, |refusal| {
            let (table, column) = (plan.table.clone(), name(at.get()));
            Error::NoJsonForm { table, column, code: refusal.code, cause: refusal.message }.raise()
        })
    } else {
        both()
    };
    written.map_err(|TooLarge| Error::ImageTooLarge { table: plan.table.clone(), column: name(largest.1) })
}

/// Writes the exact texts of the columns at these places, which have values.
fn write_exact(
    plan: &Plan,
    places: &[usize],
    row: &Row,
    at: &Cell<usize>,
    bytes: &mut Vec<u8>,
) -> Result<Range<usize>, TooLarge> {
    let columns = plan.exact_columns(places);
    let mut write = || {
        jsonb::write_object(bytes, &columns.keys, |pair, out| {
            at.set(columns.places[pair]);
            let column = &plan.columns[columns.places[pair]];
            if let Some(value) = row.get(column.index) {
                column.encoder.push_exact_text(value, out);
            }
            jsonb::STRING
        })
    };
    // What needs more than the plain settings has them already: `with_settings_of`.
    if places.iter().any(|place| plan.columns[*place].encoder.exact_text_needs_settings()) {
        with_canonical_settings(false, write)
    } else {
        write()
    }
}

/// The key of a row, laid out as a text value.
pub fn key(plan: &Plan, row: &Row, bytes: &mut Vec<u8>) -> Result<Key, Error> {
    if let Some(identity) = &plan.identity {
        return digest_key(plan, identity, row, bytes);
    }
    let (column, value) = key_value(plan, row, 0)?;
    let start = jsonb::begin_varlena(bytes);
    let from = bytes.len();
    let row_key = if plan.key.len() == 1 {
        column.encoder.push_key_text(value, bytes);
        let text = &bytes[from..];
        column.encoder.with_key_part(value, |part| row_key::row_key(part, text, text, 1))
    } else {
        let mut texts = Vec::with_capacity(plan.key.len());
        for part in 0..plan.key.len() {
            let (column, value) = key_value(plan, row, part)?;
            let mut text = Vec::new();
            column.encoder.push_key_text(value, &mut text);
            texts.push(text);
        }
        bytes.extend_from_slice(&row_key::composite_text(&texts));
        column.encoder.with_key_part(value, |part| row_key::row_key(part, &texts[0], &bytes[from..], texts.len()))
    };
    Ok(Key { row_key, text: jsonb::end_varlena(bytes, start) })
}

/// The key of a row of a table without one: the digest of what is recorded of it, masked values left out.
fn digest_key(plan: &Plan, identity: &SomeColumns, row: &Row, bytes: &mut Vec<u8>) -> Result<Key, Error> {
    let before = bytes.len();
    let values = write(plan, &identity.keys, |pair| identity.places[pair], row, bytes)?;
    // The varlena header is no part of the values; exact texts, which stand behind them, tell -0 from 0.
    let end = values.exact.map_or(values.json.end, |exact| exact.end);
    let text = row_key::digest_text(&bytes[values.json.start + 4..end]);
    bytes.truncate(before);
    Ok(digest_as_key(&text, bytes))
}

/// A digest as the log stores it.
pub fn digest_as_key(text: &str, bytes: &mut Vec<u8>) -> Key {
    let text = text.as_bytes();
    let start = jsonb::begin_varlena(bytes);
    bytes.extend_from_slice(text);
    Key { row_key: row_key::row_key(row_key::Part::Text, text, text, 1), text: jsonb::end_varlena(bytes, start) }
}

fn key_value<'p>(plan: &'p Plan, row: &Row, part: usize) -> Result<(&'p PlannedColumn, Value), Error> {
    let column = &plan.columns[plan.key[part]];
    let value = row
        .get(column.index)
        .ok_or_else(|| Error::NullKey { table: plan.table.clone(), column: for_message(&column.name).into_owned() })?;
    Ok((column, value))
}
