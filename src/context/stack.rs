//! One entry of the server's error context, read: which function was running, and where in it. Pure.
//!
//! Each entry is taken from the server on its own, so that the text of a query, which stands in an entry of its own,
//! cannot pass itself off as a function.

/// What an entry says.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'t> {
    pub function: Function<'t>,
    /// The line in the function's body, or the number of the statement in a function in SQL.
    pub place: Place,
    /// The kind of statement that runs there, in PL/pgSQL.
    pub at: &'t [u8],
}

#[derive(Debug, PartialEq, Eq)]
pub enum Function<'t> {
    /// As `regprocedure` shows it.
    Signature(&'t [u8]),
    /// Its name alone, unquoted.
    Name(&'t [u8]),
    /// An anonymous block, by what the server calls it.
    Block(&'t [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Unknown,
    Line(i32),
    Statement(i32),
}

/// None when the entry tells of no function.
pub fn parse(text: &[u8]) -> Option<Entry<'_>> {
    if let Some(rest) = text.strip_prefix(b"PL/pgSQL function ") {
        return plpgsql(rest);
    }
    if let Some(rest) = text.strip_prefix(b"SQL function \"") {
        let (name, after) = split_last(rest, b"\" ")?;
        let place = after.strip_prefix(b"statement ").and_then(leading_number).map_or(Place::Unknown, Place::Statement);
        return Some(Entry { function: Function::Name(name), place, at: b"" });
    }
    let (language, rest) = split_first(text, b" ")?;
    if !language.starts_with(b"PL/") {
        return None;
    }
    let quoted = [b"function \"".as_slice(), b"procedure \""].into_iter().find_map(|kind| rest.strip_prefix(kind));
    let function = match quoted.and_then(|name| name.strip_suffix(b"\"")) {
        Some(name) => Function::Name(name),
        None if rest == b"anonymous code block" => Function::Block(text),
        None => return None,
    };
    Some(Entry { function, place: Place::Unknown, at: b"" })
}

/// `signature line 3 at SQL statement`, without line at a function's entry and exit. A name may hold anything, what
/// follows it is the server's: so it is read from its end.
fn plpgsql(rest: &[u8]) -> Option<Entry<'_>> {
    let (name, place, at) = match split_last(rest, b" line ") {
        Some((name, after)) if is_name(name) && leading_number(after).is_some() => {
            let at = split_first(after, b" at ").map_or(&b""[..], |(_, at)| at);
            (name, Place::Line(leading_number(after)?), at)
        }
        _ => match rest.strip_prefix(INLINE) {
            Some(_) => (INLINE, Place::Unknown, &b""[..]),
            None => (&rest[..=rest.iter().rposition(|byte| *byte == b')')?], Place::Unknown, &b""[..]),
        },
    };
    let function = if name == INLINE { Function::Block(name) } else { Function::Signature(name) };
    Some(Entry { function, place, at })
}

const INLINE: &[u8] = b"inline_code_block";

fn is_name(name: &[u8]) -> bool {
    name == INLINE || name.ends_with(b")")
}

fn leading_number(text: &[u8]) -> Option<i32> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    std::str::from_utf8(&text[..end]).ok()?.parse().ok()
}

fn split_first<'t>(text: &'t [u8], by: &[u8]) -> Option<(&'t [u8], &'t [u8])> {
    let at = text.windows(by.len()).position(|found| found == by)?;
    Some((&text[..at], &text[at + by.len()..]))
}

fn split_last<'t>(text: &'t [u8], by: &[u8]) -> Option<(&'t [u8], &'t [u8])> {
    let at = text.windows(by.len()).rposition(|found| found == by)?;
    Some((&text[..at], &text[at + by.len()..]))
}

/// `kind:schema.name`. A name of letters, digits, `_` and `$` that starts with none of the last three stands as it is;
/// any other in double quotes, those in it doubled, so that no two names look the same.
pub fn artifact_id(kind: &str, schema: &[u8], name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(kind.len() + schema.len() + name.len() + 6);
    out.extend_from_slice(kind.as_bytes());
    out.push(b':');
    push_name(&mut out, schema);
    out.push(b'.');
    push_name(&mut out, name);
    out
}

/// `fn:schema.name/arity`
pub fn function_id(schema: &[u8], name: &[u8], arguments: i32) -> Vec<u8> {
    let mut out = artifact_id("fn", schema, name);
    out.extend_from_slice(format!("/{arguments}").as_bytes());
    out
}

fn push_name(out: &mut Vec<u8>, name: &[u8]) {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte >= 0x80;
    let starts_well = name.first().is_some_and(|first| is_letter(*first) || *first == b'_');
    if starts_well && name.iter().all(|byte| is_letter(*byte) || byte.is_ascii_digit() || b"_$".contains(byte)) {
        out.extend_from_slice(name);
        return;
    }
    out.push(b'"');
    for byte in name {
        out.extend_from_slice(if *byte == b'"' { b"\"\"" } else { std::slice::from_ref(byte) });
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Entry<'_>> {
        parse(text.as_bytes())
    }

    fn plpgsql_entry<'t>(signature: &'t str, line: i32, at: &'t str) -> Option<Entry<'t>> {
        Some(Entry { function: Function::Signature(signature.as_bytes()), place: Place::Line(line), at: at.as_bytes() })
    }

    #[test]
    fn plpgsql_functions() {
        assert_eq!(
            read("PL/pgSQL function public.f(integer,text) line 3 at SQL statement"),
            plpgsql_entry("public.f(integer,text)", 3, "SQL statement")
        );
        assert_eq!(read("PL/pgSQL function p() line 12 at COMMIT"), plpgsql_entry("p()", 12, "COMMIT"));
        assert_eq!(
            read("PL/pgSQL function f() line 4 during statement block local variable initialization"),
            plpgsql_entry("f()", 4, "")
        );
        let entry = Entry { function: Function::Signature(b"f()"), place: Place::Unknown, at: b"" };
        assert_eq!(read("PL/pgSQL function f() during function exit"), Some(entry));
    }

    #[test]
    fn names_that_look_like_places() {
        let name = "\"f() line 3 at x\".\"my.f \"\"q\"\" line 9 at\"(\"odd type\")";
        assert_eq!(read(&format!("PL/pgSQL function {name} line 7 at EXECUTE")), plpgsql_entry(name, 7, "EXECUTE"));
        let entry = Entry { function: Function::Name(b"g\" statement 2"), place: Place::Statement(1), at: b"" };
        assert_eq!(read("SQL function \"g\" statement 2\" statement 1"), Some(entry));
    }

    #[test]
    fn blocks_and_other_languages() {
        let block =
            |name: &'static str, place| Some(Entry { function: Function::Block(name.as_bytes()), place, at: b"" });
        assert_eq!(
            read("PL/pgSQL function inline_code_block line 2 at SQL statement"),
            Some(Entry { function: Function::Block(INLINE), place: Place::Line(2), at: b"SQL statement" })
        );
        assert_eq!(read("PL/Python anonymous code block"), block("PL/Python anonymous code block", Place::Unknown));
        let named = |name: &'static str| {
            Some(Entry { function: Function::Name(name.as_bytes()), place: Place::Unknown, at: b"" })
        };
        assert_eq!(read("PL/Perl function \"tr\"\"g\""), named("tr\"\"g"));
        assert_eq!(read("PL/Python procedure \"p\""), named("p"));
        assert_eq!(read("SQL function \"f\" during startup"), named("f"));
    }

    #[test]
    fn what_is_no_function() {
        for text in [
            "SQL statement \"UPDATE t SET v = 'PL/pgSQL function public.f() line 1 at SQL statement'\"",
            "SQL statement \"UPDATE t\nPL/pgSQL function f() line 1 at SQL statement\"",
            "PL/pgSQL assignment \"x := 'secret'\"",
            "COPY t, line 1, column v: \"secret\"",
            "processing remote data for replication origin \"pg_1\"",
            "compilation of PL/pgSQL function \"f\" near line 1",
            "",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn no_two_names_have_one_id() {
        let id =
            |schema: &str, name: &str| String::from_utf8(function_id(schema.as_bytes(), name.as_bytes(), 2)).unwrap();
        assert_eq!(id("public", "post_invoice"), "fn:public.post_invoice/2");
        assert_eq!(id("Billing", "größe$1"), "fn:Billing.größe$1/2");
        assert_eq!(id("a.b", "c"), "fn:\"a.b\".c/2");
        assert_eq!(id("a", "b.c"), "fn:a.\"b.c\"/2");
        assert_eq!(id("a", "say \"hi\"/1"), "fn:a.\"say \"\"hi\"\"/1\"/2");
        assert_eq!(id("1a", ""), "fn:\"1a\".\"\"/2");
    }
}
