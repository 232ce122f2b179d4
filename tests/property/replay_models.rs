//! Random histories of three domains, written by concurrent sessions, checked by `replay_check` and by the oracle: the
//! same violations, in the same order, by the same events, with the same states and times of repair.
//!
//! THREADLINE_REPLAY_HISTORIES is the number of histories (default 18).

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use crate::random::{Random, seed};
use crate::replay_domains::{DOMAINS, MILLISECOND, history_of, invariants};
use crate::replay_histories::{Happened, Nowhere, run};
use crate::replay_oracle::{Answer, CheckAt, Event, Invariant, Violation, check};
use crate::replay_sql::{
    Changes, Checked, Line, Sessions, assert_rows_are_right, define, expected, replay_check, set_up, timestamp,
};
use crate::support::{Database, Session};

/// Histories that share a database, and a run of the driver.
const BATCH: i64 = 36;
const SESSIONS: usize = 6;

const CHECK_POINTS: [(&str, CheckAt); 6] = [
    ("at_event", CheckAt::Event),
    ("at_statement", CheckAt::Statement),
    ("at_commit", CheckAt::Commit),
    ("every_events", CheckAt::Events(7)),
    ("every_interval", CheckAt::Interval(10 * MILLISECOND)),
    ("at_end", CheckAt::End),
];

fn histories() -> i64 {
    std::env::var("THREADLINE_REPLAY_HISTORIES")
        .ok()
        .map_or(18, |text| text.parse().expect("THREADLINE_REPLAY_HISTORIES is a number"))
}

fn say(text: &str) {
    // Past the harness's capture.
    let _ = writeln!(std::io::stderr(), "{text}");
}

// --- the oracle and its histories, without a server --------------------------------------------------------------

fn imagined(seed: u64, histories: i64) -> Happened {
    run(&mut Random::new(seed), &mut Nowhere::new(seed), 0..histories, SESSIONS)
}

fn end_of(events: &[Event]) -> i64 {
    events.iter().map(|event| event.at).max().unwrap_or(0) + 500 * MILLISECOND
}

/// Its deadlines are pending in every run that does not take an hour.
const NEVER_OVERDUE: &str = "orders_customer_served";

/// What histories did to the invariants.
#[derive(Default)]
struct Broken {
    /// Check point and kind.
    kinds: BTreeSet<(&'static str, &'static str)>,
    invariants: BTreeSet<String>,
    repaired: BTreeSet<&'static str>,
}

impl Broken {
    fn note(&mut self, events: &[Event]) {
        for (name, check_at) in CHECK_POINTS {
            let invariants = invariants(|_| check_at);
            let answer = check(events, &invariants, end_of(events));
            for violation in &answer.violations {
                let of = invariants.iter().find(|invariant| invariant.name == violation.invariant);
                let kind = of.expect("its invariant").kind.name();
                self.kinds.insert((name, kind));
                self.invariants.insert(violation.invariant.clone());
                if violation.repaired_at.is_some() {
                    self.repaired.insert(kind);
                }
            }
            say(&format!(
                "{name}: {} events, {} violations, {} of them repaired, {} deadlines pending",
                answer.events,
                answer.violations.len(),
                answer.violations.iter().filter(|violation| violation.repaired_at.is_some()).count(),
                answer.pending.len(),
            ));
            assert!(answer.pending.iter().any(|pending| pending.invariant == NEVER_OVERDUE), "{name}: none is pending");
        }
    }

    /// What nothing was seen of.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for kind in kinds() {
            let nowhere = CHECK_POINTS.iter().filter(|(name, _)| !self.kinds.contains(&(*name, kind)));
            missing.extend(nowhere.map(|(name, _)| format!("{kind} is never violated {name}")));
            if !self.repaired.contains(kind) {
                missing.push(format!("no violation of a {kind} is repaired"));
            }
        }
        for invariant in invariants(|_| CheckAt::Event) {
            if invariant.name != NEVER_OVERDUE && !self.invariants.contains(&invariant.name) {
                missing.push(format!("{} is never violated", invariant.name));
            }
        }
        missing
    }
}

#[test]
fn every_kind_is_kept_and_broken_by_the_histories() {
    let seed = seed("every_kind_is_kept_and_broken_by_the_histories");
    let mut broken = Broken::default();
    // What is rare may need more than one batch.
    for batch in 0..6 {
        broken.note(&imagined(seed.wrapping_add(batch), 60).events());
        if broken.missing().is_empty() {
            break;
        }
    }
    assert_eq!(broken.missing(), Vec::<String>::new());
    // A check that always fails is noticed, too.
    assert_eq!(kinds_kept(seed), kinds(), "the kinds that a whole history keeps");
}

fn kinds() -> BTreeSet<&'static str> {
    invariants(|_| CheckAt::Event).iter().map(|invariant| invariant.kind.name()).collect()
}

/// The kinds of which an invariant holds in a whole history that has events for it.
fn kinds_kept(seed: u64) -> BTreeSet<&'static str> {
    let mut kept = BTreeSet::new();
    for history in 0..60 {
        let happened =
            run(&mut Random::new(seed.wrapping_add(history as u64)), &mut Nowhere::new(seed), history..history + 1, 3);
        let events = happened.events();
        let invariants = invariants(|_| CheckAt::Commit);
        let answer = check(&events, &invariants, end_of(&events));
        for invariant in &invariants {
            let concerned = events.iter().any(|event| invariant.kind.tables().contains(&event.table));
            if concerned && !answer.violations.iter().any(|violation| violation.invariant == invariant.name) {
                kept.insert(invariant.kind.name());
            }
        }
    }
    kept
}

/// What of a violation does not follow from the numbering of steps.
fn regardless_of_steps(answer: &Answer) -> Vec<Violation> {
    let mut violations: Vec<Violation> =
        answer.violations.iter().map(|violation| Violation { step: 0, ..violation.clone() }).collect();
    violations.sort_by(|a, b| (&a.invariant, &a.key, a.event).cmp(&(&b.invariant, &b.key, b.event)));
    violations
}

#[test]
fn a_wrong_order_is_noticed() {
    let seed = seed("a_wrong_order_is_noticed");
    let happened = imagined(seed, 60);
    let invariants = invariants(|_| CheckAt::Commit);
    let (right, wrong) = (happened.events(), happened.in_order_of_first_capture());
    let mut noticed = 0;
    let mut histories = 0;
    for history in 0..60 {
        let of_history = |events: &[Event]| -> Vec<Event> {
            let of_this = |event: &&Event| history_of(first_key(event)) == history;
            events.iter().filter(of_this).cloned().collect()
        };
        let (right, wrong) = (of_history(&right), of_history(&wrong));
        let end = end_of(&right);
        let (right, wrong) = (check(&right, &invariants, end), check(&wrong, &invariants, end));
        histories += 1;
        noticed += u32::from(regardless_of_steps(&right) != regardless_of_steps(&wrong));
    }
    say(&format!("replay in the order of first capture: {noticed} of {histories} histories are answered otherwise"));
    assert!(noticed > 0, "no history tells the order of commits from that of first captures");
}

fn first_key(event: &Event) -> i64 {
    let text = event.primary_key_texts().swap_remove(0).expect("a key");
    text.parse().expect("keys begin with a number")
}

// --- against the extension ----------------------------------------------------------------------------------------

#[derive(Default)]
struct Tally {
    checks: usize,
    violations: usize,
    mismatches: Vec<String>,
}

struct Batch<'a> {
    s: &'a mut Session,
    happened: &'a Happened,
    events: &'a [Event],
    changes: &'a Changes,
    tally: &'a mut Tally,
}

impl Batch<'_> {
    /// Both answers to one question.
    fn compare(&mut self, what: &str, found: &Checked, lines: &[Line], answer: Option<&Answer>) {
        self.tally.checks += 1;
        self.tally.violations += lines.len();
        let verdict = if lines.is_empty() { "holds" } else { "violated" };
        let mut wrong = Vec::new();
        if found.verdict != verdict {
            wrong.push(format!("the verdict is {}, {verdict} was expected", found.verdict));
        }
        let different = (0..lines.len().max(found.lines.len())).find(|n| lines.get(*n) != found.lines.get(*n));
        if let Some(n) = different {
            wrong.push(format!(
                "violation {n} of {} expected and {} found\nexpected {:#?}\nfound {:#?}\nexpected only: {:#?}\nfound only: {:#?}\n{}",
                lines.len(),
                found.lines.len(),
                lines.get(n),
                found.lines.get(n),
                lines.iter().filter(|line| !found.lines.contains(line)).take(5).collect::<Vec<_>>(),
                found.lines.iter().filter(|line| !lines.contains(line)).take(5).collect::<Vec<_>>(),
                self.story(lines.get(n).or(found.lines.get(n)).expect("one of them is there"))
            ));
        }
        if let Some(answer) = answer {
            let counts = (answer.events, answer.transactions);
            if (found.events, found.transactions) != counts {
                wrong.push(format!(
                    "{} events of {} transactions, {counts:?} were expected",
                    found.events, found.transactions
                ));
            }
            let sorted = |pending: &mut Vec<_>| pending.sort();
            let mut due: Vec<_> = answer.pending.iter().map(|p| (p.invariant.clone(), p.key.clone(), p.due)).collect();
            let mut found_due = found.pending.clone();
            sorted(&mut due);
            sorted(&mut found_due);
            if due != found_due {
                wrong.push(format!("pending: expected {due:?}\nfound {found_due:?}"));
            }
        }
        self.tally.mismatches.extend(wrong.into_iter().map(|text| format!("{what}: {text}")));
    }

    /// The events of the history that a violation belongs to.
    fn story(&self, line: &Line) -> String {
        let event = self.events.iter().find(|event| event.id == line.event).expect("the event that is named");
        let history = history_of(first_key(event));
        let mut told = format!("history {history} ({}):\n", DOMAINS[history as usize % DOMAINS.len()].name);
        for event in self.events.iter().filter(|event| history_of(first_key(event)) == history) {
            let row = |row: &Option<crate::replay_oracle::Row>| {
                row.as_ref().map_or("-".into(), |row| {
                    row.iter()
                        .map(|(name, value)| format!("{name}={} ", value.as_ref().map_or("NULL".into(), |v| v.text())))
                        .collect::<String>()
                })
            };
            told += &format!(
                "  event {} of transaction {} ({}) statement {} at {}: {:?} {} row {}: {} -> {}\n",
                event.id,
                event.transaction,
                self.happened.transactions[event.transaction].id,
                event.statement,
                event.at,
                event.op,
                event.table,
                event.row,
                row(&event.old),
                row(&event.new)
            );
        }
        told
    }

    fn check(&mut self, r: &mut Random, model: &str, invariants: &[Invariant]) {
        define(self.s, model, invariants);
        // The whole history: short deadlines are over by now, long ones pending.
        let answer = check(self.events, invariants, end_of(self.events));
        let lines = expected(&answer, invariants);
        let all = ", stop_on_first_failure => false";
        let found = replay_check(self.s, model, all, self.changes, invariants);
        self.compare(model, &found, &lines, Some(&answer));
        let found = replay_check(self.s, model, ", stop_on_first_failure => true", self.changes, invariants);
        // It reads no further, so it does not know of a later repair.
        let as_found = |(violation, line): (&Violation, &Line)| Line {
            repaired_at: line.repaired_at.filter(|_| violation.repaired_at_once),
            ..line.clone()
        };
        let first: Vec<_> = answer.violations.iter().zip(&lines).take(1).map(as_found).collect();
        self.compare(&format!("{model}, first"), &found, &first, None);

        // Up to a commit, which is in it; and a little before the next.
        let until = r.pick(&self.happened.transactions).at;
        for until in [until, until + 1] {
            let answer = check(self.events, invariants, until);
            let lines = expected(&answer, invariants);
            let arguments = format!("{all}, until => {}", timestamp(until));
            let found = replay_check(self.s, model, &arguments, self.changes, invariants);
            self.compare(&format!("{model} until {until}"), &found, &lines, Some(&answer));
        }

        if invariants.iter().all(|i| matches!(i.check_at, CheckAt::Event | CheckAt::Statement | CheckAt::Commit)) {
            self.check_since(r, model, invariants, &answer);
        }
    }

    /// From a commit on: what was violated by then and is not repaired, and what is violated later. Only where a check
    /// point has the time of the events that it looks at, so that what turns false has one time.
    fn check_since(&mut self, r: &mut Random, model: &str, invariants: &[Invariant], answer: &Answer) {
        let (_, but_last) = self.happened.transactions.split_last().expect("there are transactions");
        let since = r.pick(but_last).at;
        let is_in = |v: &Violation| v.found_at > since || v.repaired_at.is_none_or(|repaired| repaired > since);
        let mut lines: Vec<Line> = answer
            .violations
            .iter()
            .zip(expected(answer, invariants))
            .filter(|(violation, _)| is_in(violation))
            .map(|(violation, line)| Line { already_false: violation.found_at <= since, ..line })
            .collect();
        let arguments = format!(", stop_on_first_failure => false, since => {}", timestamp(since));
        let mut found = replay_check(self.s, model, &arguments, self.changes, invariants);
        // Those of before come first, in no order that is laid down.
        for lines in [&mut lines, &mut found.lines] {
            let before = lines.iter().take_while(|line| line.already_false).count();
            lines[..before].sort();
        }
        self.compare(&format!("{model} since {since}"), &found, &lines, None);
    }
}

/// Every kind at every check point, all domains in one model; each domain by itself with all check points mixed.
fn models() -> BTreeMap<String, Vec<Invariant>> {
    let mut models: BTreeMap<String, Vec<Invariant>> =
        CHECK_POINTS.iter().map(|(name, check_at)| (name.to_string(), invariants(|_| *check_at))).collect();
    for domain in DOMAINS {
        let mut mixed = invariants(|n| CHECK_POINTS[n % CHECK_POINTS.len()].1);
        mixed.retain(|invariant| invariant.name.starts_with(domain.name));
        models.insert(format!("mixed_{}", domain.name), mixed);
    }
    // A query is asked after commits, or at the end.
    for invariant in models.values_mut().flatten() {
        if invariant.kind.name() == "query" && !matches!(invariant.check_at, CheckAt::End) {
            invariant.check_at = CheckAt::Commit;
        }
    }
    models
}

/// Histories that ran in a database of their own.
struct Ran {
    db: Database,
    s: Session,
    happened: Happened,
    events: Vec<Event>,
    changes: Changes,
}

fn ran(r: &mut Random, histories: i64) -> Ran {
    let db = Database::new("prop_replay");
    let mut s = db.session();
    set_up(&mut s);
    let happened = run(r, &mut Sessions::new(&db, SESSIONS), 0..histories, SESSIONS);
    assert_rows_are_right(&mut s, &happened.rows);
    let events = happened.events();
    let ids: Vec<&str> = happened.transactions.iter().map(|transaction| transaction.id.as_str()).collect();
    let changes = Changes::new(&mut s, &events, &ids);
    Ran { db, s, happened, events, changes }
}

/// What the comparison below rests on: the driver's truth is what the tables hold and what was recorded.
#[test]
fn histories_are_recorded_as_they_happened() {
    let mut r = Random::new(seed("histories_are_recorded_as_they_happened"));
    let Ran { db: _db, mut s, happened, events, changes } = ran(&mut r, 12);
    let recorded = s.column(
        "SELECT id FROM threadline.audit_transactions t
         WHERE EXISTS (SELECT FROM threadline.audit_changes c WHERE c.transaction_id = t.id) ORDER BY commit_no",
    );
    let ids: Vec<&str> = happened.transactions.iter().map(|transaction| transaction.id.as_str()).collect();
    assert_eq!(recorded, ids, "the order of commits");
    assert!(happened.transactions.is_sorted_by_key(|transaction| transaction.at), "times follow the order of commits");
    let in_order = s.column(
        "SELECT c.id FROM threadline.audit_changes c JOIN threadline.audit_transactions t ON t.id = c.transaction_id
         ORDER BY t.commit_no, c.statement_no, c.id",
    );
    let in_order: Vec<usize> = in_order.iter().map(|change| changes.event(change)).collect();
    assert_eq!(in_order, events.iter().map(|event| event.id).collect::<Vec<_>>(), "the order of events");
    assert!(events.len() > 200, "{} events", events.len());
}

#[test]
fn replay_check_finds_what_the_oracle_finds() {
    let seed = seed("replay_check_finds_what_the_oracle_finds");
    let histories = histories();
    let mut r = Random::new(seed);
    let mut tally = Tally::default();
    let mut events_in_all = 0;
    let mut left = histories;
    while left > 0 {
        let batch = left.min(BATCH);
        left -= batch;
        let Ran { db: _db, mut s, happened, events, changes } = ran(&mut r, batch);
        // Longer than the short deadlines.
        std::thread::sleep(Duration::from_millis(200));
        events_in_all += events.len();
        let mut batch = Batch { s: &mut s, happened: &happened, events: &events, changes: &changes, tally: &mut tally };
        for (model, invariants) in models() {
            batch.check(&mut r, &model, &invariants);
        }
    }
    let Tally { checks, violations, mismatches } = tally;
    say(&format!(
        "replay_models: seed {seed}, {histories} histories, {events_in_all} events, {checks} checks compared, {violations} violations compared, {} mismatches",
        mismatches.len()
    ));
    assert!(mismatches.is_empty(), "{}", mismatches.iter().take(3).cloned().collect::<Vec<_>>().join("\n\n"));
}
