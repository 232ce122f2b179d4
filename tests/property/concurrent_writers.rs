//! Writers for the as-of oracle: overlapping transactions of every isolation level over tables of every sort. Whoever
//! copies the tables can keep transactions from being in flight, or only from committing.

use std::collections::BTreeMap;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use crate::as_seen_by::{Look, Seen};
use crate::contents::{self, Contents};
use crate::random::{Random, run_length};
use crate::support::{Failure, Session};
use crate::values::quoted;

pub struct Table {
    pub name: &'static str,
    /// The SQL of its key as `table_pk` shows it.
    pub key: &'static str,
    /// A key that no row ever has; none where the row is its own key.
    pub never: Option<&'static str>,
}

pub const TABLES: [Table; 8] = [
    Table { name: "orders", key: "jsonb_build_object('id', id::text)", never: Some(r#"{"id": "-1"}"#) },
    Table {
        name: "lines",
        key: "jsonb_build_object('order_id', order_id::text, 'line_no', line_no::text)",
        never: Some(r#"{"line_no": "-1", "order_id": "1"}"#),
    },
    Table {
        name: "typed",
        key: "jsonb_build_object('id', id::text)",
        never: Some(r#"{"id": "00000000-0000-0000-0000-000000000000"}"#),
    },
    Table {
        name: "parted",
        key: "jsonb_build_object('id', id::text, 'region', region)",
        never: Some(r#"{"id": "1", "region": "nowhere"}"#),
    },
    Table { name: "loose", key: "'{}'::jsonb", never: None },
    Table { name: "brief", key: "jsonb_build_object('id', id::text)", never: Some(r#"{"id": "-1"}"#) },
    Table { name: "accounts", key: "jsonb_build_object('id', id::text)", never: Some(r#"{"id": "-1"}"#) },
    Table { name: "marker", key: "jsonb_build_object('id', id::text)", never: Some(r#"{"id": "0"}"#) },
];

pub const ACCOUNTS_ROWS: &str = "20";
pub const ACCOUNTS_SUM: &str = "2000.00";

/// `touch` changes another row of the same statement before the row that fired it is captured.
pub const SETUP: &str = r#"
CREATE TABLE orders (id int PRIMARY KEY, state text, total numeric(12,2), twice numeric GENERATED ALWAYS AS (total * 2) STORED);
CREATE TABLE lines (
    order_id int REFERENCES orders ON UPDATE CASCADE ON DELETE CASCADE, line_no smallint, qty int, note text,
    PRIMARY KEY (order_id, line_no)
);
CREATE TABLE typed (
    id uuid PRIMARY KEY, n numeric, scaled numeric(14,4), f float8, j json, b jsonb, a int[], words text[], at timestamptz, raw bytea
);
ALTER TABLE typed ALTER COLUMN raw SET STORAGE EXTERNAL;
CREATE TABLE parted (id int, region text, v int, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('eu');
CREATE TABLE parted_us PARTITION OF parted FOR VALUES IN ('us');
CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
CREATE TABLE loose (a int, b text);
CREATE TABLE brief (id int PRIMARY KEY, v text, w text, n int);
CREATE TABLE accounts (id int PRIMARY KEY, amount numeric(12,2) NOT NULL);
CREATE TABLE marker (id bigint PRIMARY KEY);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() = 1 THEN
        UPDATE orders SET state = 'beside ' || NEW.total WHERE id = (NEW.id + 1) % 30;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER a_touch AFTER UPDATE OF total ON orders FOR EACH ROW EXECUTE FUNCTION touch();
INSERT INTO orders (id, state, total) SELECT g, 'start', g * 1.10 FROM generate_series(0, 19) g;
INSERT INTO lines SELECT g / 3, g % 3, g, 'start' FROM generate_series(0, 59) g;
INSERT INTO typed SELECT md5(g::text)::uuid, g, g, g, '{"g":  1}', '{}', '{1}', '{start}', now(), '\x00' FROM generate_series(0, 14) g;
INSERT INTO parted SELECT g, (ARRAY['eu', 'us', 'zz'])[g % 3 + 1], g, 'start' FROM generate_series(0, 29) g;
INSERT INTO loose SELECT g % 5, 'start' FROM generate_series(0, 19) g;
INSERT INTO brief SELECT g, 'start', repeat('w', g), g FROM generate_series(0, 19) g;
INSERT INTO accounts SELECT g, 100 FROM generate_series(1, 20) g;
SELECT threadline.audit_enable(t) FROM unnest('{orders,lines,typed,parted,accounts,marker}'::regclass[]) t;
SELECT threadline.audit_enable('loose', options => '{"key": "full_row"}');
SELECT threadline.audit_enable('brief', options => '{"image": "delta"}');
"#;

/// Values of `typed` that come back changed from whoever takes a short cut.
const TYPED: [(&str, &[&str]); 9] = [
    ("n", &["1.0", "1.00", "-0.000", "NaN", "12345678901234567890.12345678901234567890", "1e-20"]),
    ("scaled", &["1", "1.2345", "-99999999.0001"]),
    ("f", &["-0", "0", "NaN", "-Infinity", "1e-300", "0.1", "1.7976931348623157e308"]),
    ("j", &[r#"{"a":  1, "a":2 }"#, "null", "[1 , 2]", r#""\u00e9""#, "1.00"]),
    ("b", &["null", r#"{"n": 1.00, "k": [null]}"#, r#""""#, "[]"]),
    ("a", &["[2:3]={7,8}", "{}", "{NULL,1}", "{{1,2},{3,4}}"]),
    ("words", &[r#"{"null",NULL,"a,b"}"#, "{}", r#"[0:0]={"\""}"#]),
    ("at", &["infinity", "-infinity", "0044-03-15 00:00:00+00 BC", "2024-02-29 23:59:59.999999+14", "now"]),
    ("raw", &[r"\x", r"\x00ff"]),
];

fn typed_value(r: &mut Random, column: usize) -> String {
    let (name, values) = TYPED[column];
    match r.below(10) {
        0 => "NULL".into(),
        // Out of line.
        1 | 2 if name == "raw" => format!("decode(repeat('{}ab', 2000), 'hex')", r.below(10)),
        _ => quoted(r.pick::<&str>(values)),
    }
}

/// What each transaction passes: its whole length, and its COMMIT. Who holds one for writing knows that no transaction
/// is in flight, or that none commits.
#[derive(Default)]
pub struct Gates {
    pub transactions: RwLock<()>,
    pub commits: RwLock<()>,
}

/// How often each session reads all tables inside a transaction.
const LOOKS: u32 = 8;
const READ_COMMITTED: &str = "READ COMMITTED";

enum Step {
    /// SQL, and how many rows it must touch: otherwise the books would not balance, and it is undone.
    Run(String, Option<u64>),
    Pause(Duration),
    Savepoint {
        steps: Vec<Step>,
        undone: bool,
    },
}

struct Plan {
    level: &'static str,
    marker: i64,
    /// Whether it reads all tables before and after it writes.
    looks: bool,
    steps: Vec<Step>,
    undone: bool,
}

/// A transaction whose COMMIT was acknowledged; times in microseconds since 1970.
pub struct Committed {
    pub marker: i64,
    pub transaction: String,
    pub before: i64,
    pub after: i64,
}

/// The time as a whole number, which neither side rounds.
pub const CLOCK: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Commits the session's transaction, and notes between which times that was.
pub fn commit(s: &mut Session, marker: i64) -> Result<Committed, postgres::Error> {
    let rows = s.try_rows(&format!(
        "SELECT {CLOCK}, threadline.current_audit_transaction_id(); COMMIT; SELECT {CLOCK}, NULL"
    ))?;
    let time = |row: usize| rows[row][0].as_deref().and_then(|t| t.parse().ok()).expect("a time");
    let transaction = rows[0][1].clone().expect("a transaction's id");
    Ok(Committed { marker, transaction, before: time(0), after: time(1) })
}

#[derive(Default)]
pub struct Tally {
    pub levels: BTreeMap<&'static str, u64>,
    pub rolled_back: u64,
    /// Statements and commits that failed, by SQLSTATE.
    pub failures: BTreeMap<String, u64>,
    pub retried: u64,
    pub savepoints_undone: u64,
}

impl Tally {
    pub fn absorb(&mut self, other: Tally) {
        self.rolled_back += other.rolled_back;
        self.retried += other.retried;
        self.savepoints_undone += other.savepoints_undone;
        for (level, n) in other.levels {
            *self.levels.entry(level).or_default() += n;
        }
        for (code, n) in other.failures {
            *self.failures.entry(code).or_default() += n;
        }
    }
}

/// Why steps ended early: an SQLSTATE, or UNBALANCED.
type Stop = String;
const UNBALANCED: &str = "unbalanced";
const SERIALIZATION_FAILURE: &str = "40001";
const DEADLOCK: &str = "40P01";

pub struct Writer<'a> {
    session: Session,
    gates: &'a Gates,
    random: Random,
    number: i64,
    serial: i64,
    pub tally: Tally,
    pub committed: Vec<Committed>,
    pub seen: Vec<Seen>,
    next_look: Instant,
}

impl<'a> Writer<'a> {
    pub fn new(mut session: Session, gates: &'a Gates, seed: u64, number: i64) -> Self {
        session.run("SET deadlock_timeout = '20ms'; SET lock_timeout = '5s'; SET client_min_messages = error");
        session.run("SET TimeZone = 'UTC'");
        Writer {
            session,
            gates,
            random: Random::new(seed ^ (number as u64 + 1).wrapping_mul(0x5851_f42d_4c95_7f2d)),
            number,
            serial: 0,
            tally: Tally::default(),
            committed: Vec::new(),
            seen: Vec::new(),
            next_look: Instant::now(),
        }
    }

    /// One transaction, tried again when the server could not serialize it.
    pub fn transaction(&mut self) {
        let plan = self.plan();
        for _ in 0..4 {
            let Err(stop) = self.attempt(&plan) else { return };
            *self.tally.failures.entry(stop.clone()).or_default() += 1;
            if stop != SERIALIZATION_FAILURE && stop != DEADLOCK {
                break;
            }
            self.tally.retried += 1;
        }
        self.tally.rolled_back += 1;
    }

    fn attempt(&mut self, plan: &Plan) -> Result<(), Stop> {
        let gates = self.gates;
        let _in_flight = gates.transactions.read().expect("nobody failed in the gate");
        self.session.run(&format!("BEGIN ISOLATION LEVEL {}", plan.level));
        let look = match self.body(plan) {
            Ok(look) => look,
            Err(stop) => {
                self.session.run("ROLLBACK");
                return Err(stop);
            }
        };
        if plan.undone {
            self.session.run("ROLLBACK");
            self.tally.rolled_back += 1;
            return Ok(());
        }
        let _committing = gates.commits.read().expect("nobody failed in the gate");
        let committed = commit(&mut self.session, plan.marker).map_err(|e| Failure::of(&e).code)?;
        if let Some(look) = look {
            let transaction = committed.transaction.clone();
            self.seen.push(Seen { transaction, marker: plan.marker, level: plan.level, look });
            self.next_look = Instant::now() + run_length() / LOOKS;
        }
        self.committed.push(committed);
        *self.tally.levels.entry(plan.level).or_default() += 1;
        Ok(())
    }

    /// All that the transaction does, and what it read of all tables.
    fn body(&mut self, plan: &Plan) -> Result<Option<Look>, Stop> {
        if !plan.looks {
            return self.run(&plan.steps, 0).map(|()| None);
        }
        if plan.level == READ_COMMITTED {
            // One statement that reads and writes: the last one captured, whose snapshot is what it read.
            self.run(&plan.steps, 0)?;
            let with_own = self.look(&format!("WITH own AS (INSERT INTO marker VALUES ({})) ", plan.marker))?;
            let without_own = plan.steps.is_empty().then(|| with_own.clone());
            return Ok(Some(Look { without_own, with_own, marker_unseen: true }));
        }
        let without_own = Some(self.look("")?);
        self.run(&plan.steps, 0)?;
        Ok(Some(Look { without_own, with_own: self.look("")?, marker_unseen: false }))
    }

    fn look(&mut self, with: &str) -> Result<Contents, Stop> {
        let sql = format!("{with}{}", contents::query());
        self.session.try_rows(&sql).map(contents::of_rows).map_err(|e| expected_failure(&sql, &e))
    }

    fn run(&mut self, steps: &[Step], depth: u32) -> Result<(), Stop> {
        for step in steps {
            match step {
                Step::Pause(time) => std::thread::sleep(*time),
                Step::Run(sql, rows) => {
                    let touched = self.session.try_run(sql).map_err(|e| expected_failure(sql, &e))?;
                    if rows.is_some_and(|rows| rows != touched) {
                        return Err(UNBALANCED.into());
                    }
                }
                Step::Savepoint { steps, undone } => {
                    self.session.run(&format!("SAVEPOINT p{depth}"));
                    match self.run(steps, depth + 1) {
                        Ok(()) if !undone => {}
                        // The snapshot stays the one that cannot be serialized.
                        Err(stop) if stop == SERIALIZATION_FAILURE => return Err(stop),
                        ended => {
                            if let Err(stop) = ended {
                                *self.tally.failures.entry(stop).or_default() += 1;
                            }
                            self.session.run(&format!("ROLLBACK TO p{depth}"));
                            self.tally.savepoints_undone += 1;
                        }
                    }
                    self.session.run(&format!("RELEASE p{depth}"));
                }
            }
        }
        Ok(())
    }

    fn plan(&mut self) -> Plan {
        self.serial += 1;
        let marker = self.number * 1_000_000 + self.serial;
        let long = self.random.percent(25);
        let mut steps = Vec::new();
        for _ in 0..self.random.between(1, 6) {
            if self.random.percent(30) {
                steps.push(self.savepoint(0));
            } else {
                self.statement(&mut steps);
            }
            if long {
                steps.push(Step::Pause(Duration::from_millis(self.random.below(120))));
            }
        }
        let level = *self.random.pick(&[READ_COMMITTED, "REPEATABLE READ", "SERIALIZABLE"]);
        let looks = Instant::now() >= self.next_look;
        if looks && level == READ_COMMITTED {
            if self.random.percent(50) {
                steps.clear();
            }
        } else {
            let place = self.random.below(steps.len() as u64 + 1) as usize;
            steps.insert(place, Step::Run(format!("INSERT INTO marker VALUES ({marker})"), Some(1)));
        }
        Plan { level, marker, looks, steps, undone: self.random.percent(12) }
    }

    fn savepoint(&mut self, depth: u32) -> Step {
        let mut steps = Vec::new();
        for _ in 0..self.random.between(1, 3) {
            if depth < 3 && self.random.percent(25) {
                steps.push(self.savepoint(depth + 1));
            } else {
                self.statement(&mut steps);
            }
        }
        Step::Savepoint { steps, undone: self.random.percent(40) }
    }

    /// A statement, or a few that belong together.
    fn statement(&mut self, steps: &mut Vec<Step>) {
        self.serial += 1;
        let tag = format!("w{}n{}", self.number, self.serial);
        let r = &mut self.random;
        let (a, b, c) = (r.between(0, 29), r.between(0, 29), r.between(0, 9));
        let amount = r.between(-9_999, 9_999) as f64 / 100.0;
        let region = *r.pick(&["eu", "us", "zz"]);
        let sql = match r.below(42) {
            0 => format!("INSERT INTO orders VALUES ({a}, '{tag}', {amount})"),
            1 | 2 => format!("UPDATE orders SET total = total + {amount} WHERE id = {a}"),
            // The trigger of the first changes the second.
            3 => format!("UPDATE orders SET total = {amount}, state = '{tag}' WHERE id IN ({a}, ({a} + 1) % 30)"),
            4 => format!("UPDATE orders SET id = {b} WHERE id = {a}"),
            5 => format!("DELETE FROM orders WHERE id = {a}"),
            6 => format!(
                "INSERT INTO orders VALUES ({a}, '{tag}', {amount}) ON CONFLICT (id) DO UPDATE SET total = excluded.total, state = excluded.state"
            ),
            7 => {
                steps.push(Step::Run(format!("DELETE FROM orders WHERE id = {a}"), None));
                format!("INSERT INTO orders VALUES ({a}, '{tag}', {amount})")
            }
            8 => format!(
                "INSERT INTO lines SELECT {a}, g, {c}, '{tag}' FROM generate_series(1, {c} + 1) g ON CONFLICT DO NOTHING"
            ),
            9 => format!("UPDATE lines SET qty = qty + 1, note = '{tag}' WHERE order_id = {a}"),
            10 => format!("UPDATE lines SET line_no = (line_no + 10 * {c}) % 100 WHERE order_id = {a}"),
            11 => format!("UPDATE lines SET order_id = {b} WHERE order_id = {a} AND line_no > {c}"),
            12 => format!("DELETE FROM lines WHERE order_id = {a} AND line_no >= {c}"),
            13 | 14 => {
                let values: Vec<String> = (0..TYPED.len()).map(|column| typed_value(r, column)).collect();
                format!("INSERT INTO typed VALUES (md5('{a}')::uuid, {})", values.join(", "))
            }
            15 | 16 => {
                let column = r.below(TYPED.len() as u64) as usize;
                format!("UPDATE typed SET {} = {} WHERE id = md5('{a}')::uuid", TYPED[column].0, typed_value(r, column))
            }
            17 => format!("UPDATE typed SET id = md5('{b}')::uuid WHERE id = md5('{a}')::uuid"),
            18 => format!("DELETE FROM typed WHERE id = md5('{a}')::uuid"),
            19 | 20 => format!("INSERT INTO parted VALUES ({a}, '{region}', {b}, '{tag}')"),
            21 => format!("UPDATE parted SET v = v + 1, note = '{tag}' WHERE id IN ({a}, {b})"),
            22 => {
                format!("UPDATE parted SET region = '{region}', note = '{tag}' WHERE id = {a} AND region <> '{region}'")
            }
            23 => format!("UPDATE parted SET id = {b}, region = '{region}' WHERE id = {a} AND region = 'eu'"),
            24 => format!("DELETE FROM parted WHERE id = {a}"),
            25 => format!("INSERT INTO loose VALUES ({c}, 'twice'), ({c}, 'twice'), ({c}, '{tag}')"),
            26 => format!("UPDATE loose SET b = 'same' WHERE a = {c}"),
            27 => format!("DELETE FROM loose WHERE ctid = (SELECT ctid FROM loose WHERE a = {c} LIMIT 1)"),
            28 => format!("DELETE FROM loose WHERE a = {c}"),
            29 | 30 => format!("INSERT INTO brief VALUES ({a}, '{tag}', repeat('w', {b}), {c})"),
            31 => format!("UPDATE brief SET v = '{tag}' WHERE id = {a}"),
            32 => format!("UPDATE brief SET n = n + 1, w = nullif(w, 'w') WHERE id % 5 = {c} % 5"),
            // Two keys change places by way of a third.
            33 => {
                steps.push(Step::Run(format!("UPDATE brief SET id = {a} + 30 WHERE id = {a}"), None));
                steps.push(Step::Run(format!("UPDATE brief SET id = {a} WHERE id = {b}"), None));
                format!("UPDATE brief SET id = {b} WHERE id = {a} + 30")
            }
            // All of them.
            34 if c == 0 => {
                steps.push(Step::Run("UPDATE brief SET id = id + 30".into(), None));
                "UPDATE brief SET id = (id + 7) % 30".into()
            }
            34 => format!("DELETE FROM brief WHERE id = {a}"),
            35 => format!("UPDATE accounts SET id = {a} WHERE id = {b}"),
            36 => format!(
                "WITH gone AS (DELETE FROM accounts WHERE id = {a} RETURNING amount) INSERT INTO accounts SELECT {b}, amount FROM gone"
            ),
            37 | 38 => {
                let both = format!(
                    "UPDATE accounts SET amount = amount + CASE id WHEN {a} THEN {amount} ELSE -({amount}) END WHERE id IN ({a}, {b})"
                );
                steps.push(balanced(vec![Step::Run(both, Some(2))]));
                return;
            }
            _ => {
                let pay = |id: i64, sign: char| {
                    Step::Run(format!("UPDATE accounts SET amount = amount {sign} ({amount}) WHERE id = {id}"), Some(1))
                };
                let pause = Step::Pause(Duration::from_millis(r.below(20)));
                steps.push(balanced(vec![pay(a, '-'), pause, pay(b, '+')]));
                return;
            }
        };
        steps.push(Step::Run(sql, None));
    }
}

/// Undone by itself when it touches too few rows.
fn balanced(steps: Vec<Step>) -> Step {
    Step::Savepoint { steps, undone: false }
}

/// Unique and foreign key violations, deadlocks, serialization failures, lock timeouts; anything else is a defect.
fn expected_failure(sql: &str, error: &postgres::Error) -> Stop {
    let failure = Failure::of(error);
    let expected = ["23505", "23503", DEADLOCK, SERIALIZATION_FAILURE, "55P03"];
    assert!(expected.contains(&failure.code.as_str()), "{sql}\n{failure:?}");
    failure.code
}
