//! The tricky cases of each kind, by hand.

use super::*;

/// A history of tables `t` and `u` with columns id, k, v and s. Transactions are 10 apart.
#[derive(Default)]
struct Log {
    events: Vec<Event>,
    rows: BTreeMap<(&'static str, i64), Row>,
    transaction: usize,
    statement: usize,
}

/// `k` and `v` are NULL where negative.
fn row(id: i64, k: i64, v: i64, s: &str) -> Row {
    let or_null = |n: i64| (n != -1).then_some(Value::Int(n));
    Row::from([
        ("id", Some(Value::Int(id))),
        ("k", or_null(k)),
        ("v", or_null(v)),
        ("s", (s != "NULL").then(|| Value::Text(s.into()))),
    ])
}

impl Log {
    fn event(&mut self, table: &'static str, op: Op, old: Option<i64>, new: Option<Row>) -> &mut Self {
        let old = old.map(|id| self.rows.remove(&(table, id)).expect("a live row"));
        if let Some(new) = &new {
            self.rows.insert((table, int(new, "id").unwrap()), new.clone());
        }
        self.events.push(Event {
            id: self.events.len(),
            table,
            op,
            old,
            new,
            transaction: self.transaction,
            statement: self.statement,
            at: self.transaction as i64 * 10,
            row: 0,
            primary_key: &["id"],
        });
        self
    }

    fn insert(&mut self, id: i64, k: i64, v: i64, s: &str) -> &mut Self {
        self.event("t", Op::Insert, None, Some(row(id, k, v, s)))
    }

    fn update(&mut self, old: i64, new: Row) -> &mut Self {
        self.event("t", Op::Update, Some(old), Some(new))
    }

    fn delete(&mut self, id: i64) -> &mut Self {
        self.event("t", Op::Delete, Some(id), None)
    }

    fn next_statement(&mut self) -> &mut Self {
        self.statement += 1;
        self
    }

    /// The next transaction commits at 10, 20, …
    fn commit(&mut self) -> &mut Self {
        self.transaction += 1;
        self
    }

    fn check(&mut self, kind: &Kind, check_at: CheckAt, until: i64) -> Answer {
        identify(&mut self.events);
        check(&self.events, &[Invariant { name: "i".into(), kind: kind.clone(), check_at }], until)
    }

    /// Of each violation: key, step, time of repair.
    fn found(&mut self, kind: &Kind, check_at: CheckAt) -> Vec<(String, usize, Option<i64>)> {
        let answer = self.check(kind, check_at, i64::MAX);
        answer
            .violations
            .into_iter()
            .map(|violation| {
                let key: Vec<_> = violation.key.into_iter().map(|text| text.unwrap_or("NULL".into())).collect();
                (key.join(","), violation.step, violation.repaired_at)
            })
            .collect()
    }
}

fn at(key: &str, step: usize, repaired: Option<i64>) -> (String, usize, Option<i64>) {
    (key.to_string(), step, repaired)
}

fn value_and_rows(value: Option<f64>, rows: i64) -> State {
    Some(Row::from([("value", value.map(Value::Real)), ("rows", Some(Value::Int(rows)))]))
}

const BY_K: KeyOf = KeyOf { sql: "k", of: |row| shown(row, "k") };

fn new_s_is(wanted: &'static str) -> Predicate {
    let holds: fn(Rows) -> Option<bool> = match wanted {
        "a" => |r| Some(r.new_text("s")? == "a"),
        "b" => |r| Some(r.new_text("s")? == "b"),
        "c" => |r| Some(r.new_text("s")? == "c"),
        _ => unreachable!(),
    };
    Predicate { sql: "", holds }
}

fn sum_is_not_negative(key: Option<KeyOf>) -> Kind {
    let check = ValueCheck { sql: "value >= 0", holds: |value| Some(value? >= 0.0) };
    Kind::KeyBound(Aggregated { table: "t", key, aggregate: Aggregate::Sum("v"), condition: None, check })
}

#[test]
fn check_points_fall_where_they_should() {
    // Two statements and three events, then two events, at 0 and 10; one at 20.
    let mut log = Log::default();
    log.insert(1, 0, 0, "").insert(2, 0, 0, "").next_statement().insert(3, 0, 0, "").commit();
    log.insert(4, 0, 0, "").insert(5, 0, 0, "").commit().insert(6, 0, 0, "");
    let points = |check_at| -> Vec<usize> { (1..=6).filter(|to| is_check_point(check_at, &log.events, *to)).collect() };
    assert_eq!(points(CheckAt::Event), [1, 2, 3, 4, 5, 6]);
    assert_eq!(points(CheckAt::Statement), [2, 3, 5, 6]);
    assert_eq!(points(CheckAt::Commit), [3, 5, 6]);
    assert_eq!(points(CheckAt::Events(2)), [2, 4, 6]);
    assert_eq!(points(CheckAt::Events(4)), [4, 6]);
    // Slices from 0 to 14 and from 15 to 29.
    assert_eq!(points(CheckAt::Interval(15)), [5, 6]);
    assert_eq!(points(CheckAt::End), [6]);
}

#[test]
fn rows() {
    let check = Predicate { sql: "new.v >= old.v", holds: |r| Some(r.new_int("v")? >= r.old_int("v")?) };
    let kind = Kind::Row { table: "t", check };
    // A new key keeps the row; what an insert or NULL leaves undecided holds.
    let mut log = Log::default();
    log.insert(1, 0, 5, "").commit().update(1, row(2, 0, 4, "")).commit().update(2, row(3, 0, 3, "")).commit();
    log.update(3, row(3, 0, 9, "")).commit().update(3, row(3, 0, 1, "")).commit().delete(3);
    assert_eq!(log.found(&kind, CheckAt::Commit), [at("2", 1, Some(30)), at("3", 4, Some(50))]);
    // The last event of a row decides.
    assert_eq!(log.found(&kind, CheckAt::End), []);
    assert_eq!(log.found(&kind, CheckAt::Events(2)), [at("2", 1, Some(30))]);
    let answer = log.check(&kind, CheckAt::Commit, 20);
    assert_eq!((answer.events, answer.transactions, answer.violations[0].repaired_at), (3, 3, None));
    assert_eq!(answer.violations[0].state_before, Some(row(1, 0, 5, "")));
    assert_eq!(answer.violations[0].state_after, Some(row(2, 0, 4, "")));
}

#[test]
fn a_row_inserted_again_is_the_same() {
    let check = Predicate { sql: "new.v >= 0", holds: |r| Some(r.new_int("v")? >= 0) };
    let kind = Kind::Row { table: "t", check };
    let mut log = Log::default();
    log.insert(1, 0, -5, "").commit().delete(1).insert(1, 0, -6, "");
    assert_eq!(log.found(&kind, CheckAt::Commit), [at("1", 0, None)]);
}

#[test]
fn key_bounds() {
    let kind = sum_is_not_negative(Some(BY_K));
    // NULL is a key; a row that moves touches both keys; a key without rows is fine and has no state.
    let mut log = Log::default();
    log.insert(1, -1, -5, "").commit().update(1, row(1, 7, -5, "")).commit().delete(1).commit().insert(2, 7, 3, "");
    assert_eq!(log.found(&kind, CheckAt::Commit), [at("NULL", 0, Some(10)), at("7", 1, Some(20))]);
    let answer = log.check(&kind, CheckAt::Commit, 30);
    assert_eq!(answer.violations[0].state_before, None);
    assert_eq!(answer.violations[0].state_after, value_and_rows(Some(-5.0), 1));

    // A sum of nothing but NULLs is NULL, which holds.
    let mut log = Log::default();
    log.insert(1, 7, -1, "").commit().insert(2, 7, -3, "").commit().update(2, row(2, 7, -1, ""));
    assert_eq!(log.found(&kind, CheckAt::Commit), [at("7", 1, Some(20))]);
    let answer = log.check(&kind, CheckAt::Commit, 20);
    assert_eq!(answer.violations[0].state_before, value_and_rows(None, 1));

    // What touches a violated key without repairing it says nothing again, and the last event since the last check
    // point is the one that is named.
    let mut log = Log::default();
    log.insert(1, 7, -3, "").insert(2, 8, 0, "").insert(3, 7, 0, "").commit().update(3, row(3, 7, 0, ""));
    assert_eq!(log.found(&kind, CheckAt::Commit), [at("7", 2, None)]);
    assert_eq!(log.found(&kind, CheckAt::Event), [at("7", 0, None)]);
}

#[test]
fn aggregates_and_conditions() {
    let of = |aggregate, condition, check| {
        Kind::KeyBound(Aggregated { table: "t", key: Some(BY_K), aggregate, condition, check })
    };
    let small = ValueCheck { sql: "value < 2", holds: |value| Some(value? < 2.0) };
    let mut log = Log::default();
    log.insert(1, 7, -1, "a").commit().insert(2, 7, 1, "b").commit().insert(3, 7, 4, "a");
    let steps = |log: &mut Log, aggregate, condition| -> Vec<usize> {
        let found = log.found(&of(aggregate, condition, small.clone()), CheckAt::Commit);
        found.into_iter().map(|(_, step, _)| step).collect()
    };
    assert_eq!(steps(&mut log, Aggregate::CountRows, None), [1]);
    assert_eq!(steps(&mut log, Aggregate::Count("v"), None), [2]);
    assert_eq!(steps(&mut log, Aggregate::Min("v"), None), Vec::<usize>::new());
    assert_eq!(steps(&mut log, Aggregate::Max("v"), None), [2]);
    assert_eq!(steps(&mut log, Aggregate::Avg("v"), None), [2]);
    let only_a = Where { sql: "s = 'a'", holds: |row| Some(text(row, "s")? == "a") };
    assert_eq!(steps(&mut log, Aggregate::CountRows, Some(only_a)), [2]);
}

#[test]
fn balances() {
    let check = ValueCheck { sql: "value = 0", holds: |value| Some(value? == 0.0) };
    let balanced = Aggregated { table: "t", key: Some(BY_K), aggregate: Aggregate::Sum("v"), condition: None, check };
    let mut log = Log::default();
    log.insert(1, 7, 5, "").insert(2, 7, -5, "").next_statement().insert(3, 7, 2, "").next_statement();
    log.insert(4, 7, -2, "").commit().insert(5, 8, 1, "").commit().delete(5);
    let kind = Kind::Balance(balanced.clone(), 0);
    assert_eq!(log.found(&kind, CheckAt::Commit), [at("8", 4, Some(20))]);
    assert_eq!(log.found(&kind, CheckAt::Statement), [at("7", 2, Some(0)), at("8", 4, Some(20))]);
    assert_eq!(log.found(&kind, CheckAt::Event).len(), 3);
    let kind = Kind::Balance(Aggregated { key: None, ..balanced }, 0);
    assert_eq!(log.found(&kind, CheckAt::Commit), [at("", 4, Some(20))]);
}

#[test]
fn uniqueness() {
    let kind = Kind::Unique { table: "t", columns: &["k", "v"], condition: None };
    let mut log = Log::default();
    log.insert(1, 7, -1, "").insert(2, 7, -1, "").commit().insert(3, 7, 1, "").commit();
    log.update(1, row(1, 7, 1, "")).commit().update(3, row(3, 8, 1, "")).commit().insert(4, 7, 1, "");
    assert_eq!(log.found(&kind, CheckAt::Commit), [at("7,1", 3, Some(30)), at("7,1", 5, None)]);
    let answer = log.check(&kind, CheckAt::Commit, 50);
    assert_eq!(answer.violations[1].state_before, Some(Row::from([("rows", Some(Value::Int(1)))])));
}

#[test]
fn references_are_broken_from_both_ends() {
    let kind = Kind::References { table: "t", columns: &["k"], to: "u", to_columns: &["id"], condition: None };
    let mut log = Log::default();
    log.event("u", Op::Insert, None, Some(row(7, 0, 0, ""))).insert(1, 7, 0, "").insert(2, -1, 0, "").commit();
    // A new key of what is referred to breaks it, another row of the old key repairs it.
    log.event("u", Op::Update, Some(7), Some(row(8, 0, 0, ""))).commit();
    log.event("u", Op::Insert, None, Some(row(7, 0, 0, ""))).commit();
    log.update(1, row(1, 9, 0, "")).commit().delete(1);
    assert_eq!(log.found(&kind, CheckAt::Commit), [at("7", 3, Some(20)), at("9", 5, Some(40))]);
    let answer = log.check(&kind, CheckAt::Commit, 40);
    let counts = |rows, referenced| {
        Some(Row::from([("rows", Some(Value::Int(rows))), ("referenced", Some(Value::Int(referenced)))]))
    };
    assert_eq!(answer.violations[0].state_before, counts(1, 1));
    assert_eq!(answer.violations[0].state_after, counts(1, 0));
    assert_eq!(answer.violations[1].state_before, None);
}

#[test]
fn transitions() {
    let kind = Kind::Transition {
        table: "t",
        column: "s",
        initial: Some(&["a"]),
        allowed: &[("a", &["b"]), ("b", &["c"])],
        terminal: &["c"],
    };
    let mut log = Log::default();
    log.insert(1, 0, 0, "a").commit().update(1, row(1, 0, 1, "a")).commit().update(1, row(1, 0, 1, "c")).commit();
    // No change of the column and NULLs leave the key violated; a good step repairs it.
    log.update(1, row(1, 0, 2, "c")).commit().update(1, row(1, 0, 2, "NULL")).commit();
    log.update(1, row(1, 0, 2, "a")).commit().update(1, row(1, 0, 2, "b")).commit().insert(2, 0, 0, "b");
    log.insert(3, 0, 0, "NULL").delete(2);
    assert_eq!(log.found(&kind, CheckAt::Commit), [at("1", 2, Some(60)), at("2", 7, None)]);
    // One bad event among good ones is enough.
    assert_eq!(log.found(&kind, CheckAt::End), [at("1", 2, None), at("2", 7, None)]);
}

#[test]
fn requirements() {
    let kind =
        |within| Kind::Requires { table: "t", key: Some(BY_K), event: new_s_is("b"), earlier: new_s_is("a"), within };
    let mut log = Log::default();
    log.insert(1, 7, 0, "b").insert(2, 7, 0, "a").commit().commit().insert(3, 7, 0, "b").commit();
    log.insert(4, 7, 0, "b").insert(5, 8, 0, "b").delete(4);
    assert_eq!(log.found(&kind(None), CheckAt::Event), [at("7", 0, Some(20)), at("8", 4, None)]);
    assert_eq!(log.found(&kind(None), CheckAt::Commit), [at("7", 0, Some(20)), at("8", 4, None)]);
    // Exactly within is within.
    let found = log.found(&kind(Some(20)), CheckAt::Commit);
    assert_eq!(found, [at("7", 0, Some(20)), at("7", 3, None), at("8", 4, None)]);
    // An event that is what it requires is not earlier than itself.
    let mut log = Log::default();
    log.insert(1, 7, 0, "a").commit().insert(2, 7, 0, "a");
    let itself =
        Kind::Requires { table: "t", key: Some(BY_K), event: new_s_is("a"), earlier: new_s_is("a"), within: None };
    assert_eq!(log.found(&itself, CheckAt::Commit), [at("7", 0, Some(10))]);
}

#[test]
fn prohibitions() {
    let kind = |since: Option<Predicate>, unless: Option<Predicate>| Kind::Forbids {
        table: "t",
        key: Some(BY_K),
        event: new_s_is("a"),
        since,
        unless,
    };
    let mut log = Log::default();
    log.insert(1, 7, 0, "a").commit().insert(2, 7, 0, "b").commit().insert(3, 7, 0, "a").commit();
    log.insert(4, 7, 0, "c").commit().insert(5, 7, 0, "a").commit().insert(6, 7, 0, "b").insert(7, 7, 0, "a");
    let (b, c) = (Some(new_s_is("b")), Some(new_s_is("c")));
    assert_eq!(log.found(&kind(b.clone(), c.clone()), CheckAt::Commit), [at("7", 2, Some(40)), at("7", 6, None)]);
    assert_eq!(log.found(&kind(b.clone(), None), CheckAt::Commit), [at("7", 2, None)]);
    // From the beginning.
    assert_eq!(log.found(&kind(None, c), CheckAt::Commit), [at("7", 0, Some(40))]);
    // What forbids and permits at once permits.
    assert_eq!(log.found(&kind(b.clone(), b), CheckAt::Commit), []);
}

#[test]
fn rates() {
    let kind = |per| Kind::Rate { table: "t", key: Some(BY_K), event: new_s_is("a"), at_most: 2, per };
    let mut log = Log::default();
    log.insert(1, 7, 0, "a").commit().insert(2, 7, 0, "a").insert(3, 8, 0, "a").insert(4, 7, 0, "b").commit();
    log.insert(5, 7, 0, "a").commit().commit().commit().insert(6, 7, 0, "a").insert(7, 7, 0, "a").insert(8, 7, 0, "a");
    // The one at 0 is out of (0, 20], and in (−1, 20].
    assert_eq!(log.found(&kind(20), CheckAt::Event), [at("7", 7, None)]);
    assert_eq!(log.found(&kind(21), CheckAt::Event), [at("7", 4, Some(50)), at("7", 7, None)]);
    assert_eq!(log.found(&kind(21), CheckAt::Commit), [at("7", 4, None)]);
}

#[test]
fn monotone_values() {
    let kind = |key: Option<KeyOf>, strict| Kind::Monotone { table: "t", key, column: "v", strict };
    let mut log = Log::default();
    log.event("t", Op::Snapshot, None, Some(row(1, 7, 5, ""))).commit().update(1, row(1, 7, 5, "")).commit();
    log.update(1, row(2, 7, -1, ""))
        .commit()
        .update(2, row(2, 7, 4, ""))
        .commit()
        .update(2, row(2, 7, 4, "x"))
        .commit();
    log.insert(3, 7, 3, "").delete(3).commit().insert(3, 7, 3, "");
    // A new key and a NULL do not make the row forget; the bad value is the last one all the same.
    assert_eq!(log.found(&kind(None, false), CheckAt::Commit), [at("2", 3, Some(40))]);
    assert_eq!(log.found(&kind(None, true), CheckAt::Commit), [at("1", 1, None), at("3", 7, None)]);
    assert_eq!(log.found(&kind(Some(BY_K), false), CheckAt::Commit), [at("7", 3, Some(40)), at("7", 5, Some(60))]);
}

#[test]
fn deadlines() {
    let deadline = Deadline { table: "t", key: Some(BY_K), open: new_s_is("a"), close: new_s_is("b"), within: 20 };
    let kind = Kind::Deadline(deadline);
    // Opened at 0, opened again in vain, closed just in time at 20; opened at 30, closed late at 60.
    let mut log = Log::default();
    log.insert(1, 7, 0, "a").commit().insert(2, 7, 0, "a").commit().insert(3, 7, 0, "b").commit();
    log.insert(4, 7, 0, "a").commit().commit().commit().insert(5, 7, 0, "b");
    assert_eq!(log.found(&kind, CheckAt::Commit), [at("7", 3, Some(60))]);
    assert_eq!(log.found(&kind, CheckAt::End), [at("7", 3, Some(60))]);

    // Noticed by an event of another key, repaired by the closing event, opened again.
    let mut log = Log::default();
    log.insert(1, 7, 0, "a").commit().commit().insert(2, 8, 0, "a").commit().insert(3, 9, 0, "c").commit();
    log.insert(4, 7, 0, "b").insert(5, 7, 0, "a").commit();
    let answer = log.check(&kind, CheckAt::Commit, 50);
    let found: Vec<_> = answer.violations.iter().map(|v| (v.step, v.found_at, v.repaired_at)).collect();
    assert_eq!(found, [(0, 30, Some(40)), (1, 40, None)]);
    assert_eq!(answer.pending, [Pending { invariant: "i".into(), key: vec![Some("7".into())], due: 60 }]);
    // The end of the replay is what counts at the last check point, and due is not overdue.
    assert_eq!(log.check(&kind, CheckAt::Commit, 60).violations.len(), 2);
    assert_eq!(log.check(&kind, CheckAt::Commit, 61).violations.len(), 3);
    assert_eq!(log.check(&kind, CheckAt::End, 61).violations.len(), 3);
}

#[test]
fn projections_and_queries() {
    let projection = Projection {
        name: "running",
        source: "t",
        key: BY_K,
        init_sql: "",
        init: || Row::from([("sum", Some(Value::Int(100)))]),
        step_sql: "",
        step: |state, event| {
            Row::from([("sum", Some(Value::Int(int(state, "sum").unwrap() + event.rows().new_int("v").unwrap_or(0))))])
        },
    };
    let check: fn(&Row) -> Option<bool> = |state| Some(int(state, "sum")? < 110);
    let kind = Kind::Projection { projection, check_sql: "", check };
    let mut log = Log::default();
    log.insert(1, 7, 5, "").commit().insert(2, 7, 6, "").insert(3, 8, 50, "").insert(4, 7, -20, "").commit().delete(3);
    assert_eq!(log.found(&kind, CheckAt::Commit), [at("8", 2, None)]);
    assert_eq!(log.found(&kind, CheckAt::Event), [at("7", 1, Some(10)), at("8", 2, None)]);
    assert_eq!(
        log.check(&kind, CheckAt::Event, 0).violations.first(),
        None,
        "nothing is wrong until the second transaction"
    );

    let finds: fn(&Contents) -> bool = |contents| live(contents, "t").count() == 2;
    let kind = Kind::Query { sql: "", tables: &["t"], finds };
    let mut log = Log::default();
    log.insert(1, 0, 0, "").insert(2, 0, 0, "").commit().event("u", Op::Insert, None, Some(row(1, 0, 0, ""))).commit();
    log.delete(1);
    assert_eq!(log.found(&kind, CheckAt::Commit), [at("", 1, Some(20))]);
}

#[test]
fn violations_of_one_check_point_are_in_order() {
    let named = |name: &str, kind| Invariant { name: name.into(), kind, check_at: CheckAt::Commit };
    let row_check = Predicate { sql: "new.v >= 0", holds: |r| Some(r.new_int("v")? >= 0) };
    let invariants =
        [named("sum", sum_is_not_negative(Some(BY_K))), named("row", Kind::Row { table: "t", check: row_check })];
    let mut log = Log::default();
    log.insert(1, 7, -5, "").insert(2, 8, -5, "").insert(3, 7, 0, "").commit();
    identify(&mut log.events);
    let found = check(&log.events, &invariants, 0).violations;
    let order: Vec<_> = found.iter().map(|v| (v.invariant.as_str(), v.step)).collect();
    assert_eq!(order, [("row", 0), ("sum", 1), ("row", 1), ("sum", 2)]);
}
