//! Eight sessions write in overlapping transactions of every isolation level, and meanwhile the true contents of the
//! tables are read by plain SQL: at quiet points, when no transaction is in flight; at held points, when transactions
//! are in flight and none commits; through snapshots taken at any moment; and by
//! writers inside their transactions. Afterwards every as-of must equal them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::time::{Duration, Instant};

use crate::as_seen_by;
use crate::concurrent_writers::{
    ACCOUNTS_ROWS, ACCOUNTS_SUM, CLOCK, Committed, Gates, SETUP, TABLES, Table, Tally, Writer, commit,
};
use crate::contents::{self, Contents, Kept};
use crate::random::{Random, run_length, seed};
use crate::support::{Database, Session};

const SESSIONS: i64 = 8;
/// However long the run is: what is compared costs more the longer the history is.
const QUIET_POINTS: u32 = 8;
const HELD_POINTS: u32 = 16;
const SNAPSHOTS: u32 = 30;
/// Times drawn at random, and transactions whose stamps are tried, when the whole order of commits is checked.
const TIMES: u64 = 100;
const STAMPS: usize = 25;

fn now(s: &mut Session) -> i64 {
    s.number(&format!("SELECT {CLOCK}"))
}

/// From exact microseconds.
fn timestamp(at: i64) -> String {
    format!("('epoch'::timestamptz + {at} * interval '1 microsecond')")
}

/// Nothing was committed between `from` and `to`.
struct Point {
    name: String,
    from: i64,
    to: i64,
    contents: Contents,
}

fn record(s: &mut Session, name: String) -> Point {
    let pause = Duration::from_millis(2);
    std::thread::sleep(pause);
    let from = now(s);
    let contents = contents::read(s);
    std::thread::sleep(pause);
    Point { name, from, to: now(s), contents }
}

#[derive(Default)]
pub struct Verdict {
    states: u64,
    rows: usize,
    pub mismatches: Vec<String>,
}

impl Verdict {
    /// `found` must be what was kept, in its order.
    pub fn compare<'a>(&mut self, what: &str, kept: impl Iterator<Item = &'a String>, found: &[String]) {
        let kept: Vec<&String> = kept.collect();
        self.states += 1;
        self.rows += kept.len();
        if kept.iter().copied().eq(found) {
            return;
        }
        let mut counts: BTreeMap<&String, i64> = BTreeMap::new();
        kept.iter().copied().for_each(|row| *counts.entry(row).or_default() += 1);
        found.iter().for_each(|row| *counts.entry(row).or_default() -= 1);
        let some = |sign: i64| -> Vec<_> { counts.iter().filter(|(_, n)| **n * sign > 0).take(3).collect() };
        let (lacks, adds) = (some(1), some(-1));
        self.mismatches.push(format!(
            "{what}: {} rows were read, {} are answered; missing {lacks:?}, wrong {adds:?}",
            kept.len(),
            found.len()
        ));
    }

    fn absorb(&mut self, other: Verdict) {
        self.states += other.states;
        self.rows += other.rows;
        self.mismatches.extend(other.mismatches);
    }

    pub fn expect(&mut self, right: bool, what: impl FnOnce() -> String) {
        self.states += 1;
        if !right {
            self.mismatches.push(what());
        }
    }
}

pub struct Oracle<'a> {
    pub s: &'a mut Session,
    random: Random,
    pub verdict: Verdict,
    /// Answers read straight from the log.
    at_once: u64,
}

impl<'a> Oracle<'a> {
    fn new(s: &'a mut Session, seed: u64) -> Self {
        Oracle { s, random: Random::new(seed), verdict: Verdict::default(), at_once: 0 }
    }

    /// `at` is SQL.
    fn typed(&mut self, what: &str, table: usize, at: &str, contents: &Contents) {
        let name = TABLES[table].name;
        let found =
            self.s.column(&format!("SELECT r::text FROM threadline.audit_as_of(NULL::{name}, {at}) r ORDER BY 1"));
        let what = format!("audit_as_of(NULL::{name}, {at}) {what}");
        self.verdict.compare(&what, contents[table].iter().map(|kept| &kept.row), &found);
    }

    /// A row's key and image each; where the row is the key, the images alone.
    fn shape_of_then(&mut self, what: &str, table: usize, at: i64, contents: &Contents) {
        let Table { name, never, .. } = TABLES[table];
        let line = |key: &str, image: &str| if never.is_some() { format!("{key} {image}") } else { image.into() };
        let mut kept: Vec<String> = contents[table].iter().map(|kept| line(&kept.key, &kept.image)).collect();
        kept.sort();
        let mut found: Vec<String> = self
            .s
            .rows(&format!(
                "SELECT table_pk::text, row_data::text FROM threadline.audit_table_as_of('public.{name}', {})",
                timestamp(at)
            ))
            .into_iter()
            .map(|row| line(row[0].as_deref().unwrap_or("NULL"), row[1].as_deref().unwrap_or("NULL")))
            .collect();
        found.sort();
        self.verdict.compare(&format!("audit_table_as_of({name}, {at}) {what}"), kept.iter(), &found);
    }

    /// Rows that were there, rows that had been there, and one that never was. `gone` are keys of earlier points.
    fn keys(&mut self, what: &str, table: usize, at: i64, contents: &Contents, gone: &[&String]) {
        let Some(never) = TABLES[table].never else { return };
        for _ in 0..contents[table].len().min(3) {
            let kept = &contents[table][self.random.below(contents[table].len() as u64) as usize];
            self.key(what, table, at, &kept.key, "present", Some(kept));
        }
        for _ in 0..gone.len().min(3) {
            let key = *self.random.pick(gone);
            self.key(what, table, at, key, "deleted", None);
        }
        self.key(what, table, at, never, "never_seen", None);
    }

    fn key(&mut self, what: &str, table: usize, at: i64, key: &str, status: &str, kept: Option<&Kept>) {
        let name = TABLES[table].name;
        let (key, at) = (key.replace('\'', "''"), timestamp(at));
        let found = self.s.rows(&format!(
            "SELECT status, row_data::text, complete FROM threadline.audit_as_of('{name}', '{key}'::jsonb, {at})"
        ));
        let expected = vec![Some(status.into()), kept.map(|kept| kept.image.clone()), Some("t".to_string())];
        self.verdict.expect(found.as_slice() == std::slice::from_ref(&expected), || {
            format!("audit_as_of({name}, {key}, {at}) {what}: {found:?} instead of {expected:?}")
        });
        let found = self
            .s
            .column(&format!("SELECT r::text FROM threadline.audit_row_as_of(NULL::{name}, '{key}'::jsonb, {at}) r"));
        self.verdict.compare(
            &format!("audit_row_as_of(NULL::{name}, {key}, {at}) {what}"),
            kept.iter().map(|kept| &kept.row),
            &found,
        );
        let both = self.s.rows(&format!(
            "SELECT threadline.row_state_at_once('{name}', '{key}', {at})::text, threadline.row_state_by_query('{name}', '{key}', {at})::text"
        ));
        if let [Some(at_once), by_query] = both[0].as_slice() {
            self.at_once += 1;
            self.verdict.expect(Some(at_once) == by_query.as_ref(), || {
                format!("{name} {key} as of {at}: {at_once} at once, {by_query:?} by query")
            });
        }
    }
}

/// Quiet and held points in turn until the time is over, and a last quiet one. In quiet, tables may be truncated.
fn points(oracle: &mut Oracle, gates: &Gates, until: Instant, committed: &mut Vec<Committed>) -> Vec<Point> {
    let between = run_length() / (QUIET_POINTS + HELD_POINTS);
    let mut points = Vec::new();
    for number in 0.. {
        let last = Instant::now() >= until;
        if last || number % (1 + HELD_POINTS / QUIET_POINTS) == 0 {
            let _gate = gates.transactions.write().expect("nobody failed in the gate");
            points.push(record(oracle.s, format!("at quiet point {number}")));
            if last {
                return points;
            }
            if oracle.random.percent(50) {
                let marker = -1 - i64::from(number);
                let table = oracle.random.pick(&["lines", "loose", "parted_us", "typed", "brief"]);
                oracle.s.run(&format!("BEGIN; INSERT INTO marker VALUES ({marker}); TRUNCATE {table}"));
                committed.push(commit(oracle.s, marker).expect("nobody is in the way"));
            }
        } else {
            let _gate = gates.commits.write().expect("nobody failed in the gate");
            let point = record(oracle.s, format!("at held point {number}"));
            // Beside the writers who are in flight.
            let table = oracle.random.below(TABLES.len() as u64) as usize;
            oracle.typed(&format!("{}, asked then", point.name), table, &timestamp(point.to), &point.contents);
            points.push(point);
        }
        std::thread::sleep(between);
    }
    unreachable!("the time is over some day")
}

/// Contents at any moment, beside committing writers. Inside the same snapshot, as of now is what it sees, whatever the
/// order in which transactions became visible.
fn snapshots(oracle: &mut Oracle, gates: &Gates, until: Instant) -> Vec<Contents> {
    let mut taken = Vec::new();
    while Instant::now() < until {
        // TRUNCATE empties tables for older snapshots, too.
        let gate = gates.transactions.read().expect("nobody failed in the gate");
        oracle.s.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        let contents = contents::read(oracle.s);
        let at = *oracle.random.pick(&["'infinity'", "clock_timestamp()"]);
        for table in 0..TABLES.len() {
            oracle.typed(&format!("inside snapshot {}", taken.len()), table, at, &contents);
        }
        oracle.s.run("COMMIT");
        drop(gate);
        taken.push(contents);
        std::thread::sleep(run_length() / SNAPSHOTS);
    }
    taken
}

/// A committed transaction, with what the log says of its place.
pub struct Placed {
    pub commit_no: i64,
    stamp: i64,
    pub client: Committed,
}

/// In the order of commits.
fn place(s: &mut Session, committed: Vec<Committed>) -> Vec<Placed> {
    let rows = s.rows(
        "SELECT id, commit_no, (extract(epoch FROM committed_at) * 1000000)::bigint FROM threadline.audit_transactions",
    );
    let mut known: HashMap<String, (i64, i64)> = HashMap::new();
    for row in rows {
        let number = |i: usize| row[i].as_deref().and_then(|n| n.parse().ok()).expect("a number");
        known.insert(row[0].clone().expect("an id"), (number(1), number(2)));
    }
    let mut order: Vec<Placed> = committed
        .into_iter()
        .map(|client| {
            let (commit_no, stamp) = known[&client.transaction];
            Placed { commit_no, stamp, client }
        })
        .collect();
    order.sort_by_key(|tx| tx.commit_no);
    order
}

/// The contents that a snapshot saw are those as of a time, if what it saw is a beginning of the order of commits and no
/// later commit has an earlier stamp; at the first and the last such time. Returns whether it was so.
fn check_snapshot(oracle: &mut Oracle, number: usize, contents: &Contents, order: &[Placed]) -> bool {
    let seen = contents::markers(contents);
    let (inside, outside) = order.split_at(seen.len());
    let (Some(from), true) =
        (inside.iter().map(|tx| tx.stamp).max(), inside.iter().all(|tx| seen.contains(&tx.client.marker)))
    else {
        return false;
    };
    let to = outside.iter().map(|tx| tx.stamp - 1).min().unwrap_or(from);
    if to < from {
        return false;
    }
    for table in 0..TABLES.len() {
        let what = format!("of snapshot {number}");
        oracle.typed(&what, table, &timestamp(from), contents);
        oracle.shape_of_then(&what, table, to, contents);
    }
    true
}

/// At any time the committed transactions that are there are the first ones in the order of commits, up to the last that
/// was committed at or before it: none less and no other, all of each, and more and more with time. Returns at how many
/// times some stamps were in another order than the commits.
fn check_commit_order(oracle: &mut Oracle, order: &[Placed], first: i64, last: i64) -> usize {
    let mut times: Vec<i64> = (0..TIMES).map(|_| oracle.random.between(first, last)).collect();
    for _ in 0..STAMPS.min(order.len()) {
        let stamp = oracle.random.pick(order).stamp;
        times.extend([stamp - 1, stamp]);
    }
    times.sort();
    let mut before: HashSet<i64> = HashSet::new();
    let mut disordered = 0;
    for at in times {
        let time = timestamp(at);
        let books = oracle
            .s
            .one(&format!("SELECT count(*) || ' ' || sum(amount) FROM threadline.audit_as_of(NULL::accounts, {time})"));
        oracle
            .verdict
            .expect(books == format!("{ACCOUNTS_ROWS} {ACCOUNTS_SUM}"), || format!("accounts as of {at}: {books}"));
        let there: HashSet<i64> = oracle
            .s
            .column(&format!("SELECT id FROM threadline.audit_as_of(NULL::marker, {time})"))
            .iter()
            .map(|id| id.parse().expect("a number"))
            .collect();
        oracle.verdict.expect(before.is_subset(&there), || format!("transactions vanish as of {at}"));
        let horizon = order.iter().filter(|tx| tx.stamp <= at).map(|tx| tx.commit_no).max();
        let due: HashSet<i64> =
            order.iter().filter(|tx| Some(tx.commit_no) <= horizon).map(|tx| tx.client.marker).collect();
        oracle.verdict.expect(there == due, || {
            let difference: Vec<_> = there.symmetric_difference(&due).take(5).collect();
            format!("as of {at}, up to commit {horizon:?}, the wrong transactions: {difference:?}")
        });
        // As the clients saw it: what was acknowledged is there, what had not begun to commit is not.
        let wrong = order.iter().find(|tx| {
            let there = there.contains(&tx.client.marker);
            tx.client.after <= at && !there || tx.client.before > at && there
        });
        oracle.verdict.expect(wrong.is_none(), || {
            let tx = &wrong.expect("one is wrong").client;
            format!(
                "transaction {} was committed between {} and {}, and not so as of {at}",
                tx.marker, tx.before, tx.after
            )
        });
        disordered += usize::from(order.iter().any(|tx| (tx.stamp <= at) != (Some(tx.commit_no) <= horizon)));
        before = there;
    }
    disordered
}

fn check_points(oracle: &mut Oracle, points: &[Point]) {
    let mut earlier: Vec<HashSet<&String>> = TABLES.iter().map(|_| HashSet::new()).collect();
    for point in points {
        for (table, earlier) in earlier.iter_mut().enumerate() {
            oracle.typed(&point.name, table, &timestamp(point.from), &point.contents);
            oracle.shape_of_then(&point.name, table, point.to, &point.contents);
            let keys: HashSet<&String> = point.contents[table].iter().map(|kept| &kept.key).collect();
            let mut gone: Vec<&String> = earlier.difference(&keys).copied().collect();
            gone.sort();
            oracle.keys(&point.name, table, point.to, &point.contents, &gone);
            earlier.extend(keys);
        }
    }
}

#[test]
fn every_past_state_is_the_one_that_was_read() {
    let seed = seed("concurrent_as_of");
    let db = Database::new("concurrent_as_of");
    let mut s = db.session();
    s.run("SET TimeZone = 'UTC'");
    s.run(SETUP);
    let gates = Gates::default();
    let until = Instant::now() + run_length();
    let mut committed = Vec::new();
    let mut seen = Vec::new();
    let mut tally = Tally::default();
    let mut oracle = Oracle::new(&mut s, seed);
    let (points, snapshots) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..SESSIONS)
            .map(|number| {
                let mut writer = Writer::new(db.session(), &gates, seed, number);
                scope.spawn(move || {
                    while Instant::now() < until {
                        writer.transaction();
                    }
                    writer
                })
            })
            .collect();
        let snapshots = scope.spawn(|| {
            let mut s = db.session();
            s.run("SET TimeZone = 'UTC'");
            let mut oracle = Oracle::new(&mut s, seed);
            let taken = snapshots(&mut oracle, &gates, until);
            (taken, oracle.verdict)
        });
        let points = points(&mut oracle, &gates, until, &mut committed);
        for writer in writers {
            let writer = writer.join().expect("a session ended well");
            committed.extend(writer.committed);
            seen.extend(writer.seen);
            tally.absorb(writer.tally);
        }
        let (snapshots, verdict) = snapshots.join().expect("the reader ended well");
        oracle.verdict.absorb(verdict);
        (points, snapshots)
    });
    let order = place(oracle.s, committed);
    check_points(&mut oracle, &points);
    let comparable = (0..)
        .zip(&snapshots)
        .filter(|(number, contents)| check_snapshot(&mut oracle, *number, contents, &order))
        .count();
    as_seen_by::check(&mut oracle, &seen, &order);
    let disordered = check_commit_order(&mut oracle, &order, points[0].from, points.last().expect("a point").to);
    for table in TABLES {
        oracle.s.assert_replay_holds(table.name);
    }
    let Verdict { states, rows, mismatches } = &oracle.verdict;
    let at_once = oracle.at_once;
    // Past the harness's capture, as the seed is.
    let _ = writeln!(
        std::io::stderr(),
        "concurrent_as_of: {states} states compared, {rows} rows, {} mismatches, {at_once} rows read at once, seed {seed}\n  \
         points {}, snapshots {} of which comparable {comparable}, transactions that looked {}, times between disordered stamps {disordered}\n  \
         committed {} {:?}, rolled back {}, savepoints undone {}, retried {}, failures {:?}",
        mismatches.len(),
        points.len(),
        snapshots.len(),
        seen.len(),
        order.len(),
        tally.levels,
        tally.rolled_back,
        tally.savepoints_undone,
        tally.retried,
        tally.failures
    );
    assert!(order.len() > 20 && comparable > 0 && at_once > 0, "the run must have done something");
    assert!(mismatches.is_empty(), "{:#?}", mismatches.iter().take(12).collect::<Vec<_>>());
}
