//! Invariants over the order of events: what may follow what, and when.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::decimal::Decimal;
use super::engine::{Field, Mark, Op, Seen};
use super::judged::Judged;
use super::keyed::{Finding, Keyed};
use super::violations::Violations;

/// `transition`: the number of the state that each row is in.
#[derive(Serialize, Deserialize)]
pub struct Transitions {
    keys: Judged<Option<u32>>,
    states: BTreeMap<Vec<u8>, u32>,
    initial: Option<Vec<u32>>,
    allowed: BTreeSet<(u32, u32)>,
}

impl Transitions {
    pub fn new(recent: usize, initial: &Option<Vec<String>>, allowed: &BTreeMap<String, Vec<String>>) -> Transitions {
        let mut new = Transitions {
            keys: Judged::new(recent, false),
            states: BTreeMap::new(),
            initial: None,
            allowed: BTreeSet::new(),
        };
        new.initial = initial.as_ref().map(|states| states.iter().map(|state| new.state(state.as_bytes())).collect());
        for (from, to) in allowed {
            let from = new.state(from.as_bytes());
            for to in to {
                let to = new.state(to.as_bytes());
                new.allowed.insert((from, to));
            }
        }
        new
    }

    fn state(&mut self, text: &[u8]) -> u32 {
        if let Some(state) = self.states.get(text) {
            return *state;
        }
        let state = self.states.len() as u32;
        self.states.insert(text.to_vec(), state);
        state
    }

    pub fn event(&mut self, seen: &Seen) -> Result<(), String> {
        let text = if seen.op == Op::Delete { None } else { seen.values[0].text() };
        let state = text.map(|text| self.state(text));
        let (id, known) = self.keys.of(seen, true);
        let from = std::mem::replace(known, state);
        let Some(state) = state else { return Ok(()) };
        let shown = || String::from_utf8_lossy(text.unwrap_or_default());
        match (seen.op, from) {
            (Op::Insert, _) => {
                let Some(initial) = &self.initial else { return Ok(()) };
                let bad = (!initial.contains(&state)).then(|| format!("a row may not begin as {}", shown()));
                self.keys.judge(id, seen, bad);
            }
            (Op::Update, Some(from)) if from != state => {
                let bad = (!self.allowed.contains(&(from, state))).then(|| {
                    let from = self.states.iter().find(|(_, number)| **number == from).expect("a state met before").0;
                    format!("{} may not become {}", String::from_utf8_lossy(from), shown())
                });
                self.keys.judge(id, seen, bad);
            }
            _ => {}
        }
        Ok(())
    }

    pub fn check(&mut self, last_event: i64, _time: i64, found: &mut Violations) {
        self.keys.check_keys(last_event, found, Option::is_none);
    }

    pub fn violated(&mut self, entry: u32, violation: u32) {
        self.keys.violated(entry, violation);
    }
}

/// `requires`: when the key last had the event that is required.
#[derive(Serialize, Deserialize)]
pub struct Requiring {
    keys: Judged<Past>,
    within: Option<i64>,
    by_row: bool,
    pub unknown: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Past {
    last: Option<i64>,
    /// The key had rows when the record began.
    recorded_from: Option<i64>,
}

impl Past {
    /// Whether what lies after `from` may have been before the record began.
    fn is_unknown_since(&self, from: Option<i64>) -> bool {
        self.recorded_from.is_some_and(|begin| from.is_none_or(|from| from < begin))
    }
}

impl Requiring {
    pub fn new(recent: usize, within: Option<i64>, by_row: bool) -> Requiring {
        Requiring { keys: Judged::new(recent, false), within, by_row, unknown: 0 }
    }

    pub fn event(&mut self, seen: &Seen) -> Result<(), String> {
        let [judged, earlier] = [0, 1].map(|place| seen.values[place].matches());
        if seen.op != Op::Snapshot && !judged && !earlier {
            return Ok(());
        }
        let time = seen.mark.time;
        let (id, past) = self.keys.of(seen, self.by_row);
        if seen.op == Op::Snapshot {
            past.recorded_from = past.recorded_from.or(Some(time));
            return Ok(());
        }
        let met = past.last.is_some_and(|last| self.within.is_none_or(|within| time - last <= within));
        let unknown = !met && past.is_unknown_since(self.within.map(|within| time - within));
        if earlier {
            past.last = past.last.max(Some(time));
        }
        if judged && unknown {
            self.unknown += 1;
        } else if judged {
            let bad = (!met).then(|| "what it requires did not happen before".into());
            self.keys.judge(id, seen, bad);
        }
        Ok(())
    }

    pub fn check(&mut self, last_event: i64, _time: i64, found: &mut Violations) {
        self.keys.check_keys(last_event, found, |past| past.last.is_none() && past.recorded_from.is_none());
    }

    pub fn violated(&mut self, entry: u32, violation: u32) {
        self.keys.violated(entry, violation);
    }
}

/// `forbids`: whether the key is under the ban.
#[derive(Serialize, Deserialize)]
pub struct Forbidding {
    keys: Judged<Ban>,
    from_the_beginning: bool,
    by_row: bool,
    pub unknown: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Ban {
    /// None: neither begun nor lifted by an event.
    stands: Option<bool>,
    was_there: bool,
}

impl Forbidding {
    pub fn new(recent: usize, from_the_beginning: bool, by_row: bool) -> Forbidding {
        Forbidding { keys: Judged::new(recent, false), from_the_beginning, by_row, unknown: 0 }
    }

    pub fn event(&mut self, seen: &Seen) -> Result<(), String> {
        let [judged, since, unless] = [0, 1, 2].map(|place| seen.values[place].matches());
        if seen.op != Op::Snapshot && !judged && !since && !unless {
            return Ok(());
        }
        let (id, ban) = self.keys.of(seen, self.by_row);
        if seen.op == Op::Snapshot {
            ban.was_there = true;
            return Ok(());
        }
        let stands = ban.stands.unwrap_or(self.from_the_beginning);
        let unknown = ban.stands.is_none() && ban.was_there;
        if since {
            ban.stands = Some(true);
        }
        if unless {
            ban.stands = Some(false);
        }
        if judged && unknown {
            self.unknown += 1;
        } else if judged {
            self.keys.judge(id, seen, stands.then(|| "it is forbidden since an event before".into()));
        }
        Ok(())
    }

    pub fn check(&mut self, last_event: i64, _time: i64, found: &mut Violations) {
        self.keys.check_keys(last_event, found, |ban| ban.stands.is_none() && !ban.was_there);
    }

    pub fn violated(&mut self, entry: u32, violation: u32) {
        self.keys.violated(entry, violation);
    }
}

/// `rate`: when the key had its latest events, as many as are allowed.
#[derive(Serialize, Deserialize)]
pub struct Rate {
    keys: Judged<Times>,
    at_most: usize,
    per: i64,
    by_row: bool,
    pub unknown: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Times {
    times: VecDeque<i64>,
    recorded_from: Option<i64>,
}

impl Rate {
    pub fn new(recent: usize, at_most: usize, per: i64, by_row: bool) -> Rate {
        Rate { keys: Judged::new(recent, false), at_most, per, by_row, unknown: 0 }
    }

    pub fn event(&mut self, seen: &Seen) -> Result<(), String> {
        let judged = seen.values[0].matches();
        if seen.op != Op::Snapshot && !judged {
            return Ok(());
        }
        let (at_most, per, time) = (self.at_most, self.per, seen.mark.time);
        let (id, key) = self.keys.of(seen, self.by_row);
        if seen.op == Op::Snapshot {
            key.recorded_from = key.recorded_from.or(Some(time));
            return Ok(());
        }
        // The clock may step: the greatest times count, in whatever order they came.
        let place = key.times.partition_point(|known| *known <= time);
        key.times.insert(place, time);
        let counted = key.times.len() - key.times.partition_point(|known| *known <= time - per);
        let unknown = counted <= at_most && key.recorded_from.is_some_and(|begin| time - per < begin);
        while key.times.len() > at_most + 1 {
            key.times.pop_front();
        }
        if unknown {
            self.unknown += 1;
        } else {
            let bad =
                (counted > at_most).then(|| format!("more than {at_most} of them in the time allowed for so many"));
            self.keys.judge(id, seen, bad);
        }
        Ok(())
    }

    pub fn check(&mut self, last_event: i64, _time: i64, found: &mut Violations) {
        self.keys.check_keys(last_event, found, |key| key.times.is_empty() && key.recorded_from.is_none());
    }

    pub fn violated(&mut self, entry: u32, violation: u32) {
        self.keys.violated(entry, violation);
    }
}

/// `monotone`: the key's last value.
#[derive(Serialize, Deserialize)]
pub struct Monotone {
    keys: Judged<Option<Height>>,
    strict: bool,
    by_row: bool,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Height {
    Integer(i64),
    Number(Decimal),
    Text(Box<[u8]>),
}

impl Monotone {
    pub fn new(recent: usize, strict: bool, by_row: bool) -> Monotone {
        Monotone { keys: Judged::new(recent, false), strict, by_row }
    }

    pub fn event(&mut self, seen: &Seen) -> Result<(), String> {
        let height = match seen.values[0] {
            Field::Null | Field::Bool(_) => return Ok(()),
            Field::Integer(value) => Height::Integer(value),
            Field::Number(value) => Height::Number(value),
            Field::Text(value) => Height::Text(value.into()),
        };
        if seen.op == Op::Delete {
            return Ok(());
        }
        let (id, last) = self.keys.of(seen, self.by_row);
        let before = last.replace(height.clone());
        if let (Some(before), true) = (before, seen.op != Op::Snapshot) {
            let bad = match height.cmp(&before) {
                Ordering::Less => Some("the value is smaller than the one before".into()),
                Ordering::Equal if self.strict => Some("the value is the same as the one before".into()),
                _ => None,
            };
            self.keys.judge(id, seen, bad);
        }
        Ok(())
    }

    pub fn check(&mut self, last_event: i64, _time: i64, found: &mut Violations) {
        self.keys.check_keys(last_event, found, Option::is_none);
    }

    pub fn violated(&mut self, entry: u32, violation: u32) {
        self.keys.violated(entry, violation);
    }
}

/// `deadline`: what is open and when it is due.
#[derive(Serialize, Deserialize)]
pub struct Deadlines {
    keys: Keyed<Obligation>,
    due: BTreeSet<(i64, u32)>,
    within: i64,
    by_row: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct Obligation {
    /// The opening event, and when it is due.
    open: Option<(Mark, i64)>,
    /// Closed too late since the last check point: the opening events, and when they were closed.
    closed_late: VecDeque<(Mark, i64)>,
    /// It was open when the record began.
    opened_before: bool,
}

impl Deadlines {
    pub fn new(recent: usize, within: i64, by_row: bool) -> Deadlines {
        Deadlines { keys: Keyed::new(recent), due: BTreeSet::new(), within, by_row }
    }

    pub fn event(&mut self, seen: &Seen) -> Result<(), String> {
        let [opens, closes] = [0, 1].map(|place| seen.values[place].matches());
        if !opens && !closes {
            return Ok(());
        }
        let id = self.keys.find_or_add_seen(seen, self.by_row);
        let time = seen.mark.time;
        let obligation = &mut self.keys.entry(id).state;
        if seen.op == Op::Snapshot {
            obligation.opened_before = opens && !closes;
            return Ok(());
        }
        if closes {
            obligation.opened_before = false;
            if let Some((mark, due)) = obligation.open.take() {
                self.due.remove(&(due, id));
                if time > due {
                    obligation.closed_late.push_back((mark, time));
                }
            }
            self.keys.touch(id, seen.mark);
        } else if obligation.open.is_none() {
            let due = time.saturating_add(self.within);
            obligation.open = Some((seen.mark, due));
            self.due.insert((due, id));
            self.keys.touch(id, seen.mark);
        }
        Ok(())
    }

    pub fn check(&mut self, last_event: i64, time: i64, found: &mut Violations) {
        while let Some((due, id)) = self.due.first().copied().filter(|(due, _)| *due < time) {
            self.due.remove(&(due, id));
            self.keys.wake(id);
        }
        loop {
            // Keys of which there is more to tell: each opening that was not closed in time is one violation.
            let mut more = Vec::new();
            self.keys.check(
                last_event,
                found,
                |entry| {
                    let late = entry.state.closed_late.pop_front();
                    let overdue = entry.state.open.filter(|(_, due)| time > *due);
                    if late.is_some() && (overdue.is_some() || !entry.state.closed_late.is_empty()) {
                        more.push(entry.key.clone());
                    }
                    let (mark, repaired_at) = match (late, overdue) {
                        (Some((mark, at)), _) => (mark, Some(at)),
                        (None, Some((mark, _))) => (mark, None),
                        (None, None) => return None,
                    };
                    let reason = "it was not closed in time".into();
                    Some(Finding { mark, states: None, event: None, reason, repaired_at })
                },
                |obligation| {
                    obligation.open.is_none() && obligation.closed_late.is_empty() && !obligation.opened_before
                },
            );
            if more.is_empty() {
                break;
            }
            for key in more {
                let id = self.keys.find_or_add(&key);
                self.keys.wake(id);
            }
        }
    }

    pub fn violated(&mut self, entry: u32, violation: u32) {
        self.keys.violated(entry, violation);
    }

    /// What is open and not due: key, due time, opening event.
    pub fn pending(&self) -> impl Iterator<Item = (Box<[u8]>, i64, Mark)> {
        let due = self.due.iter().map(|(due, id)| (*due, *id));
        due.filter_map(|(due, id)| {
            let entry = self.keys.at(id);
            Some((entry.key.clone(), due, entry.state.open?.0))
        })
    }

    pub fn unknown(&self) -> u64 {
        self.keys.entries().filter(|entry| entry.state.opened_before).count() as u64
    }
}
