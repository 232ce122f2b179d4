//! Text written before a label was renamed, or an attribute of a composite type added or dropped, made one that the type
//! reads now. What is to be done is worked out once for a query and a column (`threadline.respelling`), and done to
//! each value (`threadline.respell`).

use std::cell::RefCell;
use std::collections::BTreeMap;

use pgrx::pg_sys;
use serde::{Deserialize, Serialize};

use super::text_form;
use crate::catalog::definition::{self, Definition, Definitions, Members};
use crate::pg::datum::text_datum;
use crate::pg::function::Call;
use crate::pg::types::{self, Structure};
use crate::pg::{datum::for_message, relation};

/// What to do with a value's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Recipe {
    /// Labels of then and what they are called now.
    Labels(BTreeMap<String, String>),
    /// For each attribute of now the place of it then, if it was there, and what to do with its text.
    Attributes(Vec<(Option<usize>, Option<Recipe>)>),
    Elements(Box<Recipe>),
    Bounds(Box<Recipe>),
    Ranges(Box<Recipe>),
}

impl Recipe {
    /// A text that is not of the form is left as it is, for the type's input function to judge.
    fn apply(&self, text: &[u8]) -> Vec<u8> {
        let made = match self {
            Recipe::Labels(labels) => labels.get(&*for_message(text)).map(|label| label.as_bytes().to_vec()),
            Recipe::Attributes(attributes) => text_form::record_fields(text).map(|fields| {
                let field = |(place, recipe): &(Option<usize>, Option<Recipe>)| {
                    let value = fields.get((*place)?)?.as_deref()?;
                    Some(recipe.as_ref().map_or_else(|| value.to_vec(), |recipe| recipe.apply(value)))
                };
                text_form::record(&attributes.iter().map(field).collect::<Vec<_>>())
            }),
            Recipe::Elements(recipe) => text_form::map_elements(text, &mut |element| recipe.apply(element)),
            Recipe::Bounds(recipe) => text_form::map_bounds(text, &mut |bound| recipe.apply(bound)),
            Recipe::Ranges(recipe) => text_form::map_all_bounds(text, &mut |bound| recipe.apply(bound)),
        };
        made.unwrap_or_else(|| text.to_vec())
    }
}

/// Definitions of then, those recorded since, and last those of now.
struct Change {
    then: Definitions,
    since: Vec<Definitions>,
}

/// A label or an attribute: its number and what it is called.
type Member<'d> = (u32, &'d str);

impl Change {
    /// None when a text of then is one of now.
    fn recipe(&self, type_oid: pg_sys::Oid) -> Option<Recipe> {
        let base = types::base_type(type_oid);
        let inner = |part| self.recipe(part).map(Box::new);
        match types::structure(base) {
            Structure::Plain => None,
            Structure::Array(element) => inner(element).map(Recipe::Elements),
            Structure::Range(subtype) => inner(subtype).map(Recipe::Bounds),
            Structure::Multirange(range) => match inner(range).map(|recipe| *recipe) {
                Some(Recipe::Bounds(recipe)) => Some(Recipe::Ranges(recipe)),
                _ => None,
            },
            Structure::Enum => {
                let (then, traced) = self.trace_to(base.to_u32())?;
                renamed(&members(then), &traced)
            }
            Structure::Composite => {
                let (_, traced) = self.trace_to(base.to_u32())?;
                let attributes = relation::attributes_of(base);
                let parts = attributes.iter().map(|part| (part.attnum as u32, self.recipe(part.type_oid)));
                rearranged(&traced, parts.collect())
            }
        }
    }

    /// The definition of then of a type of now, and what has become of each member.
    fn trace_to(&self, oid_now: u32) -> Option<(&Definition, Vec<Option<Member<'_>>>)> {
        self.then.iter().find_map(|(oid, then)| {
            let (oid, traced) = self.trace(*oid, then);
            (oid == oid_now).then_some((then, traced))
        })
    }

    /// Follows a type and its members through what was recorded: by number, and where a restore gave new numbers by
    /// name.
    fn trace<'d>(&'d self, mut oid: u32, then: &'d Definition) -> (u32, Vec<Option<Member<'d>>>) {
        let mut traced: Vec<Option<Member>> = members(then).into_iter().map(Some).collect();
        let mut last = then;
        for step in &self.since {
            let numbered = step.get(&oid).filter(|next| same_numbers(last, next));
            let renumbered = || step.iter().find(|(_, next)| next.name == last.name);
            let Some((next_oid, next)) =
                numbered.map(|next| (oid, next)).or_else(|| renumbered().map(|(o, d)| (*o, d)))
            else {
                continue;
            };
            let next_members = members(next);
            for member in &mut traced {
                *member = member.and_then(|(number, name)| {
                    let is_it = |next: &&Member| if numbered.is_some() { next.0 == number } else { next.1 == name };
                    next_members.iter().find(is_it).copied()
                });
            }
            (oid, last) = (next_oid, next);
        }
        (oid, traced)
    }
}

fn members(definition: &Definition) -> Vec<Member<'_>> {
    match &definition.members {
        Members::Labels(labels) => labels.iter().map(|(oid, label)| (*oid, label.as_str())).collect(),
        Members::Attributes(all) => all.iter().map(|(attnum, name, _)| (*attnum as u32, name.as_str())).collect(),
    }
}

/// Whether two definitions under one number are of one type, and not of another that has the number in a restored copy.
fn same_numbers(before: &Definition, after: &Definition) -> bool {
    let (old, new) = (members(before), members(after));
    match (&before.members, &after.members) {
        // A label never goes.
        (Members::Labels(_), Members::Labels(_)) => {
            old.iter().all(|(oid, _)| new.iter().any(|(known, _)| known == oid))
        }
        // A restored copy has no gaps where attributes were dropped.
        (Members::Attributes(_), Members::Attributes(_)) => {
            let moved = |(attnum, name): &Member| new.iter().any(|(number, known)| known == name && number != attnum);
            before.name == after.name && !old.iter().any(moved)
        }
        _ => false,
    }
}

fn renamed(then: &[Member], traced: &[Option<Member>]) -> Option<Recipe> {
    let renamed: BTreeMap<String, String> = then
        .iter()
        .zip(traced)
        .filter_map(|((_, was), now)| now.filter(|(_, is)| is != was).map(|(_, is)| ((*was).into(), is.into())))
        .collect();
    (!renamed.is_empty()).then_some(Recipe::Labels(renamed))
}

/// `parts`: the attributes of now by number, and what is to be done to the text of each.
fn rearranged(traced: &[Option<Member>], parts: Vec<(u32, Option<Recipe>)>) -> Option<Recipe> {
    let place = |number: u32| traced.iter().position(|member| member.is_some_and(|(known, _)| known == number));
    let attributes: Vec<_> = parts.into_iter().map(|(number, part)| (place(number), part)).collect();
    let same = attributes.len() == traced.len()
        && attributes.iter().enumerate().all(|(at, (place, part))| *place == Some(at) && part.is_none());
    (!same).then_some(Recipe::Attributes(attributes))
}

fn definitions_of(type_oid: pg_sys::Oid) -> Definitions {
    let mut found = Definitions::new();
    definition::collect(type_oid, &mut found, &mut Vec::new());
    found
}

/// `threadline.type_definitions(type)` → jsonb; NULL when the type has no labels or attributes.
pub fn type_definitions(call: &mut Call) -> pg_sys::Datum {
    let found = call.oid(0).map(definitions_of).filter(|found| !found.is_empty());
    let json = found.map(|found| serde_json::to_string(&found).expect("definitions serialise"));
    call.return_value(json.map(|json| types::jsonb_datum(&json)))
}

/// `threadline.respelling(type, definitions then, array of those recorded since)` → text, or NULL when nothing is to be done.
pub fn respelling(call: &mut Call) -> pg_sys::Datum {
    let recipe = call.oid(0).zip(call.value(1)).and_then(|(type_oid, then)| {
        let then = serde_json::from_slice(&types::jsonb_text(then)).unwrap_or_default();
        let recorded = call.value(2).and_then(|since| serde_json::from_slice(&types::jsonb_text(since)).ok());
        let mut since: Vec<Definitions> = recorded.unwrap_or_default();
        since.push(definitions_of(type_oid));
        Change { then, since }.recipe(type_oid)
    });
    let text = recipe.map(|recipe| serde_json::to_string(&recipe).expect("recipes serialise"));
    call.return_value(text.map(|text| text_datum(text.as_bytes())))
}

thread_local! {
    /// The recipe read last, by its text: a query applies the same one to row after row.
    static LAST: RefCell<Option<(Vec<u8>, Option<Recipe>)>> = const { RefCell::new(None) };
}

/// `threadline.respell(text, recipe)` → text
pub fn respell(call: &mut Call) -> pg_sys::Datum {
    let Some(text) = call.text(0).map(<[u8]>::to_vec) else { return call.return_null() };
    let made = match call.text(1) {
        None => text,
        Some(recipe) => LAST.with_borrow_mut(|last| {
            if last.as_ref().is_none_or(|(known, _)| known != recipe) {
                *last = Some((recipe.to_vec(), serde_json::from_slice(recipe).ok()));
            }
            match last {
                Some((_, Some(recipe))) => recipe.apply(&text),
                _ => text,
            }
        }),
    };
    call.return_value(Some(text_datum(&made)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mood(labels: &[(u32, &str)]) -> Definition {
        let labels = labels.iter().map(|(oid, label)| (*oid, (*label).into())).collect();
        Definition { name: "public.mood".into(), by_cast: false, members: Members::Labels(labels) }
    }

    fn pair(attributes: &[(i16, &str)]) -> Definition {
        let attributes = attributes.iter().map(|(attnum, name)| (*attnum, (*name).into(), "text".into())).collect();
        Definition { name: "public.pair".into(), by_cast: false, members: Members::Attributes(attributes) }
    }

    /// What becomes of a type that has these numbers and definitions one after the other.
    fn change(steps: Vec<(u32, Definition)>) -> Change {
        let mut steps = steps.into_iter().map(|step| Definitions::from([step]));
        Change { then: steps.next().unwrap(), since: steps.collect() }
    }

    fn labels_of(change: &Change, oid_now: u32) -> Option<Recipe> {
        let (then, traced) = change.trace_to(oid_now).expect("the type is known");
        renamed(&members(then), &traced)
    }

    fn apply(recipe: &Option<Recipe>, text: &str) -> String {
        String::from_utf8(recipe.as_ref().expect("a recipe").apply(text.as_bytes())).unwrap()
    }

    #[test]
    fn a_renamed_label_is_found_by_its_number() {
        let after = mood(&[(3, "added"), (1, "b2"), (2, "old")]);
        let recipe = labels_of(&change(vec![(10, mood(&[(1, "old"), (2, "b")])), (10, after)]), 10);
        assert_eq!(apply(&recipe, "old"), "b2");
        assert_eq!(apply(&recipe, "b"), "old");
        assert_eq!(apply(&recipe, "unknown"), "unknown");
        let same = change(vec![(10, mood(&[(1, "a")])), (10, mood(&[(1, "a"), (2, "b")]))]);
        assert_eq!(labels_of(&same, 10), None);
    }

    #[test]
    fn names_lead_into_a_restored_copy_and_numbers_through_it() {
        let source = [(10, mood(&[(1, "old"), (2, "b")])), (10, mood(&[(1, "new"), (2, "b")]))];
        // The copy may have given the type's number to another type, or to this one.
        for oid in [10, 20] {
            let copy = [(oid, mood(&[(77, "new"), (78, "b")])), (oid, mood(&[(77, "newer"), (78, "new")]))];
            let recipe = labels_of(&change(source.iter().chain(&copy).cloned().collect()), oid);
            assert_eq!([apply(&recipe, "old"), apply(&recipe, "b")], ["newer", "new"]);
        }
    }

    #[test]
    fn attributes_keep_their_values_by_number() {
        let then = pair(&[(1, "a"), (2, "gone"), (3, "c")]);
        let arranged = |steps: Vec<Definition>, parts: Vec<(u32, Option<Recipe>)>| {
            let change = change(steps.into_iter().map(|step| (10, step)).collect());
            let (_, traced) = change.trace_to(10).expect("the type is known");
            rearranged(&traced, parts)
        };
        let shouts = || Some(Recipe::Labels([("x".into(), "y".into())].into()));
        let now = pair(&[(1, "renamed"), (3, "c"), (4, "added")]);
        let recipe = arranged(vec![then.clone(), now.clone()], vec![(1, None), (3, shouts()), (4, None)]);
        assert_eq!(apply(&recipe, "(1,2,x)"), "(1,y,)");
        assert_eq!(apply(&recipe, "no record"), "no record");
        let restored = pair(&[(1, "renamed"), (2, "c"), (3, "added")]);
        let recipe = arranged(vec![then.clone(), now, restored], vec![(1, None), (2, None), (3, None)]);
        assert_eq!(apply(&recipe, "(1,2,x)"), "(1,x,)");
        let only_renamed = pair(&[(1, "z"), (2, "gone"), (3, "c")]);
        assert_eq!(arranged(vec![then, only_renamed], vec![(1, None), (2, None), (3, None)]), None);
    }

    #[test]
    fn recipes_survive_the_query() {
        let recipe = Recipe::Elements(Box::new(Recipe::Attributes(vec![(Some(1), None), (None, None)])));
        let text = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
        assert_eq!(recipe.apply(br#"{"(1,2)",NULL}"#), br#"{"(2,)",NULL}"#);
    }
}
