//! The rows of a source as the changes leave them, numbered, and whether each change finds its row as the change before left it.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::engine::{Event, Op};
use super::plan::Source;

#[derive(Serialize, Deserialize)]
struct Row {
    key: Box<[u8]>,
    is_live: bool,
    image: Option<u64>,
    version: i32,
    /// The state of a projection.
    state: Option<Box<[u8]>>,
}

#[derive(Serialize, Deserialize)]
pub struct Rows {
    pub is_projection: bool,
    /// How many events it had.
    pub fed: u64,
    index: FxHashMap<Box<[u8]>, u32>,
    rows: Vec<Row>,
    free: Vec<u32>,
    live: u64,
    /// A row that comes back under its key is the same.
    remembers: bool,
    /// All rows there are were recorded when they came.
    is_known: bool,
    /// Why the last change does not follow from the one before it.
    #[serde(skip)]
    broken: Option<&'static str>,
}

impl Rows {
    pub fn new(source: &Source, remembers: bool) -> Rows {
        Rows {
            is_projection: source.is_projection,
            fed: 0,
            index: FxHashMap::default(),
            rows: Vec::new(),
            free: Vec::new(),
            live: 0,
            remembers: remembers || source.is_projection,
            is_known: source.is_known,
            broken: None,
        }
    }

    pub fn live(&self) -> u64 {
        self.live
    }

    /// The row that an event is of. It is as the event leaves it from here on.
    pub fn enter(&mut self, event: &Event) -> u32 {
        let found_by = event.old_key.unwrap_or(event.key);
        let known = self.index.get(found_by).copied();
        let was_live = known.is_some_and(|id| self.rows[id as usize].is_live);
        self.broken = self.examine(event, known.filter(|_| was_live));
        let id = match known {
            Some(id) => id,
            None => self.add(found_by),
        };
        if event.old_key.is_some() {
            self.index.remove(found_by);
            self.index.insert(event.key.into(), id);
            self.rows[id as usize].key = event.key.into();
        }
        let row = &mut self.rows[id as usize];
        row.is_live = event.op != Op::Delete;
        row.image = event.images[1];
        row.version = event.version;
        match (was_live, row.is_live) {
            (false, true) => self.live += 1,
            (true, false) => self.live -= 1,
            _ => {}
        }
        id
    }

    fn add(&mut self, key: &[u8]) -> u32 {
        let row = Row { key: key.into(), is_live: false, image: None, version: 0, state: None };
        let id = match self.free.pop() {
            Some(id) => {
                self.rows[id as usize] = row;
                id
            }
            None => {
                self.rows.push(row);
                self.rows.len() as u32 - 1
            }
        };
        self.index.insert(key.into(), id);
        id
    }

    fn examine(&self, event: &Event, live: Option<u32>) -> Option<&'static str> {
        match (event.op, live) {
            (Op::AllEnd | Op::Snapshot, _) | (Op::Insert, None) => None,
            _ if self.is_projection => None,
            (Op::Insert, Some(_)) => {
                Some("the row was there before this change made it: it went away without being recorded")
            }
            (_, None) => self.is_known.then_some("the row that this change found was put there without being recorded"),
            (_, Some(id)) => {
                let row = &self.rows[id as usize];
                let differs = row.image.zip(event.images[0]).is_some_and(|(left, found)| left != found);
                (differs && row.version == event.version).then_some(
                    "the row that this change found differs from what the change before it left: it was changed without being recorded",
                )
            }
        }
    }

    pub fn take_break(&mut self) -> Option<&'static str> {
        self.broken.take()
    }

    /// A row that is gone and need not be known again gives up its number. Call it when every invariant has seen the event.
    pub fn leave_if_over(&mut self, event: &Event, id: u32) {
        if event.op == Op::Delete && !self.remembers {
            self.index.remove(event.key);
            self.free.push(id);
        }
    }

    /// Ends every row; those that were there.
    pub fn end_all(&mut self) -> Vec<u32> {
        let ids: Vec<u32> = self.index.values().copied().filter(|id| self.rows[*id as usize].is_live).collect();
        for id in &ids {
            self.rows[*id as usize].is_live = false;
        }
        self.live = 0;
        ids
    }

    pub fn key_of(&self, id: u32) -> &[u8] {
        &self.rows[id as usize].key
    }

    pub fn state(&self, key: &[u8]) -> Option<&[u8]> {
        let row = &self.rows[*self.index.get(key)? as usize];
        row.state.as_deref().filter(|_| row.is_live)
    }

    pub fn keep_state(&mut self, key: &[u8], state: Option<&[u8]>) {
        if let Some(id) = self.index.get(key) {
            self.rows[*id as usize].state = state.map(Into::into);
        }
    }

    /// Rows that are there, with the states that a projection keeps of them.
    pub fn states(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let live = self.rows.iter().filter(|row| row.is_live);
        live.filter_map(|row| Some((&*row.key, row.state.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::engine::Detail;

    fn change(op: Op, key: &'static str, old_key: Option<&'static str>, images: [Option<u64>; 2]) -> Event<'static> {
        Event {
            source: 0,
            op,
            transaction: 1,
            statement: 0,
            change_id: 1,
            time: 0,
            key: key.as_bytes(),
            old_key: old_key.map(str::as_bytes),
            images,
            version: 1,
            begins_baseline: false,
            values: Vec::new(),
            detail: Detail::default(),
        }
    }

    fn breaks(events: &[Event]) -> Vec<&'static str> {
        let source = Source { name: "t".into(), is_projection: false, is_counted: true, of: None, is_known: true };
        let mut rows = Rows::new(&source, true);
        let found = |event| {
            rows.enter(event);
            rows.take_break()
        };
        events.iter().filter_map(found).collect()
    }

    #[test]
    fn a_row_that_follows_is_no_break() {
        let history = [
            change(Op::Insert, "1", None, [None, Some(10)]),
            change(Op::Update, "2", Some("1"), [Some(10), Some(11)]),
            change(Op::Delete, "2", None, [Some(11), None]),
            change(Op::Insert, "2", None, [None, Some(5)]),
        ];
        assert!(breaks(&history).is_empty());
    }

    #[test]
    fn what_was_not_recorded_shows() {
        let insert = || change(Op::Insert, "1", None, [None, Some(10)]);
        let update = || change(Op::Update, "1", None, [Some(9), Some(11)]);
        assert!(breaks(&[insert(), update()])[0].contains("changed without being recorded"));
        assert!(breaks(&[update()])[0].contains("put there without"));
        assert!(breaks(&[insert(), insert()])[0].contains("went away without"));
        let delete = || change(Op::Delete, "1", None, [Some(10), None]);
        assert!(breaks(&[insert(), delete(), delete()])[0].contains("put there without"));
    }
}
