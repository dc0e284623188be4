//! A set of numbers as few ranges: what an SA has used.

/// Ranges that are kept at most for one SA. Reordering opens holes that close again;
/// each granted range that begins above the last one leaves a hole for good.
const MAX_RANGES: usize = 64;

/// Numbers, as inclusive ranges in ascending order that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

/// What an insertion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// The number was not in the set.
    pub new: bool,
    /// A hole was filled to keep the set small.
    pub merged_hole: bool,
}

impl Ranges {
    /// The set of one number.
    pub fn starting_with(number: u64) -> Self {
        Self(vec![(number, number)])
    }

    /// Whether the number is in the set.
    pub fn contains(&self, number: u64) -> bool {
        let above = self.0.partition_point(|range| range.0 <= number);
        above > 0 && number <= self.0[above - 1].1
    }

    /// Adds a number.
    pub fn insert(&mut self, number: u64) -> Inserted {
        // The place of the first range that begins above the number.
        let above = self.0.partition_point(|range| range.0 <= number);
        let below = above.checked_sub(1);
        if below.is_some_and(|below| number <= self.0[below].1) {
            return Inserted { new: false, merged_hole: false };
        }
        let joins_below = below.filter(|below| self.0[*below].1.checked_add(1) == Some(number));
        let joins_above = self.0.get(above).is_some_and(|r| number.checked_add(1) == Some(r.0));
        match (joins_below, joins_above) {
            (Some(below), true) => {
                self.0[below].1 = self.0[above].1;
                self.0.remove(above);
            }
            (Some(below), false) => self.0[below].1 = number,
            (None, true) => self.0[above].0 = number,
            (None, false) => self.0.insert(above, (number, number)),
        }
        let merged_hole = self.0.len() > MAX_RANGES;
        if merged_hole {
            self.fill_smallest_hole();
        }
        Inserted { new: true, merged_hole }
    }

    fn fill_smallest_hole(&mut self) {
        let smallest = (1..self.0.len()).min_by_key(|at| self.0[*at].0 - self.0[*at - 1].1);
        if let Some(at) = smallest {
            self.0[at - 1].1 = self.0[at].1;
            self.0.remove(at);
        }
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no number is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
