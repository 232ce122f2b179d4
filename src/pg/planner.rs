//! Functions in a query's FROM, while it is planned: what the query asks of their rows, and other functions in their place.

use core::ffi::{CStr, c_int};
use std::cell::Cell;

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{pg_guard, pg_sys};

use super::datum::text_datum;
use super::function::Call;
use super::types::base_type;

/// An expression of a query that is being planned.
#[derive(Clone, Copy)]
pub struct Expression(*mut pg_sys::Node);

/// `column = value`, or `column = ANY (value)`, which every row that the query uses must fulfil. The value is the same for
/// all rows.
pub struct Comparison {
    pub attnum: i16,
    pub column_type: pg_sys::Oid,
    pub value: Expression,
    /// Of an array's elements.
    pub value_type: pg_sys::Oid,
    pub any: bool,
}

/// A call of a function that returns rows, in FROM.
pub struct FunctionInFrom<'p> {
    root: *mut pg_sys::PlannerInfo,
    rel: &'p mut pg_sys::RelOptInfo,
    place: pg_sys::Index,
    call: &'p mut pg_sys::FuncExpr,
    function: &'p mut pg_sys::RangeTblFunction,
}

thread_local! {
    static NEXT: Cell<pg_sys::set_rel_pathlist_hook_type> = const { Cell::new(None) };
    static VISITOR: Cell<Option<fn(&mut FunctionInFrom)>> = const { Cell::new(None) };
}

/// From now on `visitor` is shown every function in FROM before its plan is chosen.
pub fn register(visitor: fn(&mut FunctionInFrom)) {
    VISITOR.set(Some(visitor));
    // SAFETY: as every library that has this hook does: the one before it is called by ours, which lives as long as the
    // library, and that is never unloaded.
    unsafe {
        NEXT.set(pg_sys::set_rel_pathlist_hook);
        pg_sys::set_rel_pathlist_hook = Some(paths_hook);
    }
}

#[pg_guard]
#[allow(ffi_unwind_calls, reason = "protected by pg_guard_ffi_boundary")]
unsafe extern "C-unwind" fn paths_hook(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    place: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the planner passes live structures of its own, which nothing else uses meanwhile. The hook before ours is
    // called as the planner would, its errors turned into panics at the boundary.
    unsafe {
        if let Some(next) = NEXT.get() {
            pg_guard_ffi_boundary(|| next(root, rel, place, entry));
        }
        let Some(visitor) = VISITOR.get() else { return };
        if (*entry).rtekind != pg_sys::RTEKind::RTE_FUNCTION
            || (*entry).funcordinality
            || (*(*entry).functions).length != 1
        {
            return;
        }
        let function = &mut *pg_sys::list_nth((*entry).functions, 0).cast::<pg_sys::RangeTblFunction>();
        if (*function.funcexpr).type_ != pg_sys::NodeTag::T_FuncExpr {
            return;
        }
        let call = &mut *function.funcexpr.cast::<pg_sys::FuncExpr>();
        visitor(&mut FunctionInFrom { root, rel: &mut *rel, place, call, function });
    }
}

impl FunctionInFrom<'_> {
    pub fn oid(&self) -> pg_sys::Oid {
        self.call.funcid
    }

    /// Whether it is one of our own functions of a name. Asked of every function that the session plans.
    pub fn is_own(&self, name: &CStr) -> bool {
        // SAFETY: catalog look-ups by plain values; the name found is palloc'd, or NULL.
        unsafe {
            let found = pg_sys::get_func_name(self.call.funcid);
            !found.is_null()
                && CStr::from_ptr(found) == name
                && pg_sys::get_func_namespace(self.call.funcid)
                    == pg_sys::get_namespace_oid(c"threadline".as_ptr(), true)
        }
    }

    /// The type of the first argument; None when there is none.
    pub fn first_argument_type(&self) -> Option<pg_sys::Oid> {
        first_argument_type(self.call)
    }

    /// The conditions of the query that one column of the rows equals something.
    pub fn comparisons(&self) -> Vec<Comparison> {
        // SAFETY: the list is the relation's own, of RestrictInfo.
        unsafe { nodes(self.rel.baserestrictinfo) }
            .filter_map(|info| {
                // SAFETY: as above.
                let clause = unsafe { (*info.cast::<pg_sys::RestrictInfo>()).clause };
                self.comparison(clause.cast())
            })
            .collect()
    }

    fn comparison(&self, clause: *mut pg_sys::Node) -> Option<Comparison> {
        // SAFETY: a node's tag says what it is; the operators of both kinds have two arguments or one.
        unsafe {
            let (operator, collation, arguments, any) = match (*clause).type_ {
                pg_sys::NodeTag::T_OpExpr => {
                    let clause = &*clause.cast::<pg_sys::OpExpr>();
                    (clause.opno, clause.inputcollid, clause.args, false)
                }
                pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                    let clause = &*clause.cast::<pg_sys::ScalarArrayOpExpr>();
                    (clause.useOr.then_some(clause.opno)?, clause.inputcollid, clause.args, true)
                }
                _ => return None,
            };
            if (*arguments).length != 2
                || collation != pg_sys::InvalidOid && !pg_sys::get_collation_isdeterministic(collation)
            {
                return None;
            }
            let sides = [0, 1].map(|side| pg_sys::list_nth(arguments, side).cast::<pg_sys::Node>());
            // `id = ANY (…)` has its column on the left.
            let found = self.column(sides[0]).map(|column| (column, sides[1]));
            let (column, value) =
                found.or_else(|| (!any).then(|| self.column(sides[1]).map(|column| (column, sides[0])))?)?;
            let type_cache = pg_sys::lookup_type_cache(column.vartype, pg_sys::TYPECACHE_BTREE_OPFAMILY as c_int);
            let is_equality = pg_sys::get_op_opfamily_strategy(operator, (*type_cache).btree_opf)
                == pg_sys::BTEqualStrategyNumber as c_int;
            let is_constant = pg_sys::bms_num_members(pg_sys::pull_varnos(self.root, value)) == 0
                && !pg_sys::contain_volatile_functions(value)
                && !pg_sys::contain_subplans(value);
            let value_type = pg_sys::exprType(value);
            let element_type = if any { pg_sys::get_element_type(value_type) } else { value_type };
            (is_equality && is_constant).then(|| Comparison {
                attnum: column.varattno,
                column_type: base_type(column.vartype),
                value: Expression(value),
                value_type: base_type(element_type),
                any,
            })
        }
    }

    /// The column of these rows that an expression is.
    fn column(&self, mut node: *mut pg_sys::Node) -> Option<&pg_sys::Var> {
        // SAFETY: a node's tag says what it is.
        unsafe {
            while (*node).type_ == pg_sys::NodeTag::T_RelabelType {
                node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
            }
            if (*node).type_ != pg_sys::NodeTag::T_Var {
                return None;
            }
            let column = &*node.cast::<pg_sys::Var>();
            (column.varno as pg_sys::Index == self.place && column.varlevelsup == 0 && column.varattno > 0)
                .then_some(column)
        }
    }

    /// Calls another function with the same row type instead, with the same arguments and more; it is expected to return
    /// about so many rows.
    pub fn replace(&mut self, function: pg_sys::Oid, more: &[Expression], rows: f64) {
        // SAFETY: the new call is built of copies, in the planner's memory; the paths are the relation's own, of which
        // only scans of the function exist yet.
        unsafe {
            let arguments = pg_sys::copyObjectImpl(self.call.args.cast()).cast();
            let arguments = more.iter().fold(arguments, |list, argument| pg_sys::lappend(list, argument.0.cast()));
            let call = pg_sys::makeFuncExpr(
                function,
                self.call.funcresulttype,
                arguments,
                self.call.funccollid,
                self.call.inputcollid,
                pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
            );
            (*call).funcretset = true;
            self.function.funcexpr = call.cast();
            self.rel.rows = rows;
            self.rel.tuples = rows;
            for path in nodes(self.rel.pathlist) {
                let path = &mut *path.cast::<pg_sys::Path>();
                path.rows = rows;
                path.total_cost = path.startup_cost + rows * pg_sys::cpu_tuple_cost;
            }
        }
    }
}

impl Expression {
    /// A constant.
    pub fn text(text: &str) -> Expression {
        let (datum, collation) = (text_datum(text.as_bytes()), pg_sys::DEFAULT_COLLATION_OID);
        // SAFETY: a text's length, alignment and passing are as given.
        Expression(unsafe { pg_sys::makeConst(pg_sys::TEXTOID, -1, collation, -1, datum, false, false) }.cast())
    }

    /// A call of a function, of a copy of each argument.
    pub fn call(function: pg_sys::Oid, result_type: pg_sys::Oid, arguments: &[Expression]) -> Expression {
        let collation = pg_sys::DEFAULT_COLLATION_OID;
        // SAFETY: nodes are copied in the planner's memory; the caller's function takes these arguments.
        unsafe {
            let arguments = arguments.iter().fold(core::ptr::null_mut(), |list, argument| {
                pg_sys::lappend(list, pg_sys::copyObjectImpl(argument.0.cast()))
            });
            let form = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
            Expression(pg_sys::makeFuncExpr(function, result_type, arguments, collation, collation, form).cast())
        }
    }
}

/// One of our own functions; None when it does not exist.
pub fn own_function(name: &CStr, argument_types: &[pg_sys::Oid]) -> Option<pg_sys::Oid> {
    // SAFETY: a catalog look-up with a list of two names, which are only read.
    let found = unsafe {
        let names = [c"threadline", name].iter().fold(core::ptr::null_mut(), |list, part| {
            pg_sys::lappend(list, pg_sys::makeString(part.as_ptr().cast_mut()).cast())
        });
        pg_sys::LookupFuncName(names, argument_types.len() as c_int, argument_types.as_ptr(), true)
    };
    (found != pg_sys::InvalidOid).then_some(found)
}

/// The planner's question to a support function how many rows a call will return.
pub struct RowsRequest<'p>(&'p mut pg_sys::SupportRequestRows);

impl<'p> RowsRequest<'p> {
    /// None when another question is asked.
    pub fn of(call: &Call<'p>) -> Option<RowsRequest<'p>> {
        let node = call.value(0)?.datum().cast_mut_ptr::<pg_sys::Node>();
        // SAFETY: the planner passes a node, whose tag says what it is.
        unsafe {
            ((*node).type_ == pg_sys::NodeTag::T_SupportRequestRows)
                .then(|| RowsRequest(&mut *node.cast::<pg_sys::SupportRequestRows>()))
        }
    }

    pub fn first_argument_type(&self) -> Option<pg_sys::Oid> {
        // SAFETY: a node's tag says what it is.
        unsafe {
            ((*self.0.node).type_ == pg_sys::NodeTag::T_FuncExpr)
                .then(|| first_argument_type(&*self.0.node.cast::<pg_sys::FuncExpr>()))
                .flatten()
        }
    }

    pub fn answer(self, rows: f64) -> pg_sys::Datum {
        self.0.rows = rows;
        pg_sys::Datum::from(core::ptr::from_mut(self.0))
    }
}

/// A support function's way to say nothing.
pub const NO_ANSWER: usize = 0;

fn first_argument_type(call: &pg_sys::FuncExpr) -> Option<pg_sys::Oid> {
    // SAFETY: the arguments are a list of expressions, or none.
    unsafe { nodes(call.args).next().map(|argument| pg_sys::exprType(argument)) }
}

/// # Safety
/// `list` is NULL or a list of nodes that lives while the iterator is used.
unsafe fn nodes(list: *mut pg_sys::List) -> impl Iterator<Item = *mut pg_sys::Node> {
    // SAFETY: by the caller's promise.
    let length = if list.is_null() { 0 } else { unsafe { (*list).length } };
    // SAFETY: as above.
    (0..length).map(move |place| unsafe { pg_sys::list_nth(list, place).cast() })
}
