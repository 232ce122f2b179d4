//! Leaf pages of a btree whose columns are all integers, as bytes: which entries belong on a page, and where. Pure.
//!
//! The layout is the server's: storage/bufpage.h, access/itup.h, access/nbtree.h. An entry is 8 bytes of header (where its
//! row is, its own length) and then its columns, each aligned. Entries stand in the order of their columns, then of the
//! places of their rows; a page that is not the rightmost begins with its high key, above every entry on it.

use std::cmp::Ordering;

/// The most columns that an index handled here has.
pub const MAX_COLUMNS: usize = 3;

const PAGE_HEADER: usize = 24;
const LINE_POINTER: usize = 4;
const ENTRY_HEADER: usize = 8;
const LENGTH_MASK: u16 = 0x1FFF;
/// INDEX_ALT_TID_MASK: not an entry of one row, but a high key or a list of rows.
const NOT_PLAIN: u16 = 0x2000;
const HAS_NULLS: u16 = 0x8000;
/// In the header of a high key: how many columns it has.
const COLUMNS_MASK: u16 = 0x0FFF;
const IS_LIST: u16 = 0x2000;
const LEAF: u16 = 1;
/// BTP_DELETED, BTP_HALF_DEAD, BTP_INCOMPLETE_SPLIT.
const UNFIT: u16 = 1 << 2 | 1 << 4 | 1 << 7;

/// An entry to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub key: [i64; MAX_COLUMNS],
    pub block: u32,
    pub offset: u16,
    /// Which row of the batch it is for.
    pub row: usize,
}

/// Where the columns stand in an entry: offset and width, 4 or 8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    columns: Vec<(usize, usize)>,
    size: usize,
}

/// Room for an entry, aligned as one.
pub type EntryBytes = [u64; 1 + MAX_COLUMNS];

impl Layout {
    pub fn new(widths: impl IntoIterator<Item = usize>) -> Layout {
        let mut end = ENTRY_HEADER;
        let columns = widths.into_iter().map(|width| {
            let at = end.next_multiple_of(width);
            end = at + width;
            (at, width)
        });
        let columns = columns.collect();
        Layout { columns, size: end.next_multiple_of(8) }
    }

    /// The length of an entry.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn bytes_of(&self, entry: &Entry) -> EntryBytes {
        let mut words = EntryBytes::default();
        let mut put = |at: usize, bytes: &[u8]| {
            for (place, byte) in bytes.iter().enumerate() {
                let (word, within) = ((at + place) / 8, (at + place) % 8);
                let mut native = words[word].to_ne_bytes();
                native[within] = *byte;
                words[word] = u64::from_ne_bytes(native);
            }
        };
        put(0, &((entry.block >> 16) as u16).to_ne_bytes());
        put(2, &(entry.block as u16).to_ne_bytes());
        put(4, &entry.offset.to_ne_bytes());
        put(6, &(self.size as u16 & LENGTH_MASK).to_ne_bytes());
        for (value, (at, width)) in entry.key.iter().zip(&self.columns) {
            match width {
                4 => put(*at, &(*value as i32).to_ne_bytes()),
                _ => put(*at, &value.to_ne_bytes()),
            }
        }
        words
    }

    fn compare_columns(&self, entry: &Entry, item: &[u8], columns: usize) -> Ordering {
        let stored = |(at, width): &(usize, usize)| match width {
            4 => i64::from(i32::from_ne_bytes(item[*at..at + 4].try_into().expect("four bytes"))),
            _ => i64::from_ne_bytes(item[*at..at + 8].try_into().expect("eight bytes")),
        };
        let mut pairs = entry.key.iter().zip(self.columns.iter().take(columns));
        pairs.find_map(|(key, column)| Some(key.cmp(&stored(column))).filter(|o| o.is_ne())).unwrap_or(Ordering::Equal)
    }

    /// The entry's place beside one that is there; None beside one that is not plain.
    fn compare(&self, entry: &Entry, item: &[u8]) -> Option<Ordering> {
        let info = word(item, 6);
        if info & HAS_NULLS != 0 {
            return None;
        }
        let order = self.compare_columns(entry, item, self.columns.len());
        if order.is_eq() && info & NOT_PLAIN != 0 {
            return None;
        }
        let block = u32::from(word(item, 0)) << 16 | u32::from(word(item, 2));
        Some(order.then((entry.block, entry.offset).cmp(&(block, word(item, 4)))))
    }

    /// Whether the entry belongs before a high key for sure.
    fn is_below(&self, entry: &Entry, high_key: &[u8]) -> bool {
        let info = word(high_key, 6);
        let columns = match info & NOT_PLAIN {
            0 => self.columns.len(),
            _ => usize::from(word(high_key, 4) & COLUMNS_MASK),
        };
        // Columns left off it are below every value.
        info & HAS_NULLS == 0
            && (info & NOT_PLAIN == 0 || word(high_key, 4) & IS_LIST == 0)
            && self.compare_columns(entry, high_key, columns).is_lt()
    }

    /// How many of the entries, which are in order and of which the first belongs on the page, fit on it.
    pub fn fitting(&self, page: &Page, entries: &[Entry]) -> usize {
        if !page.is_fit() {
            return 0;
        }
        let room = page.free() / (self.size + LINE_POINTER);
        let most = room.min(entries.len());
        match page.high_key() {
            Some(high_key) => entries[..most].iter().take_while(|entry| self.is_below(entry, high_key)).count(),
            None => most,
        }
    }

    /// The number of the line pointer that the entry gets, not below `from`; None beside entries that are not plain.
    pub fn position(&self, page: &Page, entry: &Entry, from: usize) -> Option<usize> {
        let (mut low, mut high) = (from.max(page.first()), page.count() + 1);
        // What is written last is mostly the greatest.
        if high > low && self.compare(entry, page.item(high - 1))?.is_gt() {
            return Some(high);
        }
        while low < high {
            let middle = (low + high) / 2;
            if self.compare(entry, page.item(middle))?.is_gt() { low = middle + 1 } else { high = middle }
        }
        Some(low)
    }
}

/// The bytes of a page.
pub struct Page<'a>(pub &'a [u8]);

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

impl Page<'_> {
    fn lower(&self) -> usize {
        word(self.0, 12).into()
    }

    fn free(&self) -> usize {
        usize::from(word(self.0, 14)).saturating_sub(self.lower())
    }

    /// The page's own data at its end: left and right neighbour, level, flags.
    fn special(&self) -> &[u8] {
        &self.0[word(self.0, 16).into()..]
    }

    fn is_fit(&self) -> bool {
        let flags = word(self.special(), 12);
        flags & LEAF != 0 && flags & UNFIT == 0
    }

    fn is_rightmost(&self) -> bool {
        self.special()[4..8] == [0; 4]
    }

    /// How many line pointers there are; they count from 1.
    fn count(&self) -> usize {
        self.lower().saturating_sub(PAGE_HEADER) / LINE_POINTER
    }

    /// The first one that is an entry's.
    fn first(&self) -> usize {
        if self.is_rightmost() { 1 } else { 2 }
    }

    fn item(&self, number: usize) -> &[u8] {
        let at = PAGE_HEADER + LINE_POINTER * (number - 1);
        let pointer = u32::from_ne_bytes(self.0[at..at + 4].try_into().expect("four bytes"));
        let (start, length) = unpack_line_pointer(pointer);
        &self.0[start..start + length]
    }

    fn high_key(&self) -> Option<&[u8]> {
        (!self.is_rightmost()).then(|| self.item(1))
    }
}

/// Offset and length: bit fields of 15, 2 and 15 bits, which compilers lay out from the low end of little-endian words.
#[cfg(target_endian = "little")]
fn unpack_line_pointer(pointer: u32) -> (usize, usize) {
    ((pointer & 0x7FFF) as usize, (pointer >> 17) as usize)
}

#[cfg(target_endian = "big")]
fn unpack_line_pointer(pointer: u32) -> (usize, usize) {
    ((pointer >> 17) as usize, (pointer & 0x7FFF) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 512;

    fn entry(key: [i64; 3], block: u32, offset: u16) -> Entry {
        Entry { key, block, offset, row: 0 }
    }

    fn layout() -> Layout {
        Layout::new([4, 8, 8])
    }

    fn raw(entry: &Entry) -> Vec<u8> {
        let words = layout().bytes_of(entry);
        words.iter().flat_map(|word| word.to_ne_bytes()).take(layout().size()).collect()
    }

    /// A page with these items, as PageAddItem lays them out.
    fn page(items: &[Vec<u8>], next: u32, flags: u16) -> Vec<u8> {
        let mut page = vec![0; SIZE];
        let special = SIZE - 16;
        let mut upper = special;
        for (number, item) in items.iter().enumerate() {
            upper -= item.len();
            page[upper..upper + item.len()].copy_from_slice(item);
            let pointer = upper as u32 | 1 << 15 | (item.len() as u32) << 17;
            let at = PAGE_HEADER + 4 * number;
            page[at..at + 4].copy_from_slice(&pointer.to_ne_bytes());
        }
        let lower = PAGE_HEADER + 4 * items.len();
        for (at, value) in [(12, lower), (14, upper), (16, special)] {
            page[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
        }
        page[special + 4..special + 8].copy_from_slice(&next.to_ne_bytes());
        page[special + 12..special + 14].copy_from_slice(&flags.to_ne_bytes());
        page
    }

    fn high_key(key: [i64; 3], columns: u16) -> Vec<u8> {
        let mut item = raw(&entry(key, 7, columns));
        let info = word(&item, 6) | NOT_PLAIN;
        item[6..8].copy_from_slice(&info.to_ne_bytes());
        item
    }

    #[test]
    fn columns_are_aligned() {
        assert_eq!(layout(), Layout { columns: vec![(8, 4), (16, 8), (24, 8)], size: 32 });
        assert_eq!(Layout::new([8]), Layout { columns: vec![(8, 8)], size: 16 });
        assert_eq!(Layout::new([4]).size(), 16);
    }

    #[test]
    fn an_entry_reads_back() {
        let written = entry([-3, i64::MIN, 9], 0x0001_0002, 5);
        let item = raw(&written);
        assert_eq!(word(&item, 6), 32);
        assert_eq!(layout().compare(&written, &item), Some(Ordering::Equal));
        for (other, order) in [
            (entry([-3, i64::MIN, 9], 0x0001_0002, 6), Ordering::Greater),
            (entry([-3, i64::MIN, 9], 0x0001_0001, 9), Ordering::Less),
            (entry([-3, i64::MIN, 10], 0, 0), Ordering::Greater),
            (entry([-4, i64::MAX, 10], 0, 0), Ordering::Less),
        ] {
            assert_eq!(layout().compare(&other, &item), Some(order), "{other:?}");
        }
    }

    #[test]
    fn entries_find_their_place() {
        let items: Vec<_> = [1, 3, 5].iter().map(|n| raw(&entry([1, *n, 0], 1, 1))).collect();
        let bytes = page(&items, 0, LEAF);
        let place = |n| layout().position(&Page(&bytes), &entry([1, n, 0], 1, 1), 0);
        assert_eq!([place(0), place(2), place(4), place(6)], [Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(layout().position(&Page(&bytes), &entry([1, 4, 0], 1, 1), 3), Some(3));
        assert_eq!(layout().position(&Page(&page(&[], 0, LEAF)), &entry([1, 4, 0], 1, 1), 0), Some(1));
    }

    #[test]
    fn a_high_key_bounds_the_page() {
        let bytes = page(&[high_key([1, 5, 0], 2), raw(&entry([1, 1, 0], 1, 1))], 9, LEAF);
        let entries: Vec<_> = (2..8).map(|n| entry([1, n, 0], 1, 1)).collect();
        assert_eq!(layout().fitting(&Page(&bytes), &entries), 3, "5 with its third column left off is not below 5");
        assert_eq!(layout().position(&Page(&bytes), &entries[0], 0), Some(3), "behind the high key");
        let rightmost = page(&[raw(&entry([1, 1, 0], 1, 1))], 0, LEAF);
        assert_eq!(layout().fitting(&Page(&rightmost), &entries), 6);
    }

    #[test]
    fn only_as_many_as_there_is_room_for() {
        let entries: Vec<_> = (0..30).map(|n| entry([1, n, 0], 1, 1)).collect();
        assert_eq!(layout().fitting(&Page(&page(&[], 0, LEAF)), &entries), (SIZE - 16 - PAGE_HEADER) / 36);
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_server() {
        let entries = [entry([1, 2, 0], 1, 1)];
        for flags in [0, LEAF | 1 << 2, LEAF | 1 << 4, LEAF | 1 << 7] {
            assert_eq!(layout().fitting(&Page(&page(&[], 0, flags)), &entries), 0, "{flags}");
        }
        let mut list = high_key([1, 2, 0], IS_LIST | 3);
        assert_eq!(layout().compare(&entries[0], &list), None, "a list of rows of the same key");
        assert!(layout().compare(&entry([1, 3, 0], 1, 1), &list).is_some_and(Ordering::is_gt));
        list[7] |= (HAS_NULLS >> 8) as u8;
        assert_eq!(layout().compare(&entry([1, 3, 0], 1, 1), &list), None);
    }
}
