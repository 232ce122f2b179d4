//! Which statements of a transaction an entry stands for: their numbers, as arithmetic progressions, so that a loop
//! over a few statements takes a few of them. Pure.

/// More progressions than this become one that spans them all.
const MOST: usize = 256;

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

    fn count(&self) -> i64 {
        i64::from((self.last - self.first) / self.step) + 1
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
    widened: bool,
}

impl Numbers {
    pub fn of(number: i32) -> Numbers {
        Numbers { first: Run::of(number), more: Vec::new(), count: 1, widened: false }
    }

    pub fn add(&mut self, number: i32) {
        if self.widened {
            self.count += 1;
            self.first = Run { first: self.first.first.min(number), last: self.first.last.max(number), step: 1 };
        } else if !self.runs().any(|run| run.contains(number)) {
            self.count += 1;
            if !self.more.last_mut().unwrap_or(&mut self.first).extend(number) {
                self.push(Run::of(number));
            }
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
        let last = self.more.last_mut().unwrap_or(&mut self.first);
        // A loop whose body is a savepoint brings one number after the other.
        if run.count() == 1 && last.extend(run.first) {
            return;
        }
        self.more.push(run);
        if self.widened || self.more.len() >= MOST {
            self.widen();
        }
    }

    fn widen(&mut self) {
        let first = self.runs().map(|run| run.first).min().expect("there is one");
        let last = self.runs().map(|run| run.last).max().expect("there is one");
        *self = Numbers { first: Run { first, last, step: 1 }, more: Vec::new(), count: self.count, widened: true };
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
        assert_eq!((loops.count(), loops.smallest()), (6, 1));
    }

    #[test]
    fn too_many_progressions_are_widened() {
        let widened = numbers((0..2000).map(|n| n * n));
        assert!(widened.is_widened());
        assert_eq!(widened.runs().copied().collect::<Vec<_>>(), [Run { first: 0, last: 1999 * 1999, step: 1 }]);
        assert_eq!(widened.count(), 2000);
    }

    #[test]
    fn savepoints_join() {
        let mut outer = numbers([1]);
        for turn in 1..1000 {
            outer.absorb(&numbers([1 + 2 * turn]));
        }
        assert_eq!(outer.runs().copied().collect::<Vec<_>>(), [Run { first: 1, last: 1999, step: 2 }]);
        outer.absorb(&numbers((0..2000).map(|n| 3000 + n * n)));
        assert!(outer.is_widened());
        assert_eq!((outer.smallest(), outer.count()), (1, 3000));
        outer.absorb(&numbers([9_000_000]));
        assert_eq!(outer.runs().copied().collect::<Vec<_>>(), [Run { first: 1, last: 9_000_000, step: 1 }]);
    }
}
