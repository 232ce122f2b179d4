//! Looks at the server when a statement makes its first change: which command the client sent, which functions are
//! running, and why. Never asked for each row.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys;

use super::comment::Tags;
use super::settings::{self, CaptureQuery};
use super::stack::{self, Function};
use super::statement::{Cause, Frame, Trigger, What};
use crate::pg::call_stack::{self, Running};
use crate::pg::{catalog_names, statement, xact};

/// What asks, and so what can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The row trigger of a relation, for a row that was updated or deleted, or that arrived in another way.
    ByRow { relation: pg_sys::Oid, updates: bool, deletes: bool },
    /// The command itself.
    ByCommand,
    /// Nothing that runs together with the statement.
    Later,
}

/// Functions shown of a call stack, innermost first.
const DEEPEST: usize = 64;
/// Frames a session keeps; a program has not that many places that write.
const KEPT_FRAMES: usize = 2000;
/// Bytes kept of a statement's text.
const LONGEST_TEXT: usize = 4096;

thread_local! {
    static SAID: RefCell<Said> = RefCell::default();
    static FRAMES: RefCell<HashMap<Vec<u8>, Rc<Frame>>> = RefCell::default();
    /// The foreign key found last, and what was asked: a cascade deletes row after row.
    static FOREIGN_KEY: RefCell<Option<(ForeignKeyAsked, Option<Rc<Cause>>)>> = const { RefCell::new(None) };
}

/// What a query string says beside the command, as last looked at.
#[derive(Default)]
struct Said {
    of: Option<((usize, i64), bool, CaptureQuery)>,
    tags: Option<Rc<Tags>>,
    text: Option<Rc<[u8]>>,
}

pub fn of_statement(number: i32, asked: Asked) -> What {
    if asked == Asked::Later {
        return What::default();
    }
    let capture = settings::capture_query();
    let top = statement::top_command();
    let (tags, text) = said(top.sent_now, capture);
    let stack = if call_stack::is_empty() { Vec::new() } else { functions() };
    let cause = foreign_key(number, asked).or_else(|| trigger(&stack, top.over));
    let query_id = if capture == CaptureQuery::Off { 0 } else { statement::query_id() };
    What { tag: top.tag, query_id, stack, cause, tags, text }
}

/// The transaction is over.
pub fn forget() {
    FOREIGN_KEY.set(None);
}

fn said(sent_now: bool, capture: CaptureQuery) -> (Option<Rc<Tags>>, Option<Rc<[u8]>>) {
    let of = Some((statement::query_identity(), sent_now, capture));
    SAID.with_borrow_mut(|said| {
        if said.of != of {
            let (tags, text) = statement::with_query_string(|query| {
                let ends_in_comment =
                    query.ends_with(b"*/") || query.last().is_some_and(|last| b"; \t\r\n".contains(last));
                let tags = if ends_in_comment { Tags::of_query(query, statement::database_is_utf8()) } else { None };
                let text = (capture == CaptureQuery::Text).then(|| Rc::from(beginning(query)));
                (tags, text)
            })
            .unwrap_or_default();
            // A prepared statement's comment was written once, for whatever was traced then.
            let tags = if sent_now { tags } else { tags.and_then(Tags::without_trace) };
            *said = Said { of, tags: tags.map(Rc::new), text };
        }
        (said.tags.clone(), said.text.clone())
    })
}

/// As much of a text as is kept, cut where a character may end.
fn beginning(text: &[u8]) -> &[u8] {
    if text.len() <= LONGEST_TEXT {
        return text;
    }
    let end = (0..=LONGEST_TEXT).rev().find(|end| text[end - 1].is_ascii()).unwrap_or(0);
    &text[..end]
}

fn functions() -> Vec<Rc<Frame>> {
    if call_stack::names_changed() {
        FRAMES.with_borrow_mut(HashMap::clear);
    }
    let mut found = Vec::new();
    call_stack::each_entry(DEEPEST, |text, running| match frame(text, running) {
        Some(frame) => {
            found.push(frame);
            true
        }
        None => false,
    });
    found
}

/// What an entry says, in our words; the same for the same place in the same function.
fn frame(text: &[u8], running: Option<&Running>) -> Option<Rc<Frame>> {
    let mut key = text.to_vec();
    if let Some(running) = running {
        key.extend_from_slice(&running.function.to_u32().to_ne_bytes());
        if let Some(trigger) = &running.trigger {
            key.extend_from_slice(&trigger.schema.to_u32().to_ne_bytes());
            for name in [&trigger.table, &trigger.name] {
                key.push(0);
                key.extend_from_slice(name);
            }
        }
    }
    if let Some(known) = FRAMES.with_borrow(|frames| frames.get(&key).cloned()) {
        return Some(known);
    }
    let frame = Rc::new(new_frame(text, running)?);
    FRAMES.with_borrow_mut(|frames| {
        if frames.len() >= KEPT_FRAMES {
            frames.clear();
        }
        frames.insert(key, frame.clone());
    });
    Some(frame)
}

fn new_frame(text: &[u8], running: Option<&Running>) -> Option<Frame> {
    let entry = stack::parse(text)?;
    let function = match entry.function {
        Function::Block(name) => name.to_vec(),
        Function::Signature(signature) => {
            running.and_then(|running| function_id(running.function)).unwrap_or_else(|| signature.to_vec())
        }
        Function::Name(name) => {
            catalog_names::only_function_named(name).and_then(function_id).unwrap_or_else(|| text.to_vec())
        }
    };
    let trigger = running.and_then(|running| running.trigger.as_ref()).map(|trigger| Trigger {
        name: trigger.name.clone(),
        table: table_id(trigger.schema, &trigger.table),
        deferrable: trigger.deferrable,
    });
    Some(Frame { function, place: entry.place, trigger, commits: entry.at == b"COMMIT" })
}

fn function_id(function: pg_sys::Oid) -> Option<Vec<u8>> {
    let name = catalog_names::function_name(function)?;
    Some(stack::function_id(&name.schema, &name.name, name.arguments))
}

fn table_id(schema: pg_sys::Oid, name: &[u8]) -> Vec<u8> {
    stack::artifact_id("tbl", &catalog_names::schema_name(schema).unwrap_or_default(), name)
}

/// The innermost trigger on the stack. Only a deferrable one can run when its command is over.
fn trigger(stack: &[Rc<Frame>], over: bool) -> Option<Rc<Cause>> {
    let place = stack.iter().position(|frame| frame.trigger.is_some())?;
    let trigger = stack[place].trigger.clone()?;
    let committing = over || stack.get(place + 1).is_some_and(|caller| caller.commits);
    let deferred = trigger.deferrable && committing;
    Some(Rc::new(Cause::Trigger { trigger, deferred }))
}

/// Everything the answer depends on: between two statements anything may change.
type ForeignKeyAsked = (Asked, u32);

/// The triggers of a statement's rows are called while the statement's own snapshot is active, so a row that another
/// command wrote was written by a query that leaves its triggers to the statement around it: the server's queries for
/// foreign keys do, and nothing else that is known.
fn foreign_key(number: i32, asked: Asked) -> Option<Rc<Cause>> {
    let Asked::ByRow { relation, updates, deletes } = asked else { return None };
    let outer = xact::snapshot_command();
    if number as u32 == outer || outer == u32::MAX {
        return None;
    }
    let question = (asked, outer);
    let known = FOREIGN_KEY.with_borrow(|known| known.clone().filter(|(asked, _)| *asked == question));
    if let Some((_, answer)) = known {
        return answer;
    }
    let answer = foreign_key_action(relation, updates, deletes).map(Rc::new);
    FOREIGN_KEY.set(Some((question, answer.clone())));
    answer
}

fn foreign_key_action(relation: pg_sys::Oid, updates: bool, deletes: bool) -> Option<Cause> {
    let action = |kind: u8| match kind {
        b'c' => Some("cascade"),
        b'n' => Some("set null"),
        b'd' => Some("set default"),
        _ => None,
    };
    let mut candidates = Vec::new();
    for key in catalog_names::foreign_keys(relation) {
        let on_delete =
            action(key.on_delete).filter(|action| (*action == "cascade") == deletes && (deletes || updates));
        let on_update = action(key.on_update).filter(|_| updates);
        candidates.extend(on_delete.into_iter().chain(on_update).map(|action| (key.name.clone(), action)));
    }
    let (first_name, first_action) = candidates.first()?.clone();
    let same_name = candidates.iter().all(|(name, _)| *name == first_name);
    let same_action = candidates.iter().all(|(_, action)| *action == first_action);
    Some(Cause::ForeignKey {
        table: crate::pg::relation::schema_and_name(relation)
            .map_or_else(Vec::new, |(schema, name)| stack::artifact_id("tbl", schema.as_bytes(), name.as_bytes())),
        constraint: same_name.then_some(first_name),
        action: same_action.then_some(first_action),
    })
}
