//! Random values of every built-in type, as SQL literals.

use crate::random::Random;

/// Types the random tables choose from. Names in lower case are made by `TYPES`.
pub const KINDS: &[&str] = &[
    "int2",
    "int4",
    "int8",
    "numeric",
    "numeric(12,4)",
    "float4",
    "float8",
    "money",
    "bool",
    "text",
    "varchar(40)",
    "char(7)",
    "name",
    "\"char\"",
    "bytea",
    "uuid",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamp(2)",
    "timestamptz",
    "interval",
    "json",
    "jsonb",
    "jsonpath",
    "xml",
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
    "tid",
    "pg_snapshot",
    "regclass",
    "regtype",
    "regproc",
    "int4range",
    "int8range",
    "numrange",
    "tsrange",
    "tstzrange",
    "daterange",
    "int4multirange",
    "datemultirange",
    "int2[]",
    "int4[]",
    "text[]",
    "numeric[]",
    "float8[]",
    "timestamptz[]",
    "jsonb[]",
    "bytea[]",
    "bool[]",
    "t_mood",
    "t_mood[]",
    "t_short",
    "t_doc",
    "t_pair",
    "t_pair[]",
    "t_nested",
    "t_floats",
    "int2vector",
    "oidvector",
];

pub const TYPES: &str = "
CREATE TYPE t_mood AS ENUM ('sad', 'so so', 'it''s \"good\"', '');
CREATE DOMAIN t_short AS varchar(12) CHECK (VALUE <> 'never');
CREATE DOMAIN t_doc AS jsonb;
CREATE TYPE t_pair AS (a int, \"B c\" text, t timestamptz);
CREATE TYPE t_nested AS (p t_pair, l numeric[], m t_mood);
CREATE TYPE t_floats AS RANGE (subtype = float8, subtype_diff = float8mi);";

const TEXTS: &[&str] = &[
    "",
    " ",
    "plain",
    "NULL",
    "null",
    "it's",
    "say \"no\"",
    "back\\slash",
    "tab\tnew\nline\r",
    "\u{1}\u{1f}\u{7f}",
    "ünïcödé",
    "日本語",
    "😀",
    "{\"a\":1}",
    "[1,2",
    "a,b;c|d",
    "</script>&amp;",
    "\u{2028}",
    "e\u{301}",
    "%s %I $1",
    "0",
    "true",
];

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn text(r: &mut Random) -> String {
    match r.below(20) {
        0 => "x".repeat(r.between(1, 300) as usize),
        // Long enough to be compressed, and long enough to be moved out of line.
        1 => "compress me ".repeat(400),
        2 => (0..900).map(|_| format!("{:016x}", r.next())).collect(),
        _ => {
            let (a, b) = (*r.pick(TEXTS), *r.pick(TEXTS));
            format!("{a}{b}")
        }
    }
}

fn digits(r: &mut Random, n: i64) -> String {
    (0..n).map(|_| char::from(b'0' + r.below(10) as u8)).collect()
}

fn numeric(r: &mut Random) -> String {
    match r.below(14) {
        0 => "NaN".into(),
        1 => "0".into(),
        2 => "0.000".into(),
        3 => "1e-30".into(),
        4 => "10000".into(),
        5 => "100000000.00".into(),
        6 => format!("-{}.{}", digits(r, 60), digits(r, 45)),
        7 => format!("{}e{}", r.between(-99, 99), r.between(-50, 200)),
        _ => {
            let (whole, scale) = (r.between(-100_000, 100_000), r.between(0, 9));
            if scale == 0 { whole.to_string() } else { format!("{whole}.{}", digits(r, scale)) }
        }
    }
}

fn float(r: &mut Random) -> String {
    const ODD: &[&str] = &[
        "NaN",
        "Infinity",
        "-Infinity",
        "-0",
        "0",
        "1e-30",
        "1e30",
        "0.1",
        "3.1415927",
        "123456789",
        "-1e15",
        "1e22",
        "0.30000000000000004",
    ];
    if r.percent(50) { r.pick(ODD).to_string() } else { format!("{}.{}", r.between(-10_000, 10_000), digits(r, 6)) }
}

fn date(r: &mut Random) -> String {
    match r.below(12) {
        0 => "infinity".into(),
        1 => "-infinity".into(),
        2 => format!("{:04}-{:02}-{:02} BC", r.between(1, 4000), r.between(1, 12), r.between(1, 28)),
        3 => format!("{}-{:02}-{:02}", r.between(10_000, 200_000), r.between(1, 12), r.between(1, 28)),
        4 => "0001-01-01".into(),
        5 => "2000-02-29".into(),
        _ => format!("{:04}-{:02}-{:02}", r.between(1, 9999), r.between(1, 12), r.between(1, 28)),
    }
}

fn time(r: &mut Random) -> String {
    match r.below(6) {
        0 => "24:00:00".into(),
        1 => "00:00:00".into(),
        2 => "23:59:59.999999".into(),
        _ => format!("{:02}:{:02}:{:02}.{}", r.below(24), r.below(60), r.below(60), r.below(1_000_000)),
    }
}

fn timestamp(r: &mut Random, zone: bool) -> String {
    let day = date(r);
    if day.contains("infinity") {
        return day;
    }
    let (day, era) = day.split_once(' ').unwrap_or((&day, ""));
    let clock = if r.percent(20) { "00:00:00".to_string() } else { time(r).replace("24:00:00", "12:00:00") };
    let offset = if zone { *r.pick(&["+00", "+05:45", "-03:30", "+14", "-08"]) } else { "" };
    format!("{day} {clock}{offset} {era}").trim_end().to_string()
}

fn json(r: &mut Random, depth: u32) -> String {
    const WORDS: &[&str] = &["\"\"", "\"a b\"", "\"\\u00e9\\n\\\"q\\\"\"", "\"日本\"", "null", "true", "false"];
    match r.below(if depth > 3 { 5 } else { 9 }) {
        0 | 1 => r.pick(WORDS).to_string(),
        2 => r.between(-1_000_000, 1_000_000).to_string(),
        3 => r.pick(&["1.0", "1.00", "1e3", "-0", "0.0001", "12345678901234567890.123456789", "1E-10"]).to_string(),
        4 => r.pick(&["[]", "{}", "[[]]", "{\"\":0}"]).to_string(),
        5 | 6 => {
            let parts: Vec<String> = (0..r.below(5)).map(|_| json(r, depth + 1)).collect();
            format!("[{}]", parts.join(", "))
        }
        _ => {
            let parts: Vec<String> = (0..r.below(6))
                .map(|i| {
                    format!("\"{}\": {}", ["b", "a", "long key name", "é", "a"][i as usize % 5], json(r, depth + 1))
                })
                .collect();
            format!("{{ {} }}", parts.join(","))
        }
    }
}

fn range(r: &mut Random, mut bound: impl FnMut(i64) -> String) -> String {
    if r.percent(10) {
        return "empty".into();
    }
    let (low, width) = (r.between(-5000, 5000), r.between(1, 900));
    let (mut a, mut b) = (bound(low), bound(low + width));
    if r.percent(15) {
        a = String::new();
    }
    if r.percent(15) {
        b = String::new();
    }
    format!("{}{a},{b}{}", r.pick(&["[", "("]), r.pick(&["]", ")"]))
}

fn day(n: i64) -> String {
    // Days counted in months of 28, which every month has.
    format!("{:04}-{:02}-{:02}", 2000 + n.div_euclid(336), n.rem_euclid(336) / 28 + 1, n.rem_euclid(28) + 1)
}

fn array(r: &mut Random, kind: &str) -> String {
    let element = kind.trim_end_matches("[]");
    match r.below(10) {
        0 => format!("'{{}}'::{kind}"),
        1 => {
            let row = |r: &mut Random| format!("ARRAY[{}, {}]", literal(r, element), literal(r, element));
            format!("ARRAY[{}, {}]::{kind}", row(r), row(r))
        }
        2 if element == "int4" => "'[-1:1]={7,8,9}'::int4[]".into(),
        _ => {
            let parts: Vec<String> =
                (0..=r.below(4)).map(|_| if r.percent(20) { "NULL".into() } else { literal(r, element) }).collect();
            format!("ARRAY[{}]::{kind}", parts.join(", "))
        }
    }
}

/// A value that is not NULL, as an SQL expression of the type.
pub fn literal(r: &mut Random, kind: &str) -> String {
    if kind.ends_with("[]") {
        return array(r, kind);
    }
    let number = |r: &mut Random| r.between(-1000, 1000) as f64 / 8.0;
    let point = |r: &mut Random| format!("({},{})", number(r), number(r));
    let plain = match kind {
        "int2" => r.pick(&[0, 1, -1, i64::from(i16::MAX), i64::from(i16::MIN), 1234]).to_string(),
        "int4" => {
            r.pick(&[0, 1, -1, i64::from(i32::MAX), i64::from(i32::MIN), 10_000, -99_999_999, 123_456_789]).to_string()
        }
        "int8" => r.pick(&[0, 1, -1, i64::MAX, i64::MIN, 10_000_000_000, -123_456_789_012_345]).to_string(),
        "numeric" => numeric(r),
        "numeric(12,4)" => format!("{}.{}", r.between(-9_999_999, 9_999_999), digits(r, 4)),
        "float4" | "float8" => float(r),
        "money" => format!("{}.{}", r.between(-10_000_000, 10_000_000), digits(r, 2)),
        "bool" => r.pick(&["true", "false"]).to_string(),
        "text" => text(r),
        "varchar(40)" => text(r).chars().take(40).collect(),
        "char(7)" => text(r).chars().take(7).collect(),
        "t_short" => text(r).chars().take(12).collect(),
        "name" => text(r).chars().take(12).collect(),
        "\"char\"" => r.pick(&["a", "", "Z", "\\"]).to_string(),
        "bytea" => format!("\\x{}", (0..r.between(0, 40)).map(|_| format!("{:02x}", r.below(256))).collect::<String>()),
        "uuid" => format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            r.next() >> 32,
            r.below(65536),
            r.below(65536),
            r.below(65536),
            r.next() >> 16
        ),
        "date" => date(r),
        "time" => time(r),
        "timetz" => format!("{}{}", time(r), r.pick(&["+00", "+05:30", "-08", "+15:59"])),
        "timestamp" | "timestamp(2)" => timestamp(r, false),
        "timestamptz" => timestamp(r, true),
        "interval" => format!(
            "{} years {} months {} days {}",
            r.between(-20, 20),
            r.between(-20, 20),
            r.between(-60, 60),
            time(r)
        ),
        "json" | "jsonb" | "t_doc" => json(r, 0),
        "jsonpath" => r.pick(&["$", "$.a[*] ? (@.b > 1)", "strict $.\"x y\".size()"]).to_string(),
        "xml" => r.pick(&["<a/>", "<a b=\"1\">ü &amp; <![CDATA[x]]></a>", "text only"]).to_string(),
        "inet" => r.pick(&["10.0.0.1", "192.168.1.5/24", "::1", "fe80::1/64", "::ffff:1.2.3.4"]).to_string(),
        "cidr" => r.pick(&["10.0.0.0/8", "192.168.1.0/24", "2001:db8::/32", "0.0.0.0/0"]).to_string(),
        "macaddr" => "08:00:2b:01:02:03".into(),
        "macaddr8" => "08:00:2b:01:02:03:04:05".into(),
        "bit(5)" => format!("{:05b}", r.below(32)),
        "varbit" => (0..r.below(70)).map(|_| if r.percent(50) { '1' } else { '0' }).collect(),
        "point" => point(r),
        "line" => format!("{{{},{},{}}}", r.between(1, 9), number(r), number(r)),
        "lseg" => format!("[{},{}]", point(r), point(r)),
        "box" => format!("{},{}", point(r), point(r)),
        "path" => format!("{}{},{},{}{}", "[", point(r), point(r), point(r), "]"),
        "polygon" => format!("({},{},{})", point(r), point(r), point(r)),
        "circle" => format!("<{},{}>", point(r), r.between(0, 50)),
        "tsvector" => r.pick(&["'fat':1A,3 'cat':2B", "", "'it''s' 'ü':5"]).to_string(),
        "tsquery" => r.pick(&["'fat' & !'cat'", "'a' <-> 'b'", ""]).to_string(),
        "pg_lsn" => format!("{:X}/{:X}", r.below(1000), r.below(1 << 32)),
        "oid" | "xid" => r.below(1 << 32).to_string(),
        "xid8" => (r.next() >> 1).to_string(),
        "tid" => format!("({},{})", r.below(100_000), r.between(1, 200)),
        "pg_snapshot" => "10:20:12,15".into(),
        "regclass" => r.pick(&["pg_catalog.pg_class", "public.k_target", "123456789"]).to_string(),
        "regtype" => r.pick(&["int4", "public.t_mood", "timestamptz"]).to_string(),
        "regproc" => r.pick(&["pg_catalog.now", "public.k_function"]).to_string(),
        "int4range" | "int8range" => range(r, |n| n.to_string()),
        "numrange" | "t_floats" => range(r, |n| format!("{n}.50")),
        "daterange" => range(r, day),
        "tsrange" => range(r, |n| format!("\"{} 10:00:00\"", day(n))),
        "tstzrange" => range(r, |n| format!("\"{} 10:00:00+03\"", day(n))),
        "int4multirange" => format!("{{[1,5),[{},{}]}}", r.between(10, 20), r.between(21, 99)),
        "datemultirange" => format!("{{[{},{}),[{},)}}", day(1), day(50), day(100)),
        "t_mood" => r.pick(&["sad", "so so", "it's \"good\"", ""]).to_string(),
        "int2vector" | "oidvector" => "1 2 30000".into(),
        "t_pair" => {
            return format!(
                "ROW({}, {}, {})::t_pair",
                literal(r, "int4"),
                nullable(r, "text"),
                nullable(r, "timestamptz")
            );
        }
        "t_nested" => {
            return format!(
                "ROW({}, {}, {})::t_nested",
                nullable(r, "t_pair"),
                nullable(r, "numeric[]"),
                nullable(r, "t_mood")
            );
        }
        other => panic!("no values for {other}"),
    };
    format!("{}::{kind}", quoted(&plain))
}

/// A value or NULL.
pub fn nullable(r: &mut Random, kind: &str) -> String {
    if r.percent(15) { "NULL".into() } else { literal(r, kind) }
}
