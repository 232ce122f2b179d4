//! What check points found, as it is kept.

use serde::{Deserialize, Serialize};

use super::engine::{Document, Mark, States};
use super::keyed::Finding;

/// A violation that a check point has just found.
#[derive(Serialize, Deserialize)]
pub struct Fresh {
    pub entry: u32,
    pub key: Box<[u8]>,
    pub recent: Vec<i64>,
    pub finding: Finding,
}

/// Where a violation was found: the last event before the check point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub step: u64,
    pub time: i64,
    pub transaction: i64,
    /// No event of the transaction came after it.
    pub at_commit: bool,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Violation {
    /// In the order of finding.
    pub no: u64,
    /// Of the plan's; beyond them that the history of a source is continuous, and that a projection's functions do not fail.
    pub invariant: usize,
    pub key: Box<[u8]>,
    pub mark: Mark,
    pub found: Found,
    pub states: Option<States>,
    pub event: Option<Document>,
    pub reason: String,
    pub recent: Vec<i64>,
    pub repaired_at: Option<i64>,
}

impl Violation {
    fn is_over(&self, since: i64) -> bool {
        self.found.time <= since && self.repaired_at.is_some_and(|at| at <= since)
    }
}

/// So many are kept, with what they need to be told of, and the first of each invariant; the others are counted.
/// Before the time that is asked about there is no such bound: those that are not over by then, few or many, are told first.
const KEPT: usize = 1000;
const NOT_KEPT: u32 = u32::MAX;

/// Violations found, in the order of check points.
#[derive(Default, Serialize, Deserialize)]
pub struct Violations {
    kept: Vec<Violation>,
    /// Places among those kept of violations that were over before the time that is asked about.
    free: Vec<u32>,
    found: u64,
    /// How many of each invariant were found, but for those.
    counts: Vec<u64>,
    since: i64,
    /// Found since the last check point: a saved run has them, too, for its last event's check point is still to come.
    fresh: Vec<(usize, Fresh)>,
    #[serde(skip)]
    invariant: usize,
}

impl Violations {
    pub fn new(invariants: usize, since: i64) -> Violations {
        Violations { counts: vec![0; invariants], since, ..Violations::default() }
    }

    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What is added from here on is of this invariant.
    pub fn begin(&mut self, invariant: usize) {
        self.invariant = invariant;
    }

    pub fn add_of(&mut self, invariant: usize, fresh: Fresh) {
        self.fresh.push((invariant, fresh));
    }

    pub fn take_fresh(&mut self) -> Vec<(usize, Fresh)> {
        std::mem::take(&mut self.fresh)
    }

    pub fn add(&mut self, fresh: Fresh) {
        self.fresh.push((self.invariant, fresh));
    }

    pub fn has_fresh(&self, entry: u32) -> bool {
        self.fresh.last().is_some_and(|(invariant, fresh)| *invariant == self.invariant && fresh.entry == entry)
    }

    pub fn repair(&mut self, violation: u32, time: i64) {
        if violation == NOT_KEPT {
            return;
        }
        let kept = &mut self.kept[violation as usize];
        kept.repaired_at = Some(time);
        if kept.is_over(self.since) {
            self.counts[kept.invariant] -= 1;
            self.free.push(violation);
        }
    }

    /// Gives the violation's number for `repair`.
    pub fn keep(&mut self, mut violation: Violation) -> u32 {
        violation.no = self.found;
        self.found += 1;
        let count = &mut self.counts[violation.invariant];
        *count += 1;
        let is_first = *count == 1;
        match self.free.pop() {
            Some(place) => {
                self.kept[place as usize] = violation;
                place
            }
            None if self.kept.len() < KEPT || is_first || violation.found.time <= self.since => {
                self.kept.push(violation);
                self.kept.len() as u32 - 1
            }
            None => NOT_KEPT,
        }
    }

    /// Of those that were not over before the time that is asked about so many, and the first of each invariant, as they were found.
    pub fn reported(&self, most: usize) -> Vec<&Violation> {
        let mut reported: Vec<_> = self.kept.iter().filter(|violation| !violation.is_over(self.since)).collect();
        reported.sort_by_key(|violation| violation.no);
        let mut is_told = vec![false; self.counts.len()];
        let mut place = 0;
        reported.retain(|violation| {
            place += 1;
            !std::mem::replace(&mut is_told[violation.invariant], true) || place <= most
        });
        reported
    }
}
