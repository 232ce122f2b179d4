//! The extension's side of the comparison: models in its SQL, a server that runs histories, and its answers in the
//! oracle's words.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value as Json, json};

use crate::replay_domains::tables;
use crate::replay_histories::Server;
use crate::replay_oracle::{
    Aggregate, Aggregated, Answer, CheckAt, Event, Invariant, KeyOf, Kind, Op, Row, State, Texts, Value, Where,
};
use crate::support::{Database, Session};
use crate::values::quoted;

/// The tables of all domains, under capture before their first row.
pub fn set_up(s: &mut Session) {
    for table in tables() {
        s.run(table.sql);
        s.run(&format!("SELECT threadline.audit_enable('{}')", table.name));
    }
}

// --- models -----------------------------------------------------------------------------------------------------

fn interval(microseconds: i64) -> String {
    format!("{microseconds} microseconds")
}

fn check_at_sql(check_at: CheckAt) -> String {
    match check_at {
        CheckAt::Event => "event".into(),
        CheckAt::Statement => "statement".into(),
        CheckAt::Commit => "commit".into(),
        CheckAt::Events(n) => format!("every {n} events"),
        CheckAt::Interval(length) => format!("every {}", interval(length)),
        CheckAt::End => "end".into(),
    }
}

fn aggregate_sql(aggregate: Aggregate) -> String {
    match aggregate {
        Aggregate::CountRows => "count(*)".into(),
        Aggregate::Count(column) => format!("count({column})"),
        Aggregate::Sum(column) => format!("sum({column})"),
        Aggregate::Avg(column) => format!("avg({column})"),
        Aggregate::Min(column) => format!("min({column})"),
        Aggregate::Max(column) => format!("max({column})"),
    }
}

fn key_sql(key: &Option<KeyOf>) -> Json {
    key.as_ref().map_or(Json::Null, |key| json!(key.sql))
}

fn where_sql(condition: &Option<Where>) -> Json {
    condition.as_ref().map_or(Json::Null, |condition| json!(condition.sql))
}

/// An invariant's spec; what does not apply is left out.
fn spec(kind: &Kind) -> Json {
    let aggregated = |a: &Aggregated, key_name: &str| {
        json!({"table": a.table, key_name: key_sql(&a.key), "aggregate": aggregate_sql(a.aggregate),
               "where": where_sql(&a.condition)})
    };
    let spec = match kind {
        Kind::Row { table, check } => json!({"table": table, "check": check.sql}),
        Kind::KeyBound(a) => {
            let mut spec = aggregated(a, "key");
            spec["check"] = json!(a.check.sql);
            spec
        }
        Kind::Balance(a, equals) => {
            let mut spec = aggregated(a, "group");
            spec["equals"] = json!(equals);
            spec
        }
        Kind::Unique { table, columns, condition } => {
            json!({"table": table, "columns": columns, "where": where_sql(condition)})
        }
        Kind::References { table, columns, to, to_columns, condition } => {
            json!({"table": table, "columns": columns, "to": to, "to_columns": to_columns, "where": where_sql(condition)})
        }
        Kind::Projection { projection, check_sql, .. } => json!({"projection": projection.name, "check": check_sql}),
        Kind::Query { sql, .. } => json!({"sql": sql}),
        Kind::Transition { table, column, initial, allowed, terminal } => {
            let allowed: BTreeMap<_, _> = allowed.iter().copied().collect();
            json!({"table": table, "column": column, "initial": initial, "allowed": allowed, "terminal": terminal})
        }
        Kind::Requires { table, key, event, earlier, within } => {
            json!({"table": table, "key": key_sql(key), "event": event.sql, "earlier": earlier.sql,
                   "within": within.map(interval)})
        }
        Kind::Forbids { table, key, event, since, unless } => {
            json!({"table": table, "key": key_sql(key), "event": event.sql,
                   "since": since.as_ref().map(|p| p.sql), "unless": unless.as_ref().map(|p| p.sql)})
        }
        Kind::Rate { table, key, event, at_most, per } => {
            json!({"table": table, "key": key_sql(key), "event": event.sql, "at_most": at_most, "per": interval(*per)})
        }
        Kind::Monotone { table, key, column, strict } => {
            json!({"table": table, "key": key_sql(key), "column": column, "strict": strict})
        }
        Kind::Deadline(d) => {
            json!({"table": d.table, "key": key_sql(&d.key), "open": d.open.sql, "close": d.close.sql,
                   "within": interval(d.within)})
        }
    };
    let Json::Object(spec) = spec else { unreachable!("a spec is an object") };
    Json::Object(spec.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
}

pub fn define(s: &mut Session, model: &str, invariants: &[Invariant]) {
    s.run(&format!("SELECT threadline.replay_define_model('{model}', 'random histories')"));
    for invariant in invariants {
        if let Kind::Projection { projection: p, .. } = &invariant.kind {
            s.run(&format!(
                "SELECT threadline.replay_add_projection('{model}', '{}', '{}'::regclass, {}, {}::jsonb, {})",
                p.name,
                p.source,
                // Of the row: the new one, or the old one of a delete.
                quoted(&format!("coalesce(event -> 'new', event -> 'old') ->> '{}'", p.key.sql)),
                quoted(p.init_sql),
                quoted(p.step_sql)
            ));
        }
        s.run(&format!(
            "SELECT threadline.replay_add_invariant('{model}', '{}', '{}', {}::jsonb, check_at => '{}')",
            invariant.name,
            invariant.kind.name(),
            quoted(&spec(&invariant.kind).to_string()),
            check_at_sql(invariant.check_at)
        ));
    }
}

// --- running ----------------------------------------------------------------------------------------------------

/// The sessions of the driver on a real server.
pub struct Sessions(Vec<Session>);

impl Sessions {
    pub fn new(db: &Database, count: usize) -> Self {
        Sessions((0..count).map(|_| db.session()).collect())
    }
}

impl Server for Sessions {
    fn begin(&mut self, session: usize) -> String {
        self.0[session].run("BEGIN");
        self.0[session].one("SELECT threadline.current_audit_transaction_id()")
    }

    fn run(&mut self, session: usize, sql: &str) {
        self.0[session].run(sql);
    }

    fn change(&mut self, session: usize, sql: &str, _: &[Texts]) -> Vec<Texts> {
        self.0[session].rows(sql)
    }

    fn commit(&mut self, session: usize) {
        self.0[session].run("COMMIT");
    }

    fn committed_at(&mut self) -> HashMap<String, i64> {
        let sql = format!("SELECT id, {} FROM threadline.audit_transactions", microseconds("committed_at"));
        self.0[0]
            .rows(&sql)
            .into_iter()
            .filter_map(|row| Some((row[0].clone()?, row[1].as_ref()?.parse().expect("a number"))))
            .collect()
    }
}

/// SQL: a time as microseconds since 1970, exactly.
fn microseconds(time: &str) -> String {
    format!("(extract(epoch from {time}) * 1000000)::bigint")
}

/// SQL: the time from microseconds.
pub fn timestamp(microseconds: i64) -> String {
    format!("'epoch'::timestamptz + {microseconds} * interval '1 microsecond'")
}

/// The driver's rows must be the tables' rows: else it is the truth that is wrong.
pub fn assert_rows_are_right(s: &mut Session, rows: &BTreeMap<(&'static str, Texts), Row>) {
    for table in tables() {
        let shown = |row: &Row| -> Texts { table.columns.iter().map(|c| row[c].as_ref().map(Value::text)).collect() };
        let mut expected: Vec<Texts> =
            rows.iter().filter(|((name, _), _)| *name == table.name).map(|(_, row)| shown(row)).collect();
        let mut found = s.rows(&format!("SELECT {} FROM {}", table.columns.join(", "), table.name));
        expected.sort();
        found.sort();
        assert_eq!(expected, found, "{} is not what the driver thinks", table.name);
    }
}

// --- answers ----------------------------------------------------------------------------------------------------

/// What is compared of a violation: as text, states with their numbers brought into one form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    pub invariant: String,
    pub key: Texts,
    pub step: usize,
    /// The driver's number of the event.
    pub event: usize,
    pub before: String,
    pub after: String,
    pub repaired_at: Option<i64>,
    pub already_false: bool,
}

fn number(x: f64) -> String {
    format!("{x:.6}")
}

fn json_text(value: &Json) -> String {
    match value {
        Json::Null => "NULL".into(),
        Json::Number(n) => number(n.as_f64().expect("a number")),
        Json::Object(columns) => {
            let columns: BTreeMap<_, _> = columns.iter().map(|(name, value)| (name, json_text(value))).collect();
            columns.into_iter().map(|(name, value)| format!("{name}={value} ")).collect()
        }
        other => other.to_string(),
    }
}

fn state_text(state: &State) -> String {
    let Some(row) = state else { return "NULL".into() };
    row.iter()
        .map(|(name, value)| match value {
            None => format!("{name}=NULL "),
            Some(Value::Int(n)) => format!("{name}={} ", number(*n as f64)),
            Some(Value::Real(x)) => format!("{name}={} ", number(*x)),
            Some(Value::Text(text)) => format!("{name}={} ", json!(text)),
        })
        .collect()
}

/// What a query's state looks like is not laid down.
fn has_states(invariant: &str, invariants: &[Invariant]) -> bool {
    !invariants.iter().any(|i| i.name == invariant && matches!(i.kind, Kind::Query { .. }))
}

pub fn expected(answer: &Answer, invariants: &[Invariant]) -> Vec<Line> {
    let line = |v: &crate::replay_oracle::Violation| {
        let state = |state| if has_states(&v.invariant, invariants) { state_text(state) } else { String::new() };
        Line {
            invariant: v.invariant.clone(),
            key: v.key.clone(),
            step: if has_states(&v.invariant, invariants) { v.step } else { 0 },
            event: v.event,
            before: state(&v.state_before),
            after: state(&v.state_after),
            repaired_at: v.repaired_at,
            already_false: false,
        }
    };
    answer.violations.iter().map(line).collect()
}

/// The recorded changes and the driver's events, matched: of one row in one transaction, the first to the first.
pub struct Changes(HashMap<String, usize>);

impl Changes {
    /// `transactions` are the ids by the events' transaction numbers.
    pub fn new(s: &mut Session, events: &[Event], transactions: &[&str]) -> Self {
        let mut by_place: HashMap<(String, String, String, Json), Vec<usize>> = HashMap::new();
        for event in events.iter().rev() {
            let columns = event.primary_key.iter().zip(event.primary_key_texts());
            let key: Map<String, Json> = columns.map(|(column, text)| (column.to_string(), json!(text))).collect();
            let op = match event.op {
                Op::Insert => "insert",
                Op::Update => "update",
                Op::Delete => "delete",
                Op::Snapshot => "snapshot",
            };
            let place = (
                transactions[event.transaction].to_string(),
                event.table.to_string(),
                op.to_string(),
                Json::Object(key),
            );
            by_place.entry(place).or_default().push(event.id);
        }
        let mut changes = HashMap::new();
        for row in s.rows(
            "SELECT transaction_id, table_name, op, table_pk, id FROM threadline.audit_changes ORDER BY statement_no, id",
        ) {
            let [transaction, table, op, key, id] = row.try_into().expect("five columns");
            let key: Json = serde_json::from_str(&key.expect("a key")).expect("JSON");
            let place = (transaction.expect("an id"), table.expect("a name"), op.expect("an op"), key);
            let event = by_place.get_mut(&place).and_then(Vec::pop);
            let event = event.unwrap_or_else(|| panic!("{place:?} was recorded and did not happen"));
            changes.insert(id.expect("an id"), event);
        }
        by_place.retain(|_, left| !left.is_empty());
        assert!(by_place.is_empty(), "these happened and were not recorded: {by_place:?}");
        Changes(changes)
    }

    pub fn event(&self, change: &str) -> usize {
        *self.0.get(change).unwrap_or_else(|| panic!("there is no change {change}"))
    }
}

#[derive(Debug)]
pub struct Checked {
    pub verdict: String,
    pub events: usize,
    pub transactions: usize,
    pub lines: Vec<Line>,
    /// Invariant, key, due.
    pub pending: Vec<(String, Texts, i64)>,
}

/// JSON array of texts; a kind with one key for everything may have none.
fn key_texts(key: &str) -> Texts {
    match serde_json::from_str(key).expect("JSON") {
        Json::Null => vec![],
        Json::Array(texts) => texts
            .into_iter()
            .map(|text| match text {
                Json::Null => None,
                Json::String(text) => Some(text),
                other => panic!("{other} is no text in the key {key}"),
            })
            .collect(),
        other => panic!("{other} is no array"),
    }
}

/// `arguments` follow the model's name: `, until => …`.
pub fn replay_check(
    s: &mut Session,
    model: &str,
    arguments: &str,
    changes: &Changes,
    invariants: &[Invariant],
) -> Checked {
    let result = s.one(&format!("SELECT threadline.replay_check('{model}'{arguments})"));
    let result_json = quoted(&result);
    let head = s.rows(&format!(
        "SELECT r ->> 'verdict', r ->> 'events_processed', r ->> 'transactions' FROM (SELECT {result_json}::jsonb) x (r)"
    ));
    let lines = s.rows(&format!(
        "SELECT v ->> 'invariant', coalesce(v ->> 'key', 'null'), v ->> 'failure_step', v ->> 'change_id',
            coalesce(v ->> 'state_before', 'null'), coalesce(v ->> 'state_after', 'null'),
            {}, coalesce(v ->> 'already_false', 'false')
         FROM jsonb_array_elements({result_json}::jsonb -> 'violations') WITH ORDINALITY x (v, n) ORDER BY n",
        microseconds("(v ->> 'first_repaired_at')::timestamptz")
    ));
    let pending = s.rows(&format!(
        "SELECT v ->> 'invariant', coalesce(v ->> 'key', 'null'), {}
         FROM jsonb_array_elements(coalesce({result_json}::jsonb -> 'pending', '[]')) x (v)",
        microseconds("(v ->> 'due')::timestamptz")
    ));
    let needed = |value: &Option<String>| value.clone().unwrap_or_else(|| panic!("a field is missing in {result}"));
    let line = |row: Vec<Option<String>>| {
        let invariant = needed(&row[0]);
        let state = |text: &Option<String>| {
            if !has_states(&invariant, invariants) {
                return String::new();
            }
            json_text(&serde_json::from_str(&needed(text)).expect("JSON"))
        };
        Line {
            key: key_texts(&needed(&row[1])),
            // A query is asked of states, not of events.
            step: if has_states(&invariant, invariants) { needed(&row[2]).parse().expect("a step") } else { 0 },
            event: changes.event(&needed(&row[3])),
            before: state(&row[4]),
            after: state(&row[5]),
            repaired_at: row[6].as_ref().map(|time| time.parse().expect("a time")),
            already_false: needed(&row[7]) == "true",
            invariant,
        }
    };
    Checked {
        verdict: needed(&head[0][0]),
        events: needed(&head[0][1]).parse().expect("a count"),
        transactions: needed(&head[0][2]).parse().expect("a count"),
        lines: lines.into_iter().map(line).collect(),
        pending: pending
            .into_iter()
            .map(|row| (needed(&row[0]), key_texts(&needed(&row[1])), needed(&row[2]).parse().expect("a time")))
            .collect(),
    }
}
