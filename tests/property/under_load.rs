//! Capture is switched on, off and on again, and tables are altered, while sessions write.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::random::{Random, run_length, seed};
use crate::support::{Database, Failure, Session};
use crate::workload::{SETUP, TABLES, Writer};

/// Beside the one that alters tables.
const SESSIONS: usize = 7;
/// How much longer this one goes on than the other random runs.
const LONGER: u32 = 2;

/// DDL waits behind the writers; they win every deadlock, so it is tried again.
fn insist(s: &mut Session, sql: &str, until: Instant) {
    while let Err(e) = s.try_run(sql) {
        let failure = Failure::of(&e);
        assert!(["40P01", "55P03"].contains(&failure.code.as_str()), "{sql}: {failure:?}");
        assert!(Instant::now() < until, "{sql} never got its lock");
    }
}

#[test]
fn enabling_disabling_and_altering_under_load() {
    let mut random = Random::new(seed("under_load"));
    let db = Database::new("under_load");
    let mut s = db.session();
    s.run(SETUP);
    s.run("SET lock_timeout = '2s'");
    let stop = AtomicBool::new(false);
    let patience = Instant::now() + LONGER * run_length() + Duration::from_secs(120);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..SESSIONS)
            .map(|number| {
                let (db, stop, seed) = (&db, &stop, random.next());
                scope.spawn(move || {
                    let mut writer = Writer::new(db.session(), seed, number);
                    while !stop.load(Ordering::Relaxed) {
                        writer.transaction();
                    }
                    writer.tally.committed
                })
            })
            .collect();
        for (table, _) in TABLES {
            insist(&mut s, &format!("SELECT threadline.audit_enable('{table}')"), patience);
        }
        let until = Instant::now() + LONGER * run_length();
        for number in 0.. {
            if Instant::now() > until {
                break;
            }
            let table = random.pick(&TABLES).0;
            // COPY names no columns, so only tables it does not load may change their shape.
            let shape = *random.pick(&["acct", "docs", "named"]);
            let sql = match random.below(6) {
                0 => format!("SELECT threadline.audit_disable('{table}')"),
                1 => format!("ALTER TABLE {shape} ADD COLUMN extra{number} int"),
                2 => format!(
                    "ALTER TABLE {shape} ADD COLUMN filled{number} text; UPDATE {shape} SET filled{number} = note"
                ),
                3 => format!(
                    "ALTER TABLE {shape} ADD COLUMN brief{number} int; ALTER TABLE {shape} DROP COLUMN brief{number}"
                ),
                4 => "ALTER TABLE docs RENAME COLUMN body TO bodies; ALTER TABLE docs RENAME COLUMN bodies TO body"
                    .into(),
                _ => format!("ANALYZE {table}"),
            };
            insist(&mut s, &sql, patience);
            if sql.contains("audit_disable") {
                std::thread::sleep(Duration::from_millis(random.below(100)));
                insist(&mut s, &format!("SELECT threadline.audit_enable('{table}')"), patience);
            }
            std::thread::sleep(Duration::from_millis(random.below(150)));
        }
        stop.store(true, Ordering::Relaxed);
        let committed: u64 = handles.into_iter().map(|h| h.join().expect("a session ended well")).sum();
        assert!(committed > 20, "the run must have done something");
    });
    for (table, _) in TABLES {
        s.assert_replay_holds(table);
        let live = s.column(&format!("SELECT t::text FROM {table} t ORDER BY 1"));
        let as_of =
            s.column(&format!("SELECT r::text FROM threadline.audit_as_of(NULL::{table}, 'infinity') r ORDER BY 1"));
        let different: Vec<_> = live.iter().zip(&as_of).filter(|(l, a)| l != a).take(2).collect();
        assert!(
            live.len() == as_of.len() && different.is_empty(),
            "{table}: {} rows live, {} as of now, {different:?}",
            live.len(),
            as_of.len()
        );
    }
    let torn = s.rows(
        "SELECT x.id, x.change_count, count(c.id) FROM threadline.audit_transactions x FULL JOIN threadline.audit_changes c ON c.transaction_id = x.id
         GROUP BY x.id, x.change_count HAVING x.id IS NULL OR x.change_count <> count(c.id) LIMIT 3",
    );
    assert!(torn.is_empty(), "change_count against changes: {torn:?}");
}
