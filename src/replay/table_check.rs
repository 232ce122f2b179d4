//! Whether a table's changes, one after the other, give the table, told from a number for each row. Changes may come in any order that
//! keeps those of one row in theirs: a row whose changes do not, or whose numbers do not agree or cannot be compared, is suspect, and
//! the query (comparison_statement in sql/install/replay.sql) says what is wrong with it, if anything.
//!
//! An image comes to the sum of a keyed hash of each of its members. The key is random and known to nobody, so two images that differ
//! have the same sum with probability 2^-64, whoever chose them; images are only ever compared with those of the same row.

use std::hash::{BuildHasher, Hasher, RandomState};

use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

use super::image::{Member, Members};
use crate::capture::image::op;

/// With more suspects than this they are not worth singling out.
pub const MOST_SUSPECTS: usize = 10_000;

/// A mark of TRUNCATE, or the first half of where a change stands.
pub type Place = (i64, i32);

/// What orders the changes of a row: (commit order, statement_no), op, id.
pub type Order = (Place, i16, i64);

/// What a change stores, jsonb without varlena headers.
#[derive(Clone, Copy, Default)]
pub struct Images<'d> {
    pub old: Option<&'d [u8]>,
    pub new: Option<&'d [u8]>,
    pub old_exact: Option<&'d [u8]>,
    pub new_exact: Option<&'d [u8]>,
}

pub struct Change<'d> {
    pub order: Order,
    pub version: i32,
    pub key: &'d [u8],
    pub old_key: Option<&'d [u8]>,
    pub images: Images<'d>,
}

/// A recorded shape of the table.
pub struct Version {
    pub number: i32,
    /// Its images cannot be compared with those of another.
    pub is_opaque: bool,
    /// Its images are as the table's rows are now, names and all.
    pub is_whole: bool,
    /// The columns that can be compared, and what they are called now.
    names: FxHashMap<Box<[u8]>, Box<[u8]>>,
    names_now: FxHashSet<Box<[u8]>>,
    is_used: bool,
}

impl Version {
    pub fn new(number: i32, is_opaque: bool, is_whole: bool, names: Vec<(Vec<u8>, Vec<u8>)>) -> Version {
        Version {
            number,
            is_opaque,
            is_whole,
            names_now: names.iter().map(|(_, now)| now.as_slice().into()).collect(),
            names: names.into_iter().map(|(then, now)| (then.into(), now.into())).collect(),
            is_used: false,
        }
    }

    /// Every column of this one can be compared with one of the other.
    fn is_within(&self, other: &Version) -> bool {
        !self.is_opaque && !other.is_opaque && self.names_now.is_subset(&other.names_now)
    }
}

/// What a column's value counts under.
type Weight<'w> = dyn Fn(&Member, bool) -> u64 + 'w;

/// How an entry comes to a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Change,
    /// The two halves of a change of key.
    Leaves,
    Arrives,
}

const HAS_IMAGE: u8 = 1;
const IS_SUSPECT: u8 = 2;
const IS_SEEN: u8 = 4;

/// What the last change of a key left.
#[derive(Clone, Copy)]
struct Row {
    /// Where its key begins among those of all.
    key: usize,
    /// Of the image as stored, and of what can be compared of it under the names of now.
    whole: u64,
    now: u64,
    commit_order: i64,
    id: i64,
    statement_no: i32,
    marks: u32,
    op: i16,
    version: u16,
    flags: u8,
}

impl Row {
    fn order(&self) -> Order {
        ((self.commit_order, self.statement_no), self.op, self.id)
    }

    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The rows by key: numbers of rows by hash, keys one after the other.
#[derive(Default)]
struct Rows {
    rows: Vec<Row>,
    keys: Vec<u8>,
    slots: Vec<Slot>,
}

/// A row's number, and of the hash of its key what its place does not tell: few keys that are others have to be looked at.
#[derive(Clone, Copy)]
struct Slot {
    id: u32,
    tag: u32,
}

const NO_ROW: u32 = u32::MAX;
const EMPTY: Slot = Slot { id: NO_ROW, tag: 0 };

impl Rows {
    fn key(&self, id: usize) -> &[u8] {
        let end = self.rows.get(id + 1).map_or(self.keys.len(), |next| next.key);
        &self.keys[self.rows[id].key..end]
    }

    /// The row with this key, or the slot where it would be and what stands there then.
    fn find(&self, key: &[u8]) -> Result<usize, (usize, u32)> {
        let mut hasher = FxHasher::default();
        hasher.write(key);
        let hash = hasher.finish();
        let (mut place, tag) = (hash as usize & (self.slots.len() - 1), (hash >> 32) as u32);
        loop {
            let slot = self.slots[place];
            if slot.id == NO_ROW {
                return Err((place, tag));
            }
            if slot.tag == tag && self.key(slot.id as usize) == key {
                return Ok(slot.id as usize);
            }
            place = (place + 1) & (self.slots.len() - 1);
        }
    }

    fn get(&self, key: &[u8]) -> Option<usize> {
        if self.slots.is_empty() { None } else { self.find(key).ok() }
    }

    /// The row with this key, and whether it was there; else a row that is yet to be filled in.
    fn get_or_add(&mut self, key: &[u8]) -> (usize, bool) {
        if self.rows.len() >= self.slots.len() / 4 * 3 {
            self.grow();
        }
        match self.find(key) {
            Ok(id) => (id, true),
            Err((place, tag)) => {
                let id = self.rows.len();
                self.slots[place] = Slot { id: id as u32, tag };
                let key_at = self.keys.len();
                self.keys.extend_from_slice(key);
                self.rows.push(Row {
                    key: key_at,
                    whole: 0,
                    now: 0,
                    commit_order: 0,
                    id: 0,
                    statement_no: 0,
                    marks: 0,
                    op: 0,
                    version: 0,
                    flags: 0,
                });
                (id, false)
            }
        }
    }

    fn grow(&mut self) {
        self.slots = vec![EMPTY; (2 * self.slots.len()).max(64)];
        for id in 0..self.rows.len() {
            if let Err((place, tag)) = self.find(self.key(id)) {
                self.slots[place] = Slot { id: id as u32, tag };
            }
        }
    }
}

pub struct Check {
    /// All rows there are were recorded when they came.
    is_known: bool,
    marks: Vec<Place>,
    versions: Vec<Version>,
    hash: RandomState,
    rows: Rows,
    suspects: Vec<usize>,
    /// Keys in the table that no change names.
    extra: Vec<Box<[u8]>>,
    pub changes: u64,
    pub table_rows: u64,
    pub unrecorded: u64,
    /// There is no saying this way.
    pub gave_up: bool,
}

impl Check {
    pub fn new(is_known: bool) -> Check {
        Check {
            is_known,
            marks: Vec::new(),
            versions: Vec::new(),
            hash: RandomState::new(),
            rows: Rows::default(),
            suspects: Vec::new(),
            extra: Vec::new(),
            changes: 0,
            table_rows: 0,
            unrecorded: 0,
            gave_up: false,
        }
    }

    pub fn add_version(&mut self, version: Version) {
        self.versions.retain(|known| known.number != version.number);
        self.versions.push(version);
    }

    pub fn add_mark(&mut self, mark: Place) {
        let at = self.marks.partition_point(|known| *known <= mark);
        self.marks.insert(at, mark);
    }

    fn suspect(&mut self, id: usize) {
        let row = &mut self.rows.rows[id];
        if !row.is(IS_SUSPECT) {
            row.flags |= IS_SUSPECT;
            self.suspects.push(id);
            self.stop_if_useless();
        }
    }

    fn stop_if_useless(&mut self) {
        self.gave_up |= self.suspects.len() + self.extra.len() > MOST_SUSPECTS;
    }

    fn version(&mut self, number: i32) -> usize {
        let known = self.versions.iter().rposition(|version| version.number == number);
        let place = known.unwrap_or_else(|| {
            self.versions.push(Version::new(number, true, false, Vec::new()));
            self.versions.len() - 1
        });
        self.versions[place].is_used = true;
        place
    }

    /// One change: of its key's row, and of that of the key it had before.
    pub fn change(&mut self, change: &Change) {
        self.changes += 1;
        let version = self.version(change.version);
        match change.old_key {
            None => self.enter(change.key, change.order, version, &change.images, Step::Change),
            Some(old_key) => {
                let (place, _, id) = change.order;
                self.enter(old_key, (place, op::MOVED, id), version, &change.images, Step::Leaves);
                self.enter(change.key, change.order, version, &change.images, Step::Arrives);
            }
        }
    }

    fn enter(&mut self, key: &[u8], order: Order, version: usize, images: &Images, step: Step) {
        let (id, was_known) = self.rows.get_or_add(key);
        let row = self.rows.rows[id];
        if was_known && row.order() >= order {
            // The last one stays the last.
            return self.suspect(id);
        }
        let marks = self.marks.partition_point(|mark| *mark <= order.0) as u32;
        let finds = step != Step::Arrives
            && if order.1 <= op::DELETE {
                images.old.is_some()
            } else {
                order.1 != op::SNAPSHOT && order.1 != op::INSERT
            };
        let leaves = step != Step::Leaves && images.new.is_some();
        let mut after = [0; 2];
        if !row.is(IS_SUSPECT) {
            let whole = |member: &Member, is_exact: bool| self.weigh(member.key, member, is_exact);
            let [before, left] = sums(images, order.1, &whole);
            let is_break = if order.1 == op::SNAPSHOT || !was_known && !self.is_known {
                false
            } else if finds != (was_known && row.is(HAS_IMAGE) && row.marks == marks) {
                true
            } else if !finds {
                false
            } else if usize::from(row.version) == version {
                row.whole != before
            } else {
                let (was, is) = (&self.versions[usize::from(row.version)], &self.versions[version]);
                let common = |member: &Member, is_exact: bool| match is.names.get(member.key) {
                    Some(now) if was.names_now.contains(now) => self.weigh(now, member, is_exact),
                    _ => 0,
                };
                !was.is_within(is)
                    || row.now != if was.is_whole && is.is_whole { before } else { sums(images, order.1, &common)[0] }
            };
            after = [left, if self.versions[version].is_whole { left } else { self.now_of(images, order.1, version) }];
            if is_break {
                self.suspect(id);
            }
        }
        let row = &mut self.rows.rows[id];
        row.flags = row.flags & IS_SUSPECT | if leaves { HAS_IMAGE } else { 0 };
        [row.whole, row.now] = after;
        ((row.commit_order, row.statement_no), row.op, row.id) = order;
        (row.marks, row.version) = (marks, version as u16);
    }

    /// Of what can be compared in the image that a change leaves.
    fn now_of(&self, images: &Images, op: i16, version: usize) -> u64 {
        let names = &self.versions[version].names;
        let renamed =
            |member: &Member, is_exact: bool| names.get(member.key).map_or(0, |now| self.weigh(now, member, is_exact));
        sums(images, op, &renamed)[1]
    }

    fn weigh(&self, name: &[u8], member: &Member, is_exact: bool) -> u64 {
        let mut hasher = self.hash.build_hasher();
        hasher.write_u64((name.len() as u64) << 32 | u64::from(member.kind) | u64::from(is_exact));
        hasher.write(name);
        hasher.write(member.value);
        hasher.finish()
    }

    /// A row that the table holds.
    pub fn row(&mut self, key: &[u8], image: &[u8], exact: Option<&[u8]>) {
        self.table_rows += 1;
        let Some(id) = self.rows.get(key) else {
            if self.is_known {
                self.extra.push(key.into());
                self.stop_if_useless();
            } else {
                self.unrecorded += 1;
            }
            return;
        };
        let row = self.rows.rows[id];
        self.rows.rows[id].flags |= IS_SEEN;
        if row.is(IS_SUSPECT) {
            return;
        }
        let version = &self.versions[usize::from(row.version)];
        let comparable = |member: &Member, is_exact: bool| {
            if version.is_whole || version.names_now.contains(member.key) {
                self.weigh(member.key, member, is_exact)
            } else {
                0
            }
        };
        let images = Images { new: Some(image), new_exact: exact, ..Images::default() };
        let agrees = self.is_there(&row)
            && !row.is(IS_SEEN)
            && !version.is_opaque
            && row.now == sums(&images, op::INSERT, &comparable)[1];
        if !agrees {
            self.suspect(id);
        }
    }

    /// The history has the row, as far as it is known.
    fn is_there(&self, row: &Row) -> bool {
        row.op >= op::SNAPSHOT && row.marks as usize == self.marks.len()
    }

    /// How many rows the history has, when all changes and rows have come.
    pub fn end(&mut self) -> u64 {
        let mut replayed = 0;
        for id in 0..self.rows.rows.len() {
            let row = self.rows.rows[id];
            if self.is_there(&row) {
                replayed += 1;
                if !row.is(IS_SEEN) || !row.is(HAS_IMAGE) {
                    self.suspect(id);
                }
            }
        }
        replayed
    }

    /// The keys to be looked at closely.
    pub fn suspects(&self) -> impl Iterator<Item = &[u8]> {
        self.suspects.iter().map(|id| self.rows.key(*id)).chain(self.extra.iter().map(|key| &**key))
    }

    /// The versions that changes are of.
    pub fn versions(&self) -> impl Iterator<Item = i32> {
        self.versions.iter().filter(|version| version.is_used).map(|version| version.number)
    }
}

/// What a change's image before and after comes to; 0 for none.
fn sums(images: &Images, op: i16, weight: &Weight) -> [u64; 2] {
    let of = |document: Option<&[u8]>, is_exact: bool| {
        let members = document.map(Members::of).into_iter().flatten();
        members.fold(0u64, |sum, member| sum.wrapping_add(weight(&member, is_exact)))
    };
    let old = of(images.old, false).wrapping_add(of(images.old_exact, true));
    let new = of(images.new, false).wrapping_add(of(images.new_exact, true));
    let (Some(image), true) = (images.new, op > op::DELETE) else { return [old, new] };
    // Of an update the old images are of the columns that changed: the row before is the new one with these in their place.
    let mut gone = replaced(image, images.old, &|member| weight(member, false));
    if let Some(exact) = images.new_exact {
        gone = gone.wrapping_add(replaced(exact, images.old, &|member| weight(member, true)));
    }
    [new.wrapping_sub(gone).wrapping_add(old), new]
}

/// Of those members whose names the other document has, too. Both are in the order that the server keeps them in.
fn replaced(document: &[u8], by: Option<&[u8]>, weight: &dyn Fn(&Member) -> u64) -> u64 {
    let Some(by) = by else { return 0 };
    let mut names = Members::of(by).map(|member| member.key).peekable();
    let is_replaced = |member: &Member| {
        while names.next_if(|name| (name.len(), *name) < (member.key.len(), member.key)).is_some() {}
        names.peek() == Some(&member.key)
    };
    Members::of(document).filter(is_replaced).fold(0, |sum, member| sum.wrapping_add(weight(&member)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::jsonb::{self, Keys};

    /// A jsonb object of integers, without the varlena header.
    fn object(members: &[(&str, i64)]) -> Vec<u8> {
        let keys = Keys::new(members.iter().map(|(name, _)| name.as_bytes()));
        let mut out = Vec::new();
        jsonb::write_object(&mut out, &keys, |place, out| jsonb::push_integer(out, members[place].1)).unwrap();
        out[4..].to_vec()
    }

    fn check() -> Check {
        let names = |names: &[(&str, &str)]| -> Vec<(Vec<u8>, Vec<u8>)> {
            names.iter().map(|(then, now)| (then.as_bytes().into(), now.as_bytes().into())).collect()
        };
        let mut check = Check::new(true);
        check.add_version(Version::new(1, false, false, names(&[("a", "a"), ("b", "c")])));
        check.add_version(Version::new(2, false, true, names(&[("a", "a"), ("c", "c"), ("d", "d")])));
        check.add_version(Version::new(3, true, false, names(&[("a", "a")])));
        check
    }

    /// (id, op, version, key, old key, old image, new image)
    type Told<'t> =
        (i64, i16, i32, &'t str, Option<&'t str>, Option<&'t [(&'t str, i64)]>, Option<&'t [(&'t str, i64)]>);

    fn tell(check: &mut Check, (id, op, version, key, old_key, old, new): Told) {
        let [old, new] = [old, new].map(|members| members.map(object));
        let (key, old_key) = (key.as_bytes(), old_key.map(str::as_bytes));
        let images = Images { old: old.as_deref(), new: new.as_deref(), ..Images::default() };
        check.change(&Change { order: ((id, 0), op, id), version, key, old_key, images });
    }

    fn suspects(check: &mut Check, table: &[(&str, &[(&str, i64)])]) -> Vec<String> {
        for (key, members) in table {
            check.row(key.as_bytes(), &object(members), None);
        }
        check.end();
        let mut found: Vec<String> = check.suspects().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        found.sort();
        found
    }

    #[test]
    fn what_follows_is_not_suspect() {
        let mut check = check();
        tell(&mut check, (1, op::INSERT, 1, "1", None, None, Some(&[("a", 1), ("b", 2)])));
        tell(&mut check, (2, op::UPDATE, 1, "1", None, Some(&[("b", 2)]), Some(&[("a", 1), ("b", 3)])));
        // Column b is c now, and there is d.
        tell(&mut check, (3, op::UPDATE, 2, "1", None, Some(&[("c", 3)]), Some(&[("a", 1), ("c", 4), ("d", 7)])));
        tell(&mut check, (4, op::UPDATE, 2, "2", Some("1"), Some(&[("a", 1)]), Some(&[("a", 2), ("c", 4), ("d", 7)])));
        tell(&mut check, (5, op::INSERT, 1, "3", None, None, Some(&[("a", 3), ("b", 2)])));
        tell(&mut check, (6, op::INSERT, 1, "4", None, None, Some(&[("a", 4), ("b", 2)])));
        tell(&mut check, (7, op::DELETE, 1, "4", None, Some(&[("a", 4), ("b", 2)]), None));
        let table: [(&str, &[(&str, i64)]); 2] =
            [("2", &[("a", 2), ("c", 4), ("d", 7)]), ("3", &[("a", 3), ("c", 2), ("d", 9)])];
        assert!(suspects(&mut check, &table).is_empty());
        assert_eq!((check.changes, check.table_rows), (7, 2));
    }

    #[test]
    fn what_does_not_follow_is_suspect() {
        let mut check = check();
        let whole: &[(&str, i64)] = &[("a", 1), ("c", 2), ("d", 3)];
        for key in ["differs", "gone", "forged", "again", "fine", "late", "opaque"] {
            tell(&mut check, (1, op::INSERT, 2, key, None, None, Some(whole)));
        }
        tell(&mut check, (2, op::UPDATE, 2, "differs", None, Some(&[("c", 9)]), Some(whole)));
        tell(&mut check, (2, op::INSERT, 2, "again", None, None, Some(whole)));
        tell(&mut check, (2, op::DELETE, 2, "never", None, Some(whole), None));
        tell(&mut check, (0, op::UPDATE, 2, "late", None, Some(&[("c", 2)]), Some(whole)));
        tell(&mut check, (2, op::UPDATE, 3, "opaque", None, Some(&[("c", 2)]), Some(whole)));
        tell(&mut check, (1, op::INSERT, 3, "opaque, too", None, None, Some(whole)));
        let forged: &[(&str, i64)] = &[("a", 1), ("c", 3), ("d", 2)];
        let table =
            ["differs", "again", "fine", "late", "opaque", "opaque, too", "more"].map(|key| (key, whole)).into_iter();
        let table: Vec<_> = table.chain([("forged", forged)]).collect();
        let found = suspects(&mut check, &table);
        assert_eq!(found, ["again", "differs", "forged", "gone", "late", "more", "never", "opaque", "opaque, too"]);
    }

    #[test]
    fn a_mark_ends_every_row() {
        let mut check = check();
        check.add_mark((2, 0));
        let whole: &[(&str, i64)] = &[("a", 1), ("c", 2), ("d", 3)];
        tell(&mut check, (1, op::INSERT, 2, "1", None, None, Some(whole)));
        tell(&mut check, (1, op::INSERT, 2, "2", None, None, Some(whole)));
        tell(&mut check, (3, op::INSERT, 2, "2", None, None, Some(whole)));
        assert!(suspects(&mut check, &[("2", whole)]).is_empty());
        assert_eq!(check.end(), 1);
    }

    #[test]
    fn where_a_value_stands_matters() {
        let check = check();
        let sum = |members: &[(&str, i64)]| {
            let image = object(members);
            sums(&Images { new: Some(&image), ..Images::default() }, op::INSERT, &|m, e| check.weigh(m.key, m, e))[1]
        };
        assert_ne!(sum(&[("a", 1), ("b", 2)]), sum(&[("a", 2), ("b", 1)]));
        assert_ne!(sum(&[("a", 1)]), sum(&[("a", 1), ("b", 0)]));
        assert_eq!(sum(&[("a", 1), ("b", 2)]), sum(&[("a", 1), ("b", 2)]));
    }
}
