//! Keys of which single events are judged.

use serde::{Deserialize, Serialize};

use super::engine::{Document, Mark, Seen, States};
use super::keyed::{Finding, Keyed};
use super::violations::Violations;

/// What was wrong with an event.
#[derive(Serialize, Deserialize)]
struct Bad {
    mark: Mark,
    reason: String,
    states: Option<States>,
    event: Option<Document>,
}

#[derive(Default, Serialize, Deserialize)]
pub struct Judgement<S> {
    pub state: S,
    /// Apart, as most keys have none.
    bad: Option<Box<Bad>>,
}

#[derive(Serialize, Deserialize)]
pub struct Judged<S> {
    keys: Keyed<Judgement<S>>,
    /// The last event counts, rather than the first bad one.
    last_counts: bool,
}

impl<S: Default> Judged<S> {
    pub fn new(recent: usize, last_counts: bool) -> Judged<S> {
        Judged { keys: Keyed::new(recent), last_counts }
    }

    /// What is known of a key that has an event.
    pub fn of(&mut self, seen: &Seen, by_row: bool) -> (u32, &mut S) {
        let id = self.keys.find_or_add_seen(seen, by_row);
        self.keys.note(id, seen.mark);
        (id, &mut self.keys.entry(id).state.state)
    }

    pub fn judge(&mut self, id: u32, seen: &Seen, bad: Option<String>) {
        self.keys.touch(id, seen.mark);
        let judgement = &mut self.keys.entry(id).state;
        match bad {
            Some(reason) if self.last_counts || judgement.bad.is_none() => {
                let event = seen.detail.event.map(Document::stored);
                let states = event.is_some().then(|| seen.detail.states.map(|state| state.map(Document::stored)));
                judgement.bad = Some(Box::new(Bad { mark: seen.mark, reason, states, event }));
            }
            None if self.last_counts => judgement.bad = None,
            _ => {}
        }
    }

    pub fn check_keys(&mut self, last_event: i64, found: &mut Violations, is_over: impl Fn(&S) -> bool) {
        self.keys.check(
            last_event,
            found,
            |entry| {
                let Bad { mark, reason, states, event } = *entry.state.bad.take()?;
                Some(Finding { mark, states, event, reason, repaired_at: None })
            },
            |judgement| is_over(&judgement.state),
        );
    }

    pub fn violated(&mut self, entry: u32, violation: u32) {
        self.keys.violated(entry, violation);
    }
}

/// The kind `row`.
impl Judged<()> {
    pub fn event(&mut self, seen: &Seen) -> Result<(), String> {
        let holds = seen.values[0].holds();
        // Rows that are fine are not kept.
        if holds && self.keys.find(&seen.row.to_le_bytes()).is_none() {
            return Ok(());
        }
        let (id, ()) = self.of(seen, true);
        self.judge(id, seen, (!holds).then(|| "the check is false".into()));
        Ok(())
    }

    pub fn check(&mut self, last_event: i64, _time: i64, found: &mut Violations) {
        self.check_keys(last_event, found, |()| true);
    }
}

/// The kind `projection`: the check of a key's state.
#[derive(Serialize, Deserialize)]
pub struct StateChecks(Keyed<Checked>);

#[derive(Default, Serialize, Deserialize)]
struct Checked {
    fails: bool,
    /// The key has a state.
    is_there: bool,
    /// At the last check point, and now.
    before: Option<Box<[u8]>>,
    now: Option<Box<[u8]>>,
    event: Option<Box<[u8]>>,
}

impl StateChecks {
    pub fn new(recent: usize) -> StateChecks {
        StateChecks(Keyed::new(recent))
    }

    pub fn event(&mut self, seen: &Seen) -> Result<(), String> {
        let id = self.0.find_or_add_row(seen.row);
        let first = self.0.touch(id, seen.mark);
        let checked = &mut self.0.entry(id).state;
        let [old, new] = seen.detail.states;
        if first {
            checked.before = old.map(Into::into);
        }
        checked.fails = !seen.values[0].holds();
        checked.is_there = new.is_some();
        (checked.now, checked.event) = (new.map(Into::into), seen.detail.event.map(Into::into));
        Ok(())
    }

    pub fn check(&mut self, last_event: i64, _time: i64, found: &mut Violations) {
        self.0.check(
            last_event,
            found,
            |entry| {
                let checked = &mut entry.state;
                let [before, now, event] = [checked.before.take(), checked.now.take(), checked.event.take()];
                checked.fails.then(|| Finding {
                    mark: entry.last,
                    states: Some([before, now].map(|state| state.map(Document::Stored))),
                    event: event.map(Document::Stored),
                    reason: "the check of the state is false".into(),
                    repaired_at: None,
                })
            },
            // What led to a failure is known only of keys that are kept.
            |checked| !checked.is_there,
        );
    }

    pub fn violated(&mut self, entry: u32, violation: u32) {
        self.0.violated(entry, violation);
    }
}
