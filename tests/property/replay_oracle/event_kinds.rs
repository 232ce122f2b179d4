//! Invariants that judge each event by the events before it, and deadlines. The event that is named is the first bad
//! one since the last check point, of a deadline the one that opened it.

use std::collections::BTreeMap;

use super::*;

/// Of one event: the key it belongs to, and whether it is bad.
pub struct Judgement {
    key: Key,
    texts: Texts,
    bad: bool,
}

/// What the kinds that may name a key have it of: the expression's value, else the row.
fn key_of(key: &Option<KeyOf>, event: &Event) -> (Key, Texts) {
    match key {
        Some(key) => {
            let texts = vec![(key.of)(event.subject())];
            (Key::Values(texts.clone()), texts)
        }
        None => (Key::Row(event.row), event.primary_key_texts()),
    }
}

/// A judgement or none for each event; None for the kinds that do not judge events.
pub fn judge(kind: &Kind, events: &[Event]) -> Option<Vec<Option<Judgement>>> {
    let (table, key) = match kind {
        Kind::Transition { table, .. } => (*table, &None),
        Kind::Requires { table, key, .. }
        | Kind::Forbids { table, key, .. }
        | Kind::Rate { table, key, .. }
        | Kind::Monotone { table, key, .. } => (*table, key),
        _ => return None,
    };
    // The events of each key, up to and with the one that is judged.
    let mut by_key: BTreeMap<Key, Vec<&Event>> = BTreeMap::new();
    let judgements = events.iter().map(|event| {
        if event.table != table {
            return None;
        }
        let (key, texts) = key_of(key, event);
        let of_key = by_key.entry(key.clone()).or_default();
        of_key.push(event);
        let (event, earlier) = of_key.split_last().expect("one was pushed");
        let bad = if event.op == Op::Snapshot { None } else { is_bad(kind, event, earlier) };
        bad.map(|bad| Judgement { key, texts, bad })
    });
    Some(judgements.collect())
}

/// None where the event is not judged. `earlier` are all events of its key before it.
fn is_bad(kind: &Kind, event: &Event, earlier: &[&Event]) -> Option<bool> {
    // A row of the baseline is no event: it matches nothing.
    let matches = |predicate: &Predicate, e: &Event| e.op != Op::Snapshot && predicate.matches(e);
    match kind {
        Kind::Transition { column, initial, allowed, .. } => {
            let new = shown(event.new.as_ref()?, column)?;
            let Some(old_row) = &event.old else {
                return initial.map(|initial| !initial.contains(&new.as_str()));
            };
            let old = shown(old_row, column)?;
            let may_follow = |old: &str| allowed.iter().find(|(from, _)| *from == old).map_or(&[][..], |(_, to)| to);
            (old != new).then(|| !may_follow(&old).contains(&new.as_str()))
        }
        Kind::Requires { event: judged, earlier: needed, within, .. } => matches(judged, event).then(|| {
            let soon_enough = |e: &Event| within.is_none_or(|within| event.at - e.at <= within);
            !earlier.iter().any(|e| matches(needed, e) && soon_enough(e))
        }),
        Kind::Forbids { event: judged, since, unless, .. } => matches(judged, event).then(|| {
            // The event that forbids may end that itself.
            let from = match since {
                Some(since) => earlier.iter().rposition(|e| matches(since, e)),
                None => Some(0),
            };
            let allowed_again =
                |from: usize| earlier[from..].iter().any(|e| unless.as_ref().is_some_and(|unless| matches(unless, e)));
            from.is_some_and(|from| !allowed_again(from))
        }),
        Kind::Rate { event: judged, at_most, per, .. } => matches(judged, event).then(|| {
            let recent = earlier.iter().filter(|e| matches(judged, e) && e.at > event.at - per).count();
            recent + 1 > *at_most
        }),
        Kind::Monotone { column, strict, .. } => {
            let value = event.new.as_ref()?[column].clone()?;
            let last = earlier.iter().rev().find_map(|e| e.new.as_ref()?[column].clone())?;
            Some(if *strict { value <= last } else { value < last })
        }
        _ => unreachable!("{} judges no events", kind.name()),
    }
}

/// Of each key that was judged since the last check point: whether any event was bad.
pub fn findings(judgements: &[Option<Judgement>], stretch: &Stretch) -> Vec<Finding> {
    let mut by_key: BTreeMap<&Key, Vec<(usize, &Judgement)>> = BTreeMap::new();
    for (index, _) in stretch.new_events() {
        if let Some(judgement) = &judgements[index] {
            by_key.entry(&judgement.key).or_default().push((index, judgement));
        }
    }
    by_key
        .into_values()
        .map(|judged| {
            let first_bad = judged.iter().find(|(_, judgement)| judgement.bad);
            let (named, judgement) = *first_bad.unwrap_or(&judged[0]);
            let event = &stretch.events[named];
            Finding {
                key: judgement.key.clone(),
                texts: judgement.texts.clone(),
                violated: first_bad.is_some(),
                named,
                before: event.old.clone(),
                after: event.new.clone(),
                closed: None,
            }
        })
        .collect()
}

/// From an event that opens to the one that closes.
struct Span {
    texts: Texts,
    opened: usize,
    due: i64,
    closed: Option<usize>,
}

fn spans(deadline: &Deadline, events: &[Event]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut open: BTreeMap<Key, usize> = BTreeMap::new();
    for (index, event) in events.iter().enumerate() {
        if event.table != deadline.table || event.op == Op::Snapshot {
            continue;
        }
        let (key, texts) = key_of(&deadline.key, event);
        if deadline.close.matches(event) {
            if let Some(span) = open.remove(&key) {
                spans[span].closed = Some(index);
            }
        } else if deadline.open.matches(event) && !open.contains_key(&key) {
            open.insert(key, spans.len());
            spans.push(Span { texts, opened: index, due: event.at + deadline.within, closed: None });
        }
    }
    spans
}

pub fn deadline_findings(deadline: &Deadline, stretch: &Stretch) -> Vec<Finding> {
    let finding = |span: Span| {
        let closed = span.closed.filter(|closed| *closed >= stretch.from).map(|closed| stretch.events[closed].at);
        let late = match span.closed {
            None => stretch.now > span.due,
            Some(_) => closed? > span.due,
        };
        let event = &stretch.events[span.opened];
        late.then(|| Finding {
            key: Key::Opening(span.opened),
            texts: span.texts,
            violated: true,
            named: span.opened,
            before: event.old.clone(),
            after: event.new.clone(),
            closed,
        })
    };
    spans(deadline, &stretch.events[..stretch.to]).into_iter().filter_map(finding).collect()
}

/// What is open and not yet due at the end.
pub fn pending(invariant: &str, deadline: &Deadline, events: &[Event], until: i64) -> Vec<Pending> {
    spans(deadline, events)
        .into_iter()
        .filter(|span| span.closed.is_none() && until <= span.due)
        .map(|span| Pending { invariant: invariant.to_string(), key: span.texts, due: span.due })
        .collect()
}
