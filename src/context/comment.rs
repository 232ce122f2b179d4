//! sqlcommenter tags: `/*key='url-encoded value',…*/` at the end of a query string
//! (https://google.github.io/sqlcommenter/spec/). Pure; what is malformed is no tag, and never an error.

use std::ops::Range;

/// The tags that are kept, in the order in which they are shown.
pub const NAMES: [&str; 5] = ["traceparent", "application", "controller", "action", "route"];
const TRACEPARENT: usize = 0;
const APPLICATION: usize = 1;

/// A longer value is no tag.
const LONGEST: usize = 1024;

/// The values of `NAMES`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags([Option<Vec<u8>>; NAMES.len()]);

impl Tags {
    /// What the last comment of a query string says, if it is the last thing there. `encoded_utf8`: whether text beyond
    /// ASCII, once decoded, is text of the database.
    pub fn of_query(query: &[u8], encoded_utf8: bool) -> Option<Tags> {
        let comment = &query[trailing_comment(query)?];
        let tags = Tags::parse(comment, encoded_utf8)?;
        (!tags.is_empty()).then_some(tags)
    }

    fn parse(comment: &[u8], encoded_utf8: bool) -> Option<Tags> {
        let mut tags = Tags::default();
        let mut rest = comment.trim_ascii();
        loop {
            let equals = rest.iter().position(|byte| *byte == b'=')?;
            let name = decoded(rest[..equals].trim_ascii())?;
            let quoted = rest[equals + 1..].trim_ascii_start().strip_prefix(b"'")?;
            let (value, after) = unquoted(quoted)?;
            if let Some(place) = NAMES.iter().position(|known| known.as_bytes() == name)
                && let Some(value) = decoded(&value).filter(|value| fits(place, value, encoded_utf8))
            {
                tags.0[place].get_or_insert(value);
            }
            rest = after.trim_ascii();
            if rest.is_empty() {
                return Some(tags);
            }
            rest = rest.strip_prefix(b",")?;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The same without what only holds for a single execution.
    pub fn without_trace(mut self) -> Option<Tags> {
        self.0[TRACEPARENT] = None;
        (!self.is_empty()).then_some(self)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        NAMES.iter().zip(&self.0).filter_map(|(name, value)| Some((*name, value.as_deref()?)))
    }

    /// The trace that the statement is a part of (W3C Trace Context: version-trace-parent-flags).
    pub fn trace_id(&self) -> Option<&[u8]> {
        self.0[TRACEPARENT].as_ref().map(|value| &value[3..35])
    }

    pub fn application(&self) -> Option<&[u8]> {
        self.0[APPLICATION].as_deref()
    }
}

fn fits(place: usize, value: &[u8], encoded_utf8: bool) -> bool {
    let is_text = value.is_ascii() || (encoded_utf8 && std::str::from_utf8(value).is_ok());
    !value.is_empty()
        && value.len() <= LONGEST
        && !value.contains(&0)
        && is_text
        && (place != TRACEPARENT || is_traceparent(value))
}

fn is_traceparent(value: &[u8]) -> bool {
    let parts: Vec<&[u8]> = value.split(|byte| *byte == b'-').collect();
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    parts.iter().map(|part| part.len()).eq([2, 32, 16, 2])
        && parts.iter().all(|part| is_hex(part))
        && parts[0] != b"ff"
        && !is_zero(parts[1])
        && !is_zero(parts[2])
}

/// A value up to its closing quote, and what follows it. A quote inside it is escaped by a backslash.
fn unquoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'\'' => return Some((value, &text[at + 1..])),
            b'\\' if text.get(at + 1) == Some(&b'\'') => {
                value.push(b'\'');
                at += 2;
            }
            byte => {
                value.push(*byte);
                at += 1;
            }
        }
    }
}

/// Without URL encoding; None when an escape is malformed.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| (*byte as char).to_digit(16);
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        if *byte == b'%' {
            out.push((digit(text.get(at + 1)?)? * 16 + digit(text.get(at + 2)?)?) as u8);
            at += 3;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    Some(out)
}

/// Where the inside of the comment stands that ends the query string, but for white space and semicolons.
fn trailing_comment(query: &[u8]) -> Option<Range<usize>> {
    let end = query.iter().rposition(|byte| !byte.is_ascii_whitespace() && *byte != b';')? + 1;
    if !query[..end].ends_with(b"*/") {
        return None;
    }
    // Whether that is a comment depends on everything before it.
    let mut at = 0;
    while at < end {
        let rest = &query[at..end];
        at += match rest[0] {
            b'\'' => quoted_length(rest, starts_escape_string(query, at)),
            b'"' => quoted_length(rest, false),
            b'$' if at == 0 || !is_identifier(query[at - 1]) => dollar_quoted_length(rest),
            b'-' if rest.starts_with(b"--") => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with(b"/*") => {
                let length = comment_length(rest)?;
                if at + length == end {
                    return Some(at + 2..end - 2);
                }
                length
            }
            _ => 1,
        };
    }
    None
}

fn is_identifier(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// Whether the quote at `at` opens an `E'…'`, where a backslash hides the next character.
fn starts_escape_string(query: &[u8], at: usize) -> bool {
    at > 0 && matches!(query[at - 1], b'e' | b'E') && (at < 2 || !is_identifier(query[at - 2]))
}

/// A doubled quote ends one literal and starts the next, which comes to the same.
fn quoted_length(text: &[u8], has_escapes: bool) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'\\' if has_escapes => at += 2,
            // In an escape string the literal goes on, with its escapes.
            byte if byte == text[0] && has_escapes && text.get(at + 1) == Some(&byte) => at += 2,
            byte if byte == text[0] => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

fn dollar_quoted_length(text: &[u8]) -> usize {
    let tag_end = text[1..].iter().position(|byte| *byte == b'$' || !is_identifier(*byte)).map(|at| at + 1);
    match tag_end {
        Some(end) if text[end] == b'$' && !text[1].is_ascii_digit() => {
            let tag = &text[..=end];
            let close = text[tag.len()..].windows(tag.len()).position(|found| found == tag);
            close.map_or(text.len(), |at| at + 2 * tag.len())
        }
        _ => 1,
    }
}

/// Comments nest.
fn comment_length(text: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0, 0);
    loop {
        match text.get(at..at + 2)? {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01";

    fn tags(query: &str) -> Vec<(&'static str, String)> {
        let tags = Tags::of_query(query.as_bytes(), true);
        tags.iter()
            .flat_map(Tags::iter)
            .map(|(name, value)| (name, String::from_utf8(value.to_vec()).unwrap()))
            .collect()
    }

    #[test]
    fn tags_at_the_end_of_a_query() {
        let query = format!(
            "UPDATE t SET v = 1 /*action='%2Fparam*d',controller='index',framework='spring',traceparent='{TRACE}'*/"
        );
        let expected = [("traceparent", TRACE.into()), ("controller", "index".into()), ("action", "/param*d".into())];
        assert_eq!(tags(&query), expected);
        assert_eq!(tags(&format!("{query};\n ")), expected);
        let found = Tags::of_query(query.as_bytes(), true).unwrap();
        assert_eq!(found.trace_id(), Some(&b"5bd66ef5095369c7b0d1f8f4bd33716a"[..]));
        assert_eq!(found.without_trace().unwrap().iter().count(), 2);
    }

    #[test]
    fn what_only_looks_like_a_comment() {
        for query in [
            "SELECT '/*route=''a''*/'",
            "SELECT 1 -- /*route='a'*/",
            "SELECT $$ /*route='a'*/",
            "SELECT $x$ /*route='a'*/ $$ */",
            "SELECT \"/*route='a'*/",
            "SELECT E'\\' /*route=''a''*/",
            "/*route='a'*/ SELECT 1",
            "SELECT 1 /* it was /*route='a'*/ once */",
            "SELECT 1 */",
            "*/",
            "",
        ] {
            assert_eq!(tags(query), [], "{query}");
        }
    }

    #[test]
    fn a_comment_after_what_looks_like_one_of_another_kind() {
        for before in [
            "'--'",
            "'it''s'",
            "E'\\'--'",
            "$$ ' $$",
            "$a$ $$ -- $a$",
            "\"-- '\"",
            "/* ' /* \" */ */ 1",
            "a$1",
            "1 -- '\n",
            "'\\'",
        ] {
            assert_eq!(tags(&format!("SELECT {before} /*route='r'*/")), [("route", "r".to_string())], "{before}");
        }
    }

    #[test]
    fn malformed_comments_have_no_tags() {
        for comment in [
            "",
            "route",
            "route=",
            "route='",
            "route='a",
            "route='a' action='b'",
            "route='a',",
            "='a',",
            "route:a",
            "route=\"a\"",
        ] {
            assert_eq!(tags(&format!("SELECT 1 /*{comment}*/")), [], "{comment}");
        }
    }

    #[test]
    fn a_malformed_value_is_left_out() {
        for value in ["%", "%2", "%zz", "", "%00", "%ff", &"x".repeat(LONGEST + 1)] {
            assert_eq!(
                tags(&format!("SELECT 1 /*route='{value}',action='a'*/")),
                [("action", "a".to_string())],
                "{value}"
            );
        }
        for trace in [
            "",
            "00",
            "00-0-0-00",
            &TRACE.to_uppercase(),
            &TRACE.replace("5bd6", "5bg6"),
            &format!("ff{}", &TRACE[2..]),
        ] {
            assert_eq!(tags(&format!("SELECT 1 /*traceparent='{trace}'*/")), [], "{trace}");
        }
        assert_eq!(tags(&format!("SELECT 1 /*traceparent='00-{}-c532cb4098ac3dd2-01'*/", "0".repeat(32))), []);
    }

    #[test]
    fn values_are_decoded() {
        assert_eq!(tags(r"SELECT 1 /*route='it\'s%20Z%C3%B6%27'*/"), [("route", "it's Zö'".to_string())]);
        assert_eq!(tags("SELECT 1 /* route = 'a' , route = 'b' */"), [("route", "a".to_string())]);
        assert_eq!(Tags::of_query("SELECT 1 /*route='%C3%B6'*/".as_bytes(), false), None);
    }
}
