//! The engine's faces in SQL: a query makes a run, feeds it, and ends it. Runs end with their transaction at the latest.

use std::cell::RefCell;

use pgrx::pg_sys;
use serde::Serialize;
use serde_json::value::RawValue;

use super::decimal::Decimal;
use super::engine::{Detail, Document, Engine, Event, Fault, Field, Op, Pin};
use super::image_sum;
use super::keyed::parts_of;
use super::plan::Plan;
use super::violations::Violation;
use crate::capture::image::op;
use crate::error::{Error, OrRaise};
use crate::pg::datum::{Value, for_message, text_datum};
use crate::pg::function::Call;
use crate::pg::record::RecordReader;
use crate::pg::{types, xact};

struct Run {
    number: i32,
    engine: Engine,
    reader: RecordReader,
}

/// The place of the first input among the arguments of `run_feed`.
const FIRST_INPUT: usize = 15;

thread_local! {
    static RUNS: RefCell<Vec<Run>> = const { RefCell::new(Vec::new()) };
}

/// The log's op of a mark: every row of the source ends.
const ALL_END: i16 = -1;

/// The key says what is known of a key of an invariant: see `Pin`.
const PIN: i16 = -2;

/// The transaction ended.
pub fn forget() {
    RUNS.take();
}

fn with_run<R>(call: &Call, work: impl FnOnce(&mut Run) -> Result<R, Error>) -> R {
    let number = call.value(0).map_or(0, Value::as_i32);
    let done = RUNS.with_borrow_mut(|runs| match runs.iter_mut().find(|run| run.number == number) {
        Some(run) => work(run),
        None => Err(Error::NoRun { number }),
    });
    done.or_raise()
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::UnreadablePlan { cause: error.to_string() }
}

/// `threadline.saved_run_in(text)`: a saved run is read as it lies in memory, so nobody but `run_save` may make one.
pub fn saved_run_in(_: &mut Call) -> pg_sys::Datum {
    Err(Error::NotGiven { type_name: "saved_run" }).or_raise()
}

/// `threadline.run_begin(plan, state)`: the number of a run, which goes on from a saved state if one is given.
pub fn run_begin(call: &mut Call) -> pg_sys::Datum {
    let begin = || {
        let plan = call.value(0).map(types::jsonb_text).unwrap_or_default();
        let plan: Plan = serde_json::from_slice(&plan).map_err(unreadable)?;
        let engine = match call.value(1) {
            Some(state) => {
                let saved: Engine = postcard::from_bytes(state.payload()).map_err(unreadable)?;
                saved.resume(plan.until, plan.stop)
            }
            None => Engine::new(plan),
        };
        let number = RUNS.with_borrow_mut(|runs| {
            let number = runs.last().map_or(1, |run| run.number + 1);
            runs.push(Run { number, engine, reader: RecordReader::default() });
            number
        });
        Ok(number)
    };
    let number = begin().or_raise();
    call.return_value(Some(number.into()))
}

/// `threadline.run_feed(run, source, op, commit_no, id, committed_at, statement_no, version, key, old_key, begins_baseline, sums,
/// event, old_state, new_state, inputs…)`: true when the run needs no more.
pub fn run_feed(call: &mut Call) -> pg_sys::Datum {
    xact::check_interrupts();
    let stop = with_run(call, |run| {
        let given = &call.argument_types()[FIRST_INPUT..];
        let record;
        let mut values = Vec::with_capacity(given.len());
        if given == [pg_sys::RECORDOID] {
            if let Some(value) = call.value(FIRST_INPUT) {
                record = run.reader.read(value).ok_or_else(|| unreadable("its inputs are a row of a named type"))?;
                let (columns, row) = &record;
                values.reserve(columns.len());
                for (n, column) in columns.iter().enumerate() {
                    values.push(input(*column, row.get(n))?);
                }
            }
        } else {
            for (n, type_oid) in given.iter().enumerate() {
                values.push(input(*type_oid, call.value(FIRST_INPUT + n))?);
            }
        }
        let field = |index: usize| -> Option<Value> { call.value(index) };
        let source = field(1).map_or(0, Value::as_i32) as usize;
        let rows = run.engine.rows(source);
        let key = call.text(8).unwrap_or_default();
        if field(2).map(Value::as_i16) == Some(PIN) {
            let pin: Pin = serde_json::from_slice(key).map_err(unreadable)?;
            return if run.engine.pin(&pin) { Ok(false) } else { Err(Error::NotPinnable { invariant: pin.invariant }) };
        }
        let states = [13, 14].map(|place| call.value(place));
        let op = match field(2).map_or(0, Value::as_i16) {
            // A projection's key is there once it has a state.
            given if rows.is_projection => match (states[0], states[1]) {
                (_, None) => Op::Delete,
                (_, Some(_)) if given == op::SNAPSHOT => Op::Snapshot,
                (None, Some(_)) => Op::Insert,
                (Some(_), Some(_)) => Op::Update,
            },
            ALL_END => Op::AllEnd,
            op::TRUNCATE | op::DELETE => Op::Delete,
            op::SNAPSHOT => Op::Snapshot,
            op::INSERT => Op::Insert,
            _ => Op::Update,
        };
        let sums = call.value(11).and_then(|sums| image_sum::of_bytes(sums.payload()));
        let event = Event {
            source,
            op,
            transaction: field(3).map_or(i64::MAX, Value::as_i64),
            change_id: field(4).map_or(0, Value::as_i64),
            time: field(5).map_or(0, Value::as_i64),
            statement: field(6).map_or(0, Value::as_i32),
            version: field(7).map_or(0, Value::as_i32),
            key,
            old_key: call.text(9),
            begins_baseline: call.value(10).is_some_and(Value::as_bool),
            images: [
                sums.map(|[before, _]| before).filter(|_| op != Op::Insert),
                sums.map(|[_, after]| after).filter(|_| op != Op::Delete),
            ],
            values,
            detail: Detail {
                event: call.value(12).map(Value::payload),
                states: states.map(|state| state.map(Value::payload)),
            },
        };
        let fed = run.engine.feed(&event);
        // A run that stops here ended with the event before.
        if run.engine.rows(source).is_projection && !matches!(fed, Ok(true)) {
            run.engine.rows_mut(source).keep_state(key, states[1].map(Value::payload));
        }
        fed.map_err(|Fault { invariant, reason }| Error::NotReplayable { invariant, reason })
    });
    call.return_value(Some(stop.into()))
}

/// `threadline.run_skip(run, reason)`: an event that is not fed.
pub fn run_skip(call: &mut Call) -> pg_sys::Datum {
    with_run(call, |run| {
        run.engine.skip(for_message(call.text(1).unwrap_or_default()).into_owned());
        Ok(())
    });
    call.return_value(Some(false.into()))
}

/// `threadline.run_fail(run, source, key, id, committed_at, reason, event)`: a projection's function failed at an event.
pub fn run_fail(call: &mut Call) -> pg_sys::Datum {
    with_run(call, |run| {
        let source = call.value(1).map_or(0, Value::as_i32) as usize;
        let place = [3, 4].map(|argument| call.value(argument).map_or(0, Value::as_i64)).into();
        let reason = for_message(call.text(5).unwrap_or_default()).into_owned();
        let event = call.value(6).map(Value::payload);
        run.engine.fail(source, call.text(2).unwrap_or_default(), place, reason, event);
        Ok(())
    });
    call.return_value(Some(false.into()))
}

/// Of the types that an invariant's expressions have; whoever may ask for a run may give it others.
fn input<'v>(type_oid: pg_sys::Oid, value: Option<Value>) -> Result<Field<'v>, Error> {
    let Some(value) = value else { return Ok(Field::Null) };
    Ok(match type_oid {
        pg_sys::BOOLOID => Field::Bool(value.as_bool()),
        pg_sys::INT8OID => Field::Integer(value.as_i64()),
        pg_sys::NUMERICOID => match Decimal::of_numeric(value.payload()) {
            Some(Ok(number)) => Field::Number(number),
            // What cannot be reckoned with: the invariant says so.
            Some(Err(_)) | None => Field::Text(b""),
        },
        pg_sys::TEXTOID => Field::Text(value.payload()),
        _ => return Err(unreadable("an input is neither boolean, bigint, numeric nor text")),
    })
}

/// `threadline.run_state(run, source, key, id)`: a projection's state of a key; NULL when there is none.
pub fn run_state(call: &mut Call) -> pg_sys::Datum {
    let state = with_run(call, |run| {
        let rows = run.engine.rows(call.value(1).map_or(0, Value::as_i32) as usize);
        let state = rows.state(call.text(2).unwrap_or_default());
        Ok(state.map(text_datum))
    });
    call.return_value(state)
}

/// `threadline.run_value(run, invariant, of_new, id)`: the aggregate's value for the group that the last event's old or new row is in.
pub fn run_value(call: &mut Call) -> pg_sys::Datum {
    let value = with_run(call, |run| {
        let invariant = call.value(1).map_or(0, Value::as_i32) as usize;
        Ok(run.engine.value(invariant, call.value(2).is_some_and(Value::as_bool)))
    });
    let value = value.and_then(|text| std::ffi::CString::new(text).ok());
    call.return_value(value.map(|text| types::parse(&text, pg_sys::NUMERICOID, -1).datum()))
}

/// `threadline.run_judge(run, invariant, of_new, holds, id)`: what the query found of such a value.
pub fn run_judge(call: &mut Call) -> pg_sys::Datum {
    with_run(call, |run| {
        let invariant = call.value(1).map_or(0, Value::as_i32) as usize;
        let holds = call.value(3).is_none_or(Value::as_bool);
        run.engine.judge(invariant, call.value(2).is_some_and(Value::as_bool), holds);
        Ok(())
    });
    call.return_value(Some(true.into()))
}

#[derive(Serialize)]
struct Outcome<'r> {
    events: u64,
    transactions: u64,
    skipped: &'r std::collections::BTreeMap<String, u64>,
    total: u64,
    /// Of each invariant of the plan; beyond them of each source, as `Violation::invariant` counts.
    counts: &'r [u64],
    /// The commit of the last event, and its time.
    last: Option<(i64, i64)>,
    /// It ended at a check point before its last event's.
    stopped: bool,
    /// The time of the event after that.
    stopped_by: Option<i64>,
    violations: Vec<Told<'r>>,
    pending: Vec<Pending<'r>>,
    unknown: Vec<Unknown>,
    rows: Vec<u64>,
    fed: Vec<u64>,
    groups: Vec<Group>,
}

#[derive(Serialize)]
struct Group {
    invariant: usize,
    key: Option<Vec<Option<String>>>,
    rows: i64,
    value: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Told<'r> {
    invariant: usize,
    key: Option<Vec<Option<String>>>,
    step: u64,
    change_id: i64,
    time: i64,
    found_step: u64,
    found_at: i64,
    found_in: i64,
    at_commit: bool,
    states: Option<[Option<Box<RawValue>>; 2]>,
    event: Option<Box<RawValue>>,
    reason: &'r str,
    recent: &'r [i64],
    repaired_at: Option<i64>,
}

#[derive(Serialize)]
struct Pending<'r> {
    invariant: &'r str,
    key: Option<Vec<Option<String>>>,
    change_id: i64,
    due: i64,
}

#[derive(Serialize)]
struct Unknown {
    invariant: usize,
    times: u64,
}

/// A key as people read it; None for a row of a table, which its change names.
fn shown_key(engine: &Engine, invariant: usize, key: &[u8]) -> Option<Vec<Option<String>>> {
    let shown = |part: &[u8]| for_message(part).into_owned();
    let Some(of_plan) = engine.plan.invariants.get(invariant) else {
        let source = engine.rows(invariant - engine.plan.invariants.len());
        return source.is_projection.then(|| projection_key(key));
    };
    if !of_plan.kind.is_by_row() {
        return Some(parts_of(key).into_iter().map(|part| part.map(shown)).collect());
    }
    let rows = engine.rows(of_plan.inputs[0].source);
    let row = u32::from_le_bytes(key.try_into().ok()?);
    rows.is_projection.then(|| projection_key(rows.key_of(row)))
}

/// Empty for a projection of one state.
fn projection_key(key: &[u8]) -> Vec<Option<String>> {
    if key.is_empty() { Vec::new() } else { vec![Some(for_message(key).into_owned())] }
}

fn told<'r>(engine: &Engine, violation: &'r Violation) -> Told<'r> {
    let raw = |document: &Option<Document>| {
        let text = match document.as_ref()? {
            Document::Json(text) => text.clone(),
            Document::Stored(payload) => for_message(&types::jsonb_text(Value::new(text_datum(payload)))).into_owned(),
        };
        RawValue::from_string(text).ok()
    };
    Told {
        invariant: violation.invariant,
        key: shown_key(engine, violation.invariant, &violation.key),
        step: violation.mark.step,
        change_id: violation.mark.change_id,
        time: violation.mark.time,
        found_step: violation.found.step,
        found_at: violation.found.time,
        found_in: violation.found.transaction,
        at_commit: violation.found.at_commit,
        states: violation.states.as_ref().map(|[before, after]| [raw(before), raw(after)]),
        event: raw(&violation.event),
        reason: &violation.reason,
        recent: &violation.recent,
        repaired_at: violation.repaired_at,
    }
}

/// `threadline.run_end(run, most)`: what it found, as JSON, and at most so many violations; the run is over.
pub fn run_end(call: &mut Call) -> pg_sys::Datum {
    let most = call.value(1).map_or(usize::MAX, |most| most.as_i32() as usize);
    let json = with_run(call, |run| {
        run.engine.end();
        let engine = &run.engine;
        let outcome = Outcome {
            events: engine.events,
            transactions: engine.transactions,
            skipped: &engine.skipped,
            total: engine.violations.total(),
            counts: engine.violations.counts(),
            stopped: engine.stopped_by.is_some(),
            stopped_by: engine.stopped_by,
            last: engine.last(),
            violations: engine.violations.reported(most).into_iter().map(|violation| told(engine, violation)).collect(),
            pending: engine
                .pending()
                .into_iter()
                .map(|(invariant, key, due, mark)| Pending {
                    invariant: &engine.plan.invariants[invariant].name,
                    key: shown_key(engine, invariant, &key),
                    change_id: mark.change_id,
                    due,
                })
                .collect(),
            unknown: (0..engine.plan.invariants.len())
                .map(|invariant| Unknown { invariant, times: engine.unknown(invariant) })
                .filter(|unknown| unknown.times > 0)
                .collect(),
            rows: (0..engine.plan.sources.len()).map(|source| engine.rows(source).live()).collect(),
            groups: engine
                .groups()
                .into_iter()
                .map(|(invariant, group)| Group {
                    invariant,
                    key: shown_key(engine, invariant, &group.key),
                    rows: group.rows,
                    value: group.value.and_then(|value| RawValue::from_string(value).ok()),
                })
                .collect(),
            fed: (0..engine.plan.sources.len()).map(|source| engine.rows(source).fed).collect(),
        };
        serde_json::to_string(&outcome).map_err(unreadable)
    });
    drop_run(call);
    call.return_value(Some(types::jsonb_datum(&json)))
}

fn drop_run(call: &Call) {
    let number = call.value(0).map_or(0, Value::as_i32);
    RUNS.with_borrow_mut(|runs| runs.retain(|run| run.number != number));
}

/// `threadline.run_states(run, source, most)` → (key, state): what a projection came to.
pub fn run_states(call: &mut Call) -> pg_sys::Datum {
    let most = call.value(2).map_or(0, Value::as_i32) as usize;
    let states = with_run(call, |run| {
        let rows = run.engine.rows(call.value(1).map_or(0, Value::as_i32) as usize);
        let row = |(key, state)| vec![Some(text_datum(key)), Some(text_datum(state))];
        Ok(rows.states().take(most).map(row).collect::<Vec<_>>())
    });
    call.return_rows(states)
}

/// `threadline.run_save(run)`: the state of a run, to go on from.
pub fn run_save(call: &mut Call) -> pg_sys::Datum {
    let state = with_run(call, |run| postcard::to_allocvec(&run.engine).map_err(unreadable));
    call.return_value(Some(text_datum(&state)))
}

/// `threadline.image_sums(op, old_image, new_image)`: what a change's image before and after it comes to.
pub fn image_sums(call: &mut Call) -> pg_sys::Datum {
    let image = |place: usize| call.value(place).map(Value::payload);
    let sums = match (image(1), image(2)) {
        (old, Some(new)) => image_sum::of_update(new, old),
        (Some(old), None) => [image_sum::of_image(old), 0],
        (None, None) => return call.return_null(),
    };
    call.return_value(Some(text_datum(&image_sum::bytes_of(sums))))
}
