//! Every way of writing a row, and what the record says of it: one line a path, printed as one table.
//!
//! A path's changes are given as text, one string a transaction, statements parted by " | ", changes of a statement
//! by "; " and sorted: `+t 1 a` inserted, `~t 1 v:a>b` updated, `~t 1>2` re-keyed, `-t 1 a` deleted, `!t 1 a` truncated,
//! `!t *` with every other row of the table.

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::{CANONICAL, Database, Session, unique};

#[path = "write_paths/partitions.rs"]
mod partitions;
#[path = "write_paths/side_effects.rs"]
mod side_effects;
#[path = "write_paths/statements.rs"]
mod statements;
#[path = "write_paths/surroundings.rs"]
mod surroundings;
#[path = "write_paths/transactions.rs"]
mod transactions;
#[path = "write_paths/truncate.rs"]
mod truncate;

/// A path's name and how it is walked; returns the outcome for the table, panics when the record is wrong.
type WritePath = (&'static str, fn(&mut Path) -> String);

#[test]
fn every_write_path() {
    let themes: [(&str, &[WritePath]); 7] = [
        ("statements", statements::PATHS),
        ("side effects", side_effects::PATHS),
        ("partitions and inheritance", partitions::PATHS),
        ("TRUNCATE", truncate::PATHS),
        ("transactions", transactions::PATHS),
        ("surroundings", surroundings::PATHS),
        // Last: the others look through all that is recorded.
        ("size", statements::LARGE),
    ];
    let db = Database::new("paths");
    db.session().run(DESCRIBE);
    let mut table = format!("\nwrite path{:66}| outcome\n{}+{}\n", "", "-".repeat(76), "-".repeat(70));
    let mut wrong = Vec::new();
    for (theme, paths) in themes {
        table.push_str(&format!("{theme:76}|\n"));
        for (name, walk) in paths {
            let outcome = catch_unwind(AssertUnwindSafe(|| walk(&mut Path::new(&db))));
            let outcome = outcome.unwrap_or_else(|panic| {
                wrong.push(*name);
                let text = panic.downcast_ref::<String>().map(String::as_str);
                format!("WRONG: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("panicked"))
            });
            table.push_str(&format!("  {name:74}| {outcome}\n"));
        }
    }
    // Not print!, which the test runner keeps to itself while a test passes.
    std::io::stderr().lock().write_all(table.as_bytes()).expect("standard error can be written to");
    assert!(wrong.is_empty(), "wrongly recorded: {wrong:#?}");
}

/// One line for a change.
const DESCRIBE: &str = "CREATE FUNCTION public.describe(c threadline.audit_changes) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat(
        CASE c.op WHEN 'insert' THEN '+' WHEN 'update' THEN '~' WHEN 'delete' THEN '-' WHEN 'truncate' THEN '!' ELSE '=' END,
        c.table_name, ' ',
        (SELECT string_agg(o.value, ',') || '>' FROM jsonb_each_text(c.old_pk) o),
        coalesce((SELECT string_agg(k.value, ',') FROM jsonb_each_text(c.table_pk) k), '*'),
        (SELECT string_agg(CASE WHEN c.op = 'update'
                                THEN concat(' ', i.key, ':', coalesce(i.value, 'NULL'), '>', coalesce(c.data_after ->> i.key, 'NULL'))
                                ELSE concat(' ', coalesce(i.value, 'NULL')) END, '')
         FROM jsonb_each_text(CASE WHEN c.op IN ('insert', 'snapshot') THEN c.data_after ELSE c.changed_from END) i
         WHERE NOT c.table_pk ? i.key)) $$";

/// One path: a schema of its own in the database that all share, and a session in it.
struct Path<'db> {
    db: &'db Database,
    s: Session,
    schema: String,
    /// The last change that belongs to the path's preparation.
    prepared: i64,
    /// Images have another shape than the table now: only replay_check knows how to compare them.
    reshaped: bool,
}

impl<'db> Path<'db> {
    fn new(db: &'db Database) -> Self {
        let schema = unique("path");
        let mut s = db.session();
        s.run(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}"));
        Path { db, s, schema, prepared: 0, reshaped: false }
    }

    /// Another session in the same schema.
    fn session(&self) -> Session {
        let mut s = self.db.session();
        s.run(&format!("SET search_path = {}", self.schema));
        s
    }

    /// Makes the schema's tables and puts them under capture.
    fn tables(&mut self, ddl: &str) {
        self.s.run(ddl);
        self.s.run(&format!(
            "SELECT threadline.audit_enable(c.oid) FROM pg_class c
             WHERE c.relnamespace = '{}'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY c.oid",
            self.schema
        ));
    }

    /// The usual table, with rows that were there before the path is walked.
    fn t(&mut self, rows: &str) {
        self.tables("CREATE TABLE t (id int PRIMARY KEY, v text)");
        if !rows.is_empty() {
            self.s.run(&format!("INSERT INTO t VALUES {rows}"));
        }
        self.prepared();
    }

    /// What was recorded up to here is not the path's.
    fn prepared(&mut self) {
        self.prepared =
            self.s.number(&format!("SELECT coalesce(max(id), 0) FROM threadline.audit_changes WHERE {}", self.ours()));
    }

    fn ours(&self) -> String {
        format!("table_schema = '{}'", self.schema)
    }

    fn run(&mut self, sql: &str) -> u64 {
        self.s.run(sql)
    }

    /// The server's version when it is older than `wanted`, as the path's outcome.
    fn too_old(&mut self, wanted: i64) -> Option<String> {
        let version = self.s.version();
        (version < wanted)
            .then(|| format!("not in PostgreSQL {}, came with {}", self.s.one("SHOW server_version"), wanted / 10_000))
    }

    /// The path's changes must be these, and the record must add up.
    fn recorded(&mut self, expected: &[&str]) -> String {
        let found = self.changes();
        assert_eq!(found, expected, "the changes recorded");
        self.adds_up();
        let changes: usize = expected.iter().map(|t| t.split(" | ").flat_map(|s| s.split("; ")).count()).sum();
        match (changes, expected.len()) {
            (0, _) => "nothing to record, replay holds".into(),
            (1, _) => "1 change, replay holds".into(),
            (_, 1) => format!("{changes} changes, replay holds"),
            (_, transactions) => format!("{changes} changes in {transactions} transactions, replay holds"),
        }
    }

    /// The path's transactions in commit order. Each has one row that counts its changes rightly.
    fn changes(&mut self) -> Vec<String> {
        let rows = self.s.rows(&format!(
            "SELECT c.transaction_id, x.change_count, c.statement_no, public.describe(c)
             FROM threadline.audit_changes c LEFT JOIN threadline.audit_transactions x ON x.id = c.transaction_id
             WHERE {} AND c.id > {} ORDER BY x.commit_no, c.transaction_id, c.statement_no, 4",
            self.ours(),
            self.prepared
        ));
        let mut found: Vec<(String, i64, i64, String)> = Vec::new();
        let mut last_statement = None;
        for row in rows {
            let row: [Option<String>; 4] = row.try_into().expect("four columns");
            let [Some(transaction), count, statement, Some(change)] = row else {
                panic!("a change without its transaction's id");
            };
            let counted = count.expect("a change has its transaction's row").parse().expect("a number");
            match found.last_mut() {
                Some(same) if same.0 == transaction => {
                    same.2 += 1;
                    same.3.push_str(if statement == last_statement { "; " } else { " | " });
                    same.3.push_str(&change);
                }
                _ => found.push((transaction, counted, 1, change)),
            }
            last_statement = statement;
        }
        for (transaction, counted, listed, changes) in &found {
            assert_eq!(counted, listed, "change_count of transaction {transaction}: {changes}");
        }
        found.into_iter().map(|(.., changes)| changes).collect()
    }

    /// Replayed by the book, the images follow from each other and end at what the tables hold; replay_check agrees.
    fn adds_up(&mut self) {
        if !self.reshaped {
            self.images_add_up();
        }
        for table in self.captured() {
            let qualified = format!("{}.{table}", self.schema);
            self.s.assert_replay_holds(&qualified);
        }
    }

    fn captured(&mut self) -> Vec<String> {
        let ours = self.ours();
        self.s.column(&format!(
            "SELECT format('%I', table_name) FROM threadline.audit_tables WHERE {ours} AND enabled ORDER BY 1"
        ))
    }

    fn images_add_up(&mut self) {
        let mut state: BTreeMap<(String, String), String> = BTreeMap::new();
        let ours = self.ours();
        let changes = self.s.rows(&format!(
            "SELECT c.table_name, c.table_pk, coalesce(c.old_pk, c.table_pk), c.op,
                    CASE c.op WHEN 'update' THEN c.data_after || coalesce(c.changed_from, '{{}}') ELSE c.changed_from END,
                    c.data_after, concat_ws(' ', c.transaction_id, c.statement_no), public.describe(c)
             FROM threadline.audit_changes c JOIN threadline.audit_transactions x ON x.id = c.transaction_id
             WHERE {ours} ORDER BY x.commit_no, c.statement_no, c.id"
        ));
        let text = |value: &Option<String>| value.clone().expect("a value");
        // What a statement's changes take away comes before what they bring: keys may be shifted along.
        for statement in changes.chunk_by(|one, next| one[6] == next[6]) {
            for change in statement.iter().filter(|change| change[1].is_none()) {
                assert_eq!(change[3].as_deref(), Some("truncate"), "only a truncate stands for every row");
                state.retain(|(of, _), _| Some(of) != change[0].as_ref());
            }
            for change in statement {
                if matches!(change[3].as_deref(), Some("update" | "delete" | "truncate")) && change[1].is_some() {
                    let was = state.remove(&(text(&change[0]), text(&change[2])));
                    assert_eq!(was, change[4], "the image before {}", text(&change[7]));
                }
            }
            for change in statement {
                if matches!(change[3].as_deref(), Some("insert" | "update" | "snapshot")) {
                    let was = state.insert((text(&change[0]), text(&change[1])), text(&change[5]));
                    // A table enabled again is recorded anew.
                    assert!(
                        was.is_none() || change[3].as_deref() == Some("snapshot"),
                        "{} came twice",
                        text(&change[7])
                    );
                }
            }
        }
        let mut canonical = self.db.session();
        canonical.run(CANONICAL);
        for table in self.captured() {
            let only = canonical.one(&format!(
                "SELECT CASE relkind WHEN 'p' THEN '' ELSE 'ONLY' END FROM pg_class WHERE oid = '{}.{table}'::regclass",
                self.schema
            ));
            let live = canonical.rows(&format!(
                "SELECT (SELECT jsonb_object_agg(k.name, i.image ->> k.name)
                         FROM threadline.audit_tables a, unnest(a.key_columns) AS k (name)
                         WHERE a.relation = '{0}.{table}'::regclass), i.image
                 FROM {only} {0}.{table} t CROSS JOIN LATERAL (SELECT to_jsonb(t)) AS i (image)",
                self.schema
            ));
            let live: BTreeMap<String, String> = live.iter().map(|row| (text(&row[0]), text(&row[1]))).collect();
            let name = table.trim_matches('"').to_string();
            let told: BTreeMap<String, String> = state
                .iter()
                .filter(|((of, _), _)| *of == name)
                .map(|((_, key), row)| (key.clone(), row.clone()))
                .collect();
            assert_eq!(told, live, "the images of {table} replayed, and the table");
        }
    }

    /// Too many changes to spell out: how many of each op, and of transactions; every row once.
    fn counted(&mut self, expected: &str, transactions: i64) -> String {
        let ours = format!("{} AND id > {}", self.ours(), self.prepared);
        let found = self.s.one(&format!(
            "SELECT string_agg(concat(n, ' ', op), ', ' ORDER BY op) FROM (
                SELECT op, concat(count(*), CASE WHEN count(*) <> count(DISTINCT table_pk) THEN ' (doubled)' END) AS n
                FROM threadline.audit_changes WHERE {ours} GROUP BY op) c"
        ));
        assert_eq!(found, expected, "changes recorded");
        let counts = self.s.one(&format!(
            "SELECT concat_ws(' ', count(*), coalesce(bool_and(x.change_count = c.n), false)) FROM threadline.audit_transactions x
             JOIN (SELECT transaction_id, count(*) AS n FROM threadline.audit_changes WHERE {ours} GROUP BY 1) c ON c.transaction_id = x.id"
        ));
        assert_eq!(counts, format!("{transactions} t"), "transactions, and whether each counts its changes rightly");
        for table in self.captured() {
            let qualified = format!("{}.{table}", self.schema);
            self.s.assert_replay_holds(&qualified);
        }
        format!("{expected}, replay holds")
    }

    /// The write was not recorded, and replay_check must not say that all is well.
    fn unrecorded(&mut self, table: &str) -> String {
        assert_eq!(self.changes(), Vec::<String>::new(), "the changes recorded");
        let verdict =
            self.s.one(&format!("SELECT threadline.replay_check('{}.{table}'::regclass) ->> 'verdict'", self.schema));
        assert!(verdict == "violated" || verdict == "unknown", "replay_check says {verdict}");
        format!("not recorded, replay_check says {verdict}")
    }

    /// The statement must fail and tell what to type.
    fn refused(&mut self, sql: &str, code: &str) -> String {
        let failure = self.s.refused(sql, &[code]);
        format!("refused with {code}: {}", failure.message.replace(&format!("{}.", self.schema), ""))
    }
}
