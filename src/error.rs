//! Every error this library raises: SQLSTATE, a message that names the object, DETAIL, and a HINT with the SQL to type.

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::PgLogLevel;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A trigger function was called by something other than a trigger.
    NotATrigger { function: &'static str },
    /// A trigger function was called by a trigger of the wrong kind.
    WrongTriggerKind { function: &'static str, expected: &'static str },
    /// A capture trigger fired on a table that has no capture policy.
    NotUnderCapture { table: String },
    /// A table whose history was asked for has none.
    NoHistory { table: String },
    /// A temporary relation was named where a table with a history is asked for.
    Temporary { table: String },
    /// A recorded key column no longer exists.
    KeyColumnGone { table: String, column: String },
    /// A key given by a caller does not fit the table's key columns.
    WrongKey { table: String, columns: Vec<String>, detail: String },
    /// A key column of a row holds NULL.
    NullKey { table: String, column: String },
    /// A row image exceeds what jsonb can hold.
    ImageTooLarge { table: String, column: String },
    /// The server could not make the JSON form of a value.
    NoJsonForm { table: String, column: String, code: PgSqlErrorCode, cause: String },
    /// TRUNCATE of a table whose policy forbids it.
    TruncateBlocked { table: String },
    /// The caller does not own the table.
    NotOwner { table: String },
    /// The caller does not own the schema.
    NotSchemaOwner { schema: String },
    /// One of our own tables is not as this version of the library made it.
    StorageChanged { relation: String, detail: String },
    /// One of our own tables or sequences does not exist.
    StorageMissing { relation: String },
    /// One of our own tables has no partition for a row, not even the default one.
    NoPartition { table: String },
    /// A row was passed whose type is not a table's.
    NotATableRow { function: &'static str },
    /// A run of replay that was not begun, or is over.
    NoRun { number: i32 },
    /// What a run of replay is to do, or its saved state, does not read.
    UnreadablePlan { cause: String },
    /// A value of a type that only the library makes was given as text.
    NotGiven { type_name: &'static str },
    /// A state that was given for an invariant's key, and cannot be.
    NotPinnable { invariant: String },
    /// An invariant of replay that cannot be followed.
    NotReplayable { invariant: String, reason: String },
}

impl Error {
    pub fn code(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            Error::NotATrigger { .. } | Error::WrongTriggerKind { .. } => ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            Error::NotUnderCapture { .. } => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::NoHistory { .. } | Error::Temporary { .. } => ERRCODE_UNDEFINED_OBJECT,
            Error::KeyColumnGone { .. } => ERRCODE_UNDEFINED_COLUMN,
            Error::WrongKey { .. } => ERRCODE_INVALID_PARAMETER_VALUE,
            Error::NullKey { .. } => ERRCODE_NOT_NULL_VIOLATION,
            Error::ImageTooLarge { .. } => ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Error::NoJsonForm { code, .. } => *code,
            Error::TruncateBlocked { .. } => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::NotOwner { .. } | Error::NotSchemaOwner { .. } => ERRCODE_INSUFFICIENT_PRIVILEGE,
            Error::StorageChanged { .. } | Error::StorageMissing { .. } => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::NoPartition { .. } => ERRCODE_CHECK_VIOLATION,
            Error::NotATableRow { .. } => ERRCODE_DATATYPE_MISMATCH,
            Error::NoRun { .. } => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::UnreadablePlan { .. } => ERRCODE_DATA_CORRUPTED,
            Error::NotGiven { .. } => ERRCODE_FEATURE_NOT_SUPPORTED,
            Error::NotPinnable { .. } => ERRCODE_INVALID_PARAMETER_VALUE,
            Error::NotReplayable { .. } => ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        }
    }

    pub fn message(&self) -> String {
        match self {
            Error::NotATrigger { function } => {
                format!("function threadline.{function}() was not called by a trigger")
            }
            Error::WrongTriggerKind { function, expected } => {
                format!("function threadline.{function}() must be called {expected}")
            }
            Error::NotUnderCapture { table } => format!("table {table} is not under capture"),
            Error::NoHistory { table } => format!("table {table} has never been under capture"),
            Error::Temporary { table } => format!("{table} is temporary and has no history"),
            Error::KeyColumnGone { table, column } => {
                format!("key column \"{column}\" of captured table {table} no longer exists")
            }
            Error::WrongKey { table, .. } => format!("wrong row key for table {table}"),
            Error::NullKey { table, column } => {
                format!("key column \"{column}\" of captured table {table} is NULL")
            }
            Error::ImageTooLarge { table, .. } => {
                format!("a row of table {table} is too large to be recorded")
            }
            Error::NoJsonForm { table, column, .. } => {
                format!("a value of column \"{column}\" of table {table} cannot be recorded")
            }
            Error::TruncateBlocked { table } => {
                format!("TRUNCATE of captured table {table} is blocked by its capture policy")
            }
            Error::NotOwner { table } => format!("must be owner of table {table}"),
            Error::NotSchemaOwner { schema } => format!("must be owner of schema \"{schema}\""),
            Error::StorageChanged { relation, .. } => {
                format!("threadline.{relation} is not as this version of threadline_forensics made it")
            }
            Error::StorageMissing { relation } => {
                format!("threadline.{relation} does not exist, so the change cannot be recorded")
            }
            Error::NoPartition { table } => {
                format!("{table} has no partition for the change, so it cannot be recorded")
            }
            Error::NotATableRow { function } => {
                format!("function threadline.{function}() takes a row of a table under capture")
            }
            Error::NoRun { number } => format!("there is no run {number} of replay in this transaction"),
            Error::UnreadablePlan { .. } => "what a run of replay is given does not read".into(),
            Error::NotGiven { type_name } => format!("cannot accept a value of type threadline.{type_name}"),
            Error::NotPinnable { invariant } => format!("no state can be given for a key of invariant \"{invariant}\""),
            Error::NotReplayable { invariant, reason } => {
                format!("invariant \"{invariant}\" cannot be replayed: {reason}")
            }
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::NotUnderCapture { .. } => {
                Some("One of its triggers calls threadline, but no capture policy names it.".into())
            }
            Error::KeyColumnGone { .. } | Error::NullKey { .. } => {
                Some("Without its key the row's changes could not be told apart from another row's.".into())
            }
            Error::WrongKey { detail, .. } | Error::StorageChanged { detail, .. } => Some(detail.clone()),
            Error::ImageTooLarge { column, .. } => Some(format!(
                "The row's image would exceed 256 MB, the limit of jsonb. Column \"{column}\" takes most of it."
            )),
            Error::NoJsonForm { cause, .. } => Some(format!("to_jsonb() refuses it: {cause}")),
            Error::UnreadablePlan { cause } => Some(cause.clone()),
            Error::NotPinnable { .. } => {
                Some("It must be of kind key_bound or balance over a sum or a count, unique or references, and among those that are checked.".into())
            }
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::NotATrigger { .. } | Error::WrongTriggerKind { .. } => {
                Some("Triggers are made by SELECT threadline.audit_enable('schema.table');".into())
            }
            Error::NotUnderCapture { table } => Some(format!(
                "Put it under capture: SELECT threadline.audit_enable({t}); or drop the triggers whose names start with threadline_.",
                t = literal(table)
            )),
            Error::NoHistory { table } => {
                Some(format!("Put it under capture: SELECT threadline.audit_enable({});", literal(table)))
            }
            Error::Temporary { .. } => Some(
                "Name the table with its schema; after time_travel() its name alone means its past. SELECT threadline.time_return();".into(),
            ),
            Error::KeyColumnGone { table, .. } | Error::NullKey { table, .. } => Some(format!(
                "Stop capture and start it with the new key: SELECT threadline.audit_disable({t}); SELECT threadline.audit_enable({t});",
                t = literal(table)
            )),
            Error::WrongKey { table, columns, .. } => Some(match columns.as_slice() {
                [] => format!(
                    "Give the whole row or its table_pk: SELECT h.* FROM {table} AS r CROSS JOIN LATERAL threadline.audit_history({t}, threadline.row_image(r.*)) AS h;",
                    t = literal(table)
                ),
                [one] => format!("The key of {table} is \"{one}\": give its value, or '{{\"{one}\": …}}'."),
                many => {
                    let fields: Vec<String> = many.iter().map(|c| format!("\"{c}\": …")).collect();
                    format!("The key of {table} is: '{{{}}}'.", fields.join(", "))
                }
            }),
            Error::ImageTooLarge { table, column } | Error::NoJsonForm { table, column, .. } => Some(format!(
                "Leave the column out of the images: SELECT threadline.audit_enable({}, exclude => {});",
                literal(table),
                literal(&format!("{{\"{}\"}}", column.replace('\\', "\\\\").replace('"', "\\\"")))
            )),
            Error::TruncateBlocked { table } => Some(format!(
                "Use DELETE, or let TRUNCATE be recorded: SELECT threadline.audit_enable({}, options => '{{\"truncate\": \"capture\"}}');",
                literal(table)
            )),
            Error::NotOwner { table } => Some(format!("Ask the owner, or: ALTER TABLE {table} OWNER TO CURRENT_USER;")),
            Error::NotSchemaOwner { schema } => Some(format!(
                "Ask the owner, or: ALTER SCHEMA \"{}\" OWNER TO CURRENT_USER; audit_enable() takes single tables.",
                schema.replace('"', "\"\"")
            )),
            Error::NotPinnable { .. } => Some("Give the rows that make the state as events of op snapshot.".into()),
            Error::NotGiven { .. } => Some("Saved runs are made by SELECT threadline.replay_checkpoint('model');".into()),
            Error::NoRun { .. } => Some("Runs are made by SELECT threadline.replay_check('model');".into()),
            Error::UnreadablePlan { .. } => {
                Some("If a checkpoint is of another version: SELECT threadline.replay_checkpoint('model', anew => true);".into())
            }
            Error::NotReplayable { invariant, .. } => Some(format!(
                "Check the others: SELECT threadline.replay_check('model', invariants => …); or round the argument of the aggregate of {invariant}."
            )),
            Error::StorageChanged { .. } => Some("ALTER EXTENSION threadline_forensics UPDATE;".into()),
            Error::StorageMissing { .. } => {
                Some("DROP EXTENSION threadline_forensics CASCADE; CREATE EXTENSION threadline_forensics;".into())
            }
            Error::NoPartition { table } => Some(format!(
                "CREATE TABLE {table}_rest PARTITION OF {table} DEFAULT; SELECT threadline.audit_maintain();"
            )),
            Error::NotATableRow { function } => Some(format!("SELECT threadline.{function}(t) FROM orders t;")),
        }
    }

    /// Ends the statement with this error.
    pub fn raise(self) -> ! {
        let mut report = ErrorReport::new(self.code(), self.message(), "threadline_forensics");
        if let Some(detail) = self.detail() {
            report = report.set_detail(detail);
        }
        if let Some(hint) = self.hint() {
            report = report.set_hint(hint);
        }
        report.report(PgLogLevel::ERROR);
        unreachable!("ERROR does not return")
    }
}

/// A name as an SQL string.
pub fn literal(name: &str) -> String {
    format!("'{}'", name.replace('\'', "''"))
}

/// Unwraps a result of ours, or ends the statement with its error.
pub trait OrRaise<T> {
    fn or_raise(self) -> T;
}

impl<T> OrRaise<T> for Result<T, Error> {
    fn or_raise(self) -> T {
        self.unwrap_or_else(|error| error.raise())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_quote_the_table_as_a_literal() {
        let hint = Error::NoHistory { table: "public.\"o'brien\"".into() }.hint().unwrap();
        assert!(hint.contains("'public.\"o''brien\"'"), "{hint}");
    }

    #[test]
    fn wrong_key_lists_every_column() {
        let error = Error::WrongKey {
            table: "lines".into(),
            columns: vec!["order_id".into(), "line_no".into()],
            detail: String::new(),
        };
        assert_eq!(error.hint().unwrap(), "The key of lines is: '{\"order_id\": …, \"line_no\": …}'.");
    }
}
