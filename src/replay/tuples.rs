//! `unique` and `references`: how many rows bear a tuple of values.

use serde::{Deserialize, Serialize};

use super::engine::{Document, Op, PinnedState, Seen};
use super::keyed::{Finding, Keyed, is_tuple_key, tuple_key};
use super::violations::Violations;

/// Rows that bear a tuple: those counted, and of a reference those referred to; now and at the last check point.
#[derive(Default, Serialize, Deserialize)]
struct Bearers {
    now: [i64; 2],
    before: [i64; 2],
}

#[derive(Serialize, Deserialize)]
struct Tuples {
    keys: Keyed<Bearers>,
    /// Which tuple each row bears, on either side.
    borne: [Vec<Option<u32>>; 2],
}

impl Tuples {
    fn new(recent: usize) -> Tuples {
        Tuples { keys: Keyed::new(recent), borne: [Vec::new(), Vec::new()] }
    }

    /// The first of the values says whether the row counts. A tuple with a NULL is none.
    fn event(&mut self, seen: &Seen) {
        let (side, row) = (seen.input, seen.row as usize);
        if self.borne[side].len() <= row {
            self.borne[side].resize(row + 1, None);
        }
        let old = self.borne[side][row].take();
        let columns = &seen.values[1..];
        let counts = matches!(seen.op, Op::Insert | Op::Update | Op::Snapshot)
            && seen.values[0].matches()
            && columns.iter().all(|column| column.text().is_some());
        let new = counts.then(|| {
            let parts = columns.iter().map(|column| column.text());
            let same = old.filter(|tuple| is_tuple_key(&self.keys.at(*tuple).key, parts.clone()));
            same.unwrap_or_else(|| self.keys.find_or_add(&tuple_key(parts)))
        });
        for (tuple, change) in [(old, -1), (new, 1)] {
            let Some(tuple) = tuple else { continue };
            let first = self.keys.touch(tuple, seen.mark);
            let bearers = &mut self.keys.entry(tuple).state;
            if first {
                bearers.before = bearers.now;
            }
            bearers.now[side] += change;
        }
        self.borne[side][row] = new;
    }

    fn pin(&mut self, key: &[u8], state: &PinnedState) -> bool {
        let tuple = self.keys.find_or_add(key);
        self.keys.entry(tuple).state.now = [state.rows, state.referenced];
        true
    }

    fn check(
        &mut self,
        last_event: i64,
        found: &mut Violations,
        fails: impl Fn([i64; 2]) -> Option<String>,
        show: impl Fn([i64; 2]) -> Option<String>,
    ) {
        self.keys.check(
            last_event,
            found,
            |entry| {
                let Bearers { now, before } = entry.state;
                let states = Some([show(before), show(now)].map(|state| state.map(Document::Json)));
                fails(now).map(|reason| Finding { mark: entry.last, states, event: None, reason, repaired_at: None })
            },
            |bearers| bearers.now == [0, 0],
        );
    }
}

#[derive(Serialize, Deserialize)]
pub struct Unique(Tuples);

impl Unique {
    pub fn new(recent: usize) -> Unique {
        Unique(Tuples::new(recent))
    }

    pub fn event(&mut self, seen: &Seen) -> Result<(), String> {
        self.0.event(seen);
        Ok(())
    }

    pub fn check(&mut self, last_event: i64, _time: i64, found: &mut Violations) {
        let fails = |[rows, _]: [i64; 2]| (rows > 1).then(|| format!("{rows} rows have the same values"));
        let show = |[rows, _]: [i64; 2]| (rows > 0).then(|| format!("{{\"rows\": {rows}}}"));
        self.0.check(last_event, found, fails, show);
    }

    pub fn pin(&mut self, key: &[u8], state: &PinnedState) -> bool {
        self.0.pin(key, state)
    }

    pub fn violated(&mut self, entry: u32, violation: u32) {
        self.0.keys.violated(entry, violation);
    }
}

#[derive(Serialize, Deserialize)]
pub struct References(Tuples);

impl References {
    pub fn new(recent: usize) -> References {
        References(Tuples::new(recent))
    }

    pub fn event(&mut self, seen: &Seen) -> Result<(), String> {
        self.0.event(seen);
        Ok(())
    }

    pub fn check(&mut self, last_event: i64, _time: i64, found: &mut Violations) {
        let fails = |[rows, referenced]: [i64; 2]| {
            (rows > 0 && referenced == 0).then(|| format!("{rows} rows refer to a row that does not exist"))
        };
        let show = |[rows, referenced]: [i64; 2]| {
            (rows > 0 || referenced > 0).then(|| format!("{{\"rows\": {rows}, \"referenced\": {referenced}}}"))
        };
        self.0.check(last_event, found, fails, show);
    }

    pub fn pin(&mut self, key: &[u8], state: &PinnedState) -> bool {
        self.0.pin(key, state)
    }

    pub fn violated(&mut self, entry: u32, violation: u32) {
        self.0.keys.violated(entry, violation);
    }
}
