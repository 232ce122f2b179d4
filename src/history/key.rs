//! From a key as a caller types it to the form the log stores.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::rc::Rc;

use pgrx::pg_sys;
use serde_json::value::RawValue;

use crate::capture::{image, row_key};
use crate::catalog::cache;
use crate::catalog::plan::Plan;
use crate::error::{Error, OrRaise};
use crate::pg::datum::{bytes_datum, for_message};
use crate::pg::function::Call;
use crate::pg::relation::{self, Row};
use crate::pg::types;

/// `threadline.key_lookup(target, key)` → (table_id, row_key, key)
pub fn key_lookup(call: &mut Call) -> pg_sys::Datum {
    let target = call.oid(0).unwrap_or(pg_sys::InvalidOid);
    let given = call.text(1).map(<[u8]>::to_vec);
    let (table_id, row_key, key) = look_up(target, given.as_deref()).or_raise();
    call.return_row(&mut [Some(table_id.into()), Some(row_key.into()), Some(bytes_datum(&key))])
}

/// `threadline.table_lookup(target)` → table_id: the captured table of a relation.
pub fn table_lookup(call: &mut Call) -> pg_sys::Datum {
    let target = call.oid(0).unwrap_or(pg_sys::InvalidOid);
    let plan = plan_of_history(target).or_raise();
    call.return_value(Some(plan.policy.table_id.into()))
}

/// `threadline.digest_row_key(digest)`
pub fn digest_row_key(call: &mut Call) -> pg_sys::Datum {
    let digest = call.text(0).unwrap_or_default();
    let row_key = row_key::row_key(row_key::Part::Text, digest, digest, 1);
    call.return_value(Some(row_key.into()))
}

/// `threadline.present_shape(target)` → jsonb: the columns of a captured table, as capture would record them now.
pub fn present_shape(call: &mut Call) -> pg_sys::Datum {
    let target = call.oid(0).unwrap_or(pg_sys::InvalidOid);
    let plan = plan_of_history(target).or_raise();
    let columns = serde_json::to_string(plan.shape()).expect("columns serialise");
    let columns = CString::new(columns).expect("JSON has no NUL");
    call.return_value(Some(types::parse(&columns, pg_sys::JSONBOID, -1).datum()))
}

/// The plan of a table that has a history, captured now or once.
pub fn plan_of_history(target: pg_sys::Oid) -> Result<Rc<Plan>, Error> {
    cache::plan(target)?.ok_or_else(|| {
        let table = relation::qualified_name(target);
        if relation::is_own_temporary(target) { Error::Temporary { table } } else { Error::NoHistory { table } }
    })
}

/// The table, row_key and key (as a varlena, header included) of the row that a caller's key stands for.
pub fn look_up(target: pg_sys::Oid, given: Option<&[u8]>) -> Result<(i32, i64, Vec<u8>), Error> {
    let plan = plan_of_history(target)?;
    let names: Vec<String> =
        plan.key.iter().map(|place| for_message(&plan.columns[*place].name).into_owned()).collect();
    let wrong = |detail: String| Error::WrongKey { table: plan.table.clone(), columns: names.clone(), detail };
    let given = given.ok_or_else(|| wrong("The key is NULL.".into()))?;
    if plan.identity.is_some() {
        let digest = given_digest(&for_message(given)).ok_or_else(|| {
            wrong("The table has no key: its rows are known by the digest that table_pk shows.".into())
        })?;
        let mut bytes = Vec::new();
        let key = image::digest_as_key(&digest, &mut bytes);
        return Ok((plan.policy.table_id, key.row_key, bytes[key.text].to_vec()));
    }
    let texts = match texts_of_object(&for_message(given), &names) {
        Some(texts) => texts.map_err(wrong)?,
        None if names.len() == 1 => vec![for_message(given).into_owned()],
        None => return Err(wrong(format!("The key has {} columns, one value was given.", names.len()))),
    };
    let mut values = vec![None; plan.columns.iter().map(|column| column.index + 1).max().unwrap_or(0)];
    for (place, text) in plan.key.iter().zip(texts) {
        let column = &plan.columns[*place];
        let text = CString::new(text).map_err(|_| wrong("A key value holds a NUL character.".into()))?;
        values[column.index] = Some(types::parse(&text, column.type_oid, column.type_modifier));
    }
    let mut bytes = Vec::new();
    let key = image::with_settings_of(&plan, || image::key(&plan, &Row::of_values(values), &mut bytes))?;
    Ok((plan.policy.table_id, key.row_key, bytes[key.text].to_vec()))
}

/// The digest of a row of a table without a key, as such or as `{"full_row": "…"}`.
fn given_digest(given: &str) -> Option<String> {
    let text = match texts_of_object(given, &["full_row".to_owned()]) {
        Some(texts) => texts.ok()?.pop()?,
        None => given.to_owned(),
    };
    row_key::is_digest_text(&text).then_some(text)
}

/// The values of a JSON object that names the key columns, in their order. None when `given` is to be read as a
/// plain value: it is no JSON object, or the key is one column and the object names another.
fn texts_of_object(given: &str, names: &[String]) -> Option<Result<Vec<String>, String>> {
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(given.trim_start()).ok()?;
    let matches = fields.len() == names.len() && names.iter().all(|name| fields.contains_key(name));
    if !matches {
        let found: Vec<&str> = fields.keys().map(String::as_str).collect();
        return Some(Err(format!("The object names: {}.", found.join(", "))));
    }
    names
        .iter()
        .map(|name| match fields[name].get() {
            "null" => Err(format!("Key column \"{name}\" is null.")),
            raw if raw.starts_with('"') => {
                serde_json::from_str::<String>(raw).map_err(|error| format!("Key column \"{name}\": {error}."))
            }
            raw => Ok(raw.to_owned()),
        })
        .collect::<Result<Vec<String>, String>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn numbers_keep_their_digits() {
        let texts = texts_of_object(r#"{"id": 12345678901234567890.10}"#, &names(&["id"])).unwrap().unwrap();
        assert_eq!(texts, ["12345678901234567890.10"]);
    }

    #[test]
    fn values_come_in_the_order_of_the_key() {
        let texts = texts_of_object(r#"{"line_no": 2, "order_id": "x\"y"}"#, &names(&["order_id", "line_no"]));
        assert_eq!(texts.unwrap().unwrap(), ["x\"y", "2"]);
    }

    #[test]
    fn wrong_columns_are_named() {
        let error = texts_of_object(r#"{"order": 1}"#, &names(&["id"])).unwrap().unwrap_err();
        assert_eq!(error, "The object names: order.");
        assert!(texts_of_object(r#"{"id": null}"#, &names(&["id"])).unwrap().is_err());
    }

    #[test]
    fn what_is_no_object_is_a_plain_value() {
        assert!(texts_of_object("42", &names(&["id"])).is_none());
        assert!(texts_of_object("{not json", &names(&["id"])).is_none());
    }

    #[test]
    fn digests_come_bare_or_named() {
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a3";
        assert_eq!(given_digest(digest).unwrap(), digest);
        assert_eq!(given_digest(&format!(r#"{{"full_row": "{digest}"}}"#)).unwrap(), digest);
        assert!(given_digest(r#"{"id": 1}"#).is_none());
        assert!(given_digest("42").is_none());
    }
}
