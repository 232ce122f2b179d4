//! What images must be, by the server's own means: `to_jsonb` and byte comparisons in a session with canonical settings.

use crate::random::Random;
use crate::random_table::Table;
use crate::support::{CANONICAL, Database, Session};

const SETTINGS: &[(&str, &[&str])] = &[
    (
        "DateStyle",
        &[
            "'German, DMY'",
            "'SQL, MDY'",
            "'SQL, DMY'",
            "'Postgres, YMD'",
            "'Postgres, DMY'",
            "'ISO, DMY'",
            "'ISO, YMD'",
        ],
    ),
    ("TimeZone", &["'Asia/Tokyo'", "'America/St_Johns'", "'UTC'", "'Europe/London'", "'Pacific/Apia'", "'+03:17:09'"]),
    ("IntervalStyle", &["'iso_8601'", "'sql_standard'", "'postgres_verbose'", "'postgres'"]),
    ("bytea_output", &["'escape'", "'hex'"]),
    ("extra_float_digits", &["-15", "-10", "0", "1", "3"]),
    ("lc_monetary", &["'C'", "'C.UTF-8'", "'en_US.UTF-8'", "'de_DE.UTF-8'", "'ja_JP.UTF-8'"]),
    ("lc_numeric", &["'C'", "'de_DE.UTF-8'"]),
    ("lc_time", &["'C'", "'de_DE.UTF-8'"]),
    ("search_path", &["public", "''", "\"$user\", public", "public, pg_temp, pg_catalog", "\"Odd Schema\", public"]),
    ("quote_all_identifiers", &["on", "off"]),
    ("array_nulls", &["on", "off"]),
    ("xmlbinary", &["hex", "base64"]),
    ("xmloption", &["content", "document"]),
    ("default_toast_compression", &["pglz", "lz4"]),
    ("default_text_search_config", &["'pg_catalog.german'", "'pg_catalog.simple'"]),
];

/// Sessions that live on while tables and types change under them, so that whatever they keep of those is old.
pub struct Writers {
    sessions: Vec<Session>,
    /// The settings that this server takes: a locale may not be installed, lz4 not built in.
    settings: Vec<(&'static str, Vec<&'static str>)>,
}

impl Writers {
    pub fn new(db: &Database, r: &mut Random) -> Self {
        let mut sessions: Vec<Session> = (0..3).map(|_| db.session()).collect();
        // Names that hide others: pg_temp is searched first unless search_path says otherwise.
        let hiding = r.pick(&["pg_class", "k_target"]);
        sessions[0].run(&format!("CREATE TEMP TABLE {hiding} ()"));
        let mut probe = db.session();
        let settings = SETTINGS
            .iter()
            .map(|(name, values)| {
                let known = |value: &&&str| probe.try_run(&format!("SET {name} = {value}")).is_ok();
                (*name, values.iter().filter(known).copied().collect())
            })
            .collect();
        Writers { sessions, settings }
    }

    /// Runs a statement in one of the sessions.
    pub fn run(&mut self, r: &mut Random, statement: &str) -> u64 {
        self.pick(r).run(statement)
    }

    /// What a table's rows are now by the record is what they are, whatever the reader has set.
    pub fn assert_typed_rows(&mut self, r: &mut Random, table: &Table) {
        let (session, name) = (self.pick(r), table.qualified());
        let live = session.column(&format!("SELECT t::text FROM {name} t ORDER BY k"));
        let as_of = session
            .column(&format!("SELECT t::text FROM threadline.audit_as_of(NULL::{name}, 'infinity') t ORDER BY k"));
        let different: Vec<_> = live.iter().zip(&as_of).filter(|(l, a)| l != a).take(2).collect();
        assert!(
            live.len() == as_of.len() && different.is_empty(),
            "{name}: {} rows, by the record {}; the row, and the row as of now: {different:?}",
            live.len(),
            as_of.len()
        );
    }

    /// One of the sessions, with settings that change what values look like.
    fn pick(&mut self, r: &mut Random) -> &mut Session {
        let at = r.below(self.sessions.len() as u64) as usize;
        let session = &mut self.sessions[at];
        let set: Vec<String> =
            self.settings.iter().map(|(name, values)| format!("SET {name} = {}", r.pick(values))).collect();
        session.run(&set.join("; "));
        session
    }
}

pub struct Oracle {
    pub session: Session,
    /// Changes compared so far.
    pub compared: u64,
}

impl Oracle {
    pub fn new(db: &Database) -> Self {
        let mut session = db.session();
        session.run(CANONICAL);
        Oracle { session, compared: 0 }
    }

    /// Keeps the table's rows as they are, and says where the log ends.
    pub fn copy(&mut self, table: &Table) -> String {
        self.session.run(&format!(
            "DROP TABLE IF EXISTS public.before_it; CREATE TABLE public.before_it AS SELECT * FROM {}",
            table.qualified()
        ));
        self.session.one("SELECT coalesce(max(id), 0) FROM threadline.audit_changes")
    }

    /// Runs one statement in some session and compares what was recorded of it.
    pub fn step(&mut self, writers: &mut Writers, r: &mut Random, table: &Table, statement: &str) {
        let since = self.copy(table);
        let written = writers.pick(r).run(statement);
        self.compare(table, &since, written, statement);
    }

    /// Puts a table that has rows under capture and compares its baseline.
    pub fn enable(&mut self, admin: &mut Session, table: &Table) {
        let since = self.copy(table);
        self.session.run("TRUNCATE public.before_it");
        admin.run(&format!("SELECT threadline.audit_enable('{}')", table.qualified()));
        let rows = self.session.number(&format!("SELECT count(*) FROM {}", table.qualified()));
        self.compare(table, &since, rows as u64, "audit_enable");
    }

    fn compare(&mut self, table: &Table, since: &str, written: u64, statement: &str) {
        let different = self.differences(table, since);
        // A statement of random values is long; its start says what it is.
        let start: String = statement.chars().take(2_000).collect();
        assert!(different.is_empty(), "{} after {start}\n{}", table.name, different.join("\n"));
        let recorded =
            self.session.number(&format!("SELECT count(*) FROM threadline.audit_changes WHERE id > {since}"));
        assert_eq!(recorded, written as i64, "changes recorded of {start}");
        self.compared += written;
    }

    /// What differs between the record after `since` and the rows of the table then and now; each row may have been
    /// changed once.
    pub fn differences(&mut self, table: &Table, since: &str) -> Vec<String> {
        let rows = self.session.rows(&format!(
            "WITH wanted AS MATERIALIZED (
                 SELECT k, op, CASE WHEN op <> 'delete' THEN after END AS data_after, fields,
                        CASE op WHEN 'delete' THEN before
                                WHEN 'update' THEN (SELECT jsonb_object_agg(key, value) FROM jsonb_each(before) WHERE key = ANY (fields)) END AS changed_from
                 FROM (SELECT coalesce(row_after.k, row_before.k) AS k,
                              CASE WHEN row_before.k IS NULL THEN 'insert' WHEN row_after.k IS NULL THEN 'delete' ELSE 'update' END AS op,
                              to_jsonb(row_before) AS before, to_jsonb(row_after) AS after,
                              CASE WHEN row_before.k IS NOT NULL AND row_after.k IS NOT NULL THEN {changed} END AS fields
                       FROM public.before_it row_before FULL JOIN {table} row_after ON row_after.k = row_before.k) rows),
             got AS MATERIALIZED (
                 SELECT (table_pk ->> 'k')::int AS k, CASE op WHEN 'snapshot' THEN 'insert' ELSE op END AS op,
                        data_after, changed_fields AS fields, changed_from, count(*) OVER (PARTITION BY table_pk) AS times
                 FROM threadline.audit_changes WHERE id > {since}),
             wrong AS MATERIALIZED (
                 SELECT w AS w, g AS g, coalesce(w.k, g.k) AS k, coalesce(w.op, g.op) AS op, coalesce(g.times, 0) AS times
                 FROM wanted w FULL JOIN got g ON g.k = w.k AND g.op = w.op
                 WHERE CASE WHEN g.k IS NULL THEN w.op <> 'update' OR w.fields IS NOT NULL
                            ELSE w.k IS NULL OR g.times <> 1
                                 OR (w.data_after::text, w.changed_from::text, w.fields) IS DISTINCT FROM (g.data_after::text, g.changed_from::text, g.fields)
                                 OR record_image_ne(ROW(w.data_after, w.changed_from), ROW(g.data_after, g.changed_from)) END
                 ORDER BY k LIMIT 3)
             SELECT k, op, d.part, d.column_name, left(d.wanted, 400), left(d.got, 400)
             FROM wrong, LATERAL (
                 -- Always a row: two jsonb of different bytes may have nothing else to show.
                 SELECT 'recorded' AS part, '' AS column_name, 'once' AS wanted,
                        format('%s times, data_after %s, changed_from %s', times,
                               CASE WHEN record_image_eq(ROW((w).data_after), ROW((g).data_after)) THEN 'equal' ELSE 'of other bytes' END,
                               CASE WHEN record_image_eq(ROW((w).changed_from), ROW((g).changed_from)) THEN 'equal' ELSE 'of other bytes' END) AS got
                 UNION ALL
                 SELECT 'changed_fields', '', (w).fields::text, (g).fields::text WHERE (w).fields IS DISTINCT FROM (g).fields
                 UNION ALL
                 SELECT p.part, coalesce(a.key, b.key), a.value::text, b.value::text
                 FROM (VALUES ('data_after', (w).data_after, (g).data_after), ('changed_from', (w).changed_from, (g).changed_from)) p (part, a, b),
                      jsonb_each(p.a) a FULL JOIN jsonb_each(p.b) b ON b.key = a.key
                 WHERE record_image_ne(ROW(a.value), ROW(b.value))) d",
            changed = table.changed_columns(),
            table = table.qualified(),
        ));
        rows.into_iter()
            .map(|row| {
                let text = |at: usize| row[at].as_deref().unwrap_or("NULL");
                let kind = table.columns.iter().find(|c| c.name == text(3)).map_or("", |c| &c.kind);
                format!(
                    "row {}, {}, {} {} {kind}\n  wanted   {}\n  recorded {}",
                    text(0),
                    text(1),
                    text(2),
                    text(3),
                    text(4),
                    text(5)
                )
            })
            .collect()
    }
}
