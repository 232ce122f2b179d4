//! The run: events come in commit order, check points lie between them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::aggregate::Aggregated;
use super::decimal::Decimal;
use super::integrity::Rows;
use super::judged::{Judged, StateChecks};
use super::keyed::Finding;
use super::plan::{CheckAt, Invariant, Kind, Plan};
use super::sequence::{Deadlines, Forbidding, Monotone, Rate, Requiring, Transitions};
use super::tuples::{References, Unique};
use super::violations::{Found, Fresh, Violation, Violations};

/// Where an event stands in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub step: u64,
    pub change_id: i64,
    pub time: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Every row of the source ends.
    AllEnd,
    Delete,
    Snapshot,
    Insert,
    Update,
}

/// An input of an invariant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field<'v> {
    Null,
    Bool(bool),
    Integer(i64),
    Number(Decimal),
    Text(&'v [u8]),
}

impl<'v> Field<'v> {
    /// A check: NULL holds.
    pub fn holds(self) -> bool {
        self != Field::Bool(false)
    }

    /// A predicate of an event: NULL does not match.
    pub fn matches(self) -> bool {
        self == Field::Bool(true)
    }

    pub fn text(self) -> Option<&'v [u8]> {
        if let Field::Text(text) = self { Some(text) } else { None }
    }
}

pub struct Event<'v> {
    pub source: usize,
    pub op: Op,
    pub transaction: i64,
    pub statement: i32,
    pub change_id: i64,
    pub time: i64,
    /// The row's key, and the one it had before this event if that was another.
    pub key: &'v [u8],
    pub old_key: Option<&'v [u8]>,
    /// What the row's image before and after comes to, where that is known.
    pub images: [Option<u64>; 2],
    pub version: i32,
    /// A baseline begins: whatever was known of the source's rows ends.
    pub begins_baseline: bool,
    pub values: Vec<Field<'v>>,
    pub detail: Detail<'v>,
}

/// Of a projection: the event as it was mapped, and the key's state before and after it, as jsonb is stored.
#[derive(Clone, Copy, Default)]
pub struct Detail<'v> {
    pub event: Option<&'v [u8]>,
    pub states: [Option<&'v [u8]>; 2],
}

/// A document of a violation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Document {
    Json(String),
    /// jsonb as stored.
    Stored(Box<[u8]>),
}

impl Document {
    pub fn stored(payload: &[u8]) -> Document {
        Document::Stored(payload.into())
    }
}

/// The state before and after.
pub type States = [Option<Document>; 2];

/// What an invariant sees of an event.
pub struct Seen<'e, 'v> {
    pub op: Op,
    pub mark: Mark,
    /// The row, as it is numbered among those of its source.
    pub row: u32,
    /// Which of the invariant's inputs this is.
    pub input: usize,
    pub values: &'e [Field<'v>],
    pub detail: Detail<'v>,
}

impl<'v> Seen<'_, 'v> {
    /// Whose key is the last of the values.
    pub fn key(&self) -> Vec<u8> {
        super::keyed::tuple_key([self.values[self.values.len() - 1].text()])
    }
}

/// An invariant's state.
#[derive(Serialize, Deserialize)]
enum State {
    Row(Judged<()>),
    Projected(StateChecks),
    Aggregate(Aggregated),
    Transition(Transitions),
    Unique(Unique),
    References(References),
    Requires(Requiring),
    Forbids(Forbidding),
    Rate(Rate),
    Monotone(Monotone),
    Deadline(Deadlines),
}

macro_rules! each_state {
    ($state:expr, $inner:ident => $body:expr) => {
        match $state {
            State::Row($inner) => $body,
            State::Projected($inner) => $body,
            State::Aggregate($inner) => $body,
            State::Transition($inner) => $body,
            State::Unique($inner) => $body,
            State::References($inner) => $body,
            State::Requires($inner) => $body,
            State::Forbids($inner) => $body,
            State::Rate($inner) => $body,
            State::Monotone($inner) => $body,
            State::Deadline($inner) => $body,
        }
    };
}

impl State {
    fn of(kind: &Kind, recent: usize) -> State {
        match kind {
            Kind::Row => State::Row(Judged::new(recent, true)),
            Kind::State => State::Projected(StateChecks::new(recent)),
            Kind::Aggregate { function, test } => State::Aggregate(Aggregated::new(recent, *function, test)),
            Kind::Transition { initial, allowed } => State::Transition(Transitions::new(recent, initial, allowed)),
            Kind::Unique => State::Unique(Unique::new(recent)),
            Kind::References => State::References(References::new(recent)),
            Kind::Requires { within, by_row } => State::Requires(Requiring::new(recent, *within, *by_row)),
            Kind::Forbids { from_the_beginning, by_row } => {
                State::Forbids(Forbidding::new(recent, *from_the_beginning, *by_row))
            }
            Kind::Rate { at_most, per, by_row } => State::Rate(Rate::new(recent, *at_most, *per, *by_row)),
            Kind::Monotone { strict, by_row } => State::Monotone(Monotone::new(recent, *strict, *by_row)),
            Kind::Deadline { within, by_row } => State::Deadline(Deadlines::new(recent, *within, *by_row)),
        }
    }
}

/// What cannot go on, and of which invariant.
#[derive(Debug)]
pub struct Fault {
    pub invariant: String,
    pub reason: String,
}

/// What an aggregate comes to for a key.
pub struct Group {
    pub key: Box<[u8]>,
    pub rows: i64,
    pub value: Option<String>,
}

/// A key's state that is given rather than made of events.
#[derive(Deserialize)]
pub struct Pin {
    pub invariant: String,
    #[serde(default)]
    pub key: Vec<Option<String>>,
    pub state: PinnedState,
}

#[derive(Deserialize)]
pub struct PinnedState {
    #[serde(default)]
    pub rows: i64,
    #[serde(default)]
    pub referenced: i64,
    pub value: Option<Box<serde_json::value::RawValue>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Last {
    mark: Mark,
    transaction: i64,
    statement: i32,
    is_snapshot: bool,
}

#[derive(Serialize, Deserialize)]
pub struct Engine {
    pub plan: Plan,
    rows: Vec<Rows>,
    states: Vec<State>,
    pub violations: Violations,
    last: Option<Last>,
    pub events: u64,
    pub transactions: u64,
    /// The last event from elsewhere that was counted, and for which source: what others make of it are no further steps.
    counted: Option<(i64, usize)>,
    /// Events that were not fed, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// A failure was found that no more is read after: the time of the event after it.
    pub stopped_by: Option<i64>,
}

impl Engine {
    pub fn new(plan: Plan) -> Engine {
        let keeps_rows = |source: usize| {
            let by_row = |invariant: &Invariant| {
                invariant.inputs.iter().any(|input| input.source == source) && invariant.kind.is_by_row()
            };
            plan.invariants.iter().any(by_row)
        };
        Engine {
            rows: (0..).zip(&plan.sources).map(|(number, source)| Rows::new(source, keeps_rows(number))).collect(),
            states: plan.invariants.iter().map(|invariant| State::of(&invariant.kind, plan.recent)).collect(),
            violations: Violations::new(plan.invariants.len() + plan.sources.len(), plan.since),
            last: None,
            events: 0,
            transactions: 0,
            counted: None,
            skipped: BTreeMap::new(),
            stopped_by: None,
            plan,
        }
    }

    /// Goes on from where the same plan was left, with another end.
    pub fn resume(mut self, until: i64, stop: bool) -> Engine {
        (self.plan.until, self.plan.stop) = (until, stop);
        self
    }

    pub fn rows_mut(&mut self, source: usize) -> &mut Rows {
        &mut self.rows[source]
    }

    pub fn rows(&self, source: usize) -> &Rows {
        &self.rows[source]
    }

    /// One event. True when there is no need for more.
    pub fn feed(&mut self, event: &Event) -> Result<bool, Fault> {
        let is_counted = self.is_step(event.source, event.change_id);
        let mark =
            Mark { step: self.step(event.source, event.change_id), change_id: event.change_id, time: event.time };
        if is_counted {
            self.pass(Some(event));
            if self.stopped_by.is_some() {
                return Ok(true);
            }
            self.counted = Some((event.change_id, event.source));
        }
        if self.last.as_ref().is_none_or(|last| last.transaction != event.transaction) {
            self.transactions += 1;
        }
        self.rows[event.source].fed += 1;
        self.events += u64::from(is_counted);
        if event.begins_baseline || event.op == Op::AllEnd {
            self.end_all(event.source, mark)?;
        }
        // The rows come anew, and so do the states that are made of them.
        if event.begins_baseline {
            for source in 0..self.plan.sources.len() {
                if self.plan.sources[source].of == Some(event.source) {
                    self.end_all(source, mark)?;
                }
            }
        }
        if event.op != Op::AllEnd {
            self.enter(event, mark)?;
        }
        self.last = Some(Last {
            mark,
            transaction: event.transaction,
            statement: event.statement,
            is_snapshot: event.op == Op::Snapshot,
        });
        Ok(false)
    }

    fn end_all(&mut self, source: usize, mark: Mark) -> Result<(), Fault> {
        for row in self.rows[source].end_all() {
            self.leave(source, row, mark)?;
        }
        Ok(())
    }

    fn is_step(&self, source: usize, change_id: i64) -> bool {
        let of = &self.plan.sources[source];
        of.is_counted && !(of.is_projection && self.counted.is_some_and(|(id, by)| id == change_id && by != source))
    }

    /// Of the next event of a source. One that is not counted belongs to the step before.
    fn step(&self, source: usize, change_id: i64) -> u64 {
        if self.is_step(source, change_id) { self.events } else { self.events.saturating_sub(1) }
    }

    fn enter(&mut self, event: &Event, mark: Mark) -> Result<(), Fault> {
        let row = self.rows[event.source].enter(event);
        if let Some(found) = self.rows[event.source].take_break() {
            let finding = Finding { mark, states: None, event: None, reason: found.into(), repaired_at: None };
            let fresh = Fresh { entry: 0, key: event.key.into(), recent: Vec::new(), finding };
            self.violations.add_of(self.plan.invariants.len() + event.source, fresh);
        }
        for (state, invariant) in self.states.iter_mut().zip(&self.plan.invariants) {
            for (number, input) in invariant.inputs.iter().enumerate().filter(|(_, input)| input.source == event.source)
            {
                let values = &event.values[input.first..input.first + input.count];
                let seen = Seen { op: event.op, mark, row, input: number, values, detail: event.detail };
                each_state!(state, inner => inner.event(&seen)).map_err(|reason| fault(invariant, reason))?;
            }
        }
        self.rows[event.source].leave_if_over(event, row);
        Ok(())
    }

    pub fn skip(&mut self, reason: String) {
        *self.skipped.entry(reason).or_insert(0) += 1;
    }

    /// A function of a projection failed at an event, which leaves the state as it was.
    pub fn fail(
        &mut self,
        source: usize,
        key: &[u8],
        (change_id, time): (i64, i64),
        reason: String,
        event: Option<&[u8]>,
    ) {
        let mark = Mark { step: self.step(source, change_id), change_id, time };
        let state = self.rows[source].state(key).map(Document::stored);
        let finding = Finding {
            mark,
            states: Some([state.clone(), state]),
            event: event.map(Document::stored),
            reason,
            repaired_at: None,
        };
        let number = self.plan.invariants.len() + source;
        self.violations.add_of(number, Fresh { entry: 0, key: key.into(), recent: Vec::new(), finding });
    }

    /// A row of which nothing more is known.
    fn leave(&mut self, source: usize, row: u32, mark: Mark) -> Result<(), Fault> {
        for (state, invariant) in self.states.iter_mut().zip(&self.plan.invariants) {
            for (number, input) in invariant.inputs.iter().enumerate().filter(|(_, input)| input.source == source) {
                let values = vec![Field::Null; input.count];
                let seen =
                    Seen { op: Op::Delete, mark, row, input: number, values: &values, detail: Detail::default() };
                each_state!(state, inner => inner.event(&seen)).map_err(|reason| fault(invariant, reason))?;
            }
        }
        Ok(())
    }

    /// The check points between the last event and the next.
    fn pass(&mut self, next: Option<&Event>) {
        let Some(last) = self.last else { return };
        let transaction_ends = next.is_none_or(|next| next.transaction != last.transaction);
        let statement_ends = transaction_ends || next.is_none_or(|next| next.statement != last.statement);
        // While a baseline is taken its rows are not all there.
        let in_baseline = last.is_snapshot && !transaction_ends;
        let time = if next.is_none() { self.plan.until } else { last.mark.time };
        for (number, (state, invariant)) in self.states.iter_mut().zip(&self.plan.invariants).enumerate() {
            let is_known = invariant.known_from.is_some_and(|from| {
                next.is_none() || last.transaction > from || last.transaction == from && transaction_ends
            });
            let is_reached = match invariant.check_at {
                CheckAt::Event => true,
                CheckAt::Statement => statement_ends,
                CheckAt::Commit => transaction_ends,
                CheckAt::Events(count) => self.events.is_multiple_of(count),
                CheckAt::Slices(length) => {
                    next.is_some_and(|next| slice(next.time, length) != slice(last.mark.time, length))
                }
                CheckAt::End => false,
            };
            let is_due = is_known && (next.is_none() || !in_baseline && is_reached);
            if is_due {
                self.violations.begin(number);
                each_state!(state, inner => inner.check(last.mark.time, time, &mut self.violations));
            }
        }
        let Mark { step, time, .. } = last.mark;
        self.settle(Found { step, time, transaction: last.transaction, at_commit: transaction_ends });
        if self.plan.stop && time > self.plan.since && self.fails() {
            self.stopped_by = next.map(|next| next.time);
        }
    }

    fn fails(&self) -> bool {
        let is_warning = |number: usize| self.plan.invariants.get(number).is_some_and(|invariant| invariant.is_warning);
        self.violations.counts().iter().enumerate().any(|(number, count)| *count > 0 && !is_warning(number))
    }

    /// Violations that one check point found get their order, and their keys learn of them.
    fn settle(&mut self, found: Found) {
        let mut fresh = self.violations.take_fresh();
        fresh.sort_by(|(a_invariant, a), (b_invariant, b)| {
            (a.finding.mark.step, a_invariant, &a.key).cmp(&(b.finding.mark.step, b_invariant, &b.key))
        });
        for (invariant, Fresh { entry, key, recent, finding }) in fresh {
            let Finding { mark, states, event, reason, repaired_at } = finding;
            let number = self.violations.keep(Violation {
                no: 0,
                invariant,
                key,
                mark,
                found,
                states,
                event,
                reason,
                recent,
                repaired_at: None,
            });
            match repaired_at {
                Some(at) => self.violations.repair(number, at),
                None if invariant >= self.states.len() => {}
                None => each_state!(&mut self.states[invariant], inner => inner.violated(entry, number)),
            }
        }
    }

    /// The commit and the time of the last event.
    pub fn last(&self) -> Option<(i64, i64)> {
        self.last.as_ref().map(|last| (last.transaction, last.mark.time))
    }

    pub fn end(&mut self) {
        if self.stopped_by.is_none() {
            self.pass(None);
        }
    }

    /// What the query has to judge: the value of a key that the last event touched (of its old row, or of its new one).
    pub fn value(&self, invariant: usize, of_new: bool) -> Option<String> {
        match &self.states[invariant] {
            State::Aggregate(aggregated) => aggregated.value(of_new),
            _ => None,
        }
    }

    pub fn judge(&mut self, invariant: usize, of_new: bool, holds: bool) {
        if let State::Aggregate(aggregated) = &mut self.states[invariant] {
            aggregated.judged_elsewhere(of_new, holds);
        }
    }

    /// Sets what an invariant knows of a key, in place of the events that made it so. False: it is not of a kind, or no state, that can be set.
    pub fn pin(&mut self, pin: &Pin) -> bool {
        let key = super::keyed::tuple_key(pin.key.iter().map(|part| part.as_deref().map(str::as_bytes)));
        let named = self.plan.invariants.iter().position(|invariant| invariant.name == pin.invariant);
        match named.map(|number| &mut self.states[number]) {
            Some(State::Aggregate(aggregated)) => aggregated.pin(&key, &pin.state),
            Some(State::Unique(unique)) => unique.pin(&key, &pin.state),
            Some(State::References(references)) => references.pin(&key, &pin.state),
            _ => false,
        }
    }

    /// What groups come to, of invariants with few of them.
    pub fn groups(&self) -> Vec<(usize, Group)> {
        const FEW: usize = 10;
        let mut groups = Vec::new();
        for (number, state) in self.states.iter().enumerate() {
            if let State::Aggregate(aggregated) = state {
                let of_this: Vec<_> = aggregated.readings().take(FEW + 1).collect();
                if of_this.len() <= FEW {
                    groups.extend(of_this.into_iter().map(|group| (number, group)));
                }
            }
        }
        groups
    }

    /// Deadlines still open: invariant, key, due time, opening event.
    pub fn pending(&self) -> Vec<(usize, Box<[u8]>, i64, Mark)> {
        let mut pending = Vec::new();
        for (number, state) in self.states.iter().enumerate() {
            if let State::Deadline(deadlines) = state {
                pending.extend(deadlines.pending().map(|(key, due, mark)| (number, key, due, mark)));
            }
        }
        pending.sort_by_key(|(number, _, due, mark)| (*due, *number, mark.step));
        pending
    }

    /// How often an invariant could not be judged because the record begins too late.
    pub fn unknown(&self, invariant: usize) -> u64 {
        match &self.states[invariant] {
            State::Requires(inner) => inner.unknown,
            State::Forbids(inner) => inner.unknown,
            State::Rate(inner) => inner.unknown,
            State::Deadline(inner) => inner.unknown(),
            _ => 0,
        }
    }
}

fn fault(invariant: &Invariant, reason: String) -> Fault {
    Fault { invariant: invariant.name.clone(), reason }
}

/// The slice of time, counted from 1970, that a time lies in.
fn slice(time: i64, length: i64) -> i64 {
    const SINCE_1970: i64 = 946_684_800_000_000;
    time.saturating_add(SINCE_1970).div_euclid(length)
}
