//! The id ranges of a transaction's changes: how its changes are found without an index on transaction_id. Pure.

use super::jsonb;

/// More ranges than this are widened into fewer: the row stays small, and reading some ids of others is cheap.
const MOST: usize = 32;

/// Half-open ranges, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(i64, i64)>);

impl Ranges {
    /// Adds `[from, to)`, which may lie anywhere: a savepoint's ranges join its parent's.
    pub fn add(&mut self, from: i64, to: i64) {
        let place = self.0.partition_point(|range| range.1 < from);
        let mut merged = (from, to);
        let mut end = place;
        while end < self.0.len() && self.0[end].0 <= merged.1 {
            merged = (merged.0.min(self.0[end].0), merged.1.max(self.0[end].1));
            end += 1;
        }
        self.0.splice(place..end, [merged]);
        if self.0.len() > MOST {
            self.close_smallest_gap();
        }
    }

    pub fn extend(&mut self, other: &Ranges) {
        other.0.iter().for_each(|(from, to)| self.add(*from, *to));
    }

    fn close_smallest_gap(&mut self) {
        let gap = |at: &usize| self.0[at + 1].0 - self.0[*at].1;
        if let Some(at) = (0..self.0.len() - 1).min_by_key(gap) {
            self.0[at].1 = self.0[at + 1].1;
            self.0.remove(at + 1);
        }
    }

    /// As an int8multirange, the bytes that the server's `make_multirange` (utils/adt/multirangetypes.c) writes:
    /// header, type, count; for each range but the first where its bounds stand, every fourth as an offset and the
    /// others as a length; a byte of flags a range; the bounds.
    pub fn to_multirange(&self, type_oid: u32) -> Vec<u8> {
        const BOUNDS: usize = 16;
        let mut out = Vec::with_capacity(32 + self.0.len() * (BOUNDS + 5));
        let start = jsonb::begin_varlena(&mut out);
        out.extend_from_slice(&type_oid.to_ne_bytes());
        out.extend_from_slice(&(self.0.len() as u32).to_ne_bytes());
        for index in 1..self.0.len() {
            let item = if index % 4 == 0 { 0x8000_0000 | (index * BOUNDS) as u32 } else { BOUNDS as u32 };
            out.extend_from_slice(&item.to_ne_bytes());
        }
        // Lower bound inclusive, upper exclusive.
        out.resize(out.len() + self.0.len(), 0x02);
        out.resize(out.len().next_multiple_of(8), 0);
        for (from, to) in &self.0 {
            out.extend_from_slice(&from.to_ne_bytes());
            out.extend_from_slice(&to.to_ne_bytes());
        }
        jsonb::end_varlena(&mut out, start);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join() {
        let mut ranges = Ranges::default();
        ranges.add(64, 128);
        ranges.add(256, 300);
        ranges.add(128, 192);
        assert_eq!(ranges.0, [(64, 192), (256, 300)]);
        ranges.add(192, 256);
        assert_eq!(ranges.0, [(64, 300)]);
    }

    #[test]
    fn many_ranges_are_widened_at_the_smallest_gap() {
        let mut ranges = Ranges::default();
        for n in 0..MOST as i64 {
            ranges.add(n * 1000, n * 1000 + 1);
        }
        ranges.add(5002, 5003);
        assert_eq!(ranges.0.len(), MOST);
        assert!(ranges.0.contains(&(5000, 5003)), "{ranges:?}");
    }

    /// As PostgreSQL 15 stored '{[1,2),[5,6),[9,10),[13,14),[17,18)}'::int8multirange.
    #[test]
    fn a_multirange_is_laid_out_as_the_server_does() {
        let mut ranges = Ranges::default();
        [1, 5, 9, 13, 17].iter().for_each(|from| ranges.add(*from, from + 1));
        let bytes = ranges.to_multirange(4536);
        let word = |n: usize| u32::from_ne_bytes(bytes[4 * n..4 * n + 4].try_into().unwrap());
        assert_eq!([1, 2, 3, 4, 5, 6].map(word), [4536, 5, 16, 16, 16, 0x8000_0040]);
        assert_eq!(bytes[28..40], [2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes.len(), 40 + 5 * 16);
        assert_eq!(bytes[40..48], 1i64.to_ne_bytes());
    }

    #[test]
    fn order_of_adding_does_not_matter() {
        let (mut a, mut b) = (Ranges::default(), Ranges::default());
        [(5, 6), (1, 2), (3, 4)].iter().for_each(|(from, to)| a.add(*from, *to));
        [(3, 4), (5, 6), (1, 2)].iter().for_each(|(from, to)| b.add(*from, *to));
        assert_eq!(a, b);
        let mut joined = Ranges::default();
        joined.extend(&a);
        assert_eq!(joined, a);
    }
}
