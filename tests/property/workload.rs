//! Random writes by one client, and what that client knows it wrote.

use std::collections::HashMap;
use std::time::Instant;

use crate::random::{Random, run_length};
use crate::support::{Database, Session, unique};

/// Tables under capture, each with the SQL of its key as `table_pk` shows it.
pub const TABLES: [(&str, &str); 6] = [
    ("acct", "jsonb_build_object('id', id::text)"),
    ("lines", "jsonb_build_object('order_id', order_id::text, 'line_no', line_no::text)"),
    ("docs", "jsonb_build_object('id', id::text)"),
    ("named", "jsonb_build_object('name', name)"),
    ("parted", "jsonb_build_object('id', id::text, 'region', region)"),
    ("side", "jsonb_build_object('id', id::text)"),
];

/// `oracle` is not captured: the trigger says there, in the same sub-transaction, what it wrote.
pub const SETUP: &str = r#"
CREATE TABLE acct (id int PRIMARY KEY, balance numeric(12,2), n int NOT NULL DEFAULT 0, note text);
CREATE TABLE lines (order_id int, line_no smallint, qty int, note text, PRIMARY KEY (order_id, line_no));
CREATE TABLE docs (id uuid PRIMARY KEY, body jsonb, tags text[], note text);
CREATE TABLE named (name text PRIMARY KEY, v float8, at timestamptz, note text);
CREATE TABLE parted (id int, region text, v int, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('eu');
CREATE TABLE parted_us PARTITION OF parted FOR VALUES IN ('us');
CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
CREATE TABLE side (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, from_id int, note text);
CREATE TABLE oracle (xid xid8 DEFAULT pg_current_xact_id(), table_name text, n int);
CREATE FUNCTION side_effects() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    touched int;
BEGIN
    IF pg_trigger_depth() > 1 THEN RETURN NULL; END IF;
    BEGIN
        INSERT INTO side (from_id, note) VALUES (NEW.id, CASE WHEN NEW.n % 3 = 0 THEN 'DOOMED by its handler' ELSE 'trigger' END);
        UPDATE acct SET n = n + 1 WHERE id = (NEW.id * 7) % 40 AND id <> NEW.id;
        GET DIAGNOSTICS touched = ROW_COUNT;
        INSERT INTO oracle (table_name, n) VALUES ('side', 1), ('acct', touched);
        IF NEW.n % 3 = 0 THEN RAISE EXCEPTION 'changed my mind'; END IF;
    EXCEPTION WHEN raise_exception THEN
        INSERT INTO side (from_id, note) VALUES (NEW.id, 'handler');
        INSERT INTO oracle (table_name, n) VALUES ('side', 1);
    END;
    RETURN NULL;
END $$;
CREATE TRIGGER m_side_effects AFTER INSERT OR UPDATE ON acct FOR EACH ROW EXECUTE FUNCTION side_effects();
INSERT INTO acct SELECT g, g * 1.10, 1, 'start' FROM generate_series(0, 30) g;
INSERT INTO lines SELECT g / 4, g % 4, g, 'start' FROM generate_series(0, 79) g;
INSERT INTO docs SELECT md5(g::text)::uuid, jsonb_build_object('g', g), ARRAY['start'], 'start' FROM generate_series(0, 19) g;
INSERT INTO named SELECT 'name ' || g, g, now(), 'start' FROM generate_series(0, 19) g;
INSERT INTO parted SELECT g, (ARRAY['eu', 'us', 'zz'])[g % 3 + 1], g, 'start' FROM generate_series(0, 29) g;
TRUNCATE oracle, side;
"#;

/// Makes the tables, captures them, and lets some sessions write; `record` is called before, and then as often as asked for while
/// nobody writes.
pub fn with_quiet_points<P>(
    db: &Database,
    s: &mut Session,
    seed: u64,
    sessions: usize,
    points: u32,
    record: impl Fn(&mut Session) -> P,
) -> Vec<P> {
    s.run(SETUP);
    for (table, _) in TABLES {
        s.run(&format!("SELECT threadline.audit_enable('{table}')"));
    }
    s.run("SET TimeZone = 'UTC'");
    let mut writers: Vec<Writer> = (0..sessions).map(|number| Writer::new(db.session(), seed, number)).collect();
    let mut recorded = vec![record(s)];
    for _ in 0..points {
        let until = Instant::now() + run_length() / points;
        std::thread::scope(|scope| {
            for writer in &mut writers {
                scope.spawn(move || {
                    while Instant::now() < until {
                        writer.transaction();
                    }
                });
            }
        });
        // Some were committed in two phases, which nobody has seen yet.
        s.run("SELECT threadline.audit_maintain()");
        recorded.push(record(s));
    }
    recorded
}

/// What one committed transaction wrote, by the client's own account.
#[derive(Default, Clone)]
pub struct Written {
    pub per_table: HashMap<&'static str, u64>,
    /// Rows an UPDATE of the partition key may have moved: a move is two row events of the server.
    pub moved: u64,
    /// The tag each statement wrote into `note`, and how many rows got it.
    pub tags: Vec<(String, u64)>,
}

impl Written {
    fn add(&mut self, statement: &Statement, rows: u64) {
        *self.per_table.entry(statement.table).or_default() += rows;
        if statement.moves {
            self.moved += rows;
        }
        if statement.tagged && rows > 0 {
            self.tags.push((statement.tag.clone(), rows));
        }
    }

    fn absorb(&mut self, inner: Written) {
        for (table, rows) in inner.per_table {
            *self.per_table.entry(table).or_default() += rows;
        }
        self.moved += inner.moved;
        self.tags.extend(inner.tags);
    }
}

struct Statement {
    table: &'static str,
    sql: String,
    copy: Option<String>,
    tag: String,
    /// Every row written carries the tag.
    tagged: bool,
    moves: bool,
    /// In milliseconds.
    cancelled_after: Option<u64>,
}

#[derive(Default)]
pub struct Tally {
    pub committed: u64,
    pub rolled_back: u64,
    pub prepared: u64,
    pub failed_statements: u64,
    pub deadlocks: u64,
    pub cancelled: u64,
}

pub struct Writer {
    pub session: Session,
    random: Random,
    number: usize,
    /// Prepared transactions are named for the whole cluster.
    name: String,
    serial: u64,
    has_merge: bool,
    pub tally: Tally,
    /// By transaction id of the server.
    pub log: Vec<(String, Written)>,
}

impl Writer {
    pub fn new(mut session: Session, seed: u64, number: usize) -> Self {
        session.run("SET deadlock_timeout = '20ms'; SET lock_timeout = '5s'; SET client_min_messages = error");
        let has_merge = session.version() >= 150_000;
        Writer {
            session,
            random: Random::new(seed ^ (number as u64 + 1).wrapping_mul(0x5851_f42d_4c95_7f2d)),
            number,
            name: unique("writer"),
            serial: 0,
            has_merge,
            tally: Tally::default(),
            log: Vec::new(),
        }
    }

    /// One transaction: statements, savepoints, roll-backs planned and suffered.
    pub fn transaction(&mut self) {
        let doomed = self.random.percent(15);
        let level = *self.random.pick(&[
            "READ COMMITTED",
            "READ COMMITTED",
            "READ COMMITTED",
            "REPEATABLE READ",
            "SERIALIZABLE",
        ]);
        self.session.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        let xid = self.session.one("SELECT pg_current_xact_id()");
        let steps = self.random.between(1, 8);
        let mut written = Written::default();
        let mut alive = true;
        for _ in 0..steps {
            alive = if self.random.percent(35) {
                self.in_savepoint(&mut written, doomed, 0)
            } else {
                self.statement(&mut written, doomed)
            };
            if !alive {
                break;
            }
        }
        if !alive || doomed {
            self.session.run("ROLLBACK");
            self.tally.rolled_back += 1;
            return;
        }
        // SERIALIZABLE may refuse here.
        match self.end() {
            Ok(true) => {
                self.tally.committed += 1;
                self.log.push((xid, written));
            }
            Ok(false) => self.tally.rolled_back += 1,
            Err(e) => {
                assert!(e.as_db_error().is_some(), "the server is lost: {e:?}");
                self.tally.rolled_back += 1;
            }
        }
    }

    /// Commits, in one step or in two; false when the second step was a roll-back.
    fn end(&mut self) -> Result<bool, postgres::Error> {
        if !self.random.percent(10) {
            return self.session.try_run("COMMIT").map(|_| true);
        }
        let name = format!("'{} {}'", self.name, self.serial);
        self.session.try_run(&format!("PREPARE TRANSACTION {name}"))?;
        self.tally.prepared += 1;
        let commits = !self.random.percent(25);
        self.session.run(&format!("{} PREPARED {name}", if commits { "COMMIT" } else { "ROLLBACK" }));
        Ok(commits)
    }

    /// False when the transaction cannot go on.
    fn in_savepoint(&mut self, outer: &mut Written, doomed: bool, depth: u32) -> bool {
        let planned = self.random.percent(40);
        let name = format!("p{depth}");
        self.session.run(&format!("SAVEPOINT {name}"));
        let mut written = Written::default();
        let mut alive = true;
        for _ in 0..self.random.between(1, 3) {
            alive = if depth < 3 && self.random.percent(25) {
                self.in_savepoint(&mut written, doomed || planned, depth + 1)
            } else {
                self.statement(&mut written, doomed || planned)
            };
            if !alive {
                break;
            }
        }
        if !alive || planned {
            self.session.run(&format!("ROLLBACK TO {name}"));
            if self.random.percent(50) {
                self.session.run(&format!("RELEASE {name}"));
            }
            return true;
        }
        if self.random.percent(60) {
            self.session.run(&format!("RELEASE {name}"));
        }
        outer.absorb(written);
        true
    }

    fn statement(&mut self, written: &mut Written, doomed: bool) -> bool {
        self.serial += 1;
        let tag = format!("{}s{}n{}", if doomed { "DOOMED " } else { "" }, self.number, self.serial);
        let statement = self.compose(tag);
        let result = match (&statement.copy, statement.cancelled_after) {
            (Some(data), _) => self.session.copy_in(&statement.sql, data),
            (None, Some(limit)) => self.run_within(&statement.sql, limit),
            (None, None) => self.session.try_run(&statement.sql),
        };
        match result {
            Ok(rows) => {
                written.add(&statement, rows);
                true
            }
            Err(e) => {
                let code = e.code().unwrap_or_else(|| panic!("the server is lost: {e:?}")).code().to_string();
                let cancelled = statement.cancelled_after.is_some() && code == "57014";
                // Unique violations, deadlocks, serialization failures, lock timeouts; anything else is a defect.
                assert!(
                    cancelled || ["23505", "40P01", "40001", "55P03", "21000"].contains(&code.as_str()),
                    "{}\n{:?}",
                    statement.sql,
                    e.as_db_error()
                );
                self.tally.failed_statements += 1;
                self.tally.deadlocks += u64::from(code == "40P01");
                self.tally.cancelled += u64::from(cancelled);
                false
            }
        }
    }

    /// Most times the statement is cancelled somewhere in its midst.
    fn run_within(&mut self, sql: &str, milliseconds: u64) -> Result<u64, postgres::Error> {
        self.session.try_run(&format!("SET LOCAL statement_timeout = {milliseconds}"))?;
        let rows = self.session.try_run(sql)?;
        self.session.try_run("SET LOCAL statement_timeout = 0")?;
        Ok(rows)
    }

    fn compose(&mut self, tag: String) -> Statement {
        let r = &mut self.random;
        let make = |table, sql: String| Statement {
            table,
            sql,
            copy: None,
            tag: tag.clone(),
            tagged: true,
            moves: false,
            cancelled_after: None,
        };
        let (a, b, c) = (r.between(0, 39), r.between(0, 39), r.between(0, 9));
        let money = r.between(-99_999, 99_999) as f64 / 100.0;
        match r.below(28) {
            0 => make("acct", format!("INSERT INTO acct VALUES ({a}, {money}, {c}, '{tag}')")),
            1 => make("acct", format!("UPDATE acct SET balance = balance + {money}, note = '{tag}' WHERE id = {a}")),
            2 => make("acct", format!("UPDATE acct SET note = '{tag}', n = {c} WHERE id IN ({a}, {b})")),
            3 => make("acct", format!("UPDATE acct SET id = {a}, note = '{tag}' WHERE id = {b} AND NOT EXISTS (SELECT FROM acct WHERE id = {a})")),
            4 => Statement { tagged: false, ..make("acct", format!("DELETE FROM acct WHERE id = {a}")) },
            5 => make("acct", format!("INSERT INTO acct AS x VALUES ({a}, {money}, {c}, '{tag}'), ({a} + 50, 0, 1, '{tag}') ON CONFLICT (id) DO UPDATE SET balance = excluded.balance, note = excluded.note")),
            6 => make("acct", format!("INSERT INTO acct VALUES ({a}, 0, 2, '{tag}') ON CONFLICT DO NOTHING")),
            7 if self.has_merge => make(
                "acct",
                format!(
                    "MERGE INTO acct t USING (VALUES ({a}, {money}), ({a} + 60, 1)) AS s(id, m) ON t.id = s.id
                     WHEN MATCHED THEN UPDATE SET balance = s.m, note = '{tag}' WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.m, 2, '{tag}')"
                ),
            ),
            8 => make("lines", format!("INSERT INTO lines SELECT {a}, g, g, '{tag}' FROM generate_series(1, {c} + 1) g ON CONFLICT DO NOTHING")),
            9 => make("lines", format!("UPDATE lines SET qty = qty + 1, note = '{tag}' WHERE order_id = {a}")),
            10 => make("lines", format!("UPDATE lines SET line_no = line_no + 100 * {c}, order_id = {b}, note = '{tag}' WHERE order_id = {a} AND line_no < 3")),
            11 => Statement { tagged: false, ..make("lines", format!("DELETE FROM lines WHERE order_id = {a} AND line_no >= {c}")) },
            12 => {
                let data: String = (0..=c).map(|i| format!("{}\t{}\t{i}\t{tag}\n", 1000 + self.number as i64 * 100_000 + a, i + r.between(0, 30_000))).collect();
                Statement { copy: Some(data), ..make("lines", "COPY lines FROM STDIN".into()) }
            }
            13 => make("docs", format!("INSERT INTO docs VALUES (md5('{a}')::uuid, '{{\"a\": {a}, \"list\": [1, null, \"é\"]}}', '{{{b},\"x y\"}}', '{tag}')")),
            14 => make("docs", format!("UPDATE docs SET body = jsonb_set(coalesce(body, '{{}}'), '{{n}}', '{money}'), note = '{tag}' WHERE id = md5('{a}')::uuid")),
            15 => make("docs", format!("UPDATE docs SET id = md5('{b}')::uuid, note = '{tag}' WHERE id = md5('{a}')::uuid AND NOT EXISTS (SELECT FROM docs WHERE id = md5('{b}')::uuid)")),
            16 => make("docs", format!("UPDATE docs SET body = NULL, tags = tags || repeat(md5('{tag}'), 400), note = '{tag}' WHERE id = md5('{a}')::uuid AND coalesce(cardinality(tags), 0) < 10")),
            17 => Statement { tagged: false, ..make("docs", format!("DELETE FROM docs WHERE id = md5('{a}')::uuid")) },
            18 => make("named", format!("INSERT INTO named VALUES ('name {a}', {money}, clock_timestamp(), '{tag}') ON CONFLICT (name) DO UPDATE SET v = excluded.v, note = excluded.note")),
            19 => make("named", format!("UPDATE named SET v = CASE {c} WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' WHEN 2 THEN 'Infinity' ELSE v + 1.1 END, note = '{tag}' WHERE name IN ('name {a}', 'name {b}')")),
            20 => make("named", format!("UPDATE named SET name = 'name {a}', note = '{tag}' WHERE name = 'name {b}' AND NOT EXISTS (SELECT FROM named WHERE name = 'name {a}')")),
            21 => Statement { tagged: false, ..make("named", format!("DELETE FROM named WHERE name = 'name {a}'")) },
            22 => make("parted", format!("INSERT INTO parted VALUES ({a}, (ARRAY['eu', 'us', 'zz'])[{c} % 3 + 1], {b}, '{tag}')")),
            23 => make("parted", format!("UPDATE parted SET v = v + 1, note = '{tag}' WHERE id IN ({a}, {b})")),
            24 => Statement {
                moves: true,
                ..make("parted", format!("UPDATE parted p SET region = 'us', note = '{tag}' WHERE id = {a} AND region = 'eu' AND NOT EXISTS (SELECT FROM parted q WHERE q.id = {a} AND q.region = 'us')"))
            },
            25 => Statement { tagged: false, ..make("parted", format!("DELETE FROM parted WHERE id = {a}")) },
            26 => Statement {
                cancelled_after: Some(1 + r.below(20)),
                ..make("acct", format!("UPDATE acct SET balance = balance + 1, note = '{tag}' WHERE id >= {a}"))
            },
            _ => {
                let data: String = (0..=c).map(|i| format!("{}\t{}\t{i}\t{tag}\n", r.between(100, 1_000_000), r.pick(&["eu", "us", "zz"]))).collect();
                Statement { copy: Some(data), ..make("parted", "COPY parted FROM STDIN".into()) }
            }
        }
    }
}
