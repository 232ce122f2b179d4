//! What a replay model must answer, computed the plain way: at every check point from the whole state, and for every
//! event from all events before it. No database, and nothing of the extension.

use std::collections::BTreeMap;

#[path = "replay_oracle/event_kinds.rs"]
mod event_kinds;
#[path = "replay_oracle/model.rs"]
mod model;
#[path = "replay_oracle/state_kinds.rs"]
mod state_kinds;
#[cfg(test)]
#[path = "replay_oracle/tests.rs"]
mod tests;

pub use model::*;

/// What identifies a key of an invariant: a row that may change its primary key, the values of an expression, or, for
/// deadlines, the event that opened one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Row(u64),
    Values(Texts),
    Opening(usize),
}

/// What a check point says of one key that was touched since the invariant's last one.
struct Finding {
    key: Key,
    texts: Texts,
    violated: bool,
    /// Index of the event that is named.
    named: usize,
    before: State,
    after: State,
    /// Deadlines: what was overdue was closed at this time.
    closed: Option<i64>,
}

/// The events between two check points of an invariant, with everything before them.
struct Stretch<'a> {
    events: &'a [Event],
    /// The rows before each event, and after the last.
    contents: &'a [Contents<'a>],
    from: usize,
    to: usize,
    /// The time of the last event, or of the replay's end.
    now: i64,
}

impl<'a> Stretch<'a> {
    fn new_events(&self) -> impl Iterator<Item = (usize, &'a Event)> {
        (self.from..self.to).map(|index| (index, &self.events[index]))
    }

    fn before(&self) -> &Contents<'a> {
        &self.contents[self.from]
    }

    fn after(&self) -> &Contents<'a> {
        &self.contents[self.to]
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    pub invariant: String,
    pub key: Texts,
    pub step: usize,
    /// The `Event::id` of the named event.
    pub event: usize,
    pub state_before: State,
    pub state_after: State,
    pub repaired_at: Option<i64>,
    /// The check point that found it found it repaired.
    pub repaired_at_once: bool,
    /// The time of the check point.
    pub found_at: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    pub invariant: String,
    pub key: Texts,
    pub due: i64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub violations: Vec<Violation>,
    pub pending: Vec<Pending>,
    pub events: usize,
    pub transactions: usize,
}

/// The rows before each event and after the last.
fn all_contents(events: &[Event]) -> Vec<Contents<'_>> {
    let mut now = Contents::new();
    let mut all = vec![now.clone()];
    for event in events {
        let table = now.entry(event.table).or_default();
        match &event.new {
            Some(row) => table.insert(event.row, row),
            None => table.remove(&event.row),
        };
        all.push(now.clone());
    }
    all
}

/// Whether a check point comes after `events[to - 1]`.
fn is_check_point(check_at: CheckAt, events: &[Event], to: usize) -> bool {
    let (Some(last), Some(next)) = (events.get(to - 1), events.get(to)) else { return true };
    let same_transaction = last.transaction == next.transaction;
    match check_at {
        CheckAt::Event => true,
        CheckAt::Statement => !(same_transaction && last.statement == next.statement),
        CheckAt::Commit => !same_transaction,
        CheckAt::Events(n) => to.is_multiple_of(n),
        CheckAt::Interval(length) => last.at.div_euclid(length) != next.at.div_euclid(length),
        CheckAt::End => false,
    }
}

/// Replays all events that are not after `until`, which is also the time of the last check point.
pub fn check(events: &[Event], invariants: &[Invariant], until: i64) -> Answer {
    let tables: Vec<&str> = invariants.iter().flat_map(|invariant| invariant.kind.tables()).collect();
    let events: Vec<Event> =
        events.iter().filter(|event| tables.contains(&event.table) && event.at <= until).cloned().collect();
    let contents = all_contents(&events);
    let judged: Vec<_> = invariants.iter().map(|invariant| event_kinds::judge(&invariant.kind, &events)).collect();

    let mut answer = Answer { events: events.len(), ..Answer::default() };
    answer.transactions = (1..=events.len()).filter(|to| is_check_point(CheckAt::Commit, &events, *to)).count();
    // For each invariant: how many events it has seen, and its violated keys with the violation's place in the answer.
    let mut seen = vec![0; invariants.len()];
    let mut violated: Vec<BTreeMap<Key, usize>> = vec![BTreeMap::new(); invariants.len()];

    for to in 1..=events.len() {
        let mut found: Vec<(usize, Finding)> = Vec::new();
        let now = if to == events.len() { until } else { events[to - 1].at };
        for (order, invariant) in invariants.iter().enumerate() {
            if !is_check_point(invariant.check_at, &events, to) {
                continue;
            }
            let stretch = Stretch { events: &events, contents: &contents, from: seen[order], to, now };
            seen[order] = to;
            let findings = match &judged[order] {
                Some(judgements) => event_kinds::findings(judgements, &stretch),
                None => match &invariant.kind {
                    Kind::Deadline(deadline) => event_kinds::deadline_findings(deadline, &stretch),
                    kind => state_kinds::findings(kind, &stretch),
                },
            };
            found.extend(findings.into_iter().map(|finding| (order, finding)));
        }
        found.sort_by_key(|(order, finding)| (finding.named, *order, sortable(&finding.texts)));
        for (order, finding) in found {
            settle(&mut answer, &mut violated[order], &invariants[order], finding, &events, events[to - 1].at);
        }
    }
    for invariant in invariants {
        if let Kind::Deadline(deadline) = &invariant.kind {
            answer.pending.extend(event_kinds::pending(&invariant.name, deadline, &events, until));
        }
    }
    answer
}

/// One finding becomes a violation, repairs one, or changes nothing.
fn settle(
    answer: &mut Answer,
    violated: &mut BTreeMap<Key, usize>,
    invariant: &Invariant,
    finding: Finding,
    events: &[Event],
    at: i64,
) {
    match (violated.get(&finding.key).copied(), finding.violated) {
        (None, false) => {}
        (None, true) => {
            if finding.closed.is_none() {
                violated.insert(finding.key, answer.violations.len());
            }
            answer.violations.push(Violation {
                invariant: invariant.name.clone(),
                key: finding.texts,
                step: finding.named,
                event: events[finding.named].id,
                state_before: finding.before,
                state_after: finding.after,
                repaired_at: finding.closed,
                repaired_at_once: finding.closed.is_some(),
                found_at: at,
            });
        }
        (Some(place), _) => {
            if !finding.violated || finding.closed.is_some() {
                answer.violations[place].repaired_at = Some(finding.closed.unwrap_or(at));
                violated.remove(&finding.key);
            }
        }
    }
}

/// By bytes, NULL last.
fn sortable(texts: &Texts) -> Vec<(bool, String)> {
    texts.iter().map(|text| (text.is_none(), text.clone().unwrap_or_default())).collect()
}
