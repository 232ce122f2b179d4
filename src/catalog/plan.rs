//! Everything the hot path needs to know of a relation, worked out once: which columns an image has, in jsonb's
//! order, how each is written, which make the key. Per row it is only read.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pgrx::pg_sys;

use super::definition::{self, Definitions};
use super::policy::{self, KnownNames, Policy, Redaction};
use super::version::{self, VersionColumn};
use crate::capture::encode::Encoder;
use crate::capture::jsonb::{self, Keys};
use crate::capture::mask::{Masking, Paths};
use crate::error::Error;
use crate::pg::datum::Storage;
use crate::pg::relation::{self, Column, OpenRelation};
use crate::pg::types;

/// A column that images have.
pub struct PlannedColumn {
    pub name: Vec<u8>,
    /// Its place in the row.
    pub index: usize,
    pub type_oid: pg_sys::Oid,
    pub type_modifier: i32,
    pub storage: Storage,
    pub encoder: Encoder,
    pub masked: bool,
    /// The form of an unchanged value may change.
    pub depends_on_catalog: bool,
}

/// Some of a plan's columns, as places in them, and the key half of an image of them.
pub struct SomeColumns {
    pub places: Vec<usize>,
    pub keys: Keys,
}

/// What an update stores.
pub struct ChangedColumns {
    pub changed: SomeColumns,
    /// The changed ones, and those that may look otherwise than when they were last stored.
    pub delta: SomeColumns,
}

pub struct Plan {
    pub policy: Policy,
    /// The relation's own name, for messages.
    pub table: String,
    /// Images' columns in jsonb's key order; excluded ones are not among them.
    pub columns: Vec<PlannedColumn>,
    /// The key half of whole images.
    pub whole: Keys,
    /// The key columns, as places in `columns`, in key order.
    pub key: Vec<usize>,
    /// Where there is none: the recorded columns whose values tell rows apart.
    pub identity: Option<SomeColumns>,
    /// Some column's text depends on the output settings.
    pub needs_settings: bool,
    /// … and one of them on more than the plain ones.
    pub needs_all_settings: bool,
    /// The key half of the last update's old image: a statement changes the same columns in row after row.
    last_changed: RefCell<Option<Rc<ChangedColumns>>>,
    /// The key half of the last image's exact texts.
    last_exact: RefCell<Option<Rc<SomeColumns>>>,
    /// What the enum and composite types among the columns' mean now, and the relations of those composites.
    definitions: Definitions,
    type_relations: Vec<pg_sys::Oid>,
    /// The present shape of the captured table, its key columns' present names, and the newest recorded one, for when capture needs its number.
    shape: Vec<VersionColumn>,
    key_names: Vec<Vec<u8>>,
    latest: Option<version::Version>,
    version: Cell<Option<version::Current>>,
    /// Every write to the relation so far is known to have been noted (capture::known_partition); of no interest but for partitions.
    pub is_noted: Cell<bool>,
    /// The version, or the partition's note, was recorded by a transaction that has not ended.
    pub is_unfinished: Cell<bool>,
    pub valid: Cell<bool>,
}

impl Plan {
    /// None when no policy covers the relation.
    pub fn build(relid: pg_sys::Oid) -> Result<Option<Plan>, Error> {
        policy::find(relid)?.map(|policy| Self::build_for(relid, policy)).transpose()
    }

    /// For a relation that this policy covers, or did until it was detached.
    pub fn build_for(relid: pg_sys::Oid, policy: Policy) -> Result<Plan, Error> {
        let latest = version::latest(policy.table_id)?;
        let known = KnownNames(
            latest.as_ref().map(|version| version.shape.columns.as_slice()),
            latest.as_ref().map_or(&[], |version| version.key.as_slice()),
        );

        // The policy speaks of the captured table; a partition may have its columns in another order.
        let root_columns = OpenRelation::open(policy.root, pg_sys::AccessShareLock as i32).columns();
        let shape = version::current_columns(&policy, &root_columns, &known);
        let (mut definitions, mut type_relations) = (Definitions::new(), Vec::new());
        for column in &root_columns {
            definition::collect(column.type_oid, &mut definitions, &mut type_relations);
        }
        let key_names: Vec<&Vec<u8>> =
            policy.key_places(&root_columns, &known)?.into_iter().map(|place| &root_columns[place].name).collect();
        let of_root = |name: &[u8]| root_columns.iter().find(|column| column.name == name);
        let redaction = |name: &[u8]| of_root(name).map_or(Redaction::None, |column| policy.redaction(column, &known));
        let masked_inside = |name: &[u8], encoder: Encoder| {
            let paths = policy.paths(of_root(name)?, &known).map(|path| path.steps.as_slice());
            let masking = Masking { paths: Paths::new(paths), placeholder: policy.placeholder.clone() };
            encoder.masking(&Rc::new(masking))
        };

        let relation = OpenRelation::open(relid, pg_sys::AccessShareLock as i32);
        let mut live: Vec<Column> = relation
            .columns()
            .into_iter()
            .filter(|column| !column.virtual_generated && redaction(&column.name) != Redaction::Exclude)
            .collect();
        live.sort_by(|a, b| jsonb::key_order(&a.name, &b.name));
        let columns: Vec<PlannedColumn> = live
            .into_iter()
            .map(|column| {
                let redaction = redaction(&column.name);
                let encoder = Encoder::for_type(column.type_oid);
                let encoder = match redaction {
                    Redaction::Paths => masked_inside(&column.name, encoder).expect("the column holds JSON"),
                    _ => encoder,
                };
                PlannedColumn {
                    masked: redaction == Redaction::Mask,
                    encoder,
                    index: column.index,
                    type_oid: column.type_oid,
                    type_modifier: column.type_modifier,
                    storage: column.storage,
                    depends_on_catalog: types::form_depends_on_catalog(column.type_oid),
                    name: column.name,
                }
            })
            .collect();
        let key_now = key_names.iter().map(|name| name.to_vec()).collect();
        let key = key_names
            .into_iter()
            .map(|name| {
                columns.iter().position(|column| column.name == *name).ok_or_else(|| Error::KeyColumnGone {
                    table: relation::qualified_name(relid),
                    column: String::from_utf8_lossy(name).into_owned(),
                })
            })
            .collect::<Result<Vec<usize>, Error>>()?;
        let identity = key.is_empty().then(|| identity(&root_columns, &columns));
        let depends = |column: &&PlannedColumn| !column.masked && column.encoder.needs_settings(column.type_oid);
        Ok(Plan {
            table: relation::qualified_name(relid),
            whole: Keys::new(columns.iter().map(|column| column.name.as_slice())),
            key,
            identity,
            needs_settings: columns.iter().any(|column| depends(&column)),
            needs_all_settings: columns.iter().filter(depends).any(|c| types::needs_all_settings(c.type_oid)),
            last_changed: RefCell::new(None),
            last_exact: RefCell::new(None),
            definitions,
            type_relations,
            columns,
            shape,
            key_names: key_now,
            latest,
            version: Cell::new(None),
            is_noted: Cell::new(relid == policy.root),
            is_unfinished: Cell::new(false),
            valid: Cell::new(true),
            policy,
        })
    }

    /// The present shape of the captured table.
    pub fn shape(&self) -> &[VersionColumn] {
        &self.shape
    }

    /// Whether an image recorded under a version is a row of the table's type of now as it stands: nothing was renamed, dropped,
    /// retyped or redefined since, and nothing is redacted.
    pub fn reads_as_recorded(&self, version: i32) -> bool {
        self.shape.iter().all(|column| column.redact.is_none())
            && self.latest.as_ref().is_some_and(|latest| {
                latest.number == version && latest.shape.columns == self.shape && latest.shape.types == self.definitions
            })
    }

    /// For images of an update that changed the columns at these places, which are in ascending order.
    pub fn changed_columns(&self, places: &[usize]) -> Rc<ChangedColumns> {
        let mut last = self.last_changed.borrow_mut();
        match &*last {
            Some(known) if known.changed.places == places => known.clone(),
            _ => {
                let stored =
                    |place: &usize| places.binary_search(place).is_ok() || self.columns[*place].depends_on_catalog;
                let columns = ChangedColumns {
                    changed: self.some_columns(places.to_vec()),
                    delta: self.some_columns((0..self.columns.len()).filter(stored).collect()),
                };
                last.insert(Rc::new(columns)).clone()
            }
        }
    }

    /// For the exact texts of the columns at these places.
    pub fn exact_columns(&self, places: &[usize]) -> Rc<SomeColumns> {
        let mut last = self.last_exact.borrow_mut();
        match &*last {
            Some(known) if known.places == places => known.clone(),
            _ => last.insert(Rc::new(self.some_columns(places.to_vec()))).clone(),
        }
    }

    /// Whether what changes about a relation may change the plan: the captured table, or a composite type's relation.
    pub fn depends_on(&self, relid: pg_sys::Oid) -> bool {
        self.policy.root == relid || self.type_relations.contains(&relid)
    }

    fn some_columns(&self, places: Vec<usize>) -> SomeColumns {
        let keys = Keys::new(places.iter().map(|place| self.columns[*place].name.as_slice()));
        SomeColumns { places, keys }
    }

    /// The version of the table's present shape, recorded now if it is a new one.
    pub fn version(&self) -> Result<version::Current, Error> {
        if let Some(version) = self.version.get() {
            return Ok(version);
        }
        let shape = version::Shape { columns: self.shape.clone(), types: self.definitions.clone() };
        let version = version::ensure(&self.policy, self.latest.as_ref(), shape, &self.key_names)?;
        self.version.set(Some(version));
        self.is_unfinished.set(version.is_ours || self.is_unfinished.get());
        Ok(version)
    }
}

/// The columns that tell rows of a table without a key apart, in the captured table's order and under numbers for
/// names: a renamed column changes no row, and partitions agree whatever the order of their columns.
fn identity(root_columns: &[Column], columns: &[PlannedColumn]) -> SomeColumns {
    let place = |column: &Column| columns.iter().position(|planned| planned.name == column.name && !planned.masked);
    let places: Vec<usize> = root_columns.iter().filter_map(place).collect();
    let names: Vec<String> = (0..places.len()).map(|number| format!("{number:04}")).collect();
    SomeColumns { keys: Keys::new(names.iter().map(|name| name.as_bytes())), places }
}
