//! The text forms of composites, arrays, ranges and multiranges (record_out, array_out, range_out, multirange_out): taken
//! apart and put together again around their parts. What is not of the form is None.

/// The fields of a composite.
pub fn record_fields(text: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let inside = text.strip_prefix(b"(")?.strip_suffix(b")")?;
    if inside.is_empty() {
        // No attribute, or one that is NULL: the caller knows which.
        return Some(vec![None]);
    }
    let (mut rest, mut fields) = (inside, Vec::new());
    loop {
        let (field, after) = field(rest, b",")?;
        fields.push(field);
        match after {
            [] => return Some(fields),
            [_, after @ ..] => rest = after,
        }
    }
}

pub fn record(fields: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut out = vec![b'('];
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_field(field.as_deref(), RECORD, &mut out);
    }
    out.push(b')');
    out
}

/// An array, multidimensional or not, each of its elements that is not NULL replaced.
pub fn map_elements(text: &[u8], element: &mut impl FnMut(&[u8]) -> Vec<u8>) -> Option<Vec<u8>> {
    let first = text.iter().position(|byte| *byte == b'{')?;
    let (mut out, mut rest) = (text[..first].to_vec(), &text[first..]);
    while let [byte, after @ ..] = rest {
        if matches!(byte, b'{' | b'}' | b',') {
            out.push(*byte);
            rest = after;
            continue;
        }
        let quoted = *byte == b'"';
        let (value, after) = field(rest, b",}")?;
        let value = value?;
        if !quoted && value.eq_ignore_ascii_case(b"NULL") {
            out.extend_from_slice(b"NULL");
        } else {
            push_field(Some(&element(&value)), ARRAY, &mut out);
        }
        rest = after;
    }
    Some(out)
}

/// A range, its bounds replaced.
pub fn map_bounds(text: &[u8], bound: &mut impl FnMut(&[u8]) -> Vec<u8>) -> Option<Vec<u8>> {
    if text == b"empty" {
        return Some(text.to_vec());
    }
    let mut out = Vec::new();
    map_range(text, bound, &mut out)?.is_empty().then_some(out)
}

/// A multirange, the bounds of its ranges replaced.
pub fn map_all_bounds(text: &[u8], bound: &mut impl FnMut(&[u8]) -> Vec<u8>) -> Option<Vec<u8>> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let [byte, after @ ..] = rest {
        if matches!(byte, b'{' | b'}' | b',') {
            out.push(*byte);
            rest = after;
        } else {
            rest = map_range(rest, bound, &mut out)?;
        }
    }
    Some(out)
}

/// The range that `text` starts with; returns what follows it.
fn map_range<'t>(text: &'t [u8], bound: &mut impl FnMut(&[u8]) -> Vec<u8>, out: &mut Vec<u8>) -> Option<&'t [u8]> {
    let [open @ (b'[' | b'('), rest @ ..] = text else { return None };
    out.push(*open);
    let (low, rest) = field(rest, b",")?;
    push_field(low.map(|low| bound(&low)).as_deref(), RANGE, out);
    out.push(b',');
    let (high, rest) = field(rest.get(1..)?, b")]")?;
    push_field(high.map(|high| bound(&high)).as_deref(), RANGE, out);
    let [close, rest @ ..] = rest else { return None };
    out.push(*close);
    Some(rest)
}

/// A field up to an unquoted byte of `ends`, and what follows from there on. Nothing at all is NULL; inside quotes a
/// quote is doubled or, like anything, escaped by a backslash.
fn field<'t>(text: &'t [u8], ends: &[u8]) -> Option<(Option<Vec<u8>>, &'t [u8])> {
    let (mut value, mut quoted, mut at) = (Vec::new(), false, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'\\' => {
                at += 1;
                value.push(*text.get(at)?);
            }
            b'"' if quoted && text.get(at + 1) == Some(&b'"') => {
                at += 1;
                value.push(b'"');
            }
            b'"' => quoted = !quoted,
            byte if !quoted && ends.contains(byte) => break,
            byte => value.push(*byte),
        }
        at += 1;
    }
    (!quoted).then(|| ((at > 0).then_some(value), &text[at..]))
}

/// How the output function of a form quotes: the bytes that take quotes, whether the word NULL does, and whether a quote
/// or backslash is doubled, not escaped by a backslash.
#[derive(Clone, Copy)]
struct Quoting {
    special: &'static [u8],
    null_is_a_word: bool,
    doubles: bool,
}

const RECORD: Quoting = Quoting { special: b"\"\\(),", null_is_a_word: false, doubles: true };
const ARRAY: Quoting = Quoting { special: b"\"\\{},", null_is_a_word: true, doubles: false };
const RANGE: Quoting = Quoting { special: b"\"\\()[],", null_is_a_word: false, doubles: true };

fn push_field(value: Option<&[u8]>, quoting: Quoting, out: &mut Vec<u8>) {
    let Some(value) = value else { return };
    let is_special = |byte: &u8| quoting.special.contains(byte) || matches!(byte, b' ' | b'\t'..=b'\r');
    let is_word = quoting.null_is_a_word && value.eq_ignore_ascii_case(b"NULL");
    if !value.is_empty() && !is_word && !value.iter().any(is_special) {
        return out.extend_from_slice(value);
    }
    out.push(b'"');
    for byte in value {
        if matches!(byte, b'"' | b'\\') {
            out.push(if quoting.doubles { *byte } else { b'\\' });
        }
        out.push(*byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shout(value: &[u8]) -> Vec<u8> {
        value.to_ascii_uppercase()
    }

    fn text(bytes: Option<Vec<u8>>) -> String {
        String::from_utf8(bytes.expect("of the form")).unwrap()
    }

    #[test]
    fn a_record_has_fields_and_nulls() {
        let fields = record_fields(br#"(1,,"","a ""b"" \\c","(x,""y z"")")"#).unwrap();
        let field = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(fields, [field("1"), None, field(""), field(r#"a "b" \c"#), field(r#"(x,"y z")"#)]);
        let same = br#"(1,,"","a ""b"" \\c","(x,""y z"")")"#;
        assert_eq!(record(&fields), same);
        assert_eq!(record_fields(b"(,)").unwrap(), [None, None]);
        assert_eq!(record_fields(b"()").unwrap(), [None]);
        assert_eq!(record_fields(b"(\"open)"), None);
        assert_eq!(record_fields(b"1,2"), None);
    }

    #[test]
    fn elements_are_replaced_and_nulls_are_not() {
        assert_eq!(text(map_elements(b"{}", &mut shout)), "{}");
        assert_eq!(
            text(map_elements(br#"[0:1][5:6]={{a,"b c"},{NULL,"null"}}"#, &mut shout)),
            r#"[0:1][5:6]={{A,"B C"},{NULL,"NULL"}}"#
        );
        assert_eq!(text(map_elements(br#"{"say \"x\"","a\\b",""}"#, &mut shout)), r#"{"SAY \"X\"","A\\B",""}"#);
        assert_eq!(map_elements(b"no array", &mut shout), None);
    }

    #[test]
    fn bounds_are_replaced_and_infinite_ones_are_not() {
        assert_eq!(text(map_bounds(b"[a,\"so so\")", &mut shout)), "[A,\"SO SO\")");
        assert_eq!(text(map_bounds(b"(,b]", &mut shout)), "(,B]");
        assert_eq!(text(map_bounds(b"empty", &mut shout)), "empty");
        assert_eq!(map_bounds(b"[a,b", &mut shout), None);
        assert_eq!(text(map_all_bounds(b"{[a,b),(c,)}", &mut shout)), "{[A,B),(C,)}");
        assert_eq!(text(map_all_bounds(b"{}", &mut shout)), "{}");
    }
}
