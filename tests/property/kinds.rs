//! The types that random tables are made of, and SQL expressions for random values of them.

use crate::random::Random;
use crate::support::Session;
use crate::values::{LONG, expression, plain, quoted};

/// Scalar types that every server has. `values` has a generator for each.
const SCALARS: &[&str] = &[
    "bool",
    "int2",
    "int4",
    "int8",
    "numeric",
    "numeric(12,4)",
    "float4",
    "float8",
    "money",
    "text",
    "varchar(40)",
    "varchar",
    "char(7)",
    "name",
    "\"char\"",
    "bytea",
    "uuid",
    "date",
    "time",
    "time(3)",
    "timetz",
    "timestamp",
    "timestamp(2)",
    "timestamptz",
    "interval",
    "interval day to second(2)",
    "json",
    "jsonb",
    "jsonpath",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "bit(5)",
    "varbit",
    "point",
    "line",
    "lseg",
    "box",
    "path",
    "polygon",
    "circle",
    "tsvector",
    "tsquery",
    "pg_lsn",
    "oid",
    "xid",
    "xid8",
    "cid",
    "tid",
    "pg_snapshot",
    "txid_snapshot",
    "refcursor",
    "aclitem",
    "regclass",
    "regtype",
    "regproc",
    "regprocedure",
    "regoper",
    "regoperator",
    "regrole",
    "regnamespace",
    "regcollation",
    "regconfig",
    "regdictionary",
    "int2vector",
    "oidvector",
    "public.t_mood",
    "\"Odd Schema\".\"Odd Mood\"",
    "public.t_cast",
    "public.t_base_when",
    "public.t_base_float",
    "public.t_base_text",
    "public.t_base_class",
    "information_schema.yes_or_no",
    "information_schema.cardinal_number",
];

/// Range, its subtype, its multirange.
const RANGES: &[(&str, &str, &str)] = &[
    ("int4range", "int4", "int4multirange"),
    ("int8range", "int8", "int8multirange"),
    ("numrange", "numeric", "nummultirange"),
    ("daterange", "date", "datemultirange"),
    ("tsrange", "timestamp", "tsmultirange"),
    ("tstzrange", "timestamptz", "tstzmultirange"),
    ("public.t_floats", "float8", "public.t_floats_multirange"),
    ("public.t_words", "text", "public.t_words_multirange"),
    ("public.t_shifts", "interval", "public.t_shifts_multirange"),
    ("public.t_moods", "public.t_mood", "public.t_moods_multirange"),
    ("public.t_pairs_range", "public.t_pair", "public.t_pairs_multirange"),
];

/// Composite type, the types of its attributes as they are when values are made.
const COMPOSITES: &[(&str, &[&str])] = &[
    ("public.t_pair", &["int4", "text", "timestamptz"]),
    ("public.t_nested", &["public.t_pair", "numeric[]", "public.t_mood", "json", "public.t_list"]),
    // Attributes were dropped in the middle and at the end.
    ("public.t_lost", &["int4", "bytea", "float8"]),
    ("public.t_empty", &[]),
    (
        "public.t_wide",
        &["money", "regclass", "interval", "tstzrange", "box", "public.t_short", "jsonb", "bool", "date"],
    ),
    ("\"Odd Schema\".\"Odd Pair\"", &["timestamp", "public.t_nested[]"]),
];

const DOMAINS: &[(&str, &str)] = &[
    ("public.t_short", "varchar(12)"),
    ("public.t_shorter", "public.t_short"),
    ("public.t_amount", "numeric"),
    ("public.t_doc", "jsonb"),
    ("public.t_text_doc", "json"),
    ("public.t_stamp", "timestamptz"),
    ("public.t_price", "money"),
    ("public.t_relation", "regclass"),
    ("public.t_bytes", "bytea"),
    ("public.t_feeling", "public.t_mood"),
    ("public.t_list", "int4[]"),
    ("public.t_lists", "public.t_list[]"),
    ("public.t_span", "daterange"),
    ("public.t_couple", "public.t_pair"),
    ("public.t_couples", "public.t_couple[]"),
];

/// Types that an extension brings, where it is available.
const EXTENSIONS: &[(&str, &[&str])] = &[
    ("hstore", &["public.hstore"]),
    ("citext", &["public.citext"]),
    ("ltree", &["public.ltree", "public.lquery", "public.ltxtquery"]),
    ("isn", &["public.isbn13", "public.issn", "public.ean13"]),
    ("cube", &["public.cube"]),
    ("seg", &["public.seg"]),
    ("intarray", &["public.query_int"]),
    ("lo", &["public.lo"]),
];

/// Composite whose attributes and names change while tables hold values of it.
pub const TURNING: &str = "public.t_turning";
/// Enum whose labels are renamed while tables hold values of it.
pub const RENAMED: &str = "public.t_renamed";

/// Built-in types that take no input, so that no row holds a random value of them.
const NO_INPUT: &[&str] = &[
    "gtsvector",
    "pg_node_tree",
    "pg_ndistinct",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
];

const TYPES: &str = r#"
CREATE TABLE public.k_target ();
CREATE FUNCTION public.k_function() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE OPERATOR public.=+= (LEFTARG = int4, RIGHTARG = int4, FUNCTION = int4pl);
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Odd "" Table" ();
CREATE FUNCTION "Odd Schema"."Odd Function"("x y" int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE COLLATION "Odd Schema"."Odd Collation" FROM "C";
CREATE TEXT SEARCH CONFIGURATION "Odd Schema"."Odd Config" (COPY = pg_catalog.english);
CREATE TEXT SEARCH DICTIONARY "Odd Schema"."Odd Dictionary" (TEMPLATE = pg_catalog.simple);

CREATE TYPE public.t_mood AS ENUM ('sad', 'so so', 'it''s "good"', '', 'ünï\code');
CREATE TYPE "Odd Schema"."Odd Mood" AS ENUM ('a', 'B');
CREATE TYPE public.t_renamed AS ENUM ('first', 'second');
CREATE TYPE public.t_pair AS (a int, "B c" text, t timestamptz);
CREATE DOMAIN public.t_list AS int4[];
CREATE TYPE public.t_nested AS (p public.t_pair, l numeric[], m public.t_mood, "j ""son" json, d public.t_list);
CREATE TYPE public.t_lost AS (a int, gone text, b bytea, f float8, "gone too" numeric);
ALTER TYPE public.t_lost DROP ATTRIBUTE gone, DROP ATTRIBUTE "gone too";
CREATE TYPE public.t_empty AS ();
CREATE DOMAIN public.t_short AS varchar(12) CHECK (VALUE <> 'never');
CREATE TYPE public.t_wide AS (m money, c regclass, i interval, r tstzrange, b box, s public.t_short, j jsonb, o bool, d date);
CREATE TYPE "Odd Schema"."Odd Pair" AS ("Odd \ ünï" timestamp, n public.t_nested[]);
CREATE TYPE public.t_turning AS (a int, b text, c timestamptz);

CREATE DOMAIN public.t_shorter AS public.t_short;
CREATE DOMAIN public.t_amount AS numeric;
CREATE DOMAIN public.t_doc AS jsonb;
CREATE DOMAIN public.t_text_doc AS json;
CREATE DOMAIN public.t_stamp AS timestamptz;
CREATE DOMAIN public.t_price AS money;
CREATE DOMAIN public.t_relation AS regclass;
CREATE DOMAIN public.t_bytes AS bytea;
CREATE DOMAIN public.t_feeling AS public.t_mood;
CREATE DOMAIN public.t_lists AS public.t_list[];
CREATE DOMAIN public.t_span AS daterange;
CREATE DOMAIN public.t_couple AS public.t_pair;
CREATE DOMAIN public.t_couples AS public.t_couple[];

CREATE TYPE public.t_floats AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TYPE public.t_words AS RANGE (subtype = text, collation = "C");
CREATE TYPE public.t_shifts AS RANGE (subtype = interval);
CREATE TYPE public.t_moods AS RANGE (subtype = public.t_mood);
CREATE TYPE public.t_pairs_range AS RANGE (subtype = public.t_pair);

-- A type with a cast to json is written through it, and the cast may look at any setting.
CREATE TYPE public.t_cast AS ENUM ('x', 'y z');
CREATE FUNCTION public.t_cast_json(public.t_cast) RETURNS json LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN pg_catalog.json_build_object(
        'label', $1::text, 'at', timestamptz '2020-02-29 12:00+00', 'lasts', interval '1 day -02:03:04'::text,
        'class', 'public.k_target'::regclass::text, 'float', '0.1'::float4::float8, 'price', 12.5::money);
END $$;
CREATE CAST (public.t_cast AS json) WITH FUNCTION public.t_cast_json(public.t_cast);

-- Base types of somebody's own, whose text depends on a setting.
CREATE TYPE public.t_base_when;
CREATE FUNCTION public.t_base_when_in(cstring, oid, integer) RETURNS public.t_base_when LANGUAGE internal STABLE STRICT AS 'timestamptz_in';
CREATE FUNCTION public.t_base_when_out(public.t_base_when) RETURNS cstring LANGUAGE internal STABLE STRICT AS 'timestamptz_out';
CREATE TYPE public.t_base_when (INPUT = public.t_base_when_in, OUTPUT = public.t_base_when_out, LIKE = timestamptz);
CREATE TYPE public.t_base_float;
CREATE FUNCTION public.t_base_float_in(cstring) RETURNS public.t_base_float LANGUAGE internal IMMUTABLE STRICT AS 'float8in';
CREATE FUNCTION public.t_base_float_out(public.t_base_float) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'float8out';
CREATE TYPE public.t_base_float (INPUT = public.t_base_float_in, OUTPUT = public.t_base_float_out, LIKE = float8);
CREATE TYPE public.t_base_text;
CREATE FUNCTION public.t_base_text_in(cstring) RETURNS public.t_base_text LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION public.t_base_text_out(public.t_base_text) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE public.t_base_text (INPUT = public.t_base_text_in, OUTPUT = public.t_base_text_out, LIKE = text);
CREATE TYPE public.t_base_class;
CREATE FUNCTION public.t_base_class_in(cstring) RETURNS public.t_base_class LANGUAGE internal STABLE STRICT AS 'regclassin';
CREATE FUNCTION public.t_base_class_out(public.t_base_class) RETURNS cstring LANGUAGE internal STABLE STRICT AS 'regclassout';
CREATE TYPE public.t_base_class (INPUT = public.t_base_class_in, OUTPUT = public.t_base_class_out, LIKE = regclass);
"#;

/// Makes the types that the server lacks and lists all that there are.
pub fn create(s: &mut Session) -> Vec<&'static str> {
    s.run(TYPES);
    let mut kinds = SCALARS.to_vec();
    kinds.extend([TURNING, RENAMED]);
    kinds.extend(RANGES.iter().flat_map(|(range, _, multirange)| [*range, *multirange]));
    kinds.extend(COMPOSITES.iter().map(|(name, _)| *name));
    kinds.extend(DOMAINS.iter().map(|(name, _)| *name));
    // A server may be built without libxml.
    if s.try_run("SELECT '<a/>'::xml").is_ok() {
        kinds.push("xml");
    }
    let available = s.column("SELECT name FROM pg_available_extensions");
    for (extension, types) in EXTENSIONS {
        if available.iter().any(|name| name == extension) {
            s.run(&format!("CREATE EXTENSION {extension} SCHEMA public"));
            kinds.extend(*types);
        }
    }
    kinds
}

/// Built-in types that have values and are not among `kinds`.
pub fn untried(s: &mut Session, kinds: &[&str]) -> Vec<String> {
    let tried: Vec<String> = kinds.iter().map(|kind| quoted(kind)).collect();
    let no_input: Vec<String> = NO_INPUT.iter().map(|kind| quoted(kind)).collect();
    s.column(&format!(
        "SELECT typname FROM pg_type t
         WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'd', 'e', 'r', 'm') AND typcategory <> 'A'
           AND oid NOT IN (SELECT k::regtype FROM unnest(ARRAY[{}]) k)
           AND typname <> ALL (ARRAY[{}]) AND (typname <> 'xml' OR {})",
        tried.join(", "),
        no_input.join(", "),
        kinds.contains(&"xml")
    ))
}

/// A kind, or sometimes an array of it.
pub fn pick(r: &mut Random, kinds: &[&str]) -> String {
    let kind = *r.pick(kinds);
    if r.percent(25) { format!("{kind}[]") } else { kind.to_string() }
}

/// A value that is not NULL, as an SQL expression of the type that means the same under every setting.
pub fn literal(r: &mut Random, kind: &str) -> String {
    if let Some(element) = kind.strip_suffix("[]") {
        return array(r, element, kind);
    }
    if let Some((range, subtype, _)) = RANGES.iter().find(|(range, ..)| *range == kind) {
        return range_of(r, range, subtype);
    }
    if let Some((range, subtype, multirange)) = RANGES.iter().find(|(_, _, multirange)| *multirange == kind) {
        let parts: Vec<String> = (0..r.below(5)).map(|_| range_of(r, range, subtype)).collect();
        return format!("{multirange}({})", parts.join(", "));
    }
    if let Some((_, attributes)) = COMPOSITES.iter().find(|(name, _)| *name == kind) {
        let parts: Vec<String> = attributes.iter().map(|attribute| nullable(r, attribute)).collect();
        return format!("ROW({})::{kind}", parts.join(", "));
    }
    if let Some((_, base)) = DOMAINS.iter().find(|(name, _)| *name == kind) {
        return format!("({})::{kind}", literal(r, base));
    }
    if kind == TURNING {
        // Populated by name, because which attributes there are changes.
        let (a, b, c) = (r.between(-99, 99), plain(r, "text"), plain(r, "timestamptz"));
        return format!(
            "jsonb_populate_record(NULL::{kind}, jsonb_build_object('a', {a}, 'b', {}, 'c', {}, 'added', {}))",
            quoted(&b),
            quoted(&c),
            r.between(0, 99)
        );
    }
    if kind == RENAMED {
        // By place, because the labels change.
        return format!("(enum_range(NULL::{kind}))[{}]", r.between(1, 2));
    }
    expression(r, kind)
}

/// A value or NULL.
pub fn nullable(r: &mut Random, kind: &str) -> String {
    if r.percent(15) { "NULL".into() } else { literal(r, kind) }
}

fn short(r: &mut Random, kind: &str) -> String {
    loop {
        let value = literal(r, kind);
        if !value.contains(LONG) {
            return value;
        }
    }
}

fn array(r: &mut Random, element: &str, kind: &str) -> String {
    // The parser takes a vector for an array, and ARRAY of arrays for one with more dimensions. No NULL: array_nulls
    // decides whether the word means it.
    if matches!(element, "int2vector" | "oidvector") {
        return format!("'{{\"1 2\",\"\",\"3\"}}'::{kind}");
    }
    match r.below(12) {
        0 => format!("'{{}}'::{kind}"),
        1 => {
            let row = |r: &mut Random| format!("ARRAY[{}, {}]", literal(r, element), nullable(r, element));
            format!("ARRAY[{}, {}, {}]::{kind}", row(r), row(r), row(r))
        }
        2 => format!("array_fill({}, ARRAY[2, 1, 3], ARRAY[-1, 5, 0])::{kind}", short(r, element)),
        3 => format!("array_fill({}, ARRAY[3], ARRAY[{}])::{kind}", short(r, element), r.between(-9, 9)),
        4 => format!("array_fill(NULL::{element}, ARRAY[{}])::{kind}", r.between(1, 20)),
        // Around the stride at which jsonb stores offsets.
        5 => format!("array_fill({}, ARRAY[{}])::{kind}", short(r, element), r.between(30, 36)),
        _ => {
            let parts: Vec<String> = (0..=r.below(4)).map(|_| nullable(r, element)).collect();
            format!("ARRAY[{}]::{kind}", parts.join(", "))
        }
    }
}

fn range_of(r: &mut Random, range: &str, subtype: &str) -> String {
    if r.percent(8) {
        return format!("'empty'::{range}");
    }
    let (a, b) = (literal(r, subtype), literal(r, subtype));
    // The other brackets of a range over whole numbers or days overflow at the ends of the type.
    let whole = matches!(range, "int4range" | "int8range" | "daterange");
    let brackets = if whole { "[)" } else { *r.pick(&["[)", "(]", "[]", "()"]) };
    let (low, high) = (r.percent(88), r.percent(88));
    let low = if low { format!("least({a}, {b})") } else { "NULL".into() };
    let high = if high { format!("greatest({a}, {b})") } else { "NULL".into() };
    format!("{range}({low}, {high}, '{brackets}')")
}
