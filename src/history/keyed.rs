//! `audit_as_of(row_type, at)` in FROM: where the query asks for keys of the table, only those rows are made. The function's
//! support function makes sure that this library is there when such a query is planned.

use pgrx::pg_sys;

use crate::catalog::cache;
use crate::catalog::plan::Plan;
use crate::pg::function::Call;
use crate::pg::planner::{self, Comparison, Expression, FunctionInFrom, RowsRequest};
use crate::pg::relation;
use crate::pg::types::base_type;

const AS_OF_TYPES: [pg_sys::Oid; 2] = [pg_sys::ANYELEMENTOID, pg_sys::TIMESTAMPTZOID];
const KEYED_TYPES: [pg_sys::Oid; 4] =
    [pg_sys::ANYELEMENTOID, pg_sys::TIMESTAMPTZOID, pg_sys::TEXTOID, pg_sys::TEXTARRAYOID];

/// `threadline.as_of_support(internal)`: how many rows the table has now.
pub fn as_of_support(call: &mut Call) -> pg_sys::Datum {
    RowsRequest::of(call)
        .and_then(|request| {
            let table = relation::of_row_type(base_type(request.first_argument_type()?))?;
            Some(request.answer(relation::estimated_rows(table)?))
        })
        .unwrap_or(planner::NO_ANSWER.into())
}

/// Puts keyed_as_of in the place of an audit_as_of of whose rows the query wants those with certain keys.
pub fn visit(function: &mut FunctionInFrom) {
    if let Some((keyed, arguments)) = keyed_call(function) {
        function.replace(keyed, &arguments, 1.0);
    }
}

fn keyed_call(function: &FunctionInFrom) -> Option<(pg_sys::Oid, [Expression; 2])> {
    if !function.is_own(c"audit_as_of") || planner::own_function(c"audit_as_of", &AS_OF_TYPES)? != function.oid() {
        return None;
    }
    let table = relation::of_row_type(base_type(function.first_argument_type()?))?;
    let plan = cache::plan(table).ok()??;
    // Rows of a table without a key are known by digests.
    if plan.policy.root != table || plan.key.is_empty() {
        return None;
    }
    let names = plan.policy.key_names();
    let keys = keys_asked_for(&plan, &names, function.comparisons())?;
    let columns = serde_json::to_string(&names).ok()?;
    Some((planner::own_function(c"keyed_as_of", &KEYED_TYPES)?, [Expression::text(&columns), keys]))
}

/// A text[] of the keys that rows must have, as JSON objects.
fn keys_asked_for(plan: &Plan, names: &[String], comparisons: Vec<Comparison>) -> Option<Expression> {
    let of_column = |place: &usize, any: bool| {
        let attnum = plan.columns[*place].index as i16 + 1;
        comparisons.iter().find(|c| c.attnum == attnum && c.any == any && reads_back(c))
    };
    if let Some(values) = plan.key.iter().map(|place| of_column(place, false)).collect::<Option<Vec<_>>>() {
        let fields: Vec<Expression> =
            names.iter().zip(values).flat_map(|(name, found)| [Expression::text(name), found.value]).collect();
        let build = pg_sys::Oid::from(pg_sys::F_JSONB_BUILD_OBJECT_ANY);
        let object = Expression::call(build, pg_sys::JSONBOID, &fields);
        let one_key = planner::own_function(c"one_key", &[pg_sys::JSONBOID])?;
        return Some(Expression::call(one_key, pg_sys::TEXTARRAYOID, &[object]));
    }
    let [name] = names else { return None };
    let some_keys = planner::own_function(c"some_keys", &[pg_sys::TEXTOID, pg_sys::ANYARRAYOID])?;
    let values = of_column(&plan.key[0], true)?.value;
    Some(Expression::call(some_keys, pg_sys::TEXTARRAYOID, &[Expression::text(name), values]))
}

/// Whether the value's text, read as the column's type, gives every value that equals it.
fn reads_back(comparison: &Comparison) -> bool {
    const INTEGERS: [pg_sys::Oid; 3] = [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID];
    const TEXTS: [pg_sys::Oid; 2] = [pg_sys::TEXTOID, pg_sys::VARCHAROID];
    const OTHERS: [pg_sys::Oid; 6] = [
        pg_sys::NUMERICOID,
        pg_sys::UUIDOID,
        pg_sys::BOOLOID,
        pg_sys::DATEOID,
        pg_sys::TIMESTAMPOID,
        pg_sys::TIMESTAMPTZOID,
    ];
    let both_in =
        |types: &[pg_sys::Oid]| types.contains(&comparison.column_type) && types.contains(&comparison.value_type);
    both_in(&INTEGERS)
        || both_in(&TEXTS)
        || comparison.column_type == comparison.value_type && OTHERS.contains(&comparison.column_type)
}
