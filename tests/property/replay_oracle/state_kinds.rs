//! Invariants over the state at a check point. The event that is named is the last one that touched the key.

use std::collections::BTreeMap;

use super::*;

/// The keys that events since the last check point touched, and the last event that did.
fn touched(stretch: &Stretch, keys: impl Fn(&Event) -> Vec<Texts>) -> BTreeMap<Texts, usize> {
    stretch.new_events().flat_map(|(index, event)| keys(event).into_iter().map(move |key| (key, index))).collect()
}

/// A finding for each touched key. `look` says what the state is at one time, and whether that is a violation.
fn of_keys(
    stretch: &Stretch,
    keys: impl Fn(&Event) -> Vec<Texts>,
    look: impl Fn(&Contents, &Texts) -> (State, bool),
) -> Vec<Finding> {
    touched(stretch, keys)
        .into_iter()
        .map(|(key, named)| {
            let (before, _) = look(stretch.before(), &key);
            let (after, violated) = look(stretch.after(), &key);
            Finding { key: Key::Values(key.clone()), texts: key, violated, named, before, after, closed: None }
        })
        .collect()
}

fn both_rows(event: &Event) -> impl Iterator<Item = &Row> {
    event.old.iter().chain(event.new.iter())
}

pub fn findings(kind: &Kind, stretch: &Stretch) -> Vec<Finding> {
    match kind {
        Kind::Row { table, check } => rows(table, check, stretch),
        Kind::KeyBound(aggregated) | Kind::Balance(aggregated, _) => aggregates(aggregated, stretch),
        Kind::Unique { table, columns, condition } => unique(table, columns, condition, stretch),
        Kind::References { table, columns, to, to_columns, condition } => {
            references((*table, *columns, condition), (*to, *to_columns), stretch)
        }
        Kind::Projection { projection, check, .. } => projected(projection, *check, stretch),
        Kind::Query { tables, finds, .. } => query(tables, *finds, stretch),
        _ => unreachable!("{} is judged event by event", kind.name()),
    }
}

fn rows(table: &str, check: &Predicate, stretch: &Stretch) -> Vec<Finding> {
    let last: BTreeMap<u64, usize> =
        stretch.new_events().filter(|(_, e)| e.table == table).map(|(index, e)| (e.row, index)).collect();
    last.into_iter()
        .map(|(row, named)| {
            let event = &stretch.events[named];
            Finding {
                key: Key::Row(row),
                texts: event.primary_key_texts(),
                violated: !check.passes(event),
                named,
                before: event.old.clone(),
                after: event.new.clone(),
                closed: None,
            }
        })
        .collect()
}

fn aggregates(a: &Aggregated, stretch: &Stretch) -> Vec<Finding> {
    let key_of = |row: &Row| -> Texts { a.key.iter().map(|key| (key.of)(row)).collect() };
    let counts = |row: &&Row| Where::admits(&a.condition, row);
    of_keys(
        stretch,
        |event| {
            if event.table != a.table { vec![] } else { both_rows(event).filter(counts).map(key_of).collect() }
        },
        |contents, key| {
            let rows: Vec<&Row> = live(contents, a.table).filter(counts).filter(|row| key_of(row) == *key).collect();
            if rows.is_empty() {
                return (None, false);
            }
            let value = aggregate(a.aggregate, &rows);
            let state = Row::from([("value", value.map(Value::Real)), ("rows", Some(Value::Int(rows.len() as i64)))]);
            (Some(state), (a.check.holds)(value) == Some(false))
        },
    )
}

fn aggregate(aggregate: Aggregate, rows: &[&Row]) -> Option<f64> {
    let values = |column| -> Vec<f64> { rows.iter().filter_map(|row| int(row, column)).map(|n| n as f64).collect() };
    let sum = |values: &[f64]| values.iter().sum::<f64>();
    match aggregate {
        Aggregate::CountRows => Some(rows.len() as f64),
        Aggregate::Count(column) => Some(rows.iter().filter(|row| row[column].is_some()).count() as f64),
        Aggregate::Sum(column) => Some(values(column)).filter(|v| !v.is_empty()).map(|v| sum(&v)),
        Aggregate::Avg(column) => Some(values(column)).filter(|v| !v.is_empty()).map(|v| sum(&v) / v.len() as f64),
        Aggregate::Min(column) => values(column).into_iter().reduce(f64::min),
        Aggregate::Max(column) => values(column).into_iter().reduce(f64::max),
    }
}

/// None where a column is NULL.
fn tuple(row: &Row, columns: &[&str]) -> Option<Texts> {
    let values: Texts = columns.iter().map(|column| shown(row, column)).collect();
    (!values.contains(&None)).then_some(values)
}

fn how_many(contents: &Contents, table: &str, columns: &[&str], condition: &Option<Where>, key: &Texts) -> i64 {
    live(contents, table)
        .filter(|row| Where::admits(condition, row) && tuple(row, columns).as_ref() == Some(key))
        .count() as i64
}

fn unique(table: &str, columns: &[&str], condition: &Option<Where>, stretch: &Stretch) -> Vec<Finding> {
    of_keys(
        stretch,
        |event| {
            if event.table != table {
                return vec![];
            }
            both_rows(event).filter(|row| Where::admits(condition, row)).filter_map(|row| tuple(row, columns)).collect()
        },
        |contents, key| {
            let n = how_many(contents, table, columns, condition, key);
            ((n > 0).then(|| Row::from([("rows", Some(Value::Int(n)))])), n > 1)
        },
    )
}

fn references(
    (table, columns, condition): (&str, &[&str], &Option<Where>),
    (to, to_columns): (&str, &[&str]),
    stretch: &Stretch,
) -> Vec<Finding> {
    of_keys(
        stretch,
        |event| {
            let mut keys = Vec::new();
            if event.table == table {
                let admitted = both_rows(event).filter(|row| Where::admits(condition, row));
                keys.extend(admitted.filter_map(|row| tuple(row, columns)));
            }
            if event.table == to {
                keys.extend(both_rows(event).filter_map(|row| tuple(row, to_columns)));
            }
            keys
        },
        |contents, key| {
            let referencing = how_many(contents, table, columns, condition, key);
            let referenced = how_many(contents, to, to_columns, &None, key);
            let state =
                Row::from([("rows", Some(Value::Int(referencing))), ("referenced", Some(Value::Int(referenced)))]);
            (Some(state).filter(|_| referencing + referenced > 0), referencing > 0 && referenced == 0)
        },
    )
}

/// The state of a key after the first `to` events.
fn projected_state(p: &Projection, events: &[Event], to: usize, key: &Texts) -> State {
    let of_key = |event: &&Event| event.table == p.source && vec![(p.key.of)(event.subject())] == *key;
    events[..to]
        .iter()
        .filter(of_key)
        .fold(None, |state: State, event| Some((p.step)(&state.unwrap_or_else(p.init), event)))
}

fn projected(p: &Projection, check: fn(&Row) -> Option<bool>, stretch: &Stretch) -> Vec<Finding> {
    // An event without a key is skipped.
    let key = |event: &Event| (p.key.of)(event.subject()).map(|key| vec![Some(key)]);
    let keys = |event: &Event| if event.table == p.source { key(event).into_iter().collect() } else { vec![] };
    touched(stretch, keys)
        .into_iter()
        .map(|(key, named)| {
            let after = projected_state(p, stretch.events, stretch.to, &key);
            Finding {
                violated: check(after.as_ref().expect("a touched key has a state")) == Some(false),
                before: projected_state(p, stretch.events, stretch.from, &key),
                after,
                key: Key::Values(key.clone()),
                texts: key,
                named,
                closed: None,
            }
        })
        .collect()
}

fn query(tables: &[&str], finds: fn(&Contents) -> bool, stretch: &Stretch) -> Vec<Finding> {
    let last = stretch.new_events().filter(|(_, event)| tables.contains(&event.table)).last();
    let finding = |(named, _)| Finding {
        key: Key::Values(vec![]),
        texts: vec![],
        violated: finds(stretch.after()),
        named,
        before: None,
        after: None,
        closed: None,
    };
    last.map(finding).into_iter().collect()
}
