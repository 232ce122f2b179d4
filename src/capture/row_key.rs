//! The 64-bit summary of a row's key that the log's index is ordered by. It keeps the order of keys where it can,
//! so that new rows of a table land side by side in the index; the stored key decides equality. Pure.
//!
//! These numbers are stored: the rules below may not change once a release has written them.

use sha2::{Digest, Sha256};

/// What is known of a key column's value besides its text.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// Integers, and times as microseconds or days.
    Number(i64),
    Uuid(&'a [u8; 16]),
    Text,
}

/// The summary of a key: `text` is its stored form, `first` its first column, `first_text` that column's text.
pub fn row_key(first: Part, first_text: &[u8], text: &[u8], columns: usize) -> i64 {
    let mut uuid = [0; 16];
    let first = match first {
        Part::Text => plain(first_text, &mut uuid),
        other => other,
    };
    if columns == 1 {
        return match first {
            Part::Number(number) => number,
            Part::Uuid(bytes) => ordered(u64::from_be_bytes(bytes[..8].try_into().expect("8 of 16 bytes"))),
            // Five bytes of prefix keep time-ordered text ids together; three of hash tell apart keys such as
            // ORD-2024-000001 that share a long prefix.
            Part::Text => ordered(prefix(text, 5) << 24 | hash(text) >> 40),
        };
    }
    let leading = match first {
        Part::Number(number) => (number as u32 ^ 0x8000_0000) as u64,
        Part::Uuid(bytes) => prefix(bytes, 4),
        Part::Text => prefix(first_text, 4),
    };
    ordered(leading << 32 | hash(text) >> 32)
}

/// A text that spells an integer or a uuid as these types do counts as one: rows stay where they are when their key
/// column becomes text.
fn plain<'a>(text: &[u8], uuid: &'a mut [u8; 16]) -> Part<'a> {
    match text {
        b"0" | [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..] if text.len() <= 20 => {
            std::str::from_utf8(text).ok().and_then(|digits| digits.parse().ok()).map_or(Part::Text, Part::Number)
        }
        [b'0'..=b'9' | b'a'..=b'f', ..] if text.len() == 36 => {
            let mut nibbles = 0;
            for (at, byte) in text.iter().enumerate() {
                let nibble = match byte {
                    b'-' if matches!(at, 8 | 13 | 18 | 23) => continue,
                    _ if matches!(at, 8 | 13 | 18 | 23) => return Part::Text,
                    b'0'..=b'9' => byte - b'0',
                    b'a'..=b'f' => byte - b'a' + 10,
                    _ => return Part::Text,
                };
                uuid[nibbles / 2] = uuid[nibbles / 2] << 4 | nibble;
                nibbles += 1;
            }
            Part::Uuid(uuid)
        }
        _ => Part::Text,
    }
}

/// Unsigned order as signed order.
fn ordered(bits: u64) -> i64 {
    (bits ^ (1 << 63)) as i64
}

/// The first `count` bytes as a number, short texts padded with zeros.
fn prefix(bytes: &[u8], count: usize) -> u64 {
    (0..count).fold(0, |bits, at| bits << 8 | u64::from(bytes.get(at).copied().unwrap_or(0)))
}

/// FNV-1a with a finaliser, since only its high bits are used.
fn hash(bytes: &[u8]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for byte in bytes {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    state ^= state >> 33;
    state = state.wrapping_mul(0xff51_afd7_ed55_8ccd);
    state ^ state >> 33
}

/// A composite key's stored form: a JSON array of its columns' texts. Bytes above ASCII stand as they are, in the
/// database's encoding.
pub fn composite_text(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + parts.iter().map(|part| part.len() + 3).sum::<usize>());
    out.push(b'[');
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.push(b'"');
        for byte in part {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                0..=0x1f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
                _ => out.push(*byte),
            }
        }
        out.push(b'"');
    }
    out.push(b']');
    out
}

/// Hexadecimal digits of `digest_text`: 160 bits of SHA-256, so that nobody can make two rows pass for one.
pub const DIGEST_DIGITS: usize = 40;

/// What stands for a row of a table without a key: the digest of its recorded values.
pub fn digest_text(values: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    let digest = Sha256::digest(values);
    digest[..DIGEST_DIGITS / 2].iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

pub fn is_digest_text(text: &str) -> bool {
    text.len() == DIGEST_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_stand_for_themselves() {
        assert_eq!(row_key(Part::Number(-7), b"-7", b"-7", 1), -7);
    }

    #[test]
    fn a_key_column_that_becomes_text_keeps_its_rows() {
        for number in [0, -7, 42, i64::MAX, i64::MIN] {
            let text = number.to_string().into_bytes();
            assert_eq!(row_key(Part::Text, &text, &text, 1), row_key(Part::Number(number), &text, &text, 1));
            assert_eq!(row_key(Part::Text, &text, b"[]", 2), row_key(Part::Number(number), &text, b"[]", 2));
        }
        let bytes = [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
        let text = b"00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(row_key(Part::Text, text, text, 1), row_key(Part::Uuid(&bytes), text, text, 1));
        for other in ["007", "-0", "+1", "99999999999999999999", "1.0", "00112233-4455-6677-8899-AABBCCDDEEFF"] {
            let mut uuid = [0; 16];
            assert!(matches!(plain(other.as_bytes(), &mut uuid), Part::Text), "{other}");
        }
    }

    #[test]
    fn uuids_keep_their_order() {
        let (mut low, mut high) = ([0u8; 16], [0u8; 16]);
        low[0] = 0x7f;
        high[0] = 0x80;
        assert!(row_key(Part::Uuid(&low), b"", b"", 1) < row_key(Part::Uuid(&high), b"", b"", 1));
    }

    #[test]
    fn texts_with_a_long_common_prefix_differ() {
        let keys: std::collections::HashSet<i64> = (0..10_000)
            .map(|n| format!("ORD-2024-{n:06}").into_bytes())
            .map(|text| row_key(Part::Text, &text, &text, 1))
            .collect();
        assert!(keys.len() > 9_990, "{}", keys.len());
    }

    #[test]
    fn texts_keep_the_order_of_their_first_bytes() {
        assert!(row_key(Part::Text, b"abcde", b"abcde", 1) < row_key(Part::Text, b"abcdf", b"abcdf", 1));
    }

    #[test]
    fn composite_keys_keep_the_order_of_their_first_column() {
        let key = |first: i64, text: &[u8]| row_key(Part::Number(first), b"", text, 2);
        assert!(key(1, b"[\"1\",\"9\"]") < key(2, b"[\"2\",\"1\"]"));
        assert!(key(-1, b"[\"-1\",\"9\"]") < key(0, b"[\"0\",\"1\"]"));
        assert_ne!(key(1, b"[\"1\",\"1\"]"), key(1, b"[\"1\",\"2\"]"));
    }

    #[test]
    fn composite_text_is_json() {
        let text = composite_text(&[b"a\"b\\c".to_vec(), b"line\nbreak".to_vec()]);
        assert_eq!(text, br#"["a\"b\\c","line\u000abreak"]"#);
    }

    #[test]
    fn digests_are_stored_and_may_not_change() {
        assert_eq!(digest_text(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a3");
        assert!(is_digest_text(&digest_text(b"")));
        assert!(!is_digest_text("ba7816bf"));
        assert!(!is_digest_text(&"X".repeat(DIGEST_DIGITS)));
    }
}
