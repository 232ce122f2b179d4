//! Text written before a label was renamed, or an attribute of a composite type added or dropped, made one that the type
//! reads now. What is to be done is worked out once for a query and a column (`threadline.respelling`), and done to
//! each value (`threadline.respell`).

use std::cell::RefCell;
use std::collections::BTreeMap;

use pgrx::pg_sys;
use serde::{Deserialize, Serialize};

use super::text_form;
use crate::catalog::definition::{self, Definition, Definitions, Members};
use crate::pg::datum::{Value, text_datum};
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

/// Definitions of then and of now.
struct Change {
    then: Definitions,
    /// The last that the cluster recorded in which those of then were: in a restored copy types, labels and attributes
    /// have other numbers, and are found by their last names.
    last: Option<Definitions>,
    now: Definitions,
}

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
            Structure::Enum | Structure::Composite => {
                let now = self.now.get(&base.to_u32())?;
                let (oid, last) = match &self.last {
                    Some(last) => last.iter().find(|(_, known)| known.name == now.name).map(|(o, d)| (*o, Some(d)))?,
                    None => (base.to_u32(), None),
                };
                let then = self.then.get(&oid)?;
                match (&then.members, &now.members) {
                    (Members::Labels(then), Members::Labels(now)) => renamed(then, last, now),
                    (Members::Attributes(then), Members::Attributes(now)) => {
                        let attributes = relation::attributes_of(base);
                        let parts = attributes.iter().map(|attribute| self.recipe(attribute.type_oid));
                        rearranged(then, last, now, parts.collect())
                    }
                    _ => None,
                }
            }
        }
    }
}

fn renamed(then: &[(u32, String)], last: Option<&Definition>, now: &[(u32, String)]) -> Option<Recipe> {
    let labels = match last.map(|last| &last.members) {
        Some(Members::Labels(last)) => last,
        _ => now,
    };
    let renamed: BTreeMap<String, String> = then
        .iter()
        .filter_map(|(oid, label)| {
            let (_, later) = labels.iter().find(|(later, _)| later == oid)?;
            (later != label).then(|| (label.clone(), later.clone()))
        })
        .collect();
    (!renamed.is_empty()).then_some(Recipe::Labels(renamed))
}

fn rearranged(
    then: &[(i16, String, String)],
    last: Option<&Definition>,
    now: &[(i16, String, String)],
    parts: Vec<Option<Recipe>>,
) -> Option<Recipe> {
    let number = |(attnum, name, _): &(i16, String, String)| match last.map(|last| &last.members) {
        Some(Members::Attributes(last)) => last.iter().find(|(_, later, _)| later == name).map(|(attnum, ..)| *attnum),
        _ => Some(*attnum),
    };
    let place = |attribute| number(attribute).and_then(|number| then.iter().position(|(known, ..)| *known == number));
    let attributes: Vec<_> = now.iter().map(place).zip(parts).collect();
    let same = attributes.len() == then.len()
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

/// `threadline.respelling(type, definitions then, last definitions of that cluster or NULL)` → text, or NULL when
/// nothing is to be done.
pub fn respelling(call: &mut Call) -> pg_sys::Datum {
    let definitions =
        |value: Value| -> Definitions { serde_json::from_slice(&types::jsonb_text(value)).unwrap_or_default() };
    let recipe = call.oid(0).zip(call.value(1)).and_then(|(type_oid, then)| {
        let last = call.value(2).map(definitions);
        Change { then: definitions(then), last, now: definitions_of(type_oid) }.recipe(type_oid)
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

    fn labels(labels: &[(u32, &str)]) -> Vec<(u32, String)> {
        labels.iter().map(|(oid, label)| (*oid, (*label).into())).collect()
    }

    fn attributes(attributes: &[(i16, &str)]) -> Vec<(i16, String, String)> {
        attributes.iter().map(|(attnum, name)| (*attnum, (*name).into(), "text".into())).collect()
    }

    fn apply(recipe: &Option<Recipe>, text: &str) -> String {
        String::from_utf8(recipe.as_ref().expect("a recipe").apply(text.as_bytes())).unwrap()
    }

    #[test]
    fn a_renamed_label_is_found_by_its_number() {
        let recipe = renamed(&labels(&[(1, "old"), (2, "b")]), None, &labels(&[(3, "added"), (1, "b2"), (2, "old")]));
        assert_eq!(apply(&recipe, "old"), "b2");
        assert_eq!(apply(&recipe, "b"), "old");
        assert_eq!(apply(&recipe, "unknown"), "unknown");
        assert_eq!(renamed(&labels(&[(1, "a")]), None, &labels(&[(1, "a"), (2, "b")])), None);
    }

    #[test]
    fn in_a_restored_copy_the_last_name_leads_to_the_label() {
        let last =
            Definition { name: "t".into(), by_cast: false, members: Members::Labels(labels(&[(1, "new"), (2, "b")])) };
        let recipe = renamed(&labels(&[(1, "old"), (2, "b")]), Some(&last), &labels(&[(77, "new"), (78, "b")]));
        assert_eq!(apply(&recipe, "old"), "new");
        assert_eq!(apply(&recipe, "b"), "b");
    }

    #[test]
    fn attributes_keep_their_values_by_number() {
        let then = attributes(&[(1, "a"), (2, "gone"), (3, "c")]);
        let now = attributes(&[(1, "renamed"), (3, "c"), (4, "added")]);
        let recipe =
            rearranged(&then, None, &now, vec![None, Some(Recipe::Labels([("x".into(), "y".into())].into())), None]);
        assert_eq!(apply(&recipe, "(1,2,x)"), "(1,y,)");
        assert_eq!(apply(&recipe, "no record"), "no record");
        let renamed_only = attributes(&[(1, "z"), (2, "gone"), (3, "c")]);
        assert_eq!(rearranged(&then, None, &renamed_only, vec![None, None, None]), None);
    }

    #[test]
    fn recipes_survive_the_query() {
        let recipe = Recipe::Elements(Box::new(Recipe::Attributes(vec![(Some(1), None), (None, None)])));
        let text = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
        assert_eq!(recipe.apply(br#"{"(1,2)",NULL}"#), br#"{"(2,)",NULL}"#);
    }
}
