//! What an invariant knows of each key, which keys were touched since its last check point, and which are violated.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::engine::{Document, Mark, Seen, States};
use super::violations::{Fresh, Violations};

#[derive(Serialize, Deserialize)]
pub struct Entry<S> {
    pub key: Box<[u8]>,
    pub state: S,
    /// The last event that touched it.
    pub last: Mark,
    violation: Option<u32>,
    is_touched: bool,
    noted: Noted,
}

/// The changes of a key that are kept, in a ring: the last of them, the place of the next, and how many there are.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Noted {
    last: i64,
    next: u32,
    count: u32,
}

#[derive(Serialize, Deserialize)]
pub struct Keyed<S> {
    index: FxHashMap<Box<[u8]>, u32>,
    /// Where rows are keys by themselves, what `index` says of each that was asked for; an array answers sooner.
    #[serde(skip)]
    of_rows: Vec<u32>,
    entries: Vec<Entry<S>>,
    free: Vec<u32>,
    touched: Vec<u32>,
    /// So many changes of a key are kept.
    recent: usize,
    /// Those of each entry, one entry after another: an event writes them without looking up where they are.
    changes: Vec<i64>,
}

/// What is wrong with a key: the event that is named, what came before it, and the states that are not rows.
#[derive(Serialize, Deserialize)]
pub struct Finding {
    pub mark: Mark,
    pub states: Option<States>,
    pub event: Option<Document>,
    pub reason: String,
    /// It was repaired by then.
    pub repaired_at: Option<i64>,
}

const NOT_ASKED: u32 = u32::MAX;

impl<S: Default> Keyed<S> {
    pub fn new(recent: usize) -> Keyed<S> {
        Keyed {
            index: FxHashMap::default(),
            of_rows: Vec::new(),
            entries: Vec::new(),
            free: Vec::new(),
            touched: Vec::new(),
            recent,
            changes: Vec::new(),
        }
    }

    pub fn find(&self, key: &[u8]) -> Option<u32> {
        self.index.get(key).copied()
    }

    pub fn find_or_add(&mut self, key: &[u8]) -> u32 {
        if let Some(id) = self.index.get(key) {
            return *id;
        }
        let entry = Entry {
            key: key.into(),
            state: S::default(),
            last: Mark::default(),
            violation: None,
            is_touched: false,
            noted: Noted::default(),
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id as usize] = entry;
                id
            }
            None => {
                self.entries.push(entry);
                self.changes.resize(self.entries.len() * self.recent, 0);
                self.entries.len() as u32 - 1
            }
        };
        self.index.insert(key.into(), id);
        id
    }

    pub fn find_or_add_row(&mut self, row: u32) -> u32 {
        let place = row as usize;
        if place >= self.of_rows.len() {
            self.of_rows.resize(place + 1, NOT_ASKED);
        }
        if self.of_rows[place] == NOT_ASKED {
            self.of_rows[place] = self.find_or_add(&row.to_le_bytes());
        }
        self.of_rows[place]
    }

    /// Of an event whose row is the key, or whose last value is; the same for all events.
    pub fn find_or_add_seen(&mut self, seen: &Seen, by_row: bool) -> u32 {
        if by_row { self.find_or_add_row(seen.row) } else { self.find_or_add(&seen.key()) }
    }

    pub fn entry(&mut self, id: u32) -> &mut Entry<S> {
        &mut self.entries[id as usize]
    }

    pub fn at(&self, id: u32) -> &Entry<S> {
        &self.entries[id as usize]
    }

    /// True when it is the first time since the last check point.
    pub fn touch(&mut self, id: u32, mark: Mark) -> bool {
        self.entries[id as usize].last = mark;
        self.note(id, mark);
        self.wake(id)
    }

    /// An event of the key, though one that changes nothing.
    pub fn note(&mut self, id: u32, mark: Mark) {
        let noted = &mut self.entries[id as usize].noted;
        if self.recent == 0 || noted.count > 0 && noted.last == mark.change_id {
            return;
        }
        self.changes[id as usize * self.recent + noted.next as usize] = mark.change_id;
        let kept = self.recent as u32;
        let next = if noted.next + 1 == kept { 0 } else { noted.next + 1 };
        *noted = Noted { last: mark.change_id, next, count: kept.min(noted.count + 1) };
    }

    /// It is looked at at the next check point, though no event touched it.
    pub fn wake(&mut self, id: u32) -> bool {
        let first = !std::mem::replace(&mut self.entries[id as usize].is_touched, true);
        if first {
            self.touched.push(id);
        }
        first
    }

    /// A check point: what `judge` finds wrong with the keys touched since the last one. Keys that `is_over` are forgotten.
    pub fn check(
        &mut self,
        time: i64,
        found: &mut Violations,
        mut judge: impl FnMut(&mut Entry<S>) -> Option<Finding>,
        is_over: impl Fn(&S) -> bool,
    ) {
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            let entry = &mut self.entries[id as usize];
            entry.is_touched = false;
            match (judge(entry), entry.violation) {
                (Some(finding), None) => {
                    let kept = &self.changes[id as usize * self.recent..][..entry.noted.count as usize];
                    let (newer, older) =
                        kept.split_at(if kept.len() == self.recent { entry.noted.next as usize } else { 0 });
                    let recent = older.iter().chain(newer).copied().filter(|change| *change <= finding.mark.change_id);
                    found.add(Fresh { entry: id, key: entry.key.clone(), recent: recent.collect(), finding });
                }
                (Some(Finding { repaired_at: Some(at), .. }), Some(violation)) => {
                    found.repair(violation, at);
                    entry.violation = None;
                }
                (None, Some(violation)) => {
                    found.repair(violation, time);
                    entry.violation = None;
                }
                _ => {}
            }
            if entry.violation.is_none() && is_over(&entry.state) && !found.has_fresh(id) {
                self.index.remove(&entry.key);
                // Of a run read again, rows that had no event since were not asked for.
                if let Some(asked) =
                    entry.key.first_chunk().and_then(|row| self.of_rows.get_mut(u32::from_le_bytes(*row) as usize))
                {
                    *asked = NOT_ASKED;
                }
                entry.state = S::default();
                self.free.push(id);
            }
        }
        // Its room serves the next check point.
        self.touched = touched;
    }

    pub fn violated(&mut self, id: u32, violation: u32) {
        self.entries[id as usize].violation = Some(violation);
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry<S>> {
        self.index.values().map(|id| &self.entries[*id as usize])
    }
}

/// A key of several values, as bytes.
pub fn tuple_key<'v>(parts: impl IntoIterator<Item = Option<&'v [u8]>>) -> Vec<u8> {
    let mut key = Vec::new();
    for part in parts {
        match part {
            None => key.push(0),
            Some(part) => {
                key.push(1);
                key.extend((part.len() as u32).to_le_bytes());
                key.extend(part);
            }
        }
    }
    key
}

/// Whether it is the key of these values.
pub fn is_tuple_key<'v>(mut key: &[u8], parts: impl IntoIterator<Item = Option<&'v [u8]>>) -> bool {
    for part in parts {
        let rest = match (key.split_first(), part) {
            (Some((0, rest)), None) => Some(rest),
            (Some((1, rest)), Some(part)) => {
                rest.strip_prefix(&(part.len() as u32).to_le_bytes()).and_then(|rest| rest.strip_prefix(part))
            }
            _ => None,
        };
        let Some(rest) = rest else { return false };
        key = rest;
    }
    key.is_empty()
}

/// The values of such a key.
pub fn parts_of(mut key: &[u8]) -> Vec<Option<&[u8]>> {
    let mut parts = Vec::new();
    while let Some((tag, rest)) = key.split_first() {
        if *tag == 0 {
            parts.push(None);
            key = rest;
        } else {
            let (len, rest) = rest.split_first_chunk::<4>().expect("written by tuple_key");
            let (part, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
            parts.push(Some(part));
            key = rest;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart() {
        let tuples: [&[Option<&[u8]>]; 6] = [
            &[],
            &[None],
            &[Some(b"")],
            &[Some(b"a"), Some(b"b")],
            &[Some(b"ab"), Some(b"")],
            &[Some(b"a"), None, Some(b"b")],
        ];
        let keys = tuples.map(|parts| tuple_key(parts.iter().copied()));
        for (key, parts) in keys.iter().zip(tuples) {
            assert_eq!(parts_of(key), parts);
            assert_eq!(keys.iter().filter(|other| *other == key).count(), 1);
            assert_eq!(keys.iter().filter(|other| is_tuple_key(other, parts.iter().copied())).count(), 1);
            assert!(is_tuple_key(key, parts.iter().copied()));
        }
    }

    #[test]
    fn the_latest_changes_of_a_key_are_told_in_their_order() {
        let mark = |change_id| Mark { change_id, ..Mark::default() };
        let told = |changes: &[i64], failing: i64| {
            let mut keyed = Keyed::<()>::new(3);
            let [before, key, after] = [b"a", b"b", b"c"].map(|key| keyed.find_or_add(key));
            for change in changes {
                for id in [before, key, key, after] {
                    keyed.note(id, mark(if id == key { *change } else { -1 }));
                }
            }
            keyed.wake(key);
            let finding = |mark| Finding { mark, states: None, event: None, reason: String::new(), repaired_at: None };
            let mut found = Violations::new(1, 0);
            found.begin(0);
            keyed.check(0, &mut found, |_| Some(finding(mark(failing))), |()| false);
            found.take_fresh().remove(0).1.recent
        };
        assert_eq!(told(&[1], 1), [1]);
        assert_eq!(told(&[1, 2, 3], 3), [1, 2, 3]);
        assert_eq!(told(&[1, 2, 3, 4, 5], 5), [3, 4, 5]);
        assert_eq!(told(&[1, 2, 3, 4, 5], 4), [3, 4]);
        assert_eq!(told(&[1, 2, 3, 4, 5, 6], 6), [4, 5, 6]);
    }

    #[test]
    fn a_row_that_is_forgotten_is_a_new_one_when_it_comes_again() {
        let forget = |keyed: &mut Keyed<()>, id| {
            keyed.wake(id);
            keyed.check(0, &mut Violations::new(1, 0), |_| None, |()| true);
        };
        let mut keyed = Keyed::<()>::new(1);
        let ids: Vec<u32> = (0..3).map(|row| keyed.find_or_add_row(row)).collect();
        assert_eq!(ids, [0, 1, 2]);
        forget(&mut keyed, 1);
        assert_eq!((keyed.find_or_add_row(3), keyed.find_or_add_row(1)), (1, 3));
        assert_eq!((keyed.find_or_add_row(3), keyed.find_or_add_row(0)), (1, 0));

        // Read again: no row was asked for when one is forgotten.
        let saved = postcard::to_stdvec(&keyed).expect("it is written");
        let mut keyed: Keyed<()> = postcard::from_bytes(&saved).expect("it is read");
        forget(&mut keyed, 2);
        assert_eq!((keyed.find_or_add_row(4), keyed.find_or_add_row(2), keyed.find_or_add_row(1)), (2, 4, 3));
    }
}
