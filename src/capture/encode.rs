//! From a column's value to its place in an image: a native writer for the common types, the server's own
//! `to_jsonb` for the rest.

use pgrx::pg_sys;

use super::jsonb;
use super::row_key::Part;
use crate::pg::canonical::ToJsonb;
use crate::pg::datum::Value;
use crate::pg::types;

/// How a column's values are written, chosen once per plan by the column's type.
pub enum Encoder {
    Bool,
    Int2,
    Int4,
    Int8,
    Numeric,
    /// text, varchar, char(n): their bytes.
    Text,
    Name,
    Uuid,
    Jsonb,
    /// date, timestamp, timestamptz: ISO text.
    DateTime(pg_sys::Oid),
    /// Everything else.
    Server(ToJsonb),
}

impl Encoder {
    pub fn for_type(type_oid: pg_sys::Oid) -> Encoder {
        match types::base_type(type_oid) {
            pg_sys::BOOLOID => Encoder::Bool,
            pg_sys::INT2OID => Encoder::Int2,
            pg_sys::INT4OID => Encoder::Int4,
            pg_sys::INT8OID => Encoder::Int8,
            pg_sys::NUMERICOID => Encoder::Numeric,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Encoder::Text,
            pg_sys::NAMEOID => Encoder::Name,
            pg_sys::UUIDOID => Encoder::Uuid,
            pg_sys::JSONBOID => Encoder::Jsonb,
            base @ (pg_sys::DATEOID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID) => Encoder::DateTime(base),
            _ => Encoder::Server(ToJsonb::for_type(type_oid)),
        }
    }

    pub fn is_server(&self) -> bool {
        matches!(self, Encoder::Server(_))
    }

    /// Appends the value to an image and says what it is there.
    pub fn append(&self, value: Value, out: &mut Vec<u8>) -> u32 {
        match self {
            Encoder::Bool => jsonb::push_bool(value.as_bool()),
            Encoder::Int2 => jsonb::push_integer(out, value.as_i16().into()),
            Encoder::Int4 => jsonb::push_integer(out, value.as_i32().into()),
            Encoder::Int8 => jsonb::push_integer(out, value.as_i64()),
            Encoder::Numeric => jsonb::push_numeric(out, value.payload()),
            Encoder::Text => jsonb::push_string(out, value.payload()),
            Encoder::Name => jsonb::push_string(out, value.name_bytes()),
            Encoder::Uuid => jsonb::push_uuid(out, &value.uuid()),
            Encoder::Jsonb => jsonb::push_root_container(out, value.payload()),
            Encoder::DateTime(base) => {
                types::iso_datetime(value, *base, out);
                jsonb::STRING
            }
            Encoder::Server(to_jsonb) => jsonb::push_root_container(out, to_jsonb.root_container(value)),
        }
    }

    /// The value's text as a key: what `->>` would give of it in an image, but one text for 1.0 and 1.00.
    pub fn key_text(&self, value: Value) -> Vec<u8> {
        match self {
            Encoder::Int2 => value.as_i16().to_string().into_bytes(),
            Encoder::Int4 => value.as_i32().to_string().into_bytes(),
            Encoder::Int8 => value.as_i64().to_string().into_bytes(),
            Encoder::Numeric => types::numeric_key_text(value),
            Encoder::Text => value.payload().to_vec(),
            _ => self.text_of_image(value),
        }
    }

    fn text_of_image(&self, value: Value) -> Vec<u8> {
        let mut image = Vec::new();
        match self.append(value, &mut image) {
            jsonb::STRING => image,
            jsonb::TRUE => b"true".to_vec(),
            jsonb::FALSE => b"false".to_vec(),
            jsonb::NUMERIC => types::numeric_text(Value::new(image.as_ptr().into())),
            jsonb::CONTAINER => {
                let mut document = Vec::new();
                let start = jsonb::begin_varlena(&mut document);
                document.extend_from_slice(&image);
                jsonb::end_varlena(&mut document, start);
                types::jsonb_text(Value::new(document.as_ptr().into()))
            }
            _ => b"null".to_vec(),
        }
    }

    /// What the key summary needs to know of the value, handed to `use_part`.
    pub fn with_key_part<R>(&self, value: Value, use_part: impl FnOnce(Part) -> R) -> R {
        match self {
            Encoder::Int2 => use_part(Part::Number(value.as_i16().into())),
            Encoder::Int4 => use_part(Part::Number(value.as_i32().into())),
            Encoder::Int8 => use_part(Part::Number(value.as_i64())),
            Encoder::DateTime(pg_sys::DATEOID) => use_part(Part::Number(value.as_i32().into())),
            Encoder::DateTime(_) => use_part(Part::Number(value.as_i64())),
            Encoder::Uuid => use_part(Part::Uuid(&value.uuid())),
            _ => use_part(Part::Text),
        }
    }
}
