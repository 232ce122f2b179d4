//! Eight sessions write at random; afterwards the log must say exactly what they say they committed.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use crate::random::{run_length, seed};
use crate::support::{CANONICAL, Database, Session};
use crate::workload::{SETUP, TABLES, Writer, Written};

const SESSIONS: usize = 8;

#[test]
fn history_is_what_the_sessions_committed() {
    let seed = seed("stress");
    let db = Database::new("stress");
    let mut s = db.session();
    s.run(SETUP);
    for (table, _) in TABLES {
        s.run(&format!("SELECT threadline.audit_enable('{table}')"));
    }
    let until = Instant::now() + run_length();
    let writers: Vec<Writer> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..SESSIONS)
            .map(|number| {
                let db = &db;
                scope.spawn(move || {
                    let mut writer = Writer::new(db.session(), seed, number);
                    while Instant::now() < until {
                        writer.transaction();
                    }
                    writer
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().expect("a session ended well")).collect()
    });
    let total = |of: fn(&Writer) -> u64| writers.iter().map(of).sum::<u64>();
    let committed = total(|w| w.tally.committed);
    println!(
        "committed {committed}, rolled back {}, prepared {}, failed statements {}, deadlocks {}, cancelled {}",
        total(|w| w.tally.rolled_back),
        total(|w| w.tally.prepared),
        total(|w| w.tally.failed_statements),
        total(|w| w.tally.deadlocks),
        total(|w| w.tally.cancelled)
    );
    assert!(committed > 20, "the run must have done something");
    let log: Vec<(String, Written)> = writers.into_iter().flat_map(|w| w.log).collect();
    nothing_doomed_is_there(&mut s);
    counts_agree(&mut s, &log);
    tags_agree(&mut s, &log);
    ids_follow_commits(&mut s);
    s.assert_log_indexes_are_sound();
    rows_have_one_unbroken_history(&db);
    for (table, _) in TABLES {
        s.assert_replay_holds(table);
    }
}

fn nothing_doomed_is_there(s: &mut Session) {
    let found = s.column(
        "SELECT c::text FROM threadline.audit_changes c WHERE concat(data_after, changed_from) LIKE '%DOOMED%' LIMIT 3",
    );
    assert_eq!(found, Vec::<String>::new(), "changes of what was rolled back");
}

/// Per transaction and per table: the clients' command tags, and what the trigger said it wrote.
fn counts_agree(s: &mut Session, log: &[(String, Written)]) {
    let mut expected: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut moved: HashMap<String, u64> = HashMap::new();
    for (xid, written) in log {
        for (table, rows) in &written.per_table {
            *expected.entry((xid.clone(), table.to_string())).or_default() += rows;
        }
        moved.insert(xid.clone(), written.moved);
    }
    for row in s.rows("SELECT xid, table_name, sum(n) FROM oracle GROUP BY 1, 2") {
        let text = |i: usize| row[i].clone().expect("not null");
        *expected.entry((text(0), text(1))).or_default() += text(2).parse::<u64>().expect("a number");
    }
    expected.retain(|_, rows| *rows > 0);
    let mut found: BTreeMap<(String, String), u64> = BTreeMap::new();
    for row in s.rows("SELECT x.xid, c.table_name, count(*) FROM threadline.audit_changes c JOIN threadline.audit_transactions x ON x.id = c.transaction_id WHERE c.op <> 'snapshot' GROUP BY 1, 2") {
        let text = |i: usize| row[i].clone().expect("not null");
        found.insert((text(0), text(1)), text(2).parse().expect("a number"));
    }
    for (key, rows) in &expected {
        let counted = found.get(key).copied().unwrap_or_default();
        // A move between partitions is one change, or a delete and an insert.
        let slack = if key.1 == "parted" { moved.get(&key.0).copied().unwrap_or_default() } else { 0 };
        assert!(
            counted == *rows || counted == rows + slack,
            "transaction {} table {}: {rows} rows written, {counted} changes",
            key.0,
            key.1
        );
    }
    for key in found.keys() {
        assert!(expected.contains_key(key), "changes nobody committed: {key:?}");
    }
    let torn = s.rows(
        "SELECT x.id, x.change_count, count(c.id) FROM threadline.audit_transactions x FULL JOIN threadline.audit_changes c ON c.transaction_id = x.id
         GROUP BY x.id, x.change_count HAVING x.id IS NULL OR x.change_count <> count(c.id) LIMIT 3",
    );
    assert!(torn.is_empty(), "change_count against changes: {torn:?}");
    let shared = s.rows("SELECT xid FROM threadline.audit_transactions GROUP BY xid HAVING count(*) > 1");
    assert!(shared.is_empty(), "one transaction, one row: {shared:?}");
}

fn tags_agree(s: &mut Session, log: &[(String, Written)]) {
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (tag, rows) in log.iter().flat_map(|(_, written)| &written.tags) {
        *expected.entry(tag.clone()).or_default() += rows;
    }
    let found: BTreeMap<String, u64> = s
        .rows(
            "SELECT data_after ->> 'note', count(*) FROM threadline.audit_changes
             WHERE (op = 'insert' OR 'note' = ANY (changed_fields)) AND data_after ->> 'note' ~ '^s[0-9]+n' GROUP BY 1",
        )
        .into_iter()
        .map(|row| (row[0].clone().expect("a tag"), row[1].as_deref().expect("a count").parse().expect("a number")))
        .collect();
    for (tag, rows) in &expected {
        assert_eq!(found.get(tag), Some(rows), "rows written by statement {tag}");
    }
    assert_eq!(found.len(), expected.len(), "statements in the log against statements committed");
}

fn ids_follow_commits(s: &mut Session) {
    let wrong = s.rows(
        "SELECT c.id, x.commit_no FROM threadline.audit_changes c JOIN threadline.audit_transactions x ON x.id = c.transaction_id
         WHERE c.id >= x.commit_no OR x.committed_at IS NULL OR c.captured_at > x.committed_at OR x.occurred_at > x.committed_at LIMIT 3",
    );
    assert!(wrong.is_empty(), "a change's id is below its transaction's commit_no: {wrong:?}");
}

/// Follows every row through its changes with images alone: what a change says was there before must be what the one before it left.
fn rows_have_one_unbroken_history(db: &Database) {
    let mut s = db.session();
    s.run(CANONICAL);
    s.run("SET TimeZone = 'UTC'");
    let changes = s.rows(
        "SELECT c.table_name, coalesce(c.old_pk, c.table_pk)::text, c.table_pk::text, c.op, c.data_after::text,
                CASE c.op WHEN 'update' THEN (c.data_after || coalesce(c.changed_from, '{}'))::text WHEN 'delete' THEN c.changed_from::text END,
                x.commit_no || '.' || c.statement_no, c.id
         FROM threadline.audit_changes c JOIN threadline.audit_transactions x ON x.id = c.transaction_id
         ORDER BY x.commit_no, c.statement_no, c.id",
    );
    type Key = (String, String);
    let mut rows: HashMap<Key, String> = HashMap::new();
    let mut newest: HashMap<Key, i64> = HashMap::new();
    let mut i = 0;
    while i < changes.len() {
        // Within one statement every old image is read before any new one is written: keys may swap.
        let statement = &changes[i][6];
        let end = changes[i..].iter().position(|c| c[6] != *statement).map_or(changes.len(), |n| i + n);
        let of = |c: &Vec<Option<String>>, n: usize| c[n].clone().unwrap_or_default();
        for c in &changes[i..end] {
            if let Some(before) = &c[5] {
                let key = (of(c, 0), of(c, 1));
                let held = rows.remove(&key);
                assert_eq!(
                    held.as_ref(),
                    Some(before),
                    "{} {} of change {}: the image before it",
                    key.0,
                    key.1,
                    of(c, 7)
                );
            }
        }
        for c in &changes[i..end] {
            let key = (of(c, 0), of(c, 2));
            if let Some(after) = &c[4] {
                let held = rows.insert(key.clone(), after.clone());
                assert_eq!(held, None, "{} {} of change {}: the key was taken", key.0, key.1, of(c, 7));
            }
        }
        for c in &changes[i..end] {
            let id: i64 = of(c, 7).parse().expect("a number");
            let commit: i64 = of(c, 6).split('.').next().and_then(|n| n.parse().ok()).expect("a number");
            let last = newest.insert((of(c, 0), of(c, 2)), commit).unwrap_or(-1);
            assert!(id > last || commit == last, "change {id} of a row is older than the transaction {last} before it");
        }
        i = end;
    }
    for (table, key) in TABLES {
        let live: BTreeMap<String, String> = s
            .rows(&format!("SELECT ({key})::text, to_jsonb(t)::text FROM public.{table} t"))
            .into_iter()
            .map(|row| (row[0].clone().expect("a key"), row[1].clone().expect("an image")))
            .collect();
        let replayed: BTreeMap<String, String> = rows
            .iter()
            .filter(|((name, _), _)| name == table)
            .map(|((_, key), image)| (key.clone(), image.clone()))
            .collect();
        assert_eq!(replayed, live, "{table}: last images against the live rows");
    }
}
