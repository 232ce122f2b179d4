//! Tables of random columns, the statements that fill and change them, and the changes of shape in between.

use crate::kinds::{self, RENAMED, TURNING, literal, nullable};
use crate::random::Random;
use crate::support::Session;
use crate::values::quoted;

pub struct Column {
    pub name: String,
    pub kind: String,
    /// The expression of a generated column.
    pub generated: Option<&'static str>,
}

/// The column that generated ones are computed from, and what they may be.
const BASE: &str = "base";
const GENERATED: &[(&str, &str)] = &[
    ("int4", "base / 2"),
    ("text", "'made of ' || base::text"),
    ("numeric", "base * 1.50"),
    ("float8", "base / 3::float8"),
    ("bool", "base % 2 = 0"),
    ("text[]", "ARRAY[base::text, NULL]"),
];

/// A table in schema public with the key k.
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    serial: usize,
}

pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Table {
    pub fn of_columns(name: &str, columns: &[(&str, &str)]) -> Self {
        let column =
            |(name, kind): &(&str, &str)| Column { name: (*name).into(), kind: (*kind).into(), generated: None };
        Table { name: name.into(), columns: columns.iter().map(column).collect(), serial: columns.len() }
    }

    /// Up to 60 columns; a tenth of the tables are nothing but their key at first.
    pub fn random(r: &mut Random, name: &str, kinds: &[&str]) -> Self {
        let mut table = Table { name: name.into(), columns: Vec::new(), serial: 0 };
        let count = match r.below(10) {
            0 => 0,
            1 => r.between(30, 60),
            _ => r.between(1, 20),
        };
        for _ in 0..count {
            let kind = kinds::pick(r, kinds);
            let name = table.new_name(r);
            table.columns.push(Column { name, kind, generated: None });
        }
        if r.percent(35) {
            let (kind, expression) = *r.pick(GENERATED);
            table.columns.push(Column { name: "made".into(), kind: kind.into(), generated: Some(expression) });
            table.columns.insert(0, Column { name: BASE.into(), kind: "int4".into(), generated: None });
        }
        table
    }

    /// A name no column of the table has had.
    fn new_name(&mut self, r: &mut Random) -> String {
        const ODD: &[&str] = &[
            "select",
            "Mixed Case",
            "quo\"te",
            "it's",
            "ünï",
            "a.b",
            "$1",
            " ",
            "new\nline",
            "back\\slash",
            "{x}",
            "😀",
            "%",
        ];
        self.serial += 1;
        let serial = self.serial;
        match r.below(10) {
            0 | 1 => format!("{}{serial}", r.pick(ODD)),
            2 => format!("{serial:0>63}"),
            // 63 bytes in fewer characters.
            3 => format!("{serial:x>3}{}", "日".repeat(20)),
            4 => format!("{}{serial}", "c".repeat(r.between(1, 40) as usize)),
            _ => format!("c{serial}"),
        }
    }

    pub fn qualified(&self) -> String {
        format!("public.{}", self.name)
    }

    fn written(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|c| c.generated.is_none())
    }

    fn definition(column: &Column) -> String {
        let generated = column.generated.map(|e| format!(" GENERATED ALWAYS AS ({e}) STORED")).unwrap_or_default();
        format!("{} {}{generated}", identifier(&column.name), column.kind)
    }

    pub fn create(&self, s: &mut Session, r: &mut Random) {
        let mut parts: Vec<String> = self.columns.iter().map(Self::definition).collect();
        if r.percent(40) {
            parts.insert(r.below(parts.len() as u64 + 1) as usize, "gone text DEFAULT 'gone'".into());
        }
        let gone = parts.iter().any(|part| part.starts_with("gone "));
        parts.insert(r.below(parts.len() as u64 + 1) as usize, "k int PRIMARY KEY".into());
        let table = self.qualified();
        if r.percent(15) {
            s.run(&format!("CREATE TABLE {table} ({}) PARTITION BY HASH (k)", parts.join(", ")));
            // A leaf whose columns lie in another order than the parent's.
            parts.reverse();
            s.run(&format!(
                "CREATE TABLE {table}_even (unused int, {}); ALTER TABLE {table}_even DROP COLUMN unused;
                 ALTER TABLE {table} ATTACH PARTITION {table}_even FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                 CREATE TABLE {table}_odd PARTITION OF {table} FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
                parts.join(", ")
            ));
        } else {
            s.run(&format!("CREATE TABLE {table} ({})", parts.join(", ")));
        }
        if gone {
            s.run(&format!("ALTER TABLE {table} DROP COLUMN gone"));
        }
    }

    pub fn insert(&self, r: &mut Random, keys: std::ops::Range<i64>) -> String {
        let mut names = vec!["k".to_string()];
        names.extend(self.written().map(|c| identifier(&c.name)));
        let rows: Vec<String> = keys
            .map(|k| {
                let mut values = vec![k.to_string()];
                values.extend(self.written().map(|c| nullable(r, &c.kind)));
                format!("({})", values.join(", "))
            })
            .collect();
        format!("INSERT INTO {} ({}) VALUES {}", self.qualified(), names.join(", "), rows.join(", "))
    }

    /// Copies rows inside the table, so that stored, compressed and out-of-line values travel as they are.
    pub fn copy(&self, r: &mut Random, from: std::ops::Range<i64>, to: i64) -> String {
        let names: Vec<String> = self.written().map(|c| format!(", {}", identifier(&c.name))).collect();
        let names = names.concat();
        format!(
            "INSERT INTO {table} (k{names}) SELECT k - {} + {to}{names} FROM {table} WHERE k BETWEEN {} AND {} ORDER BY k{}",
            from.start,
            from.start,
            from.end - 1,
            r.pick(&["", " DESC"]),
            table = self.qualified(),
        )
    }

    pub fn update(&self, r: &mut Random) -> String {
        let mut sets = vec!["k = t.k".to_string()];
        for column in self.written() {
            if r.percent(30) {
                let name = identifier(&column.name);
                let value = match r.below(10) {
                    0 => format!("t.{name}"),
                    1 => "NULL".into(),
                    2 | 3 => format!(
                        "(SELECT o.{name} FROM {} o WHERE o.k >= t.k ORDER BY o.k LIMIT 1 OFFSET 1)",
                        self.qualified()
                    ),
                    _ => literal(r, &column.kind),
                };
                sets.push(format!("{name} = {value}"));
            }
        }
        let every = r.between(1, 5);
        format!("UPDATE {} t SET {} WHERE t.k % {every} = {}", self.qualified(), sets.join(", "), r.below(every as u64))
    }

    pub fn delete(&self, r: &mut Random) -> String {
        let every = r.between(3, 7);
        format!("DELETE FROM {} WHERE k % {every} = {}", self.qualified(), r.below(every as u64))
    }

    /// Changes the table's shape, or the shape of a type it may use; returns the statement.
    pub fn reshape(&mut self, s: &mut Session, r: &mut Random, kinds: &[&str]) -> String {
        let table = self.qualified();
        let place = (!self.columns.is_empty()).then(|| r.below(self.columns.len() as u64) as usize);
        let place = place.filter(|place| self.columns[*place].name != BASE);
        let sql = match (r.below(9), place) {
            (0, Some(place)) => {
                let column = self.columns.remove(place);
                format!("ALTER TABLE {table} DROP COLUMN {}", identifier(&column.name))
            }
            (1, Some(place)) => {
                let (old, new) = (identifier(&self.columns[place].name), self.new_name(r));
                let sql = format!("ALTER TABLE {table} RENAME COLUMN {old} TO {}", identifier(&new));
                self.columns[place].name = new;
                sql
            }
            (2, Some(place)) => {
                let name = identifier(&self.columns[place].name);
                let storage = r.pick(&["EXTERNAL", "EXTENDED", "MAIN"]);
                let sql = format!("ALTER TABLE {table} ALTER COLUMN {name} SET STORAGE {storage}");
                // Refused where the type has but one.
                let _ = s.try_run(&sql);
                return sql;
            }
            (3, Some(place)) => {
                let name = identifier(&self.columns[place].name);
                let sql = format!("ALTER TABLE {table} ALTER COLUMN {name} SET COMPRESSION lz4");
                // The server may be built without it.
                let _ = s.try_run(&sql);
                return sql;
            }
            (4, _) => {
                let (add, drop) = *r.pick(&[("added", "b"), ("b", "added")]);
                s.run(&format!("ALTER TYPE {TURNING} DROP ATTRIBUTE IF EXISTS {drop}"));
                let sql = format!("ALTER TYPE {TURNING} ADD ATTRIBUTE {add} text");
                // It is there already when the same turn came twice.
                let _ = s.try_run(&sql);
                return sql;
            }
            (5, _) => {
                let label = s.one(&format!("SELECT (enum_range(NULL::{RENAMED}))[1]"));
                format!(
                    "ALTER TYPE {RENAMED} RENAME VALUE {} TO {}",
                    quoted(&label),
                    quoted(&format!("label {}", r.next()))
                )
            }
            (6, _) => {
                // Comes and goes: whether a value has a form of its own in JSON is looked up when it is written.
                let dropped = s.try_run("DROP CAST (public.t_cast AS json)").is_ok();
                if dropped {
                    return "DROP CAST (public.t_cast AS json)".into();
                }
                "CREATE CAST (public.t_cast AS json) WITH FUNCTION public.t_cast_json(public.t_cast)".into()
            }
            _ => {
                // Existing rows take the value from the catalogue.
                let kind = kinds::pick(r, kinds);
                let name = self.new_name(r);
                let sql = format!(
                    "ALTER TABLE {table} ADD COLUMN {} {kind} DEFAULT {}",
                    identifier(&name),
                    literal(r, &kind)
                );
                // What a default may not be.
                if sql.contains("(SELECT ") || kind.contains("regrole") {
                    return "nothing".into();
                }
                self.columns.push(Column { name, kind, generated: None });
                sql
            }
        };
        s.run(&sql);
        sql
    }

    /// The names of the columns whose bytes differ between `row_before` and `row_after`, sorted, as an SQL expression.
    pub fn changed_columns(&self) -> String {
        let tests: Vec<String> = self
            .columns
            .iter()
            .map(|c| {
                let name = identifier(&c.name);
                format!(
                    "CASE WHEN record_image_ne(ROW(row_before.{name}), ROW(row_after.{name})) THEN {} END",
                    quoted(&c.name)
                )
            })
            .collect();
        format!(
            "(SELECT array_agg(c ORDER BY c COLLATE \"C\") FROM unnest(ARRAY[{}]::text[]) c WHERE c IS NOT NULL)",
            tests.join(", ")
        )
    }
}
