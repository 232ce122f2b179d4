//! Masking inside JSON documents: paths, and documents without what they lead to. Pure.
//!
//! A path is a column and at least one step, separated by dots; a step names an object's key. What holds a dot or a
//! quote stands in double quotes, doubled inside: `meta."a.b".c`. Letters' case counts, quoted or not. A step into an array is
//! one into each of its elements, however deep arrays are nested. Where a path leads nowhere nothing is masked or added.

use super::jsonb::{self, CONTAINER, LENGTH_MASK, NUMERIC, OBJECT, SCALAR, TYPE_MASK};

/// Where paths lead from here.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Paths {
    masked: bool,
    below: Vec<(Vec<u8>, Paths)>,
}

impl Paths {
    pub fn new<'p>(paths: impl Iterator<Item = &'p [Vec<u8>]>) -> Paths {
        let mut all = Paths::default();
        for steps in paths {
            let mut at = &mut all;
            for step in steps {
                let place = at.below.iter().position(|(key, _)| key == step).unwrap_or_else(|| {
                    at.below.push((step.clone(), Paths::default()));
                    at.below.len() - 1
                });
                at = &mut at.below[place].1;
            }
            at.masked = true;
        }
        all
    }

    fn step(&self, key: &[u8]) -> Option<&Paths> {
        self.below.iter().find(|(known, _)| known == key).map(|(_, paths)| paths)
    }
}

/// The column and the steps of a path as it is written.
pub fn parse(path: &[u8]) -> Vec<Vec<u8>> {
    let mut steps = vec![Vec::new()];
    let mut quoted = false;
    let mut bytes = path.iter().peekable();
    while let Some(byte) = bytes.next() {
        let step = steps.last_mut().expect("there is always one");
        match byte {
            b'"' if quoted && bytes.peek() == Some(&&b'"') => step.extend(bytes.next()),
            b'"' => quoted = !quoted,
            b'.' if !quoted => steps.push(Vec::new()),
            _ => step.push(*byte),
        }
    }
    steps
}

/// Steps as they are written.
pub fn text(steps: &[Vec<u8>]) -> Vec<u8> {
    let mut text = Vec::new();
    for (place, step) in steps.iter().enumerate() {
        if place > 0 {
            text.push(b'.');
        }
        if !step.is_empty() && !step.iter().any(|byte| matches!(byte, b'.' | b'"')) {
            text.extend_from_slice(step);
            continue;
        }
        text.push(b'"');
        for byte in step {
            text.push(*byte);
            if *byte == b'"' {
                text.push(b'"');
            }
        }
        text.push(b'"');
    }
    text
}

/// What hides parts of a column's documents.
#[derive(Debug)]
pub struct Masking {
    pub paths: Paths,
    pub placeholder: Vec<u8>,
}

impl Masking {
    /// Appends a jsonb document given as its root container, as `jsonb::push_root_container` does, masked.
    pub fn push_root_container(&self, out: &mut Vec<u8>, root: &[u8]) -> u32 {
        if word(root, 0) & SCALAR != 0 {
            // No path leads into a lone scalar.
            return jsonb::push_root_container(out, root);
        }
        self.push_container(&self.paths, root, out)
    }

    fn push_container(&self, paths: &Paths, source: &[u8], out: &mut Vec<u8>) -> u32 {
        let header = word(source, 0);
        let is_object = header & OBJECT != 0;
        let count = (header & LENGTH_MASK) as usize;
        let entries = if is_object { 2 * count } else { count };
        let data = &source[4 + 4 * entries..];
        jsonb::align(out);
        out.extend_from_slice(&source[..4]);
        let entries_at = out.len();
        out.resize(entries_at + 4 * entries, 0);
        let mut keys = Vec::with_capacity(if is_object { count } else { 0 });
        let (mut start, mut end_written) = (0, 0u32);
        for index in 0..entries {
            let entry = word(source, 4 + 4 * index);
            let field = (entry & LENGTH_MASK) as usize;
            let end = if entry & jsonb::HAS_OFFSET != 0 { field } else { start + field };
            let before = out.len();
            let kind = if is_object && index < count {
                keys.push(&data[start..end]);
                jsonb::push_string(out, &data[start..end])
            } else {
                let kind = entry & TYPE_MASK;
                let padded = matches!(kind, NUMERIC | CONTAINER);
                let from = if padded { start.next_multiple_of(4) } else { start };
                let below = if is_object { paths.step(keys[index - count]) } else { Some(paths) };
                self.push_value(below, kind, &data[from..end], out)
            };
            let length = (out.len() - before) as u32;
            end_written = end_written.wrapping_add(length) & LENGTH_MASK;
            let entry = jsonb::entry(index, kind, length & LENGTH_MASK, end_written);
            out[entries_at + 4 * index..][..4].copy_from_slice(&entry.to_ne_bytes());
            start = end;
        }
        CONTAINER
    }

    fn push_value(&self, paths: Option<&Paths>, kind: u32, bytes: &[u8], out: &mut Vec<u8>) -> u32 {
        match paths {
            Some(paths) if paths.masked => jsonb::push_string(out, &self.placeholder),
            Some(paths) if kind == CONTAINER => self.push_container(paths, bytes, out),
            _ => {
                if matches!(kind, NUMERIC | CONTAINER) {
                    jsonb::align(out);
                }
                out.extend_from_slice(bytes);
                kind
            }
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::super::jsonb::{Keys, push_integer, push_string, write_array, write_object};
    use super::*;

    fn steps(path: &str) -> Vec<String> {
        parse(path.as_bytes()).into_iter().map(|step| String::from_utf8(step).unwrap()).collect()
    }

    #[test]
    fn quotes_hold_dots_and_quotes() {
        assert_eq!(steps("meta.card.number"), ["meta", "card", "number"]);
        assert_eq!(steps(r#"meta."a.b".c"#), ["meta", "a.b", "c"]);
        assert_eq!(steps(r#""a""b"."".X"#), [r#"a"b"#, "", "X"]);
        for path in ["meta.card", r#"meta."a.b".c"#, r#""a""b"."".X"#] {
            assert_eq!(text(&parse(path.as_bytes())), path.as_bytes());
        }
    }

    type Write<'w> = &'w dyn Fn(&mut Vec<u8>) -> u32;

    /// A document's root container.
    fn object(pairs: &[(&str, Write)]) -> Vec<u8> {
        let keys = Keys::new(pairs.iter().map(|(key, _)| key.as_bytes()));
        let mut out = Vec::new();
        let place = write_object(&mut out, &keys, |pair, out| pairs[pair].1(out)).unwrap();
        out[place][4..].to_vec()
    }

    /// The same behind the bytes that a varlena's header takes in an image.
    fn masked(paths: &[&str], root: &[u8]) -> Vec<u8> {
        let paths: Vec<Vec<Vec<u8>>> = paths.iter().map(|path| parse(path.as_bytes())).collect();
        let masking =
            Masking { paths: Paths::new(paths.iter().map(Vec::as_slice)), placeholder: b"[REDACTED]".to_vec() };
        let mut out = Vec::new();
        assert_eq!(masking.push_root_container(&mut out, root), CONTAINER);
        out
    }

    #[test]
    fn a_document_that_no_path_leads_into_stays_as_it_is() {
        let names: Vec<String> = (0..70).map(|n| format!("k{n:02}")).collect();
        let number = |out: &mut Vec<u8>| push_integer(out, 12_345_678_901);
        let word = |out: &mut Vec<u8>| push_string(out, b"abcde");
        let pairs: Vec<(&str, Write)> = names
            .iter()
            .enumerate()
            .map(|(n, name)| (name.as_str(), if n % 3 == 0 { &number as _ } else { &word as Write }))
            .collect();
        let root = object(&pairs);
        assert_eq!(masked(&["k99", "k01.deeper"], &root), root);
    }

    #[test]
    fn every_element_of_an_array_is_masked() {
        let card = |secret: &'static str| {
            move |out: &mut Vec<u8>| {
                let root =
                    object(&[("n", &|out| push_string(out, secret.as_bytes())), ("kept", &|out| push_integer(out, 7))]);
                jsonb::push_root_container(out, &root)
            }
        };
        let cards = |first: &'static str, second: &'static str| {
            object(&[("cards", &|out| {
                write_array(out, 3, |index, out| match index {
                    0 => card(first)(out),
                    1 => write_array(out, 1, |_, out| card(second)(out)),
                    _ => push_string(out, b"loose"),
                })
            })])
        };
        assert_eq!(masked(&["cards.n"], &cards("4111", "42")), cards("[REDACTED]", "[REDACTED]"));
        assert_ne!(masked(&["cards.kept"], &cards("4111", "42")), cards("4111", "42"));
    }

    #[test]
    fn the_shorter_of_two_paths_takes_the_whole_value() {
        let root = object(&[("a", &|out| jsonb::push_root_container(out, &object(&[("b", &|_| jsonb::NULL)])))]);
        let whole = object(&[("a", &|out| push_string(out, b"[REDACTED]"))]);
        let inside = object(&[("a", &|out| {
            jsonb::push_root_container(out, &object(&[("b", &|out| push_string(out, b"[REDACTED]"))]))
        })]);
        assert_eq!(masked(&["a.b", "a"], &root), whole);
        assert_eq!(masked(&["a", "a.b"], &root), whole);
        assert_eq!(masked(&["a.b"], &root), inside, "null is masked too");
    }
}
