//! Which statements of a transaction an entry stands for: their numbers, as arithmetic progressions, so that a loop
//! over a few statements takes a few of them. Pure.

/// `first, first + step, …, last`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub first: i32,
    pub last: i32,
    pub step: i32,
}

impl Run {
    fn of(number: i32) -> Run {
        Run { first: number, last: number, step: 1 }
    }

    fn contains(&self, number: i32) -> bool {
        self.first <= number && number <= self.last && (number - self.first) % self.step == 0
    }

    /// Takes in the number if it is the next one.
    fn extend(&mut self, number: i32) -> bool {
        if number <= self.last {
            return false;
        }
        if self.first == self.last {
            self.step = number - self.first;
        }
        let next = self.last.checked_add(self.step) == Some(number);
        if next {
            self.last = number;
        }
        next
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Most often the only one.
    first: Run,
    more: Vec<Run>,
    /// How many there are, of which the runs tell no more once they were widened.
    count: i64,
    largest: i32,
    widened: bool,
}

impl Numbers {
    pub fn of(number: i32) -> Numbers {
        Numbers { first: Run::of(number), more: Vec::new(), count: 1, largest: number, widened: false }
    }

    pub fn add(&mut self, number: i32) {
        // Statements come in their order, but for those that others interrupt.
        let is_new = number > self.largest || self.widened || !self.contains(number);
        if is_new {
            self.count += 1;
            self.push(Run::of(number));
        }
    }

    /// Takes in those of a savepoint: none of them is here.
    pub fn absorb(&mut self, other: &Numbers) {
        self.count += other.count;
        for run in other.runs() {
            self.push(*run);
        }
        if other.widened {
            self.widen();
        }
    }

    fn push(&mut self, run: Run) {
        self.largest = self.largest.max(run.last);
        let last = self.more.last_mut().unwrap_or(&mut self.first);
        if self.widened {
            let (first, largest) = (last.first.min(run.first), self.largest);
            self.first = Run { first, last: largest, step: 1 };
        } else if run.first != run.last || !last.extend(run.first) {
            self.more.push(run);
        }
    }

    /// From now on all numbers between the smallest and the largest count as these.
    pub fn widen(&mut self) {
        self.first = Run { first: self.smallest(), last: self.largest, step: 1 };
        self.more = Vec::new();
        self.widened = true;
    }

    pub fn contains(&self, number: i32) -> bool {
        self.runs().any(|run| run.contains(number))
    }

    /// How many runs there are beside the first.
    pub fn further_runs(&self) -> usize {
        self.more.len()
    }

    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        std::iter::once(&self.first).chain(&self.more)
    }

    pub fn smallest(&self) -> i32 {
        self.runs().map(|run| run.first).min().expect("there is one")
    }

    pub fn count(&self) -> i64 {
        self.count
    }

    /// Whether the runs hold other numbers too.
    pub fn is_widened(&self) -> bool {
        self.widened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(all: impl IntoIterator<Item = i32>) -> Numbers {
        let mut all = all.into_iter();
        let mut numbers = Numbers::of(all.next().unwrap());
        all.for_each(|number| numbers.add(number));
        numbers
    }

    #[test]
    fn a_loop_is_one_progression() {
        let numbers = numbers((0..10_000).map(|turn| 5 + 3 * turn));
        assert_eq!(numbers.runs().copied().collect::<Vec<_>>(), [Run { first: 5, last: 30_002, step: 3 }]);
        assert_eq!(numbers.count(), 10_000);
    }

    #[test]
    fn known_numbers_change_nothing() {
        let mut loops = numbers([1, 3, 5, 20, 21]);
        let before = loops.clone();
        [1, 5, 21, 3].into_iter().for_each(|number| loops.add(number));
        assert_eq!(loops, before);
        loops.add(2);
        assert_eq!((loops.count(), loops.smallest(), loops.further_runs()), (6, 1, 2));
    }

    #[test]
    fn widened_numbers_are_a_span() {
        let mut squares = numbers((0..2000).map(|n| n * n));
        assert!(squares.further_runs() > 900);
        squares.widen();
        assert_eq!(squares.runs().copied().collect::<Vec<_>>(), [Run { first: 0, last: 1999 * 1999, step: 1 }]);
        squares.add(5_000_000);
        squares.absorb(&numbers([-1]));
        assert_eq!(squares.runs().copied().collect::<Vec<_>>(), [Run { first: -1, last: 5_000_000, step: 1 }]);
        assert_eq!((squares.count(), squares.is_widened()), (2002, true));
    }

    #[test]
    fn savepoints_join() {
        let mut outer = numbers([1]);
        for turn in 1..1000 {
            outer.absorb(&numbers([1 + 2 * turn]));
        }
        assert_eq!(outer.runs().copied().collect::<Vec<_>>(), [Run { first: 1, last: 1999, step: 2 }]);
        outer.absorb(&numbers([2000, 2001, 2002]));
        assert_eq!((outer.further_runs(), outer.count(), outer.smallest()), (1, 1003, 1));
        let mut widened = numbers([3000, 4000]);
        widened.widen();
        outer.absorb(&widened);
        assert_eq!(outer.runs().copied().collect::<Vec<_>>(), [Run { first: 1, last: 4000, step: 1 }]);
    }
}
