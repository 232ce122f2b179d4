//! What every test against a real server needs: a database of its own and short ways to ask it things.

use std::env;
use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// Where a server listens and who we are there.
#[derive(Clone, Debug)]
pub struct Address {
    pub socket_dir: String,
    pub port: u16,
    pub user: String,
}

impl Address {
    /// The server that `make test` started.
    pub fn from_env() -> Self {
        let need = |name: &str| {
            env::var(name)
                .unwrap_or_else(|_| panic!("set {name}: these tests need a running server (make test starts one)"))
        };
        Address {
            socket_dir: need("PGHOST"),
            port: need("PGPORT").parse().expect("PGPORT is a number"),
            user: need("PGUSER"),
        }
    }

    pub fn connect(&self, database: &str, user: &str) -> Session {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&notices);
        let client = Config::new()
            .host(&self.socket_dir)
            .port(self.port)
            .user(user)
            .dbname(database)
            .notice_callback(move |n| sink.lock().unwrap().push(format!("{}: {}", n.severity(), n.message())))
            .connect(NoTls)
            .unwrap_or_else(|e| panic!("cannot connect to {database} as {user}: {e:?}"));
        Session { client, notices }
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name no other test of this or another run uses.
pub fn unique(stem: &str) -> String {
    format!("tf_{stem}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A database of one test. Dropped with it, kept for inspection when the test fails.
pub struct Database {
    pub at: Address,
    pub name: String,
}

impl Database {
    pub fn new(stem: &str) -> Self {
        let db = Self::bare(&Address::from_env(), stem);
        db.session().run("CREATE EXTENSION threadline_forensics");
        db
    }

    /// One in which `sql` was run, and the session that ran it.
    pub fn after(stem: &str, sql: &str) -> (Database, Session) {
        let db = Database::new(stem);
        let mut s = db.session();
        s.run(sql);
        (db, s)
    }

    /// A database without the extension.
    pub fn bare(at: &Address, stem: &str) -> Self {
        let name = unique(stem);
        // UTF8 and C: the same sort order and the same bytes on every machine.
        at.connect("postgres", &at.user)
            .run(&format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"));
        Database { at: at.clone(), name }
    }

    pub fn session(&self) -> Session {
        self.at.connect(&self.name, &self.at.user)
    }

    pub fn session_as(&self, role: &str) -> Session {
        self.at.connect(&self.name, role)
    }

    /// What psql prints of a file of this text.
    pub fn run_file(&self, text: &str) -> String {
        let path = env::temp_dir().join(format!("{}.sql", self.name));
        std::fs::write(&path, text).expect("the file is written");
        let psql = format!("{}/psql", env::var("PGBIN").expect("set PGBIN to the server's program folder"));
        let output = Command::new(psql)
            .args(["-XqAt", "-h", &self.at.socket_dir, "-p", &self.at.port.to_string()])
            .args(["-U", &self.at.user, "-d", &self.name, "-f"])
            .arg(&path)
            .output()
            .expect("psql runs");
        std::fs::remove_file(&path).expect("the file is there");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for inspection: database {}", self.name);
            return;
        }
        let mut admin = self.at.connect("postgres", &self.at.user);
        // The process is ending or the next test makes its own: a database left behind is no failure.
        let _ = admin.try_run(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
    }
}

/// An error as the server reported it.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

impl Failure {
    /// The server's report; anything else (a lost connection) is a panic.
    pub fn of(error: &postgres::Error) -> Self {
        let report = error.as_db_error().unwrap_or_else(|| panic!("not a server error: {error:?}"));
        Failure {
            code: report.code().code().to_string(),
            message: report.message().to_string(),
            detail: report.detail().unwrap_or_default().to_string(),
            hint: report.hint().unwrap_or_default().to_string(),
        }
    }
}

pub type Row = Vec<Option<String>>;

/// One connection. Everything travels as text, so no test depends on a client-side type mapping.
pub struct Session {
    pub client: Client,
    pub notices: Arc<Mutex<Vec<String>>>,
}

impl Session {
    pub fn try_rows(&mut self, sql: &str) -> Result<Vec<Row>, postgres::Error> {
        let messages = self.client.simple_query(sql)?;
        Ok(messages
            .iter()
            .filter_map(|m| match m {
                SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_string)).collect()),
                _ => None,
            })
            .collect())
    }

    /// Runs statements; the row count of the last one's command tag.
    pub fn try_run(&mut self, sql: &str) -> Result<u64, postgres::Error> {
        let mut count = 0;
        for message in self.client.simple_query(sql)? {
            if let SimpleQueryMessage::CommandComplete(n) = message {
                count = n;
            }
        }
        Ok(count)
    }

    pub fn run(&mut self, sql: &str) -> u64 {
        self.try_run(sql).unwrap_or_else(|e| panic!("{sql}\n{:?}", e.as_db_error()))
    }

    pub fn rows(&mut self, sql: &str) -> Vec<Row> {
        self.try_rows(sql).unwrap_or_else(|e| panic!("{sql}\n{:?}", e.as_db_error()))
    }

    /// The first column of every row; NULL as `NULL`.
    pub fn column(&mut self, sql: &str) -> Vec<String> {
        self.rows(sql).into_iter().map(|mut row| row.swap_remove(0).unwrap_or_else(|| "NULL".into())).collect()
    }

    /// The only value of the only row; NULL as `NULL`.
    pub fn one(&mut self, sql: &str) -> String {
        let rows = self.rows(sql);
        assert!(rows.len() == 1 && rows[0].len() == 1, "one value expected of {sql}, got {rows:?}");
        rows[0][0].clone().unwrap_or_else(|| "NULL".into())
    }

    pub fn number(&mut self, sql: &str) -> i64 {
        let text = self.one(sql);
        text.parse().unwrap_or_else(|_| panic!("a whole number expected of {sql}, got {text}"))
    }

    pub fn version(&mut self) -> i64 {
        self.number("SELECT current_setting('server_version_num')")
    }

    /// The statement must fail; says how.
    pub fn failure(&mut self, sql: &str) -> Failure {
        match self.try_rows(sql) {
            Ok(rows) => panic!("this should have failed: {sql}\nbut returned {rows:?}"),
            Err(e) => Failure::of(&e),
        }
    }

    /// The statement must fail with one of `codes` and tell the reader what to type.
    pub fn refused(&mut self, sql: &str, codes: &[&str]) -> Failure {
        let failure = self.failure(sql);
        assert!(codes.contains(&failure.code.as_str()), "SQLSTATE one of {codes:?} expected of {sql}, got {failure:?}");
        assert!(!failure.hint.trim().is_empty(), "a HINT expected of {sql}, got {failure:?}");
        failure
    }

    pub fn copy_in(&mut self, sql: &str, data: &str) -> Result<u64, postgres::Error> {
        let mut writer = self.client.copy_in(sql)?;
        writer.write_all(data.as_bytes()).expect("copy data is sent");
        writer.finish()
    }

    /// Every btree of the log must be in order and have an entry for every row (contrib's amcheck).
    pub fn assert_log_indexes_are_sound(&mut self) {
        self.run("SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA public");
        self.run(
            "SELECT public.bt_index_check(c.oid, heapallindexed => true)
             FROM pg_class c JOIN pg_am a ON a.oid = c.relam AND a.amname = 'btree'
             WHERE c.relnamespace = 'threadline'::regnamespace AND c.relkind = 'i'",
        );
    }

    /// `replay_check` of the table must say that its history is its contents.
    pub fn assert_replay_holds(&mut self, table: &str) {
        let report = self.one(&format!("SELECT jsonb_pretty(threadline.replay_check('{table}'::regclass))"));
        let verdict = self.one(&format!("SELECT threadline.replay_check('{table}'::regclass) ->> 'verdict'"));
        assert_eq!(verdict, "holds", "replay_check of {table}: {report}");
    }
}

/// The settings under which images are defined (`to_jsonb(row)` of a session that has these).
pub const CANONICAL: &str =
    "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET bytea_output = 'hex';
    SET extra_float_digits = 1; SET lc_monetary = 'C'; SET search_path = pg_catalog";
