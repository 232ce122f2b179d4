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

/// What a typed answer does that rests on an incomplete record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Incomplete {
    #[name = c"warn"]
    Warn,
    #[name = c"error"]
    Error,
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

/// A JSON setting as last read: sessions seldom change what they claim from one transaction to the next.
#[derive(Default)]
struct LastJson {
    text: CString,
    parsed: Option<Vec<u8>>,
}

thread_local! {
    static LAST_ACTOR_REF: RefCell<LastJson> = RefCell::default();
    static LAST_CONTEXT: RefCell<LastJson> = RefCell::default();
}

pub fn read() -> Claims {
    let mut unparsable = serde_json::Map::new();
    let mut json = |setting: &TextSetting, last: &'static LocalKey<RefCell<LastJson>>, key: &str| {
        let value = text(setting)?;
        if last.with_borrow(|last| last.text != value) {
            let parsed = parse_jsonb(&value);
            last.set(LastJson { text: value, parsed });
        }
        last.with_borrow(|last| {
            if last.parsed.is_none() {
                unparsable.insert(key.into(), for_message(last.text.as_bytes()).into());
            }
            last.parsed.as_deref().map(bytes_datum)
        })
    };
    let actor_ref = json(&ACTOR_REF, &LAST_ACTOR_REF, "invalid_actor_ref");
    let context = json(&CONTEXT, &LAST_CONTEXT, "invalid_context");
    Claims {
        actor_ref,
        context: with_unparsable(context, unparsable),
        correlation_id: text(&CORRELATION_ID),
        request_id: text(&REQUEST_ID),
        job_id: text(&JOB_ID),
        source: text(&SOURCE),
    }
}

/// A malformed claim never fails the write: it is kept as text beside what could be read.
fn with_unparsable(
    context: Option<pg_sys::Datum>,
    unparsable: serde_json::Map<String, serde_json::Value>,
) -> Option<pg_sys::Datum> {
    if unparsable.is_empty() {
        return context;
    }
    let text = CString::new(serde_json::Value::Object(unparsable).to_string()).expect("JSON escapes NUL");
    let flags = bytes_datum(&parse_jsonb(&text)?);
    match context {
        Some(context) => Some(crate::pg::settings::concatenate(context, flags)),
        None => Some(flags),
    }
}
