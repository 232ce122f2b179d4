//! `key_bound` and `balance`: an aggregate over the rows of each group, of one source or several, kept up as rows come and go.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::decimal::{Decimal, TooLong};
use super::engine::{self, Document, Field, Mark, Op, PinnedState, Seen};
use super::keyed::{Entry, Finding, Keyed, is_tuple_key, tuple_key};
use super::plan::{Aggregate, Comparison, Test};
use super::violations::Violations;

/// What a group comes to.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Reading {
    rows: i64,
    /// Rows whose argument is not NULL.
    counted: i64,
    /// The sum, or the least or greatest.
    number: Option<Decimal>,
}

#[derive(Default, Serialize, Deserialize)]
struct Group {
    now: Reading,
    before: Reading,
    /// The arguments, where the least or greatest is asked for.
    arguments: BTreeMap<Decimal, u32>,
    /// What the query found.
    fails: bool,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Share {
    group: u32,
    argument: Option<Decimal>,
}

#[derive(Serialize, Deserialize)]
pub struct Aggregated {
    function: Aggregate,
    /// None: the query tests.
    tests: Option<Vec<(Comparison, Decimal)>>,
    groups: Keyed<Group>,
    /// What each row counts for, of each source.
    shares: Vec<Vec<Option<Share>>>,
    #[serde(skip)]
    touched: [Option<u32>; 2],
}

impl Aggregated {
    pub fn new(recent: usize, function: Aggregate, test: &Test) -> Aggregated {
        let tests = match test {
            Test::Elsewhere => None,
            Test::All(tests) => {
                let compiled = tests.iter().map(|(comparison, bound)| Some((*comparison, Decimal::parse(bound)?)));
                compiled.collect()
            }
        };
        Aggregated { function, tests, groups: Keyed::new(recent), shares: Vec::new(), touched: [None; 2] }
    }

    pub fn event(&mut self, seen: &Seen) -> Result<(), String> {
        let row = seen.row as usize;
        if self.shares.len() <= seen.input {
            self.shares.resize(seen.input + 1, Vec::new());
        }
        if self.shares[seen.input].len() <= row {
            self.shares[seen.input].resize(row + 1, None);
        }
        self.touched = [None; 2];
        let old = self.shares[seen.input][row].take();
        let new = if seen.op == Op::Delete || !seen.values[0].matches() { None } else { Some(self.share(seen, old)?) };
        let too_long = |_: TooLong| "a sum of more than 38 digits cannot be kept exactly".to_string();
        if let Some(old) = old {
            self.touch(old.group, seen.mark);
            self.touched[0] = Some(old.group);
            self.remove(old).map_err(too_long)?;
        }
        if let Some(new) = new {
            self.touch(new.group, seen.mark);
            self.touched[1] = Some(new.group);
            self.add(new).map_err(too_long)?;
            self.shares[seen.input][row] = Some(new);
        }
        Ok(())
    }

    /// old: what it was.
    fn share(&mut self, seen: &Seen, old: Option<Share>) -> Result<Share, String> {
        let argument = match seen.values[2] {
            Field::Null => None,
            Field::Number(number) => Some(number),
            Field::Integer(number) => Some(Decimal::integer(number)),
            _ => return Err("NaN, infinity and numbers of more than 38 digits cannot be added exactly".into()),
        };
        let key = [seen.values[1].text()];
        let same = old.map(|old| old.group).filter(|group| is_tuple_key(&self.groups.at(*group).key, key));
        Ok(Share { group: same.unwrap_or_else(|| self.groups.find_or_add(&tuple_key(key))), argument })
    }

    fn touch(&mut self, group: u32, mark: Mark) {
        if self.groups.touch(group, mark) {
            let state = &mut self.groups.entry(group).state;
            state.before = state.now;
        }
    }

    fn add(&mut self, share: Share) -> Result<(), TooLong> {
        let group = &mut self.groups.entry(share.group).state;
        group.now.rows += 1;
        let Some(argument) = share.argument else { return Ok(()) };
        group.now.counted += 1;
        match self.function {
            Aggregate::Count => {}
            Aggregate::Sum | Aggregate::Avg => {
                group.now.number = Some(group.now.number.unwrap_or(Decimal::ZERO).plus(argument)?);
            }
            Aggregate::Min | Aggregate::Max => {
                *group.arguments.entry(argument).or_insert(0) += 1;
                group.choose(self.function);
            }
        }
        Ok(())
    }

    fn remove(&mut self, share: Share) -> Result<(), TooLong> {
        let group = &mut self.groups.entry(share.group).state;
        group.now.rows -= 1;
        let Some(argument) = share.argument else { return Ok(()) };
        group.now.counted -= 1;
        match self.function {
            Aggregate::Count => {}
            Aggregate::Sum | Aggregate::Avg => {
                group.now.number = Some(group.now.number.unwrap_or(Decimal::ZERO).minus(argument)?);
            }
            Aggregate::Min | Aggregate::Max => {
                if let Some(count) = group.arguments.get_mut(&argument) {
                    *count -= 1;
                    if *count == 0 {
                        group.arguments.remove(&argument);
                    }
                }
                group.choose(self.function);
            }
        }
        Ok(())
    }

    pub fn check(&mut self, last_event: i64, _time: i64, found: &mut Violations) {
        let (function, tests) = (self.function, &self.tests);
        self.groups.check(
            last_event,
            found,
            |entry| {
                let group = &entry.state;
                let fails = match tests {
                    None => group.fails && group.now.rows > 0,
                    Some(tests) => {
                        !tests.iter().all(|(comparison, bound)| group.now.holds(function, *comparison, *bound))
                    }
                };
                fails.then(|| Finding {
                    mark: entry.last,
                    states: Some([group.before.shown(function), group.now.shown(function)]),
                    event: None,
                    reason: format!("the value is {}", group.now.value(function).unwrap_or_else(|| "NULL".into())),
                    repaired_at: None,
                })
            },
            // A group that was pinned for less than it is may have no rows and yet a sum.
            |group| group.now.rows == 0 && group.now.number.is_none_or(|number| number == Decimal::ZERO),
        );
    }

    /// A sum or a count.
    pub fn pin(&mut self, key: &[u8], state: &PinnedState) -> bool {
        let value = state.value.as_ref().map(|value| value.get()).filter(|value| *value != "null");
        let number = match (self.function, value) {
            (_, None) => None,
            (Aggregate::Sum | Aggregate::Count, Some(value)) => match Decimal::parse(value) {
                Some(number) => Some(number),
                None => return false,
            },
            _ => return false,
        };
        let counted = match (self.function, number) {
            (Aggregate::Count, Some(number)) => number.to_string().parse().unwrap_or(0),
            (_, Some(_)) => state.rows,
            (_, None) => 0,
        };
        let group = self.groups.find_or_add(key);
        let number = number.filter(|_| self.function == Aggregate::Sum);
        self.groups.entry(group).state.now = Reading { rows: state.rows, counted, number };
        true
    }

    pub fn readings(&self) -> impl Iterator<Item = engine::Group> {
        let reading = |entry: &Entry<Group>| {
            let now = entry.state.now;
            engine::Group { key: entry.key.clone(), rows: now.rows, value: now.value(self.function) }
        };
        self.groups.entries().map(reading)
    }

    pub fn violated(&mut self, entry: u32, violation: u32) {
        self.groups.violated(entry, violation);
    }

    fn group(&self, of_new: bool) -> Option<u32> {
        self.touched[usize::from(of_new)]
    }

    pub fn value(&self, of_new: bool) -> Option<String> {
        self.groups.at(self.group(of_new)?).state.now.value(self.function)
    }

    pub fn judged_elsewhere(&mut self, of_new: bool, holds: bool) {
        if let Some(group) = self.group(of_new) {
            self.groups.entry(group).state.fails = !holds;
        }
    }
}

impl Group {
    fn choose(&mut self, function: Aggregate) {
        let chosen =
            if function == Aggregate::Min { self.arguments.first_key_value() } else { self.arguments.last_key_value() };
        self.now.number = chosen.map(|(argument, _)| *argument);
    }
}

impl Reading {
    /// None: there is nothing to aggregate. What is NULL holds.
    fn holds(self, function: Aggregate, comparison: Comparison, bound: Decimal) -> bool {
        if self.rows == 0 || self.counted == 0 && function != Aggregate::Count {
            return true;
        }
        let order = match (function, self.number) {
            (Aggregate::Count, _) => Decimal::integer(self.counted).cmp(&bound),
            (Aggregate::Avg, Some(sum)) => match bound.times(self.counted) {
                Ok(bound) => sum.cmp(&bound),
                Err(TooLong) => return true,
            },
            (_, Some(number)) => number.cmp(&bound),
            (_, None) => return true,
        };
        comparison.holds(order)
    }

    fn value(self, function: Aggregate) -> Option<String> {
        match function {
            Aggregate::Count => Some(self.counted.to_string()),
            _ if self.counted == 0 => None,
            Aggregate::Avg => Some(self.number?.quotient(self.counted).to_string()),
            _ => self.number.map(|number| number.to_string()),
        }
    }

    /// As JSON; None when there is no row.
    fn shown(self, function: Aggregate) -> Option<Document> {
        let value = self.value(function).unwrap_or_else(|| "null".into());
        (self.rows > 0).then(|| Document::Json(format!("{{\"rows\": {}, \"value\": {value}}}", self.rows)))
    }
}
