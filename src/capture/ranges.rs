//! The id ranges of a transaction's changes: how its changes are found without an index on transaction_id. Pure.

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

    /// The text form of an int8multirange.
    pub fn to_multirange_text(&self) -> String {
        let ranges: Vec<String> = self.0.iter().map(|(from, to)| format!("[{from},{to})")).collect();
        format!("{{{}}}", ranges.join(","))
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
        assert_eq!(ranges.to_multirange_text(), "{[64,192),[256,300)}");
        ranges.add(192, 256);
        assert_eq!(ranges.to_multirange_text(), "{[64,300)}");
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
