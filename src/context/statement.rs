//! What made a transaction's changes: its statements, those that are alike folded into one entry. Pure.

use std::rc::Rc;

use super::comment::Tags;
use super::numbers::Numbers;
use super::stack::Place;

/// A transaction has no more entries than this, but for one that stands for all further statements.
const MOST: usize = 1000;

/// All entries together have no more runs of numbers than this beyond one each: those of the entry that would have more
/// become one that spans them.
const MOST_RUNS: usize = 10_000;

/// A function on the call stack.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// `fn:schema.name/arity`, or what the server calls it if that does not tell which function it is.
    pub function: Vec<u8>,
    pub place: Place,
    /// The trigger that called it.
    pub trigger: Option<Trigger>,
    /// It is committing.
    pub commits: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    pub name: Vec<u8>,
    /// `tbl:schema.name`
    pub table: Vec<u8>,
    pub deferrable: bool,
}

/// Why the server ran a statement that nobody sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Cause {
    Trigger {
        trigger: Trigger,
        deferred: bool,
    },
    /// Constraint and action as far as they are certain.
    ForeignKey {
        table: Vec<u8>,
        constraint: Option<Vec<u8>>,
        action: Option<&'static str>,
    },
}

/// All that is known of a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct What {
    /// Of the command that the client sent.
    pub tag: Option<&'static str>,
    /// 0 when the server computes none.
    pub query_id: i64,
    /// Innermost first.
    pub stack: Vec<Rc<Frame>>,
    pub cause: Option<Rc<Cause>>,
    pub tags: Option<Rc<Tags>>,
    pub text: Option<Rc<[u8]>>,
}

impl What {
    /// Whether the command's tag is all.
    fn is_plain(&self) -> bool {
        self.query_id == 0
            && self.stack.is_empty()
            && self.cause.is_none()
            && self.tags.is_none()
            && self.text.is_none()
    }
}

#[derive(Clone, Debug)]
struct Entry {
    what: What,
    numbers: Numbers,
    changes: i64,
    /// Its changes' ops say all that it says.
    plain: bool,
}

/// The statements of one subtransaction that changed something.
#[derive(Clone, Debug, Default)]
pub struct Statements {
    entries: Vec<Entry>,
    /// Statements that may go on, as they interleave (a trigger's with the one that fired it), and their entries.
    recent: [Option<(i32, usize)>; 4],
    next: usize,
    /// Runs of numbers beyond one an entry.
    further_runs: usize,
    /// There were more kinds of statements than entries.
    overflows: bool,
    /// The last tags that said so.
    trace: Option<Rc<Tags>>,
    application: Option<Rc<Tags>>,
}

impl Statements {
    fn recent_entry(&self, number: i32) -> Option<usize> {
        self.recent.iter().flatten().find(|(known, _)| *known == number).map(|(_, entry)| *entry)
    }

    /// Whether `count` knows what to count the statement's changes for.
    pub fn knows(&self, number: i32) -> bool {
        self.recent_entry(number).is_some()
    }

    /// A statement made its first change, or the first after many others did.
    pub fn begin(&mut self, number: i32, what: What) {
        if let Some(tags) = &what.tags {
            self.trace = tags.trace_id().map(|_| tags.clone()).or(self.trace.take());
            self.application = tags.application().map(|_| tags.clone()).or(self.application.take());
        }
        let known = self.find(&what);
        let place = known.unwrap_or_else(|| {
            let plain = what.is_plain();
            self.entries.push(Entry { what, numbers: Numbers::of(number), changes: 0, plain });
            self.entries.len() - 1
        });
        if known.is_some() {
            self.number(place, |numbers| numbers.add(number));
        }
        self.recent[self.next] = Some((number, place));
        self.next = (self.next + 1) % self.recent.len();
    }

    /// Adds to the numbers of an entry.
    fn number(&mut self, place: usize, add: impl FnOnce(&mut Numbers)) {
        let numbers = &mut self.entries[place].numbers;
        self.further_runs -= numbers.further_runs();
        add(numbers);
        if self.further_runs + numbers.further_runs() > MOST_RUNS {
            numbers.widen();
        }
        self.further_runs += numbers.further_runs();
    }

    /// Counts a change of a statement that `knows` knows. `implied_tag`: that of the plain command which makes such a change.
    pub fn count(&mut self, number: i32, implied_tag: &str) {
        if let Some(place) = self.recent_entry(number) {
            let entry = &mut self.entries[place];
            entry.changes += 1;
            entry.plain &= entry.what.tag == Some(implied_tag);
        }
    }

    /// A change that was counted is not in the record after all.
    pub fn uncount(&mut self, number: i32) {
        let counted = |entry: &&mut Entry| entry.changes > 0 && entry.numbers.contains(number);
        if let Some(entry) = self.entries.iter_mut().rfind(counted) {
            entry.changes -= 1;
        }
    }

    /// The entry for a statement: one that is alike, or that of all further statements, if there is one.
    fn find(&mut self, what: &What) -> Option<usize> {
        if self.overflows {
            let place = self.entries[..MOST].iter().rposition(|entry| entry.what == *what);
            return place.or((self.entries.len() > MOST).then_some(MOST));
        }
        let place = self.entries.iter().rposition(|entry| entry.what == *what);
        self.overflows = place.is_none() && self.entries.len() == MOST;
        place
    }

    /// A savepoint was released: its statements are its parent's.
    pub fn absorb(&mut self, child: Statements) {
        self.trace = child.trace.or(self.trace.take());
        self.application = child.application.or(self.application.take());
        for (place, entry) in child.entries.into_iter().enumerate() {
            // The child's first entries, all different, have made this one overflow too, or come to the brink of it.
            let is_others = child.overflows && place == MOST;
            self.overflows |= is_others;
            let known = if is_others { (self.entries.len() > MOST).then_some(MOST) } else { self.find(&entry.what) };
            match known {
                Some(place) => {
                    self.number(place, |numbers| numbers.absorb(&entry.numbers));
                    let own = &mut self.entries[place];
                    own.changes += entry.changes;
                    own.plain &= entry.plain;
                }
                None => {
                    self.further_runs += entry.numbers.further_runs();
                    self.entries.push(entry);
                }
            }
        }
    }

    pub fn trace_id(&self) -> Option<&[u8]> {
        self.trace.as_ref()?.trace_id()
    }

    pub fn application(&self) -> Option<&[u8]> {
        self.application.as_ref()?.application()
    }

    pub fn have_text(&self) -> bool {
        self.entries.iter().any(|entry| entry.what.text.is_some())
    }

    /// As JSON, in the encoding of the database; None when the changes' ops say it all.
    pub fn to_json(&self, with_text: bool) -> Option<Vec<u8>> {
        if self.entries.iter().all(|entry| entry.plain) {
            return None;
        }
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_key(|place| self.entries[*place].numbers.smallest());
        let mut out = Vec::with_capacity(128);
        out.push(b'[');
        for place in order {
            let others = self.overflows && place == MOST;
            self.entries[place].write(&mut out, others, with_text);
            out.push(b',');
        }
        close(&mut out, b']');
        Some(out)
    }
}

impl Entry {
    fn write(&self, out: &mut Vec<u8>, others: bool, with_text: bool) {
        out.extend_from_slice(format!("{{\"no\":{},\"changes\":{}", self.numbers.smallest(), self.changes).as_bytes());
        if self.numbers.count() > 1 {
            out.extend_from_slice(format!(",\"statements\":{},\"ranges\":[", self.numbers.count()).as_bytes());
            for run in self.numbers.runs() {
                out.extend_from_slice(format!("[{},{},{}],", run.first, run.last, run.step).as_bytes());
            }
            close(out, b']');
        }
        if self.numbers.is_widened() {
            out.extend_from_slice(b",\"approximate\":true");
        }
        if others {
            out.extend_from_slice(b",\"others\":true}");
            return;
        }
        if let Some(tag) = self.what.tag {
            push_pair(out, "tag", tag.as_bytes());
        }
        if self.what.query_id != 0 {
            out.extend_from_slice(format!(",\"query_id\":{}", self.what.query_id).as_bytes());
        }
        if !self.what.stack.is_empty() {
            out.extend_from_slice(b",\"stack\":[");
            for frame in &self.what.stack {
                frame.write(out);
                out.push(b',');
            }
            close(out, b']');
        }
        if let Some(cause) = &self.what.cause {
            cause.write(out);
        }
        if let Some(tags) = &self.what.tags {
            out.extend_from_slice(b",\"tags\":{");
            for (name, value) in tags.iter() {
                push_string(out, name.as_bytes());
                out.push(b':');
                push_string(out, value);
                out.push(b',');
            }
            close(out, b'}');
        }
        if let Some(text) = self.what.text.as_ref().filter(|_| with_text) {
            push_pair(out, "text", text);
        }
        out.push(b'}');
    }
}

impl Frame {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"fn\":");
        push_string(out, &self.function);
        match self.place {
            Place::Unknown => {}
            Place::Line(line) => out.extend_from_slice(format!(",\"line\":{line}").as_bytes()),
            Place::Statement(number) => out.extend_from_slice(format!(",\"statement\":{number}").as_bytes()),
        }
        if let Some(trigger) = &self.trigger {
            trigger.write(out);
        }
        out.push(b'}');
    }
}

impl Trigger {
    fn write(&self, out: &mut Vec<u8>) {
        push_pair(out, "trigger", &self.name);
        push_pair(out, "on", &self.table);
    }
}

impl Cause {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"cause\":{\"kind\":");
        match self {
            Cause::Trigger { trigger, deferred } => {
                push_string(out, b"trigger");
                trigger.write(out);
                if *deferred {
                    out.extend_from_slice(b",\"deferred\":true");
                }
            }
            Cause::ForeignKey { table, constraint, action } => {
                push_string(out, b"foreign_key");
                push_pair(out, "on", table);
                if let Some(constraint) = constraint {
                    push_pair(out, "constraint", constraint);
                }
                if let Some(action) = action {
                    push_pair(out, "action", action.as_bytes());
                }
            }
        }
        out.push(b'}');
    }
}

/// Closes a list, in place of the comma after its last item.
fn close(out: &mut Vec<u8>, bracket: u8) {
    if out.last() == Some(&b',') {
        out.pop();
    }
    out.push(bracket);
}

fn push_pair(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    push_string(out, value);
}

/// A JSON string of text in any encoding the server may have, all of which are ASCII in their lower half.
fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn frame(function: &str, line: i32) -> Rc<Frame> {
        Rc::new(Frame { function: function.into(), place: Place::Line(line), trigger: None, commits: false })
    }

    fn at_line(line: i32) -> What {
        What { tag: Some("CALL"), stack: vec![frame("fn:public.f/0", line)], ..What::default() }
    }

    fn shown(statements: &Statements) -> Value {
        serde_json::from_slice(&statements.to_json(false).unwrap()).unwrap()
    }

    #[test]
    fn a_loop_is_folded() {
        let mut statements = Statements::default();
        for turn in 0..10_000 {
            for line in [3, 4] {
                let number = 2 * turn + line - 3;
                statements.begin(number, at_line(line));
                statements.count(number, "UPDATE");
            }
        }
        let entry = |no: i32, line: i32| {
            json!({"no": no, "changes": 10_000, "statements": 10_000, "ranges": [[no, no + 19_998, 2]], "tag": "CALL",
                   "stack": [{"fn": "fn:public.f/0", "line": line}]})
        };
        assert_eq!(shown(&statements), json!([entry(0, 3), entry(1, 4)]));
    }

    #[test]
    fn interleaved_statements_are_known() {
        let mut statements = Statements::default();
        statements.begin(1, at_line(1));
        for inner in 2..5 {
            statements.begin(inner, at_line(9));
            statements.count(inner, "INSERT");
            assert!(statements.knows(1));
            statements.count(1, "UPDATE");
        }
        assert_eq!(shown(&statements)[0]["changes"], 3);
    }

    #[test]
    fn lost_changes_are_not_counted() {
        let mut statements = Statements::default();
        for number in 0..20 {
            statements.begin(number, at_line(number % 2));
            statements.count(number, "UPDATE");
        }
        for lost in [0, 2, 3, 99] {
            statements.uncount(lost);
        }
        let shown = shown(&statements);
        assert_eq!((&shown[0]["changes"], &shown[1]["changes"]), (&json!(8), &json!(9)));
        assert_eq!(shown[0]["statements"], 10);
    }

    #[test]
    fn plain_commands_are_left_out() {
        let plain = |tag| What { tag: Some(tag), ..What::default() };
        let mut statements = Statements::default();
        assert_eq!(statements.to_json(false), None);
        statements.begin(0, plain("UPDATE"));
        statements.count(0, "UPDATE");
        statements.begin(1, plain("DELETE"));
        statements.count(1, "DELETE");
        assert_eq!(statements.to_json(false), None);
        statements.begin(2, plain("INSERT"));
        statements.count(2, "INSERT");
        statements.count(2, "UPDATE");
        let entry = |no: i32, tag: &str, changes: i32| json!({"no": no, "tag": tag, "changes": changes});
        assert_eq!(shown(&statements), json!([entry(0, "UPDATE", 1), entry(1, "DELETE", 1), entry(2, "INSERT", 2)]));
    }

    #[test]
    fn statements_beyond_the_most_share_an_entry() {
        let mut statements = Statements::default();
        let mut child = Statements::default();
        for number in 0..3000 {
            let level = if number < 1500 { &mut statements } else { &mut child };
            level.begin(number, at_line(number));
            level.count(number, "UPDATE");
        }
        statements.absorb(child);
        statements.begin(3000, at_line(7));
        statements.count(3000, "UPDATE");
        let shown = shown(&statements);
        assert_eq!(shown.as_array().unwrap().len(), MOST + 1);
        assert_eq!(shown[7]["changes"], 2);
        let others = &shown[MOST];
        assert_eq!((&others["others"], &others["changes"], &others["no"]), (&json!(true), &json!(2000), &json!(1000)));
        assert_eq!(others.get("stack"), None);
    }

    #[test]
    fn runs_of_numbers_are_bounded() {
        let mut statements = Statements::default();
        for number in 0..100_000 {
            let number = 3 * number + number % 2;
            statements.begin(number, at_line(1));
            statements.count(number, "UPDATE");
        }
        let shown = shown(&statements);
        assert_eq!((&shown[0]["approximate"], &shown[0]["statements"]), (&json!(true), &json!(100_000)));
        assert_eq!(shown[0]["ranges"], json!([[0, 299_998, 1]]));
        assert_eq!(statements.further_runs, 0);
    }

    #[test]
    fn names_of_any_kind_survive() {
        let mut statements = Statements::default();
        let cause = Cause::ForeignKey {
            table: b"tbl:a.\"b\"".into(),
            constraint: Some(b"x\ny".into()),
            action: Some("cascade"),
        };
        let what = What {
            tag: None,
            stack: vec![frame("fn:a.\"q\\\"/0", 1)],
            cause: Some(Rc::new(cause)),
            text: Some(Rc::from(&b"SELECT \t'\"'"[..])),
            ..What::default()
        };
        statements.begin(0, what);
        statements.count(0, "DELETE");
        let shown: Value = serde_json::from_slice(&statements.to_json(true).unwrap()).unwrap();
        let expected = json!([{"no": 0, "changes": 1, "stack": [{"fn": "fn:a.\"q\\\"/0", "line": 1}],
            "cause": {"kind": "foreign_key", "on": "tbl:a.\"b\"", "constraint": "x\ny", "action": "cascade"}, "text": "SELECT \t'\"'"}]);
        assert_eq!(shown, expected);
        assert!(
            statements.have_text()
                && !String::from_utf8(statements.to_json(false).unwrap()).unwrap().contains("SELECT")
        );
    }
}
