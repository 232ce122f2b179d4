//! Runs random histories of all domains through several sessions at once, from one thread, and notes what each
//! transaction did: its statements come between those of others, and the order of commits is the order in which COMMIT
//! was sent and answered. No transaction touches a row that another open one wrote, so that nobody ever waits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

use crate::random::Random;
use crate::replay_domains::{DOMAINS, Set, Statement, View, base, history_of};
use crate::replay_oracle::{Event, Op, Row, Texts, identify};

/// How many transactions a history has, and how many histories are under way at a time.
const TRANSACTIONS: u32 = 14;
const UNDER_WAY: usize = 10;

/// Where the statements go.
pub trait Server {
    /// Begins a transaction and says its id.
    fn begin(&mut self, session: usize) -> String;
    fn run(&mut self, session: usize, sql: &str);
    /// Runs a statement over rows with these keys: the keys in the order in which it came to them.
    fn change(&mut self, session: usize, sql: &str, keys: &[Texts]) -> Vec<Texts>;
    fn commit(&mut self, session: usize);
    /// When a transaction was committed, in microseconds since 1970.
    fn committed_at(&mut self) -> HashMap<String, i64>;
}

/// A server that does nothing and has a clock.
#[derive(Default)]
pub struct Nowhere {
    random: Option<Random>,
    clock: i64,
    begun: u64,
    open: HashMap<usize, String>,
    commits: HashMap<String, i64>,
}

impl Nowhere {
    pub fn new(seed: u64) -> Self {
        Nowhere { random: Some(Random::new(seed)), clock: 1_700_000_000_000_000, ..Nowhere::default() }
    }
}

impl Server for Nowhere {
    fn begin(&mut self, session: usize) -> String {
        self.begun += 1;
        let id = self.begun.to_string();
        self.open.insert(session, id.clone());
        id
    }

    fn run(&mut self, _: usize, _: &str) {}

    fn change(&mut self, _: usize, _: &str, keys: &[Texts]) -> Vec<Texts> {
        keys.to_vec()
    }

    fn commit(&mut self, session: usize) {
        self.clock += self.random.as_mut().expect("made with a seed").between(100, 1500);
        self.commits.insert(self.open.remove(&session).expect("a transaction is open"), self.clock);
    }

    fn committed_at(&mut self) -> HashMap<String, i64> {
        self.commits.clone()
    }
}

type RowKey = (&'static str, Texts);

enum Step {
    Do(Statement),
    Savepoint,
    Release,
    RollBack,
}

struct Open {
    id: String,
    history: i64,
    steps: VecDeque<Step>,
    /// What its rows are to it, None where it deleted one.
    rows: BTreeMap<RowKey, Option<Row>>,
    events: Vec<Event>,
    /// Moments of the captures that are still there.
    captured: Vec<u64>,
    statement: usize,
    savepoint: Option<(BTreeMap<RowKey, Option<Row>>, usize)>,
}

pub struct Transaction {
    pub id: String,
    pub first_capture: u64,
    /// In the order of happening. Their time, transaction number and identity are filled in by `Happened::in_order`.
    events: Vec<Event>,
    pub at: i64,
}

/// What was committed, in the order of commits.
#[derive(Default)]
pub struct Happened {
    pub transactions: Vec<Transaction>,
    pub rows: BTreeMap<RowKey, Row>,
}

impl Happened {
    fn in_order(transactions: &[&Transaction]) -> Vec<Event> {
        let mut events = Vec::new();
        for (number, transaction) in transactions.iter().enumerate() {
            events.extend(transaction.events.iter().cloned().map(|event| Event {
                transaction: number,
                at: transaction.at,
                ..event
            }));
        }
        identify(&mut events);
        events
    }

    pub fn events(&self) -> Vec<Event> {
        Self::in_order(&self.transactions.iter().collect::<Vec<_>>())
    }

    /// As a replay would have it that takes transactions in the order in which they began to write.
    pub fn in_order_of_first_capture(&self) -> Vec<Event> {
        let mut transactions: Vec<&Transaction> = self.transactions.iter().collect();
        transactions.sort_by_key(|transaction| transaction.first_capture);
        Self::in_order(&transactions)
    }
}

struct Driver<'a> {
    r: &'a mut Random,
    server: &'a mut dyn Server,
    open: Vec<Option<Open>>,
    locked: HashMap<RowKey, usize>,
    done: Happened,
    moment: u64,
    events: usize,
}

pub fn run(r: &mut Random, server: &mut dyn Server, histories: Range<i64>, sessions: usize) -> Happened {
    let mut driver = Driver {
        r,
        server,
        open: (0..sessions).map(|_| None).collect(),
        locked: HashMap::new(),
        done: Happened::default(),
        moment: 0,
        events: 0,
    };
    let mut waiting = histories;
    let mut under_way: Vec<(i64, u32)> = Vec::new();
    loop {
        while under_way.len() < UNDER_WAY
            && let Some(history) = waiting.next()
        {
            under_way.push((history, TRANSACTIONS));
        }
        let session = driver.r.below(sessions as u64) as usize;
        if driver.open[session].is_some() {
            driver.step(session);
        } else if !under_way.is_empty() {
            let chosen = driver.r.below(under_way.len() as u64) as usize;
            driver.begin(session, under_way[chosen].0);
            under_way[chosen].1 -= 1;
            under_way.retain(|(_, left)| *left > 0);
        } else if driver.open.iter().all(Option::is_none) {
            break;
        }
    }
    let times = driver.server.committed_at();
    let mut happened = driver.done;
    for transaction in &mut happened.transactions {
        transaction.at = *times.get(&transaction.id).expect("a transaction that changed something has a commit time");
    }
    happened
}

impl Driver<'_> {
    /// The rows of a history that no other transaction is writing.
    fn view(&self, session: usize, history: i64, rows: &BTreeMap<RowKey, Option<Row>>) -> View {
        let is_visible = |key: &RowKey| {
            let id = key.1[0].as_ref().expect("a key").parse().expect("keys begin with a number");
            history_of(id) == history && self.is_free(key, session)
        };
        let committed = self.done.rows.iter().filter(|(key, _)| is_visible(key) && !rows.contains_key(key));
        let mut view: BTreeMap<RowKey, Row> = committed.map(|(key, row)| (key.clone(), row.clone())).collect();
        view.extend(rows.iter().filter_map(|(key, row)| Some((key.clone(), row.clone()?))));
        View(view)
    }

    fn is_free(&self, key: &RowKey, session: usize) -> bool {
        self.locked.get(key).is_none_or(|holder| *holder == session)
    }

    fn begin(&mut self, session: usize, history: i64) {
        let rows = BTreeMap::new();
        let view = self.view(session, history, &rows);
        let domain = DOMAINS[history as usize % DOMAINS.len()];
        let mut steps: VecDeque<Step> = (domain.plan)(self.r, base(history), &view).into_iter().map(Step::Do).collect();
        if self.r.percent(30) {
            let from = self.r.below(steps.len() as u64 + 1) as usize;
            let to = self.r.between(from as i64, steps.len() as i64) as usize;
            steps.insert(to, if self.r.percent(60) { Step::RollBack } else { Step::Release });
            steps.insert(from, Step::Savepoint);
        }
        let id = self.server.begin(session);
        self.open[session] = Some(Open {
            id,
            history,
            steps,
            rows,
            events: Vec::new(),
            captured: Vec::new(),
            statement: 0,
            savepoint: None,
        });
    }

    fn step(&mut self, session: usize) {
        let mut open = self.open[session].take().expect("a transaction is open");
        match open.steps.pop_front() {
            None => return self.end(session, open),
            Some(Step::Do(statement)) => self.change(session, &mut open, statement),
            Some(Step::Savepoint) => {
                self.server.run(session, "SAVEPOINT s");
                open.savepoint = Some((open.rows.clone(), open.events.len()));
            }
            Some(Step::Release) => self.server.run(session, "RELEASE s"),
            Some(Step::RollBack) => {
                self.server.run(session, "ROLLBACK TO s");
                let (rows, events) = open.savepoint.take().expect("a savepoint");
                open.rows = rows;
                open.events.truncate(events);
                open.captured.truncate(events);
            }
        }
        self.open[session] = Some(open);
    }

    fn end(&mut self, session: usize, open: Open) {
        self.locked.retain(|_, holder| *holder != session);
        if self.r.percent(10) {
            self.server.run(session, "ROLLBACK");
            return;
        }
        self.server.commit(session);
        for (key, row) in open.rows {
            match row {
                Some(row) => self.done.rows.insert(key, row),
                None => self.done.rows.remove(&key),
            };
        }
        if let Some(first_capture) = open.captured.first() {
            self.done.transactions.push(Transaction {
                id: open.id,
                first_capture: *first_capture,
                events: open.events,
                at: 0,
            });
        }
    }

    /// Leaves out the rows that the statement cannot do without waiting or failing.
    fn change(&mut self, session: usize, open: &mut Open, mut statement: Statement) {
        let table = statement.table();
        let view = self.view(session, open.history, &open.rows).0;
        let row_of = |key: &Texts| view.get(&(table.name, key.clone()));
        let is_vacant = |key: &Texts| row_of(key).is_none() && self.is_free(&(table.name, key.clone()), session);
        let moves = statement.changes_key();
        let asked: Vec<Texts> = match &mut statement {
            Statement::Insert { rows, .. } => {
                let mut keys: Vec<Texts> = Vec::new();
                rows.retain(|row| {
                    let key = table.key_of(row);
                    let possible = is_vacant(&key) && !keys.contains(&key);
                    if possible {
                        keys.push(key);
                    }
                    possible
                });
                keys
            }
            Statement::Update { keys, set, .. } => {
                keys.retain(|key| row_of(key).is_some());
                if moves {
                    assert!(keys.len() <= 1, "only single rows get a new key");
                    keys.retain(|key| {
                        let old = row_of(key).expect("it is there");
                        let new = table.key_of(&updated(old, set));
                        new == *key || is_vacant(&new)
                    });
                }
                keys.clone()
            }
            Statement::Delete { keys, .. } => {
                keys.retain(|key| row_of(key).is_some());
                keys.clone()
            }
        };
        if asked.is_empty() {
            return;
        }
        let sql = statement.sql();
        let mut came_to = self.server.change(session, &sql, &asked);
        if moves {
            // It returns the new key.
            assert_eq!(came_to.len(), 1, "{sql}");
            came_to = asked.clone();
        }
        let (mut expected, mut found) = (asked, came_to.clone());
        expected.sort();
        found.sort();
        assert_eq!(expected, found, "{sql} changed other rows than it should");
        for key in came_to {
            let old = row_of(&key).cloned();
            let new = match &statement {
                Statement::Insert { rows, .. } => rows.iter().find(|row| table.key_of(row) == key).cloned(),
                Statement::Update { set, .. } => Some(updated(old.as_ref().expect("it is there"), set)),
                Statement::Delete { .. } => None,
            };
            // What leaves a key, then what arrives.
            for (row, left) in [(&old, true), (&new, false)] {
                if let Some(row) = row {
                    let key = (table.name, table.key_of(row));
                    self.locked.insert(key.clone(), session);
                    open.rows.insert(key, (!left).then(|| row.clone()));
                }
            }
            self.note(open, statement.op(), table, old, new);
        }
        open.statement += 1;
    }

    fn note(
        &mut self,
        open: &mut Open,
        op: Op,
        table: &'static crate::replay_domains::Table,
        old: Option<Row>,
        new: Option<Row>,
    ) {
        self.moment += 1;
        self.events += 1;
        open.captured.push(self.moment);
        open.events.push(Event {
            id: self.events,
            table: table.name,
            op,
            old,
            new,
            transaction: 0,
            statement: open.statement,
            at: 0,
            row: 0,
            primary_key: table.primary_key,
        });
    }
}

fn updated(old: &Row, set: &[(&'static str, Set)]) -> Row {
    let mut new = old.clone();
    for (column, set) in set {
        new.insert(column, set.apply(&old[column]));
    }
    new
}
