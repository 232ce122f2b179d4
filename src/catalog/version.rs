//! The shapes a captured table has had. Capture itself notices a new one when it makes its plan, so no DDL
//! goes unrecorded for want of an event trigger.

use pgrx::pg_sys;
use serde::{Deserialize, Serialize};

use super::definition::Definitions;
use super::policy::{Image, KnownNames, Policy, Redaction};
use crate::capture::mask;
use crate::error::Error;
use crate::pg::datum::{Value, for_message, text_datum};
use crate::pg::relation::{self, Column, own_relation};
use crate::pg::{scan, spi, types, user, xact};

/// A column as recorded in threadline.table_version.columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionColumn {
    pub attnum: i16,
    pub name: String,
    #[serde(rename = "type")]
    pub type_name: String,
    /// "mask", "exclude", or "path": parts of it are hidden; absent when the column is recorded as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redact: Option<String>,
    /// What of it is hidden, and behind what: images compare only where both are the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placeholder: Option<String>,
}

impl VersionColumn {
    fn of(policy: &Policy, column: &Column, known: &KnownNames) -> VersionColumn {
        let redaction = policy.redaction(column, known);
        let (paths, placeholder) = match redaction {
            Redaction::Paths => (
                policy.paths(column, known).map(|path| for_message(&mask::text(&path.steps)).into_owned()).collect(),
                Some(for_message(&policy.placeholder).into_owned()),
            ),
            _ => Default::default(),
        };
        VersionColumn {
            attnum: column.attnum,
            name: for_message(&column.name).into_owned(),
            type_name: types::display_name(column.type_oid, column.type_modifier),
            redact: match redaction {
                Redaction::None => None,
                Redaction::Mask => Some("mask".into()),
                Redaction::Exclude => Some("exclude".into()),
                Redaction::Paths => Some("path".into()),
            },
            paths,
            placeholder,
        }
    }
}

/// Columns, and what the enum and composite types among theirs mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub columns: Vec<VersionColumn>,
    pub types: Definitions,
}

/// A recorded shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub number: i32,
    pub table: (Vec<u8>, Vec<u8>),
    pub key: Vec<Vec<u8>>,
    pub shape: Shape,
    /// The cluster that recorded it, and the first xid that it had not yet given out then.
    pub origin: i64,
    pub first_xid: u64,
}

/// The newest recorded shape of a table.
pub fn latest(table_id: i32) -> Result<Option<Version>, Error> {
    let table =
        own_relation(c"table_version").ok_or_else(|| Error::StorageMissing { relation: "table_version".into() })?;
    let mut latest: Option<Version> = None;
    scan::each_current_row(table, |row| {
        let get = |index: usize| row.get(index).expect("a NOT NULL column of table_version");
        let number = get(1).as_i32();
        if get(0).as_i32() != table_id || latest.as_ref().is_some_and(|known| known.number >= number) {
            return;
        }
        latest = Some(Version {
            number,
            table: (get(2).name_bytes().to_vec(), get(3).name_bytes().to_vec()),
            key: scan::names_of(get(4)),
            shape: Shape {
                columns: serde_json::from_slice(&types::jsonb_text(get(5))).unwrap_or_default(),
                types: serde_json::from_slice(&types::jsonb_text(get(10))).unwrap_or_default(),
            },
            origin: get(8).as_i64(),
            first_xid: get(9).as_i64() as u64,
        });
    });
    Ok(latest)
}

/// The shape the table has now.
pub fn current_columns(policy: &Policy, columns: &[Column], known: &KnownNames) -> Vec<VersionColumn> {
    columns.iter().map(|column| VersionColumn::of(policy, column, known)).collect()
}

/// The version that capture records under.
#[derive(Clone, Copy, Debug)]
pub struct Current {
    pub number: i32,
    /// Row versions with this xid or a later one were written in this shape.
    pub first_xid: u64,
    /// This transaction wrote it.
    pub is_ours: bool,
}

/// Records the present shape if it is a new one.
///
/// Two sessions that meet a new shape at once may both record it, under the same number and with the same
/// content: better than one waiting for the other's transaction.
pub fn ensure(
    policy: &Policy,
    latest: Option<&Version>,
    shape: Shape,
    key_names: &[Vec<u8>],
) -> Result<Current, Error> {
    let name = relation::schema_and_name(policy.root)
        .map(|(schema, table)| (schema.into_bytes(), table.into_bytes()))
        .unwrap_or_default();
    let number = match latest {
        Some(version)
            if version.shape == shape
                && version.table == name
                && version.key == key_names
                // In a restored database the old cluster's xids say nothing of a row's age.
                && (policy.options.image == Image::Full || version.origin == xact::system_identifier()) =>
        {
            return Ok(Current { number: version.number, first_xid: version.first_xid, is_ours: false });
        }
        Some(version) => version.number + 1,
        None => 1,
    };
    let from_change = xact::next_block(c"change_id_seq")?;
    let first_xid = xact::next_full_xid();
    let columns = serde_json::to_string(&shape.columns).expect("columns serialise");
    let definitions = serde_json::to_string(&shape.types).expect("definitions serialise");
    let text = |bytes: &[u8]| (pg_sys::TEXTOID, Some(Value::new(text_datum(bytes))));
    user::as_owner(|| {
        spi::execute(
            "INSERT INTO threadline.table_version
                 (table_id, version, schema_name, table_name, key_columns, columns, from_change_id, recorded_at, origin, first_xid, types)
             VALUES ($1, $2, $3::pg_catalog.name, $4::pg_catalog.name, $5::pg_catalog.name[], $6::pg_catalog.jsonb, $7,
                     pg_catalog.clock_timestamp(), $8, $9, $10::pg_catalog.jsonb)",
            &[
                (pg_sys::INT4OID, Some(Value::new(policy.table_id.into()))),
                (pg_sys::INT4OID, Some(Value::new(number.into()))),
                text(&name.0),
                text(&name.1),
                text(array_literal(key_names).as_slice()),
                text(columns.as_bytes()),
                (pg_sys::INT8OID, Some(Value::new(from_change.into()))),
                (pg_sys::INT8OID, Some(Value::new(xact::system_identifier().into()))),
                (pg_sys::XID8OID, Some(Value::new((first_xid as i64).into()))),
                text(definitions.as_bytes()),
            ],
        );
    })?;
    Ok(Current { number, first_xid, is_ours: true })
}

/// `{"a","b"}`
fn array_literal(names: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.push(b'"');
        for byte in name {
            if matches!(byte, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(*byte);
        }
        out.push(b'"');
    }
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_in_array_literals() {
        let names = [b"id".to_vec(), br#"a"b\c"#.to_vec()];
        assert_eq!(array_literal(&names), br#"{"id","a\"b\\c"}"#);
    }

    #[test]
    fn redaction_is_left_out_when_there_is_none() {
        let column = VersionColumn {
            attnum: 1,
            name: "id".into(),
            type_name: "bigint".into(),
            redact: None,
            paths: Vec::new(),
            placeholder: None,
        };
        assert_eq!(serde_json::to_string(&column).unwrap(), r#"{"attnum":1,"name":"id","type":"bigint"}"#);
    }
}
