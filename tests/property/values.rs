//! Random values of scalar types.

use crate::random::Random;

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
    "\u{1}\u{8}\u{b}\u{c}\u{1f}\u{7f}",
    "\u{80}\u{9f}\u{ad}\u{feff}",
    "ünïcödé",
    "日本語",
    "😀",
    "\u{ffff}\u{fffd}\u{10ffff}",
    "{\"a\":1}",
    "[1,2",
    "a,b;c|d",
    "</script>&amp;",
    "\u{2028}",
    "e\u{301}",
    "\\u0041\\u0000\\x00",
    "%s %I $1",
    "0",
    "true",
    "trailing   ",
];

pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn short_text(r: &mut Random, characters: usize) -> String {
    let (a, b) = (*r.pick(TEXTS), *r.pick(TEXTS));
    format!("{a}{b}").chars().take(characters).collect()
}

/// An SQL expression for a text of 2 to 60 kB: one that compresses well, or one that hardly does.
fn long_text(r: &mut Random) -> String {
    if r.percent(50) {
        format!("repeat({}, {})", quoted(r.pick::<&str>(&["compress me ", "é", "\"\\", "\n"])), r.between(2_100, 6_000))
    } else {
        format!(
            "(SELECT string_agg(md5(({} + g)::text), '') FROM generate_series(1, {}) g)",
            r.below(1 << 40),
            r.between(70, 400)
        )
    }
}

fn digits(r: &mut Random, n: i64) -> String {
    (0..n).map(|_| char::from(b'0' + r.below(10) as u8)).collect()
}

fn numeric(r: &mut Random) -> String {
    const ODD: &[&str] = &[
        "NaN",
        "Infinity",
        "-Infinity",
        "0",
        "-0",
        "0.000",
        "0.00000000000000000000",
        "1e-30",
        "10000",
        "9999",
        "0.0001",
        "100000000.00",
        "99999999999999999999999999999999999999.9999",
        "1e1000",
        "-1e-1000",
    ];
    match r.below(8) {
        0 | 1 => r.pick(ODD).to_string(),
        2 => format!("-{}.{}", digits(r, 60), digits(r, 45)),
        3 => format!("{}e{}", r.between(-99, 99), r.between(-50, 200)),
        // Groups of four decimals are how the type stores them: whole groups of zeros at both ends, and scales beside them.
        4 => format!(
            "{}{}.{}{}",
            r.between(-9_999, 9_999),
            "0".repeat(r.below(13) as usize),
            "0".repeat(r.below(13) as usize),
            digits(r, 5)
        ),
        5 => {
            let (whole, scale) = (r.between(1, 2000), r.between(1, 2000));
            format!("{}.{}", digits(r, whole), digits(r, scale))
        }
        _ => {
            let (whole, scale) = (r.between(-100_000, 100_000), r.between(0, 9));
            if scale == 0 { whole.to_string() } else { format!("{whole}.{}", digits(r, scale)) }
        }
    }
}

fn float(r: &mut Random, double: bool) -> String {
    const ODD: &[&str] = &[
        "NaN",
        "Infinity",
        "-Infinity",
        "-0",
        "0",
        "1e-30",
        "1e30",
        "0.1",
        "1e-5",
        "0.0001",
        "3.1415927",
        "123456789",
        "-1e15",
        "1e16",
        "1e22",
        "1.17549435e-38",
        "1e-40",
        "1.4e-45",
        "3.4028235e38",
        "16777217",
        "0.30000000000000004",
    ];
    const ODD_DOUBLE: &[&str] = &[
        "5e-324",
        "2.2250738585072014e-308",
        "1e-310",
        "1.7976931348623157e308",
        "9007199254740993",
        "-1e300",
        "123456789012345678",
    ];
    match r.below(6) {
        0 | 1 => r.pick(ODD).to_string(),
        2 if double => r.pick(ODD_DOUBLE).to_string(),
        3 => format!("{}e{}", r.between(-99_999_999, 99_999_999), r.between(-40, 28)),
        4 if double => format!("{}.{}e{}", r.between(-9, 9), digits(r, 17), r.between(-300, 300)),
        _ => format!("{}.{}", r.between(-10_000, 10_000), digits(r, 6)),
    }
}

fn integer(r: &mut Random, bits: u32) -> i64 {
    let (low, high) = (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits));
    match r.below(4) {
        0 => *r.pick(&[low, high, low + 1, 0, 1, -1, 9, 10, 9_999, 10_000, -10_000]),
        1 => r.between(-1_000, 1_000),
        // Every length.
        _ => {
            let value = (r.next() as i64) >> (64 - bits);
            value >> r.below(u64::from(bits))
        }
    }
}

fn date(r: &mut Random, farthest: i64) -> String {
    let day = format!("{:02}-{:02}", r.between(1, 12), r.between(1, 28));
    match r.below(12) {
        0 => "infinity".into(),
        1 => "-infinity".into(),
        2 => format!("{:04}-{day} BC", r.between(1, 4712)),
        3 => format!("{}-{day}", r.between(10_000, farthest)),
        4 => r.pick(&["0001-01-01", "0001-12-31 BC", "4713-01-01 BC", "9999-12-31", "10000-01-01"]).to_string(),
        5 => r.pick(&["2000-02-29", "1999-12-31", "2000-01-01", "1970-01-01", "1900-02-28"]).to_string(),
        _ => format!("{:04}-{day}", r.between(1, 9999)),
    }
}

fn time(r: &mut Random) -> String {
    let fraction = r.between(1, 6);
    match r.below(7) {
        0 => "24:00:00".into(),
        1 => "00:00:00".into(),
        2 => "23:59:59.999999".into(),
        3 => "00:00:00.000001".into(),
        _ => format!("{:02}:{:02}:{:02}.{}", r.below(24), r.below(60), r.below(60), digits(r, fraction)),
    }
}

fn timestamp(r: &mut Random, zone: bool) -> String {
    let day = date(r, 294_275);
    if day.contains("infinity") {
        return day;
    }
    let (day, era) = day.split_once(' ').unwrap_or((&day, ""));
    let clock = if r.percent(20) { "00:00:00".to_string() } else { time(r).replace("24:00:00", "12:00:00") };
    let offset = if zone { *r.pick(&["+00", "+05:45", "-03:30", "+14", "-08", "-00:25:21", "+15:59:59"]) } else { "" };
    format!("{day} {clock}{offset} {era}").trim_end().to_string()
}

fn interval(r: &mut Random) -> String {
    match r.below(8) {
        0 => "0".into(),
        1 => "+178000000 years -2147483647 days +2147483647 hours".into(),
        2 => format!("{} microseconds", r.between(-2_000_000, 2_000_000)),
        3 => format!("{} months", r.between(-30, 30)),
        4 => format!("{} days", r.between(-40, 40)),
        _ => format!(
            "{:+} years {:+} months {:+} days {:+} hours {:+} seconds",
            r.between(-20, 20),
            r.between(-20, 20),
            r.between(-60, 60),
            r.between(-200, 200),
            r.between(-100_000, 100_000) as f64 / 1000.0
        ),
    }
}

fn json(r: &mut Random, depth: u32) -> String {
    const WORDS: &[&str] = &[
        "\"\"",
        "\"a b\"",
        "\"\\u00e9\\n\\\"q\\\"\\/\\b\\f\\\\\"",
        "\"\\ud83d\\ude00 \\u2028 \\u001f\"",
        "\"日本\"",
        "null",
        "true",
        "false",
    ];
    const NUMBERS: &[&str] = &[
        "1.0",
        "1.00",
        "1e3",
        "-0",
        "-0.0",
        "0.0001",
        "12345678901234567890.123456789",
        "1E-10",
        "1e400",
        "-123e-200",
        "9223372036854775808",
    ];
    const KEYS: &[&str] = &["b", "a", "long key name", "é", "a", "", "bb", "\\u0061", "\\n", "0"];
    match r.below(if depth > 3 { 5 } else { 9 }) {
        0 | 1 => r.pick(WORDS).to_string(),
        2 => integer(r, 64).to_string(),
        3 => r.pick(NUMBERS).to_string(),
        4 => r.pick(&["[]", "{}", "[[]]", "[{}]", "{\"\":0}", " [ 1 ,\n2\t] "]).to_string(),
        5 | 6 => {
            let parts: Vec<String> = (0..r.below(5)).map(|_| json(r, depth + 1)).collect();
            format!("[{}]", parts.join(", "))
        }
        _ => {
            let parts: Vec<String> =
                (0..r.below(6)).map(|_| format!("\"{}\": {}", r.pick(KEYS), json(r, depth + 1))).collect();
            format!("{{ {} }}", parts.join(","))
        }
    }
}

fn number(r: &mut Random) -> String {
    // Floats that JSON has no number for stand in text here.
    if r.percent(10) { float(r, true) } else { (r.between(-1000, 1000) as f64 / 8.0).to_string() }
}

fn point(r: &mut Random) -> String {
    format!("({},{})", number(r), number(r))
}

fn finite_point(r: &mut Random) -> String {
    format!("({},{})", r.between(-1000, 1000) as f64 / 3.0, r.between(-1000, 1000) as f64 / 8.0)
}

fn points(r: &mut Random) -> String {
    let count = if r.percent(5) { 400 } else { r.between(1, 6) };
    (0..count).map(|_| point(r)).collect::<Vec<_>>().join(",")
}

fn hex(r: &mut Random, bytes: i64) -> String {
    (0..bytes).map(|_| format!("{:02x}", r.below(256))).collect()
}

fn bits(r: &mut Random, n: u64) -> String {
    (0..n).map(|_| if r.percent(50) { '1' } else { '0' }).collect()
}

/// A value as the text that the type's input function takes.
pub fn plain(r: &mut Random, kind: &str) -> String {
    match kind {
        "bool" => r.pick(&["true", "false"]).to_string(),
        "int2" => integer(r, 16).to_string(),
        "int4" => integer(r, 32).to_string(),
        "int8" => integer(r, 64).to_string(),
        "numeric" => numeric(r),
        "numeric(12,4)" => format!("{}.{}", r.between(-9_999_999, 9_999_999), digits(r, 4)),
        "float4" => float(r, false),
        "float8" | "public.t_base_float" => float(r, true),
        "text" | "varchar" | "refcursor" | "public.t_base_text" | "public.citext" => short_text(r, 99),
        "varchar(40)" => short_text(r, 40),
        "varchar(12)" => short_text(r, 12),
        "char(7)" => short_text(r, 7),
        "name" => {
            let length = r.between(0, 15) as usize;
            if r.percent(20) { "ü".repeat(31) + "x" } else { short_text(r, length) }
        }
        "\"char\"" => r.pick(&["a", "", "Z", "\\", "\"", "\u{1}", "\u{7f}"]).to_string(),
        "uuid" => match r.below(9) {
            0 => "0".repeat(32),
            1 => "f".repeat(32),
            _ => hex(r, 16),
        },
        "date" => date(r, 5_874_896),
        "time" | "time(3)" => time(r),
        "timetz" => format!("{}{}", time(r), r.pick(&["+00", "+05:30", "-08", "+15:59", "-00:00:01"])),
        "timestamp" | "timestamp(2)" => timestamp(r, false),
        "timestamptz" | "public.t_base_when" => timestamp(r, true),
        "interval" => interval(r),
        "interval day to second(2)" => format!("{} days {} seconds", r.between(-60, 60), r.between(-9_999, 9_999)),
        "json" | "jsonb" => json(r, 0),
        "jsonpath" => r
            .pick(&["$", "$.a[*] ? (@.b > 1)", "strict $.\"x y\".size()", "$.x like_regex \"^é\" flag \"i\"", "-1.50"])
            .to_string(),
        "inet" => r
            .pick(&["10.0.0.1", "192.168.1.5/24", "::1", "fe80::1/64", "::ffff:1.2.3.4", "0.0.0.0/0", "::/0"])
            .to_string(),
        "cidr" => r.pick(&["10.0.0.0/8", "192.168.1.0/24", "2001:db8::/32", "0.0.0.0/0", "1.2.3.4/32"]).to_string(),
        "macaddr" => hex(r, 6),
        "macaddr8" => hex(r, 8),
        "bit(5)" => bits(r, 5),
        "varbit" => {
            let length = r.below(70);
            bits(r, length)
        }
        "point" => point(r),
        "line" => format!("{{{},{},{}}}", r.between(1, 9), number(r), number(r)),
        "lseg" => format!("[{},{}]", point(r), point(r)),
        "box" => format!("{},{}", point(r), point(r)),
        "path" => {
            let (open, close) = *r.pick(&[("[", "]"), ("(", ")")]);
            format!("{open}{}{close}", points(r))
        }
        // Its bounding box is computed, and NaN makes no box.
        "polygon" => format!("({},{},{})", finite_point(r), finite_point(r), finite_point(r)),
        "circle" => format!("<{},{}>", point(r), r.between(0, 50)),
        "tsvector" => r.pick(&["'fat':1A,3 'cat':2B", "", "'it''s' 'ü':5 'back\\\\slash':16383D", "a b c"]).to_string(),
        "tsquery" => r.pick(&["'fat' & !'cat'", "'a' <-> 'b'", "", "'a':*AB | 'it''s' <3> 'ü'"]).to_string(),
        "pg_lsn" => format!("{:X}/{:X}", r.next() >> 32 >> r.below(32), r.below(1 << 32)),
        "oid" | "xid" | "cid" | "public.lo" => {
            let any = r.next() >> 32;
            r.pick(&[0, 1, u64::from(u32::MAX), any]).to_string()
        }
        "xid8" => (r.next() >> r.below(63)).to_string(),
        "tid" => format!("({},{})", r.below(1 << 32), r.between(0, 65_535)),
        "pg_snapshot" | "txid_snapshot" => r.pick(&["10:20:12,15", "1:1:", "3:9223372036854775807:3,4"]).to_string(),
        "aclitem" => r.pick(&["=r/pg_monitor", "pg_monitor=arwd*/pg_monitor"]).to_string(),
        "regclass" | "public.t_base_class" => r
            .pick(&[
                "pg_catalog.pg_class",
                "public.k_target",
                "123456789",
                "-",
                "\"Odd Schema\".\"Odd \"\" Table\"",
                "information_schema.tables",
            ])
            .to_string(),
        "regtype" => r
            .pick(&[
                "int4",
                "public.t_mood",
                "timestamptz",
                "public.t_pair[]",
                "\"Odd Schema\".\"Odd Mood\"",
                "\"char\"",
                "-",
                "987654321",
            ])
            .to_string(),
        "regproc" => r
            .pick(&["pg_catalog.now", "public.k_function", "\"Odd Schema\".\"Odd Function\"", "-", "987654321"])
            .to_string(),
        "regprocedure" => r
            .pick(&["pg_catalog.abs(int4)", "public.k_function()", "\"Odd Schema\".\"Odd Function\"(integer)", "0"])
            .to_string(),
        "regoper" => r.pick(&["pg_catalog.||/", "public.=+=", "0"]).to_string(),
        "regoperator" => {
            r.pick(&["pg_catalog.+(int4,int8)", "public.=+=(int4,int4)", "pg_catalog.-(NONE,int4)"]).to_string()
        }
        "regrole" => r.pick(&["pg_monitor", "pg_read_all_data", "987654321"]).to_string(),
        "regnamespace" => r.pick(&["pg_catalog", "public", "\"Odd Schema\"", "987654321"]).to_string(),
        "regcollation" => r.pick(&["pg_catalog.\"C\"", "\"Odd Schema\".\"Odd Collation\""]).to_string(),
        "regconfig" => r.pick(&["pg_catalog.english", "\"Odd Schema\".\"Odd Config\""]).to_string(),
        "regdictionary" => r.pick(&["pg_catalog.simple", "\"Odd Schema\".\"Odd Dictionary\""]).to_string(),
        "int2vector" => r.pick(&["1 2 30000", "", "-1"]).to_string(),
        "oidvector" => r.pick(&["1 2 30000", "", "4294967295"]).to_string(),
        "public.t_mood" => r.pick(&["sad", "so so", "it's \"good\"", "", "ünï\\code"]).to_string(),
        "\"Odd Schema\".\"Odd Mood\"" => r.pick(&["a", "B"]).to_string(),
        "public.t_cast" => r.pick(&["x", "y z"]).to_string(),
        "information_schema.yes_or_no" => r.pick(&["YES", "NO"]).to_string(),
        "information_schema.cardinal_number" => r.below(1 << 31).to_string(),
        "public.hstore" => {
            r.pick(&["", "a=>1, \"b c\"=>NULL", "\"it's\"=>\"say \\\"no\\\"\", é=>true, n=>01"]).to_string()
        }
        "public.ltree" => r.pick(&["Top.Science.Astronomy", "", "a"]).to_string(),
        "public.lquery" => r.pick(&["Top.*{0,2}.sport*@.!football|tennis", "*"]).to_string(),
        "public.ltxtquery" => "Europe & Russia*@ & !Transportation".into(),
        "public.isbn13" => r.pick(&["978-0-393-04002-9", "978-1-937785-83-3"]).to_string(),
        "public.issn" => "1436-4522".into(),
        "public.ean13" => "978-0-393-04002-9".into(),
        "public.cube" => format!("({},0.1),({},1e-30)", r.between(-99, 99), r.between(-99, 99) as f64 / 3.0),
        "public.seg" => r.pick(&["1.50 .. 2.5", "~6.50", "<5", "10(+-)1"]).to_string(),
        "public.query_int" => "1&(2|!3)".into(),
        other => panic!("no values for {other}"),
    }
}

/// Marks the expressions of long values, so that none is repeated many times in one array.
pub const LONG: &str = "/* long */";

/// A value that is not NULL, as an SQL expression of the type that means the same under every setting.
pub fn expression(r: &mut Random, kind: &str) -> String {
    if r.percent(4)
        && let Some(long) = long(r, kind)
    {
        return format!("{LONG}{long}");
    }
    match kind {
        // Their input depends on settings, or its text would not survive them.
        "money" => {
            let cents = integer(r, 64);
            let sign = if cents < 0 { "-" } else { "" };
            format!("({sign}{}.{:02})::numeric::money", cents.unsigned_abs() / 100, cents.unsigned_abs() % 100)
        }
        "bytea" => {
            let length = r.between(0, 40);
            format!("decode('{}', 'hex')", hex(r, length))
        }
        "xml" => {
            const XML: &[&str] = &[
                "<a/>",
                "<a b=\"1\">ü &amp; <![CDATA[x]]></a>",
                "text only",
                "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?><a/>",
                "<a/><!-- two --><b/>",
                "",
            ];
            format!("xmlparse(content {})", quoted(r.pick::<&str>(XML)))
        }
        _ => format!("{}::{kind}", quoted(&plain(r, kind))),
    }
}

/// A value long enough to be compressed or moved out of line, for the types that have such.
fn long(r: &mut Random, kind: &str) -> Option<String> {
    let text = long_text(r);
    Some(match kind {
        "text" | "varchar" | "refcursor" | "public.citext" | "public.t_base_text" => format!("{text}::text::{kind}"),
        "bytea" => format!("convert_to({text}, 'UTF8')"),
        "json" | "jsonb" => match r.below(3) {
            0 => format!("to_json({text})::{kind}"),
            1 => format!(
                "(SELECT {kind}_object_agg('key' || g * 7919 % 1000, CASE g % 3 WHEN 0 THEN to_jsonb(g * 1.5) WHEN 1 THEN to_jsonb(g::text) ELSE '[null, {{}}]' END) FROM generate_series(1, {}) g)",
                r.between(40, 999)
            ),
            _ => {
                format!("(SELECT {kind}_agg(g * 0.{}) FROM generate_series(1, {}) g)", r.below(100), r.between(40, 999))
            }
        },
        "xml" => format!("xmlparse(content '<a>' || replace({text}, '\"', '') || '</a>')"),
        "varbit" => format!("repeat('{}', {})::varbit", bits(r, 9), r.between(2_000, 9_000)),
        "numeric" => match r.below(4) {
            0 => "'-1e131071'::numeric".into(),
            1 => "'1e-16383'::numeric".into(),
            _ => format!("({}::text || repeat('{}', 3000) || '.5')::numeric", r.between(1, 9), digits(r, 3)),
        },
        "tsvector" => format!("to_tsvector('pg_catalog.simple', left({text}, 2000))"),
        "tsquery" => format!(
            "(SELECT string_agg(quote_literal(md5(({} + g)::text)), '|')::tsquery FROM generate_series(1, 20) g)",
            r.below(1 << 40)
        ),
        "public.hstore" => {
            format!(
                "(SELECT public.hstore(array_agg('k' || g), array_agg(nullif(g, 5)::text)) FROM generate_series(1, {}) g)",
                r.between(40, 900)
            )
        }
        _ => return None,
    })
}
