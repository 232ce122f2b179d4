//! At quiet points the contents are copied by plain SQL; later, as-of must give back each copy, whatever was written since.

use std::collections::BTreeSet;

use crate::random::{Random, seed};
use crate::support::{Database, Session};
use crate::workload::{TABLES, with_quiet_points};

const SESSIONS: usize = 4;
const POINTS: u32 = 8;

struct Point {
    at: String,
    /// Per table: every row as text, in order.
    contents: Vec<Vec<String>>,
    /// Per table: key and image.
    keys: Vec<Vec<(String, String)>>,
}

fn key_columns(table: &str, key: &str) -> String {
    format!("SELECT ({key})::text, to_jsonb(t)::text FROM {table} t ORDER BY 1")
}

fn record(s: &mut Session) -> Point {
    let at = s.one("SELECT clock_timestamp()");
    let contents =
        TABLES.iter().map(|(table, _)| s.column(&format!("SELECT t::text FROM {table} t ORDER BY 1"))).collect();
    let keys = TABLES
        .iter()
        .map(|(table, key)| {
            s.rows(&key_columns(table, key))
                .into_iter()
                .map(|row| (row[0].clone().expect("a key"), row[1].clone().expect("an image")))
                .collect()
        })
        .collect();
    Point { at, contents, keys }
}

#[test]
fn the_past_is_what_it_was() {
    let seed = seed("as_of");
    let db = Database::new("as_of");
    let mut s = db.session();
    let points = with_quiet_points(&db, &mut s, seed, SESSIONS, POINTS, record);
    let mut random = Random::new(seed);
    for (number, point) in points.iter().enumerate() {
        for (t, (table, _)) in TABLES.iter().enumerate() {
            let typed = s.column(&format!(
                "SELECT r::text FROM threadline.audit_as_of(NULL::{table}, '{}') r ORDER BY 1",
                point.at
            ));
            assert_eq!(typed, point.contents[t], "{table} at point {number}, {}", point.at);
            check_keys(&mut s, &points, number, t, &mut random);
        }
    }
}

/// The status form for a sample of keys: those that lived at the point, and those that lived at another one.
fn check_keys(s: &mut Session, points: &[Point], number: usize, t: usize, random: &mut Random) {
    let (table, at) = (TABLES[t].0, &points[number].at);
    let ask = |s: &mut Session, key: &str| {
        let key = key.replace('\'', "''");
        s.rows(&format!(
            "SELECT status, row_data::text, complete FROM threadline.audit_as_of('{table}', '{key}'::jsonb, '{at}')"
        ))
        .remove(0)
    };
    let lived = &points[number].keys[t];
    for _ in 0..lived.len().min(12) {
        let (key, image) = random.pick(lived);
        assert_eq!(
            ask(s, key),
            [Some("present".into()), Some(image.clone()), Some("t".into())],
            "{table} {key} at point {number}"
        );
    }
    let now: BTreeSet<&String> = lived.iter().map(|(key, _)| key).collect();
    let earlier: BTreeSet<&String> = points[..number]
        .iter()
        .flat_map(|p| p.keys[t].iter().map(|(key, _)| key))
        .filter(|key| !now.contains(key))
        .collect();
    for key in earlier.iter().take(12) {
        assert_eq!(
            ask(s, key)[..2],
            [Some("deleted".to_string()), None],
            "{table} {key} at point {number}, seen before it"
        );
    }
    let ever: BTreeSet<&String> = points[..number].iter().flat_map(|p| p.keys[t].iter().map(|(key, _)| key)).collect();
    let later = points[number + 1..]
        .iter()
        .flat_map(|p| p.keys[t].iter().map(|(key, _)| key))
        .filter(|key| !now.contains(key) && !ever.contains(key));
    for key in later.take(12) {
        // It may have come and gone between two points.
        let status = ask(s, key).remove(0).unwrap_or_default();
        assert!(
            ["never_seen", "deleted"].contains(&status.as_str()),
            "{table} {key} at point {number}: {status}, it first lived later"
        );
    }
}
