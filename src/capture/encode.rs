//! From a column's value to its place in an image: written here for the types whose form is simple or frequent,
//! by the type's output function where jsonb holds its text, by the server's own `to_jsonb` for the rest.

use std::rc::Rc;

use pgrx::pg_sys;

use super::jsonb;
use super::mask::Masking;
use super::row_key::Part;
use crate::pg::canonical::{Output, ToJsonb};
use crate::pg::datum::{Storage, Value};
use crate::pg::types::{self, JsonForm, Structure};

/// How a column's values are written, chosen once per plan by the column's type.
pub enum Encoder {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// text, varchar, char(n): their bytes.
    Text,
    Name,
    Bytea,
    Uuid,
    Jsonb,
    /// date, timestamp, timestamptz: ISO text.
    DateTime(pg_sys::Oid),
    Array(Box<Elements>),
    /// The text of the type's output function.
    Output(Output),
    /// What jsonb makes of the text, or where it cannot hold it the text as a string.
    Json(ToJsonb),
    /// The same with parts that are hidden. Of a JSON null alone there is an exact text: any other would show them.
    MaskedJsonb(Rc<Masking>),
    MaskedJson(ToJsonb, Rc<Masking>),
    /// Composite types, and types with a cast to json of their own.
    Server(ToJsonb, Output),
}

/// An array's elements.
pub struct Elements {
    /// The output function of the array.
    output: Output,
    /// The JSON form of some elements cannot be told from another array, or does not keep what they are.
    lossy: bool,
    /// Parts of the elements are hidden, which the array's text would show.
    masked: bool,
    type_oid: pg_sys::Oid,
    storage: Storage,
    align: core::ffi::c_char,
    encoder: Encoder,
}

impl Encoder {
    pub fn for_type(type_oid: pg_sys::Oid) -> Encoder {
        match types::base_type(type_oid) {
            pg_sys::BOOLOID => Encoder::Bool,
            pg_sys::INT2OID => Encoder::Int2,
            pg_sys::INT4OID => Encoder::Int4,
            pg_sys::INT8OID => Encoder::Int8,
            pg_sys::FLOAT4OID => Encoder::Float4,
            pg_sys::FLOAT8OID => Encoder::Float8,
            pg_sys::NUMERICOID => Encoder::Numeric,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Encoder::Text,
            pg_sys::NAMEOID => Encoder::Name,
            pg_sys::BYTEAOID => Encoder::Bytea,
            pg_sys::UUIDOID => Encoder::Uuid,
            pg_sys::JSONBOID => Encoder::Jsonb,
            base @ (pg_sys::DATEOID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID) => Encoder::DateTime(base),
            pg_sys::JSONOID => Encoder::Json(ToJsonb::for_type(pg_sys::JSONOID)),
            base => match types::json_form(base) {
                JsonForm::Array(element) => Encoder::for_array(type_oid, element),
                JsonForm::Text => Encoder::Output(Output::for_type(base)),
                JsonForm::Special => Encoder::for_server(type_oid),
            },
        }
    }

    fn for_server(type_oid: pg_sys::Oid) -> Encoder {
        Encoder::Server(ToJsonb::for_type(type_oid), Output::for_type(type_oid))
    }

    fn for_array(type_oid: pg_sys::Oid, element: pg_sys::Oid) -> Encoder {
        match Encoder::for_type(element) {
            // One call for the whole array.
            Encoder::Server(..) => Encoder::for_server(type_oid),
            encoder => {
                let (storage, align) = types::storage_of(element);
                let output = Output::for_type(type_oid);
                // Of labels the text is kept because they may be renamed: `history::respelling` reads it.
                let lossy = matches!(encoder, Encoder::Json(_) | Encoder::Jsonb | Encoder::Array(_))
                    || types::structure(element) == Structure::Enum;
                Encoder::Array(Box::new(Elements {
                    output,
                    lossy,
                    masked: false,
                    type_oid: element,
                    storage,
                    align,
                    encoder,
                }))
            }
        }
    }

    /// The same for documents with parts that are hidden; None for values that are none.
    pub fn masking(self, masking: &Rc<Masking>) -> Option<Encoder> {
        Some(match self {
            Encoder::Jsonb => Encoder::MaskedJsonb(masking.clone()),
            Encoder::Json(to_jsonb) => Encoder::MaskedJson(to_jsonb, masking.clone()),
            Encoder::Array(elements) => {
                let elements = *elements;
                let encoder = elements.encoder.masking(masking)?;
                Encoder::Array(Box::new(Elements { encoder, masked: true, ..elements }))
            }
            _ => return None,
        })
    }

    /// Whether values of a column of the type depend on the output settings.
    pub fn needs_settings(&self, type_oid: pg_sys::Oid) -> bool {
        match self {
            Encoder::Server(..) => true,
            Encoder::Output(_) => !types::text_is_fixed(type_oid),
            Encoder::Array(elements) => elements.encoder.needs_settings(elements.type_oid),
            _ => false,
        }
    }

    /// Appends the value to an image and says what it is there. Sets `lossy` when that does not read back to the value.
    pub fn append(&self, value: Value, out: &mut Vec<u8>, lossy: &mut bool) -> u32 {
        match self {
            Encoder::Bool => jsonb::push_bool(value.as_bool()),
            Encoder::Int2 => jsonb::push_integer(out, value.as_i16().into()),
            Encoder::Int4 => jsonb::push_integer(out, value.as_i32().into()),
            Encoder::Int8 => jsonb::push_integer(out, value.as_i64()),
            Encoder::Float4 => {
                let value = value.as_f32();
                *lossy |= is_negative_zero(value.into());
                push_float(out, value.into(), types::real_text(value, &mut [0; 32]))
            }
            Encoder::Float8 => {
                let value = value.as_f64();
                *lossy |= is_negative_zero(value);
                push_float(out, value, types::float_text(value, &mut [0; 32]))
            }
            Encoder::Numeric => jsonb::push_numeric(out, value.payload()),
            Encoder::Text => jsonb::push_string(out, value.payload()),
            Encoder::Name => jsonb::push_string(out, value.name_bytes()),
            Encoder::Bytea => jsonb::push_bytea(out, value.payload()),
            Encoder::Uuid => jsonb::push_uuid(out, &value.uuid()),
            Encoder::Jsonb => {
                let kind = jsonb::push_root_container(out, value.payload());
                // SQL NULL looks the same.
                *lossy |= kind == jsonb::NULL;
                kind
            }
            Encoder::DateTime(base) => {
                types::iso_datetime(value, *base, out);
                jsonb::STRING
            }
            Encoder::Array(elements) => elements.append(value, out, lossy),
            Encoder::Output(output) => jsonb::push_string(out, output.text(value)),
            Encoder::Json(to_jsonb) => {
                *lossy = true;
                match to_jsonb.root_container_of_json(value) {
                    Some(root) => jsonb::push_root_container(out, root),
                    None => jsonb::push_string(out, value.payload()),
                }
            }
            Encoder::MaskedJsonb(masking) => {
                let kind = masking.push_root_container(out, value.payload());
                *lossy |= kind == jsonb::NULL;
                kind
            }
            Encoder::MaskedJson(to_jsonb, masking) => {
                let kind = match to_jsonb.root_container_of_json(value) {
                    Some(root) => masking.push_root_container(out, root),
                    // Nobody can tell what of its text the paths lead to.
                    None => jsonb::push_string(out, &masking.placeholder),
                };
                *lossy |= kind == jsonb::NULL;
                kind
            }
            Encoder::Server(to_jsonb, _) => {
                *lossy = true;
                jsonb::push_root_container(out, to_jsonb.root_container(value))
            }
        }
    }

    /// Appends what the type's output function makes of a value that `append` found lossy.
    pub fn push_exact_text(&self, value: Value, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Encoder::Float4 | Encoder::Float8 => b"-0",
            Encoder::Jsonb | Encoder::MaskedJsonb(_) | Encoder::MaskedJson(..) => b"null",
            Encoder::Json(_) => value.payload(),
            Encoder::Array(elements) => elements.output.text(value),
            Encoder::Server(_, output) => output.text(value),
            _ => unreachable!("values of the other encoders are never lossy"),
        });
    }

    /// Whether `push_exact_text` calls an output function that may look at settings.
    pub fn exact_text_needs_settings(&self) -> bool {
        matches!(self, Encoder::Array(_) | Encoder::Server(..))
    }

    /// Appends the value's text as a key: what `->>` would give of it in an image, but one text for 1.0 and 1.00.
    pub fn push_key_text(&self, value: Value, out: &mut Vec<u8>) {
        match self {
            Encoder::Int2 => push_decimal_text(value.as_i16().into(), out),
            Encoder::Int4 => push_decimal_text(value.as_i32().into(), out),
            Encoder::Int8 => push_decimal_text(value.as_i64(), out),
            Encoder::Numeric => out.extend_from_slice(&types::numeric_key_text(value)),
            Encoder::Text => out.extend_from_slice(value.payload()),
            _ => out.extend_from_slice(&self.text_of_image(value)),
        }
    }

    fn text_of_image(&self, value: Value) -> Vec<u8> {
        let mut image = Vec::new();
        match self.append(value, &mut image, &mut false) {
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

impl Elements {
    fn append(&self, array: Value, out: &mut Vec<u8>, lossy: &mut bool) -> u32 {
        let array = types::array_values(array, self.type_oid, self.storage, self.align);
        if self.masked {
            return self.append_dimension(&array.lengths, &array.values, out, &mut false);
        }
        *lossy |= self.lossy || !array.starts_at_one;
        self.append_dimension(&array.lengths, &array.values, out, lossy)
    }

    /// Arrays of arrays, as many deep as there are dimensions.
    fn append_dimension(
        &self,
        lengths: &[usize],
        values: &[Option<Value>],
        out: &mut Vec<u8>,
        lossy: &mut bool,
    ) -> u32 {
        match lengths {
            [] => jsonb::write_array(out, 0, |_, _| jsonb::NULL),
            [_] => jsonb::write_array(out, values.len(), |index, out| match values[index] {
                Some(value) => self.encoder.append(value, out, lossy),
                None => jsonb::NULL,
            }),
            [length, deeper @ ..] => {
                let stride = values.len() / length;
                jsonb::write_array(out, *length, |index, out| {
                    self.append_dimension(deeper, &values[index * stride..(index + 1) * stride], out, lossy)
                })
            }
        }
    }
}

fn is_negative_zero(value: f64) -> bool {
    value.to_bits() == (-0.0f64).to_bits()
}

/// A float, given with its text if it is finite: only then it has a JSON number.
fn push_float(out: &mut Vec<u8>, value: f64, text: &[u8]) -> u32 {
    if value.is_finite() {
        return jsonb::push_decimal(out, text);
    }
    jsonb::push_string(
        out,
        if value.is_nan() {
            b"NaN"
        } else if value > 0.0 {
            b"Infinity"
        } else {
            b"-Infinity"
        },
    )
}

fn push_decimal_text(value: i64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut first = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[first..]);
}
