//! Writing jsonb: the bytes that the server's `convertToJsonb` (utils/adt/jsonb_util.c) would write for an object,
//! without building its tree first. Pure: bytes in, bytes out.
//!
//! An object is a header with the number of pairs, one 4-byte entry a key and then one a value, then all keys'
//! bytes and all values' bytes. An entry holds its type and its length, every 32nd its end offset instead.
//! Numbers and containers are aligned to 4 bytes; the padding counts as part of them.

use std::ops::Range;

/// What an entry says its value is. Numbers and containers start at a multiple of 4 (`align`).
pub const STRING: u32 = 0x0000_0000;
pub const NUMERIC: u32 = 0x1000_0000;
pub const FALSE: u32 = 0x2000_0000;
pub const TRUE: u32 = 0x3000_0000;
pub const NULL: u32 = 0x4000_0000;
pub const CONTAINER: u32 = 0x5000_0000;

pub(super) const TYPE_MASK: u32 = 0x7000_0000;
pub(super) const LENGTH_MASK: u32 = 0x0FFF_FFFF;
pub(super) const HAS_OFFSET: u32 = 0x8000_0000;
const OFFSET_STRIDE: usize = 32;

pub(super) const OBJECT: u32 = 0x2000_0000;
const ARRAY: u32 = 0x4000_0000;
pub(super) const SCALAR: u32 = 0x1000_0000;

/// An object would not fit the 28 bits that jsonb has for lengths.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

/// The key half of an object, the same for every object with these keys.
#[derive(Debug)]
pub struct Keys {
    pairs: usize,
    /// Header, entries (those of the values still zero), key bytes.
    head: Vec<u8>,
    length: u32,
}

/// The order jsonb keeps keys in: shorter first, then bytewise.
pub fn key_order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

impl Keys {
    /// `names` are distinct and in `key_order`.
    pub fn new<'n>(names: impl ExactSizeIterator<Item = &'n [u8]> + Clone) -> Keys {
        let pairs = names.len();
        let mut head = Vec::with_capacity(4 + 8 * pairs + 16 * pairs);
        head.extend_from_slice(&(pairs as u32 | OBJECT).to_ne_bytes());
        head.resize(4 + 8 * pairs, 0);
        let mut length = 0;
        for (index, name) in names.enumerate() {
            length += name.len() as u32;
            let entry = entry(index, STRING, name.len() as u32, length);
            head[4 + 4 * index..8 + 4 * index].copy_from_slice(&entry.to_ne_bytes());
            head.extend_from_slice(name);
        }
        Keys { pairs, head, length }
    }
}

pub(super) fn entry(index: usize, kind: u32, length: u32, end: u32) -> u32 {
    if index.is_multiple_of(OFFSET_STRIDE) { kind | end | HAS_OFFSET } else { kind | length }
}

/// Appends a jsonb value (varlena header included) holding an object; says where it stands. `value` appends the
/// value of pair i and returns what it is.
pub fn write_object(
    out: &mut Vec<u8>,
    keys: &Keys,
    mut value: impl FnMut(usize, &mut Vec<u8>) -> u32,
) -> Result<Range<usize>, TooLarge> {
    let start = begin_varlena(out);
    let entries = out.len() + 4;
    out.extend_from_slice(&keys.head);
    let mut end = keys.length;
    for pair in 0..keys.pairs {
        let before = out.len();
        let kind = value(pair, out);
        let length = out.len() - before;
        end = u32::try_from(length)
            .ok()
            .and_then(|length| end.checked_add(length))
            .filter(|end| *end <= LENGTH_MASK)
            .ok_or(TooLarge)?;
        let index = keys.pairs + pair;
        let at = entries + 4 * index;
        out[at..at + 4].copy_from_slice(&entry(index, kind, length as u32, end).to_ne_bytes());
    }
    Ok(end_varlena(out, start))
}

/// Appends an array of `count` values. One that is too large makes the object around it so, and is told there.
pub fn write_array(out: &mut Vec<u8>, count: usize, mut value: impl FnMut(usize, &mut Vec<u8>) -> u32) -> u32 {
    align(out);
    out.extend_from_slice(&(count as u32 | ARRAY).to_ne_bytes());
    let entries = out.len();
    out.resize(entries + 4 * count, 0);
    let mut end = 0u32;
    for index in 0..count {
        let before = out.len();
        let kind = value(index, out);
        let length = (out.len() - before) as u32;
        end = end.wrapping_add(length) & LENGTH_MASK;
        let at = entries + 4 * index;
        out[at..at + 4].copy_from_slice(&entry(index, kind, length & LENGTH_MASK, end).to_ne_bytes());
    }
    CONTAINER
}

/// Starts a varlena at a multiple of 8, so that alignment inside it is alignment in `out`.
pub fn begin_varlena(out: &mut Vec<u8>) -> usize {
    out.resize(out.len().next_multiple_of(8), 0);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    start
}

/// Writes the length of the varlena that started at `start`.
pub fn end_varlena(out: &mut [u8], start: usize) -> Range<usize> {
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&varlena_header(length).to_ne_bytes());
    start..out.len()
}

#[cfg(target_endian = "little")]
fn varlena_header(length: u32) -> u32 {
    length << 2
}

#[cfg(target_endian = "big")]
fn varlena_header(length: u32) -> u32 {
    length & 0x3FFF_FFFF
}

/// Pads to where a number or a container may start.
pub fn align(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends an integer as the numeric the server would make of it: base-10000 digits, trailing zero digits left off.
pub fn push_integer(out: &mut Vec<u8>, value: i64) -> u32 {
    let mut digits = [0u16; 5];
    let mut first = digits.len();
    let mut rest = value.unsigned_abs();
    while rest > 0 {
        first -= 1;
        digits[first] = (rest % 10_000) as u16;
        rest /= 10_000;
    }
    push_digits(out, value < 0, (digits.len() - first) as i16 - 1, 0, &digits[first..])
}

/// Appends a number given as decimal text with an optional exponent, as the server prints a finite float: the
/// numeric that `numeric_in` makes of it.
pub fn push_decimal(out: &mut Vec<u8>, text: &[u8]) -> u32 {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let (mantissa, exponent) = match text.iter().position(|byte| *byte == b'e') {
        Some(at) => (&text[..at], small_number(&text[at + 1..])),
        None => (text, 0),
    };
    let whole = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
    let scale = (mantissa.len().saturating_sub(whole + 1) as i32 - exponent).max(0);
    // The power of ten of the first decimal digit, then that of the first base-10000 digit.
    let power = whole as i32 - 1 + exponent;
    let weight = power.div_euclid(4);
    let mut digits = Vec::with_capacity(8);
    let mut place = 3 - power.rem_euclid(4);
    let mut digit = 0u16;
    for decimal in mantissa.iter().filter(|byte| **byte != b'.') {
        digit = digit * 10 + u16::from(decimal - b'0');
        place += 1;
        if place == 4 {
            digits.push(digit);
            (digit, place) = (0, 0);
        }
    }
    if place > 0 {
        digits.push(digit * 10u16.pow(4 - place as u32));
    }
    push_digits(out, negative, weight as i16, scale as u16, &digits)
}

fn small_number(text: &[u8]) -> i32 {
    let digits = text.iter().filter(|byte| byte.is_ascii_digit());
    let number = digits.fold(0, |number, byte| number * 10 + i32::from(byte - b'0'));
    if text.first() == Some(&b'-') { -number } else { number }
}

/// Appends a numeric of base-10000 digits, the first of them worth 10000^weight, without the zeros at its ends:
/// what the server's `make_result` (utils/adt/numeric.c) writes.
fn push_digits(out: &mut Vec<u8>, negative: bool, mut weight: i16, scale: u16, mut digits: &[u16]) -> u32 {
    while let [0, rest @ ..] = digits {
        digits = rest;
        weight -= 1;
    }
    while let [rest @ .., 0] = digits {
        digits = rest;
    }
    let negative = negative && !digits.is_empty();
    if digits.is_empty() {
        weight = 0;
    }
    align(out);
    if scale <= 0x3F && (-64..64).contains(&weight) {
        let sign = if negative { 0x2000 } else { 0 };
        out.extend_from_slice(&varlena_header(6 + 2 * digits.len() as u32).to_ne_bytes());
        out.extend_from_slice(&(0x8000 | sign | scale << 7 | weight as u16 & 0x7F).to_ne_bytes());
    } else {
        let sign = if negative { 0x4000 } else { 0 };
        out.extend_from_slice(&varlena_header(8 + 2 * digits.len() as u32).to_ne_bytes());
        out.extend_from_slice(&(sign | scale).to_ne_bytes());
        out.extend_from_slice(&weight.to_ne_bytes());
    }
    for digit in digits {
        out.extend_from_slice(&digit.to_ne_bytes());
    }
    NUMERIC
}

/// Appends a stored numeric, given without its varlena header. NaN and the infinities have no JSON number.
pub fn push_numeric(out: &mut Vec<u8>, payload: &[u8]) -> u32 {
    let special = match u16::from_ne_bytes([payload[0], payload[1]]) & 0xF000 {
        0xC000 => "NaN",
        0xD000 => "Infinity",
        0xF000 => "-Infinity",
        _ => "",
    };
    if !special.is_empty() {
        out.extend_from_slice(special.as_bytes());
        return STRING;
    }
    align(out);
    out.extend_from_slice(&varlena_header(4 + payload.len() as u32).to_ne_bytes());
    out.extend_from_slice(payload);
    NUMERIC
}

pub fn push_bool(value: bool) -> u32 {
    if value { TRUE } else { FALSE }
}

pub fn push_string(out: &mut Vec<u8>, bytes: &[u8]) -> u32 {
    out.extend_from_slice(bytes);
    STRING
}

/// Appends a jsonb document given as its root container: a lone scalar becomes the value itself.
pub fn push_root_container(out: &mut Vec<u8>, root: &[u8]) -> u32 {
    let word = |at: usize| u32::from_ne_bytes([root[at], root[at + 1], root[at + 2], root[at + 3]]);
    if word(0) & SCALAR == 0 {
        align(out);
        out.extend_from_slice(root);
        return CONTAINER;
    }
    let kind = word(4) & TYPE_MASK;
    if kind == NUMERIC {
        align(out);
    }
    out.extend_from_slice(&root[8..]);
    kind
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// As bytea_output = hex prints it.
pub fn push_bytea(out: &mut Vec<u8>, bytes: &[u8]) -> u32 {
    out.reserve(2 + 2 * bytes.len());
    out.extend_from_slice(b"\\x");
    for byte in bytes {
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    STRING
}

pub fn push_uuid(out: &mut Vec<u8>, uuid: &[u8; 16]) -> u32 {
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
    STRING
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric_of(value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        assert_eq!(push_integer(&mut out, value), NUMERIC);
        out
    }

    fn words(header: u16, digits: &[u16]) -> Vec<u8> {
        let mut bytes = varlena_header(6 + 2 * digits.len() as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&header.to_ne_bytes());
        digits.iter().for_each(|digit| bytes.extend_from_slice(&digit.to_ne_bytes()));
        bytes
    }

    #[test]
    fn integers_are_short_numerics() {
        assert_eq!(numeric_of(0), words(0x8000, &[]));
        assert_eq!(numeric_of(1), words(0x8000, &[1]));
        assert_eq!(numeric_of(-42), words(0xA000, &[42]));
        assert_eq!(numeric_of(10_000), words(0x8001, &[1]));
        assert_eq!(numeric_of(10_001), words(0x8001, &[1, 1]));
        assert_eq!(numeric_of(i64::MIN), words(0xA004, &[922, 3372, 368, 5477, 5808]));
    }

    fn numeric_of_text(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        assert_eq!(push_decimal(&mut out, text.as_bytes()), NUMERIC);
        out
    }

    #[test]
    fn decimals_keep_scale_and_weight() {
        let scaled = |scale: u16, weight: u16| 0x8000 | scale << 7 | weight & 0x7F;
        assert_eq!(numeric_of_text("0"), words(0x8000, &[]));
        assert_eq!(numeric_of_text("-0"), words(0x8000, &[]));
        assert_eq!(numeric_of_text("-42"), numeric_of(-42));
        assert_eq!(numeric_of_text("0.5"), words(scaled(1, 0xFFFF), &[5000]));
        assert_eq!(numeric_of_text("-12345.678"), words(scaled(3, 1) | 0x2000, &[1, 2345, 6780]));
        assert_eq!(numeric_of_text("1e+20"), words(scaled(0, 5), &[1]));
        assert_eq!(numeric_of_text("1.5e-07"), words(scaled(8, 0xFFFE), &[15]));
        assert_eq!(numeric_of_text("123456e+02"), words(scaled(0, 1), &[1234, 5600]));
    }

    #[test]
    fn a_scale_beyond_the_short_form_takes_the_long_one() {
        let mut long = varlena_header(10).to_ne_bytes().to_vec();
        long.extend_from_slice(&324u16.to_ne_bytes());
        long.extend_from_slice(&(-81i16).to_ne_bytes());
        long.extend_from_slice(&5u16.to_ne_bytes());
        assert_eq!(numeric_of_text("5e-324"), long);
    }

    #[test]
    fn an_array_is_laid_out_as_the_server_does() {
        let mut out = Vec::new();
        let kind = write_array(&mut out, 34, |index, out| match index {
            0 => NULL,
            _ => push_string(out, b"ab"),
        });
        assert_eq!(kind, CONTAINER);
        let word = |n: usize| u32::from_ne_bytes(out[4 * n..4 * n + 4].try_into().unwrap());
        assert_eq!([word(0), word(1), word(2)], [34 | ARRAY, NULL | HAS_OFFSET, STRING | 2]);
        assert_eq!(word(33), STRING | HAS_OFFSET | 64);
        assert_eq!(out.len(), 4 + 4 * 34 + 66);
    }

    #[test]
    fn special_numerics_become_strings() {
        let mut out = Vec::new();
        assert_eq!(push_numeric(&mut out, &0xC000u16.to_ne_bytes()), STRING);
        assert_eq!(push_numeric(&mut out, &0xF000u16.to_ne_bytes()), STRING);
        assert_eq!(out, b"NaN-Infinity");
    }

    #[test]
    fn an_object_is_laid_out_as_the_server_does() {
        let keys = Keys::new([b"a".as_slice(), b"bb".as_slice()].into_iter());
        let mut out = vec![7; 3];
        let place = write_object(&mut out, &keys, |pair, out| match pair {
            0 => push_string(out, b"xy"),
            _ => NULL,
        })
        .unwrap();
        assert_eq!(place, 8..37);
        let word = |n: usize| u32::from_ne_bytes(out[8 + 4 * n..12 + 4 * n].try_into().unwrap());
        assert_eq!(word(0), varlena_header(29));
        assert_eq!(word(1), 2 | OBJECT);
        assert_eq!(word(2), STRING | HAS_OFFSET | 1);
        assert_eq!(word(3), STRING | 2);
        assert_eq!(word(4), STRING | 2);
        assert_eq!(word(5), NULL);
        assert_eq!(&out[32..], b"abbxy");
    }

    #[test]
    fn every_32nd_entry_is_an_offset() {
        let names: Vec<Vec<u8>> = (0..40).map(|n| format!("k{n:02}").into_bytes()).collect();
        let keys = Keys::new(names.iter().map(Vec::as_slice));
        let mut out = Vec::new();
        write_object(&mut out, &keys, |_, out| push_string(out, b"v")).unwrap();
        let word = |n: usize| u32::from_ne_bytes(out[8 + 4 * n..12 + 4 * n].try_into().unwrap());
        assert_eq!(word(0), HAS_OFFSET | 3);
        assert_eq!(word(31), 3);
        assert_eq!(word(32), HAS_OFFSET | (33 * 3));
        assert_eq!(word(64), HAS_OFFSET | (120 + 25));
    }

    #[test]
    fn keys_sort_by_length_first() {
        assert!(key_order(b"z", b"aa").is_lt());
        assert!(key_order(b"ab", b"aa").is_gt());
    }
}
