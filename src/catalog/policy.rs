//! A table's capture policy, read from threadline.captured_table as it is committed now: what is configured
//! is what is deployed, in every session, from its next statement on.

use pgrx::pg_sys;
use serde::Deserialize;

use crate::capture::mask;
use crate::error::Error;
use crate::pg::datum::for_message;
use crate::pg::relation::{self, Column, own_relation};
use crate::pg::{scan, types};

/// What TRUNCATE of a captured table does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncate {
    /// Every row is recorded, up to the cap; beyond it as with `Mark`.
    #[default]
    Capture,
    /// One change stands for every row of the table.
    Mark,
    /// TRUNCATE fails.
    Block,
}

/// What an update stores of the new row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Image {
    /// All of it.
    #[default]
    Full,
    /// Most times the columns that changed.
    Delta,
}

/// What becomes of a write whose change cannot be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// It fails.
    #[default]
    Fail,
    /// It goes through; a WARNING and a gap tell of it.
    Warn,
}

/// In which sessions a table's triggers fire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fires {
    /// Not in those of the replica role.
    #[default]
    Origin,
    /// In every one.
    Always,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Options {
    pub fires: Fires,
    pub image: Image,
    pub on_error: OnError,
    pub skip_noop: bool,
    pub truncate: Truncate,
    truncate_cap: Option<u64>,
}

impl Options {
    /// The most rows that TRUNCATE of the table may leave changes of; of more it leaves one mark.
    pub fn truncated_rows(&self) -> u64 {
        match self.truncate {
            Truncate::Capture => self.truncate_cap.unwrap_or(DEFAULT_CAP),
            Truncate::Mark | Truncate::Block => 0,
        }
    }

    /// The most rows that may be recorded as coming or going with one partition.
    pub fn partition_rows(&self) -> u64 {
        self.truncate_cap.unwrap_or(DEFAULT_CAP)
    }
}

/// A second's worth of work under the lock that TRUNCATE and ATTACH PARTITION hold.
const DEFAULT_CAP: u64 = 100_000;

/// Columns a policy names, by name and by the attribute numbers they had then.
#[derive(Clone, Debug, Default)]
pub struct NamedColumns {
    pub names: Vec<Vec<u8>>,
    pub attnums: Vec<i16>,
}

/// Keys inside a JSON column that lead to what is hidden.
#[derive(Clone, Debug)]
pub struct MaskedPath {
    pub column: Vec<u8>,
    /// The column's number when the path was set.
    pub attnum: i16,
    pub steps: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub struct Policy {
    pub table_id: i32,
    /// The captured table itself: for a leaf partition, the partitioned table that is under capture.
    pub root: pg_sys::Oid,
    pub key: NamedColumns,
    pub exclude: NamedColumns,
    pub mask: NamedColumns,
    pub mask_paths: Vec<MaskedPath>,
    pub placeholder: Vec<u8>,
    pub options: Options,
    pub enabled: bool,
    /// Once captured under other key columns.
    pub rekeyed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redaction {
    None,
    Mask,
    Exclude,
    /// Parts of it are masked.
    Paths,
}

/// The places of threadline.captured_table's columns (sql/install/storage.sql).
mod column {
    pub const TABLE_ID: usize = 0;
    pub const RELATION: usize = 1;
    pub const SCHEMA_NAME: usize = 3;
    pub const TABLE_NAME: usize = 4;
    pub const KEY_COLUMNS: usize = 5;
    pub const KEY_ATTNUMS: usize = 6;
    pub const EXCLUDE: usize = 7;
    pub const EXCLUDE_ATTNUMS: usize = 8;
    pub const MASK: usize = 9;
    pub const MASK_ATTNUMS: usize = 10;
    pub const PLACEHOLDER: usize = 11;
    pub const OPTIONS: usize = 12;
    pub const ENABLED: usize = 13;
    pub const REKEYED: usize = 18;
    pub const MASK_PATHS: usize = 19;
    pub const MASK_PATH_ATTNUMS: usize = 20;
}

/// The policy that covers a relation: that of the topmost partitioned table it belongs to, or its own: a table captured
/// for itself that was attached to a captured one is a part of that now. One that is switched off counts only where
/// none is on.
pub fn find(relid: pg_sys::Oid) -> Result<Option<Policy>, Error> {
    let table =
        own_relation(c"captured_table").ok_or_else(|| Error::StorageMissing { relation: "captured_table".into() })?;
    let mut switched_off = None;
    let mut switched_on = None;
    for candidate in relation::with_ancestors(relid) {
        let name = relation::schema_and_name(candidate);
        let mut found: Option<(bool, Policy)> = None;
        scan::each_current_row(table, |row| {
            let get = |index: usize| row.get(index).expect("a NOT NULL column of captured_table");
            if get(column::RELATION).as_i32() as u32 != candidate.to_u32() {
                return;
            }
            // In a restored database a dropped table's row may hold, as a bare number, the OID of another table:
            // the row whose recorded name fits, else the newest, is the one.
            let fits = name.as_ref().is_some_and(|(schema, table)| {
                schema.as_bytes() == get(column::SCHEMA_NAME).name_bytes()
                    && table.as_bytes() == get(column::TABLE_NAME).name_bytes()
            });
            let columns = |names: usize, attnums: usize| NamedColumns {
                names: scan::names_of(get(names)),
                attnums: scan::smallints_of(get(attnums)),
            };
            let policy = Policy {
                table_id: get(column::TABLE_ID).as_i32(),
                root: candidate,
                key: columns(column::KEY_COLUMNS, column::KEY_ATTNUMS),
                exclude: columns(column::EXCLUDE, column::EXCLUDE_ATTNUMS),
                mask: columns(column::MASK, column::MASK_ATTNUMS),
                mask_paths: scan::texts_of(get(column::MASK_PATHS))
                    .into_iter()
                    .zip(scan::smallints_of(get(column::MASK_PATH_ATTNUMS)))
                    .map(|(path, attnum)| {
                        let mut steps = mask::parse(&path);
                        MaskedPath { column: steps.remove(0), attnum, steps }
                    })
                    .collect(),
                placeholder: get(column::PLACEHOLDER).payload().to_vec(),
                options: serde_json::from_slice(&types::jsonb_text(get(column::OPTIONS))).unwrap_or_default(),
                enabled: get(column::ENABLED).as_bool(),
                rekeyed: get(column::REKEYED).as_bool(),
            };
            let better =
                found.as_ref().is_none_or(|(best_fits, best)| (fits, policy.table_id) > (*best_fits, best.table_id));
            if better {
                found = Some((fits, policy));
            }
        });
        match found {
            Some((_, policy)) if policy.enabled => switched_on = Some(policy),
            Some((_, policy)) => switched_off = switched_off.or(Some(policy)),
            None => {}
        }
    }
    Ok(switched_on.or(switched_off))
}

/// Whether a table under capture has a column that is left out of its images or masked in them, wholly or in parts.
pub fn anything_is_redacted() -> bool {
    let Some(table) = own_relation(c"captured_table") else { return true };
    let mut found = false;
    scan::each_current_row(table, |row| {
        let names = |index: usize| row.get(index).is_some_and(|names| !scan::names_of(names).is_empty());
        let paths = || row.get(column::MASK_PATHS).is_some_and(|paths| !scan::texts_of(paths).is_empty());
        found |= row.get(column::ENABLED).is_some_and(|enabled| enabled.as_bool())
            && (names(column::EXCLUDE) || names(column::MASK) || paths());
    });
    found
}

/// The shape last recorded, as far as finding renamed columns needs it, and its key columns by their names of then.
pub struct KnownNames<'a>(pub Option<&'a [super::version::VersionColumn]>, pub &'a [Vec<u8>]);

impl KnownNames<'_> {
    /// Whether `column` is one that the record knows by another name: it was renamed since. A restored table may
    /// have other attribute numbers, but then the record knows its names. Before the first record the numbers decide:
    /// rather redact a column too many.
    fn was_renamed(&self, column: &Column) -> bool {
        let name = for_message(&column.name);
        self.0.is_none_or(|known| {
            known.iter().any(|old| old.attnum == column.attnum) && !known.iter().any(|old| old.name == name)
        })
    }

    /// Whether the record has the column as it is now, redacted: its renaming was recorded since.
    fn was_redacted(&self, column: &Column, redact: &str) -> bool {
        let name = for_message(&column.name);
        self.0.is_some_and(|known| {
            known
                .iter()
                .any(|old| old.attnum == column.attnum && old.name == name && old.redact.as_deref() == Some(redact))
        })
    }
}

impl Policy {
    /// How a column is redacted. A renamed column stays redacted, and so does a new one under the old name.
    pub fn redaction(&self, column: &Column, known: &KnownNames) -> Redaction {
        match self.redaction_asked(column, known) {
            // Where there is no document any more, all that it became is hidden.
            Redaction::Paths if !types::holds_json(column.type_oid) => Redaction::Mask,
            redaction => redaction,
        }
    }

    /// The same without a look at the column's type.
    fn redaction_asked(&self, column: &Column, known: &KnownNames) -> Redaction {
        let named = |columns: &NamedColumns, redact| {
            columns.names.contains(&column.name)
                || (columns.attnums.contains(&column.attnum)
                    && (known.was_renamed(column) || known.was_redacted(column, redact)))
        };
        if named(&self.exclude, "exclude") {
            Redaction::Exclude
        } else if named(&self.mask, "mask") {
            Redaction::Mask
        } else if self.paths(column, known).next().is_some() {
            Redaction::Paths
        } else {
            Redaction::None
        }
    }

    /// Whether a change that cannot be recorded is lost rather than that it fails the write.
    pub fn tolerates_loss(&self) -> bool {
        self.options.on_error == OnError::Warn
    }

    /// The paths into a column, which follow it as the masking of a whole column does.
    pub fn paths<'p>(&'p self, column: &'p Column, known: &'p KnownNames) -> impl Iterator<Item = &'p MaskedPath> {
        self.mask_paths.iter().filter(|path| {
            path.column == column.name
                || (path.attnum == column.attnum
                    && (known.was_renamed(column)
                        || known.was_redacted(column, "path")
                        || known.was_redacted(column, "mask")))
        })
    }

    /// The key columns' places among the root's columns, in key order.
    pub fn key_places(&self, columns: &[Column], known: &KnownNames) -> Result<Vec<usize>, Error> {
        self.key
            .names
            .iter()
            .zip(&self.key.attnums)
            .enumerate()
            .map(|(place, (name, attnum))| {
                columns
                    .iter()
                    .position(|column| {
                        column.attnum == *attnum
                            && (known.was_renamed(column) || known.1.get(place) == Some(&column.name))
                    })
                    .or_else(|| columns.iter().position(|column| column.name == *name))
                    .ok_or_else(|| Error::KeyColumnGone {
                        table: relation::qualified_name(self.root),
                        column: for_message(name).into_owned(),
                    })
            })
            .collect()
    }

    /// The names of the key columns, as callers know them.
    pub fn key_names(&self) -> Vec<String> {
        self.key.names.iter().map(|name| for_message(name).into_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::version::VersionColumn;
    use crate::pg::datum::Storage;

    fn live(attnum: i16, name: &str) -> Column {
        Column {
            index: attnum as usize - 1,
            attnum,
            name: name.as_bytes().to_vec(),
            type_oid: pg_sys::TEXTOID,
            type_modifier: -1,
            storage: Storage { len: -1, by_value: false },
            virtual_generated: false,
        }
    }

    fn recorded(columns: &[(i16, &str)]) -> Vec<VersionColumn> {
        columns
            .iter()
            .map(|(attnum, name)| VersionColumn {
                attnum: *attnum,
                name: (*name).into(),
                type_name: "text".into(),
                redact: None,
                paths: Vec::new(),
                placeholder: None,
            })
            .collect()
    }

    fn policy(mask: &[(&str, i16)]) -> Policy {
        Policy {
            table_id: 1,
            root: pg_sys::InvalidOid,
            key: NamedColumns::default(),
            exclude: NamedColumns::default(),
            mask: NamedColumns {
                names: mask.iter().map(|(name, _)| name.as_bytes().to_vec()).collect(),
                attnums: mask.iter().map(|(_, attnum)| *attnum).collect(),
            },
            mask_paths: Vec::new(),
            placeholder: Vec::new(),
            options: Options::default(),
            enabled: true,
            rekeyed: false,
        }
    }

    #[test]
    fn a_renamed_column_stays_masked() {
        let shape = recorded(&[(1, "id"), (2, "ssn")]);
        let known = KnownNames(Some(&shape), &[]);
        let policy = policy(&[("ssn", 2)]);
        assert_eq!(policy.redaction_asked(&live(2, "ssn_old"), &known), Redaction::Mask);
        assert_eq!(policy.redaction_asked(&live(3, "ssn"), &known), Redaction::Mask);
        assert_eq!(policy.redaction_asked(&live(3, "email"), &known), Redaction::None);
    }

    #[test]
    fn a_renamed_column_stays_masked_once_its_new_name_is_recorded() {
        let mut shape = recorded(&[(1, "id"), (2, "ssn_old"), (3, "email")]);
        shape[1].redact = Some("mask".into());
        let known = KnownNames(Some(&shape), &[]);
        assert_eq!(policy(&[("ssn", 2)]).redaction_asked(&live(2, "ssn_old"), &known), Redaction::Mask);
        assert_eq!(policy(&[("ssn", 2)]).redaction_asked(&live(3, "email"), &known), Redaction::None);
        assert_eq!(policy(&[]).redaction_asked(&live(2, "ssn_old"), &known), Redaction::None, "the policy was cleared");
    }

    #[test]
    fn restored_attribute_numbers_do_not_mask_a_neighbour() {
        let shape = recorded(&[(1, "id"), (3, "ssn"), (4, "email")]);
        let known = KnownNames(Some(&shape), &[]);
        let policy = policy(&[("ssn", 3)]);
        assert_eq!(policy.redaction_asked(&live(2, "ssn"), &known), Redaction::Mask);
        assert_eq!(policy.redaction_asked(&live(3, "email"), &known), Redaction::None);
    }

    #[test]
    fn before_the_first_record_the_attribute_number_decides() {
        let policy = policy(&[("ssn", 2)]);
        assert_eq!(policy.redaction_asked(&live(2, "ssn_old"), &KnownNames(None, &[])), Redaction::Mask);
        assert_eq!(policy.redaction_asked(&live(1, "id"), &KnownNames(None, &[])), Redaction::None);
    }

    #[test]
    fn paths_follow_a_renamed_column() {
        let mut shape = recorded(&[(1, "id"), (2, "meta")]);
        let mut policy = policy(&[]);
        let steps = vec![b"card".to_vec()];
        policy.mask_paths.push(MaskedPath { column: b"meta".to_vec(), attnum: 2, steps });
        let leads_into = |shape: &[VersionColumn], attnum, name| {
            policy.paths(&live(attnum, name), &KnownNames(Some(shape), &[])).count() == 1
        };
        assert!(leads_into(&shape, 2, "meta") && leads_into(&shape, 2, "details"));
        assert!(!leads_into(&shape, 1, "id"));
        shape[1].name = "details".into();
        for redact in ["path", "mask"] {
            shape[1].redact = Some(redact.into());
            assert!(leads_into(&shape, 2, "details"), "recorded under its new name as {redact}");
        }
        assert_eq!(policy.redaction_asked(&live(2, "details"), &KnownNames(None, &[])), Redaction::Paths);
    }

    #[test]
    fn options_have_defaults() {
        assert_eq!(serde_json::from_str::<Options>("{}").unwrap(), Options::default());
        let options: Options = serde_json::from_str(r#"{"skip_noop": true, "truncate": "block"}"#).unwrap();
        assert!(options.skip_noop && options.truncate == Truncate::Block);
    }

    #[test]
    fn a_cap_counts_for_captured_rows_only() {
        let cap = |json: &str| serde_json::from_str::<Options>(json).unwrap().truncated_rows();
        assert_eq!(cap(r#"{"truncate_cap": 7}"#), 7);
        assert_eq!(cap(r#"{"truncate": "mark", "truncate_cap": 7}"#), 0);
        assert!(cap("{}") > 0);
    }
}
