//! The SQL of the domains' invariants and the Rust beside it must mean the same: both are evaluated over the events of
//! random histories.

use serde_json::{Value as Json, json};

use crate::random::{Random, seed};
use crate::replay_domains::{invariants, tables};
use crate::replay_histories::{Nowhere, run};
use crate::replay_oracle::{
    Aggregated, CheckAt, Contents, Event, KeyOf, Kind, Predicate, Projection, Row, Value, ValueCheck, Where,
};
use crate::support::{Database, Session};
use crate::values::quoted;

fn json_of(row: &Row) -> Json {
    let value = |value: &Option<Value>| match value {
        None => Json::Null,
        Some(Value::Int(n)) => json!(n),
        Some(Value::Real(x)) => json!(x),
        Some(Value::Text(text)) => json!(text),
    };
    Json::Object(row.iter().map(|(column, v)| (column.to_string(), value(v))).collect())
}

fn boolean(value: Option<bool>) -> String {
    value.map_or("NULL", |value| if value { "t" } else { "f" }).to_string()
}

struct Meaning<'a> {
    s: &'a mut Session,
    events: &'a [Event],
    compared: usize,
}

impl Meaning<'_> {
    fn equal(&mut self, sql: &str, query: &str, rust: &[String]) {
        assert_eq!(self.s.column(query), rust, "{sql}");
        self.compared += rust.len();
    }

    fn of(&self, table: &str) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.table == table)
    }

    /// NULL is what the kind takes it for.
    fn predicate(&mut self, table: &str, predicate: &Predicate, null: bool) {
        let rows: Vec<Json> = self
            .of(table)
            .map(|e| json!({"new": e.new.as_ref().map(json_of), "old": e.old.as_ref().map(json_of)}))
            .collect();
        let rust: Vec<String> =
            self.of(table).map(|event| boolean((predicate.holds)(event.rows()).or(Some(null)))).collect();
        let query = format!(
            "SELECT coalesce({}, {null}) FROM jsonb_array_elements({}) WITH ORDINALITY x (e, n),
                jsonb_populate_record(NULL::{table}, nullif(e -> 'new', 'null')) new,
                jsonb_populate_record(NULL::{table}, nullif(e -> 'old', 'null')) old ORDER BY n",
            predicate.sql,
            quoted(&Json::from(rows).to_string())
        );
        self.equal(predicate.sql, &query, &rust);
    }

    fn over_rows(&mut self, table: &str, sql: &str, rust: impl Fn(&Row) -> String) {
        let rows: Vec<Json> = self.of(table).map(|event| json_of(event.subject())).collect();
        let rust: Vec<String> = self.of(table).map(|event| rust(event.subject())).collect();
        let query = format!(
            "SELECT v FROM jsonb_array_elements({}) WITH ORDINALITY x (e, n),
                LATERAL (SELECT ({sql})::text FROM jsonb_populate_record(NULL::{table}, e) new) y (v) ORDER BY n",
            quoted(&Json::from(rows).to_string())
        );
        self.equal(sql, &query, &rust);
    }

    fn key(&mut self, table: &str, key: &Option<KeyOf>) {
        if let Some(key) = key {
            self.over_rows(table, key.sql, |row| (key.of)(row).unwrap_or("NULL".into()));
        }
    }

    fn condition(&mut self, table: &str, condition: &Option<Where>) {
        if let Some(condition) = condition {
            self.over_rows(table, condition.sql, |row| {
                (condition.holds)(row).map_or("NULL".into(), |value| value.to_string())
            });
        }
    }

    fn value_check(&mut self, check: &ValueCheck) {
        let values: Vec<Option<f64>> = (-300..300).map(|n| Some(f64::from(n) / 4.0)).chain([None]).collect();
        let rust: Vec<String> = values.iter().map(|value| boolean((check.holds)(*value))).collect();
        let query = format!(
            "SELECT ({}) FROM jsonb_array_elements_text({}) WITH ORDINALITY x (v, n), LATERAL (SELECT v::numeric) y (value)
             ORDER BY n",
            check.sql,
            quoted(&json!(values).to_string())
        );
        self.equal(check.sql, &query, &rust);
    }

    fn aggregated(&mut self, a: &Aggregated) {
        self.key(a.table, &a.key);
        self.condition(a.table, &a.condition);
        self.value_check(&a.check);
    }

    /// All events of the source as if they had one key: each step from the state that the one before it left.
    fn projection(&mut self, p: &Projection, check_sql: &str, check: fn(&Row) -> Option<bool>) {
        self.key(p.source, &Some(p.key.clone()));
        let mut state = (p.init)();
        assert_eq!(serde_json::from_str::<Json>(p.init_sql).expect("JSON"), json_of(&state));
        let (mut steps, mut rust) = (Vec::new(), Vec::new());
        for event in self.of(p.source) {
            let json_event = json!({"new": event.new.as_ref().map(json_of), "old": event.old.as_ref().map(json_of)});
            let before = json_of(&state);
            state = (p.step)(&state, event);
            steps.push(json!({"state": before, "event": json_event, "after": json_of(&state)}));
            rust.push(format!("true {}", check(&state).expect("no state is NULL")));
        }
        let query = format!(
            "SELECT concat_ws(' ', (after = e -> 'after')::text, passes::text)
             FROM jsonb_array_elements({}) WITH ORDINALITY x (e, n),
                LATERAL (SELECT ({}) FROM (SELECT e -> 'state', e -> 'event') i (state, event)) y (after),
                LATERAL (SELECT ({check_sql}) FROM (SELECT after) i (state)) z (passes) ORDER BY n",
            quoted(&Json::from(steps).to_string()),
            p.step_sql
        );
        self.equal(p.step_sql, &query, &rust);
    }

    /// Over the tables as they are after some of the events.
    fn query(&mut self, tables: &[&'static str], sql: &str, finds: fn(&Contents) -> bool) {
        for to in (0..self.events.len()).step_by(self.events.len() / 25) {
            let mut contents = Contents::new();
            for event in &self.events[..to] {
                let rows = contents.entry(event.table).or_default();
                match &event.new {
                    Some(row) => rows.insert(event.row, row),
                    None => rows.remove(&event.row),
                };
            }
            let with: Vec<String> = tables
                .iter()
                .map(|table| {
                    let rows = contents.get(table).into_iter().flat_map(|rows| rows.values());
                    let rows = Json::from(rows.map(|row| json_of(row)).collect::<Vec<_>>()).to_string();
                    format!(
                        "{table} AS (SELECT * FROM jsonb_populate_recordset(NULL::public.{table}, {}))",
                        quoted(&rows)
                    )
                })
                .collect();
            let query = format!("WITH {} SELECT EXISTS ({sql})", with.join(", "));
            self.equal(sql, &query, &[boolean(Some(finds(&contents)))]);
        }
    }

    fn kind(&mut self, kind: &Kind) {
        match kind {
            Kind::Row { table, check } => self.predicate(table, check, true),
            Kind::KeyBound(a) => self.aggregated(a),
            Kind::Balance(a, equals) => {
                assert_eq!(a.check.sql, format!("value = {equals}"));
                self.aggregated(a);
            }
            Kind::Unique { table, condition, .. } | Kind::References { table, condition, .. } => {
                self.condition(table, condition);
            }
            Kind::Projection { projection, check_sql, check } => self.projection(projection, check_sql, *check),
            Kind::Query { sql, tables, finds } => self.query(tables, sql, *finds),
            Kind::Transition { .. } => {}
            Kind::Requires { table, key, event, earlier, .. } => {
                self.key(table, key);
                self.predicate(table, event, false);
                self.predicate(table, earlier, false);
            }
            Kind::Forbids { table, key, event, since, unless } => {
                self.key(table, key);
                [Some(event), since.as_ref(), unless.as_ref()]
                    .into_iter()
                    .flatten()
                    .for_each(|p| self.predicate(table, p, false));
            }
            Kind::Rate { table, key, event, .. } => {
                self.key(table, key);
                self.predicate(table, event, false);
            }
            Kind::Monotone { table, key, .. } => self.key(table, key),
            Kind::Deadline(d) => {
                self.key(d.table, &d.key);
                self.predicate(d.table, &d.open, false);
                self.predicate(d.table, &d.close, false);
            }
        }
    }
}

#[test]
fn the_oracle_reads_the_sql_of_invariants_right() {
    let seed = seed("the_oracle_reads_the_sql_of_invariants_right");
    let db = Database::new("prop_meaning");
    let mut s = db.session();
    tables().for_each(|table| {
        s.run(table.sql);
    });
    let events = run(&mut Random::new(seed), &mut Nowhere::new(seed), 0..30, 4).events();
    let mut meaning = Meaning { s: &mut s, events: &events, compared: 0 };
    for invariant in invariants(|_| CheckAt::End) {
        meaning.kind(&invariant.kind);
    }
    assert!(meaning.compared > 10_000, "{} values were compared", meaning.compared);
}
