//! At quiet points the contents are copied by plain SQL; later, audit_diff must lead from each copy to every later one, whatever
//! was written in between, the timeline must have every change once and in order, and bundles the right neighbours.

use std::collections::BTreeSet;

use crate::random::seed;
use crate::support::{Database, Session};
use crate::workload::{TABLES, with_quiet_points};

const SESSIONS: usize = 3;
const POINTS: u32 = 5;

struct Point {
    at: String,
    contents: Vec<BTreeSet<String>>,
}

fn record(s: &mut Session) -> Point {
    let at = s.one("SELECT clock_timestamp()");
    let image = |table| format!("SELECT to_jsonb(t)::text FROM {table} t");
    let contents = TABLES.iter().map(|(table, _)| s.column(&image(table)).into_iter().collect()).collect();
    Point { at, contents }
}

#[test]
fn what_happened_between_two_times_leads_from_one_to_the_other() {
    let seed = seed("between");
    let db = Database::new("between");
    let mut s = db.session();
    let points = with_quiet_points(&db, &mut s, seed, SESSIONS, POINTS, record);
    for (first, earlier) in points.iter().enumerate() {
        for later in &points[first..] {
            for (t, (table, _)) in TABLES.iter().enumerate() {
                assert_leads(&mut s, table, (&earlier.at, &earlier.contents[t]), (&later.at, &later.contents[t]));
            }
        }
    }
    assert_whole_timeline(&mut s);
    assert_neighbours(&mut s);
}

fn assert_leads(s: &mut Session, table: &str, earlier: (&str, &BTreeSet<String>), later: (&str, &BTreeSet<String>)) {
    let what = format!("{table} from {} to {}", earlier.0, later.0);
    let rows = s.rows(&format!(
        "SELECT before::text, after::text, op FROM threadline.audit_diff('{table}', '{}', '{}')",
        earlier.0, later.0
    ));
    let mut state = earlier.1.clone();
    for row in &rows {
        if let Some(before) = &row[0] {
            assert!(state.remove(before), "{what}: {before} was not there");
        }
        assert_ne!(row[0], row[1], "{what}: no difference");
    }
    for after in rows.iter().filter_map(|row| row[1].as_ref()) {
        assert!(state.insert(after.clone()), "{what}: {after} is there already");
    }
    assert_eq!(&state, later.1, "{what}");
}

fn assert_whole_timeline(s: &mut Session) {
    let all = s.column(
        "SELECT c.id FROM threadline.audit_changes c JOIN threadline.audit_transactions x ON x.id = c.transaction_id
         ORDER BY x.commit_no DESC, c.statement_no DESC, array_position('{truncate,delete,snapshot,insert,update}', c.op) DESC, c.id DESC",
    );
    assert_eq!(s.column("SELECT id FROM threadline.audit_timeline(max_rows => NULL)"), all);
    let mut paged: Vec<String> = Vec::new();
    loop {
        let before = paged.last().map_or(String::new(), |id| format!(", before_change => {id}"));
        let page = s.column(&format!("SELECT id FROM threadline.audit_timeline(max_rows => 397{before})"));
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
}

fn assert_neighbours(s: &mut Session) {
    let wrong = s.column(
        "WITH told AS MATERIALIZED (
             SELECT (c #>> '{audit_change,id}')::bigint AS id, (c #>> '{previous_change,id}')::bigint AS previous, (c #>> '{next_change,id}')::bigint AS next
             FROM (SELECT array_agg(x.id) AS ids FROM (SELECT x.id FROM threadline.audit_transactions x ORDER BY hashtext(x.id::text) LIMIT 300) x) x
             CROSS JOIN LATERAL threadline.transaction_bundles(x.ids) b CROSS JOIN LATERAL jsonb_array_elements(b.document -> 'changes') c)
         SELECT concat_ws(' ', c.table_name, c.table_pk::text, c.id::text, 'previous', t.previous::text, 'next', t.next::text)
         FROM told t CROSS JOIN LATERAL (SELECT c.* FROM threadline.readable_change c WHERE c.id = t.id OFFSET 0) c
         WHERE t.previous IS DISTINCT FROM threadline.previous_change(ROW(c.*)::threadline.readable_change)
            OR t.next IS DISTINCT FROM threadline.next_change(ROW(c.*)::threadline.readable_change)",
    );
    assert_eq!(wrong, Vec::<String>::new());
}
