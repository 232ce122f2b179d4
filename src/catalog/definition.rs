//! What the enum and composite types of a table's columns mean: their labels and attributes, by the numbers that stay
//! with them; and which types have a cast to json. Recorded with the table's shape, so that what was written before one was renamed can be read after.

use std::collections::BTreeMap;

use pgrx::pg_sys;
use serde::{Deserialize, Serialize};

use crate::pg::datum::for_message;
use crate::pg::relation;
use crate::pg::types::{self, Structure};

/// By the type's OID.
pub type Definitions = BTreeMap<u32, Definition>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub name: String,
    /// A cast to json makes the JSON form.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_cast: bool,
    #[serde(flatten)]
    pub members: Members,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Members {
    /// OID and label, in the type's order.
    Labels(Vec<(u32, String)>),
    /// Number, name and type, in the type's order.
    Attributes(Vec<(i16, String, String)>),
}

/// Adds the definitions of the enum and composite types that values of a type are made of, and the relations of the
/// composites, whose invalidation says that they changed.
pub fn collect(type_oid: pg_sys::Oid, found: &mut Definitions, relations: &mut Vec<pg_sys::Oid>) {
    let base = types::base_type(type_oid);
    let by_cast = types::has_cast_to_json(base);
    match types::structure(base) {
        Structure::Plain if by_cast => define(base, by_cast, found, Members::Labels(Vec::new())),
        Structure::Plain => {}
        Structure::Array(part) | Structure::Range(part) | Structure::Multirange(part) => {
            collect(part, found, relations)
        }
        Structure::Enum | Structure::Composite if found.contains_key(&base.to_u32()) => {}
        Structure::Enum => define(base, by_cast, found, Members::Labels(types::labels(base))),
        Structure::Composite => {
            relations.extend(relation::of_row_type(base));
            let attributes = relation::attributes_of(base);
            let members = attributes.iter().map(|attribute| {
                let type_name = types::display_name(attribute.type_oid, attribute.type_modifier);
                (attribute.attnum, for_message(&attribute.name).into_owned(), type_name)
            });
            define(base, by_cast, found, Members::Attributes(members.collect()));
            attributes.iter().for_each(|attribute| collect(attribute.type_oid, found, relations));
        }
    }
}

fn define(base: pg_sys::Oid, by_cast: bool, found: &mut Definitions, members: Members) {
    found.insert(base.to_u32(), Definition { name: types::display_name(base, -1), by_cast, members });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_survive_their_recording() {
        let labels = Members::Labels(vec![(16402, "sad".into()), (16404, "it's \"good\"".into())]);
        let attributes = Members::Attributes(vec![(1, "a".into(), "integer".into())]);
        let definitions: Definitions = [(16400, "public.mood", labels), (16410, "public.pair", attributes)]
            .into_iter()
            .map(|(oid, name, members)| (oid, Definition { name: name.into(), by_cast: false, members }))
            .collect();
        let text = serde_json::to_string(&definitions).unwrap();
        assert!(text.starts_with(r#"{"16400":{"name":"public.mood","labels":[[16402,"sad"],"#), "{text}");
        assert_eq!(serde_json::from_str::<Definitions>(&text).unwrap(), definitions);
    }
}
