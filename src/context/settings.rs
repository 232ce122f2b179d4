//! What the application says of itself: settings, read at commit, so that the last value counts, SET LOCAL is safe
//! behind a transaction pooler, and a rolled-back savepoint takes its values with it. Claims, not proof: the
//! session's user and address are stored beside them.

use std::cell::RefCell;
use std::ffi::CString;
use std::thread::LocalKey;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum, pg_sys};

use crate::pg::datum::{bytes_datum, for_message};
use crate::pg::settings::{TextSetting, define_text, parse_jsonb, reserve_prefix, text};

static ACTOR_REF: TextSetting = GucSetting::<Option<CString>>::new(None);
static CORRELATION_ID: TextSetting = GucSetting::<Option<CString>>::new(None);
static REQUEST_ID: TextSetting = GucSetting::<Option<CString>>::new(None);
static JOB_ID: TextSetting = GucSetting::<Option<CString>>::new(None);
static SOURCE: TextSetting = GucSetting::<Option<CString>>::new(None);
static CONTEXT: TextSetting = GucSetting::<Option<CString>>::new(None);
static INCOMPLETE: GucSetting<Incomplete> = GucSetting::<Incomplete>::new(Incomplete::Warn);
static UNCAPTURED: GucSetting<Uncaptured> = GucSetting::<Uncaptured>::new(Uncaptured::Pass);
static UNCASTABLE: GucSetting<Uncastable> = GucSetting::<Uncastable>::new(Uncastable::Error);

static CAPTURE_QUERY: GucSetting<CaptureQuery> = GucSetting::<CaptureQuery>::new(CaptureQuery::Id);

/// What is recorded of a statement beside what it changed and who ran it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PostgresGucEnum)]
pub enum CaptureQuery {
    #[name = c"off"]
    Off,
    #[default]
    #[name = c"id"]
    Id,
    #[name = c"text"]
    Text,
}

pub fn capture_query() -> CaptureQuery {
    CAPTURE_QUERY.get()
}

/// What a typed answer does that rests on an incomplete record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Incomplete {
    #[name = c"warn"]
    Warn,
    #[name = c"error"]
    Error,
}

/// What becomes of a table without a readable past where the others are read as of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Uncaptured {
    #[name = c"pass"]
    Pass,
    #[name = c"refuse"]
    Refuse,
}

/// What becomes of a recorded value that does not read as the type its column has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Uncastable {
    #[name = c"error"]
    Error,
    #[name = c"warn"]
    Warn,
}

pub fn define() {
    define_text(
        &ACTOR_REF,
        c"threadline.actor_ref",
        c"Who acts, as JSON: {\"type\": \"user\", \"id\": \"42\"}.",
        c"Recorded with the transaction as it stands at commit. Malformed JSON is recorded as text in context->'invalid_actor_ref'.",
    );
    define_text(
        &CORRELATION_ID,
        c"threadline.correlation_id",
        c"Identifier shared by everything done on behalf of one incoming event.",
        c"Recorded with the transaction as it stands at commit.",
    );
    define_text(
        &REQUEST_ID,
        c"threadline.request_id",
        c"Identifier of the request being served.",
        c"Recorded with the transaction as it stands at commit.",
    );
    define_text(
        &JOB_ID,
        c"threadline.job_id",
        c"Identifier of the background job being run.",
        c"Recorded with the transaction as it stands at commit.",
    );
    define_text(
        &SOURCE,
        c"threadline.source",
        c"Name of the program or service that writes.",
        c"Recorded with the transaction as it stands at commit.",
    );
    define_text(
        &CONTEXT,
        c"threadline.context",
        c"Anything else worth recording with the transaction, as JSON.",
        c"See threadline.put_context(). Malformed JSON is recorded as text under 'invalid_context'.",
    );
    GucRegistry::define_enum_guc(
        c"threadline.incomplete",
        c"What a typed answer that touches a gap in the record does: warn or error.",
        c"Answers that can say so themselves have a column \"complete\" instead.",
        &INCOMPLETE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"threadline.uncaptured",
        c"What time_travel() and incident_bisect() do with tables that have no readable past: pass reads them as they are now, refuse fails.",
        c"time_travel() goes by it when it is called; the tables it leaves in the present are named in its NOTICE.",
        &UNCAPTURED,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"threadline.uncastable",
        c"What a typed answer does with a recorded value that does not read as the type its column has now: error fails and names row and column, warn makes it NULL with a WARNING.",
        c"warn takes longer: each value in a column whose type is another now is tried.",
        &UNCASTABLE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"threadline.capture_query",
        c"What is recorded of a statement: off, id (its query id, where compute_query_id gives one) or text.",
        c"With text also the first 4096 bytes of what the client sent, unless a table under capture has excluded or masked columns. Command, call stack, cause and sqlcommenter tags are recorded in any case.",
        &CAPTURE_QUERY,
        GucContext::Suset,
        GucFlags::default(),
    );
    reserve_prefix();
}

/// What the settings say, ready to be stored; values are in the current memory context.
pub struct Claims {
    pub actor_ref: Option<pg_sys::Datum>,
    pub correlation_id: Option<CString>,
    pub request_id: Option<CString>,
    pub job_id: Option<CString>,
    pub source: Option<CString>,
    pub context: Option<pg_sys::Datum>,
}

/// A JSON text as last read: sessions seldom change what they claim from one transaction to the next.
#[derive(Default)]
pub struct LastJson {
    text: CString,
    parsed: Option<Vec<u8>>,
}

impl LastJson {
    /// The jsonb that the text is, in the current memory context; None when it is none.
    pub fn datum_of(&mut self, text: CString) -> Option<pg_sys::Datum> {
        if self.text != text {
            let parsed = parse_jsonb(&text);
            *self = LastJson { text, parsed };
        }
        self.parsed.as_deref().map(bytes_datum)
    }
}

thread_local! {
    static LAST_ACTOR_REF: RefCell<LastJson> = RefCell::default();
    static LAST_CONTEXT: RefCell<LastJson> = RefCell::default();
}

/// What the statements' comments say where the settings say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FromComments<'t> {
    pub trace_id: Option<&'t [u8]>,
    pub application: Option<&'t [u8]>,
}

pub fn read(comments: &FromComments) -> Claims {
    let mut unparsable = serde_json::Map::new();
    let mut json = |setting: &TextSetting, last: &'static LocalKey<RefCell<LastJson>>, key: &str| {
        let value = text(setting)?;
        last.with_borrow_mut(|last| {
            let datum = last.datum_of(value);
            if datum.is_none() {
                unparsable.insert(key.into(), for_message(last.text.as_bytes()).into());
            }
            datum
        })
    };
    let actor_ref = json(&ACTOR_REF, &LAST_ACTOR_REF, "invalid_actor_ref");
    let context = json(&CONTEXT, &LAST_CONTEXT, "invalid_context");
    let mut from_comment = Vec::new();
    let mut or_comment = |setting: &TextSetting, comment: Option<&[u8]>, name: &'static str| {
        text(setting).or_else(|| {
            let said = CString::new(comment?).ok()?;
            from_comment.push(name);
            Some(said)
        })
    };
    let correlation_id = or_comment(&CORRELATION_ID, comments.trace_id, "correlation_id");
    let source = or_comment(&SOURCE, comments.application, "source");
    let mut notes = unparsable;
    if !from_comment.is_empty() {
        notes.insert("from_comment".into(), from_comment.into());
    }
    Claims {
        actor_ref,
        context: with_notes(context, notes),
        correlation_id,
        request_id: text(&REQUEST_ID),
        job_id: text(&JOB_ID),
        source,
    }
}

/// Adds what we have to say of the claims: a malformed one never fails the write, but is kept as text beside what could
/// be read, and what is no claim of the settings is named.
fn with_notes(
    context: Option<pg_sys::Datum>,
    notes: serde_json::Map<String, serde_json::Value>,
) -> Option<pg_sys::Datum> {
    if notes.is_empty() {
        return context;
    }
    let text = CString::new(serde_json::Value::Object(notes).to_string()).expect("JSON escapes NUL");
    let flags = bytes_datum(&parse_jsonb(&text)?);
    match context {
        Some(context) => Some(crate::pg::settings::concatenate(context, flags)),
        None => Some(flags),
    }
}
