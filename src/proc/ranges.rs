//! Sets of addresses.

use std::ops::Range;

/// Ascending ranges that do not touch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Adds a range that begins at or behind the end of the last one.
    pub fn push(&mut self, range: Range<u64>) {
        match self.0.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.0.push(range),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().cloned()
    }

    /// The part from `range.start` to `range.end`.
    pub fn within(&self, range: Range<u64>) -> Self {
        let first = self.0.partition_point(|one| one.end <= range.start);
        let ranges = self.0[first..].iter().take_while(|one| one.start < range.end);
        Self(ranges.map(|one| one.start.max(range.start)..one.end.min(range.end)).collect())
    }

    /// The part that both have.
    pub fn and(&self, other: &Self) -> Self {
        self.cut(other, true)
    }

    /// The part that the other does not have.
    pub fn without(&self, other: &Self) -> Self {
        self.cut(other, false)
    }

    fn cut(&self, other: &Self, keep: bool) -> Self {
        let mut left = Self::default();
        for range in &self.0 {
            let mut at = range.start;
            while at < range.end {
                let (is_in_other, end) = other.stretch(at, range.end);
                if is_in_other == keep {
                    left.push(at..end);
                }
                at = end;
            }
        }
        left
    }

    /// How far it is from `start` the same, up to `end`: whether it is in the set, and where that changes.
    pub fn stretch(&self, start: u64, end: u64) -> (bool, u64) {
        match self.first_behind(start) {
            Some(range) if range.start <= start => (true, end.min(range.end)),
            Some(range) => (false, end.min(range.start)),
            None => (false, end),
        }
    }

    fn first_behind(&self, address: u64) -> Option<&Range<u64>> {
        self.0.get(self.0.partition_point(|range| range.end <= address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_ends_where_the_set_begins_or_ends() {
        let mut set = Ranges::default();
        [10..20, 20..30, 40..50].into_iter().for_each(|range| set.push(range));
        let stretches = [(0, 99), (10, 99), (15, 25), (30, 99), (30, 35), (45, 99), (50, 99)];
        let expected = [(false, 10), (true, 30), (true, 25), (false, 40), (false, 35), (true, 50), (false, 99)];
        assert_eq!(stretches.map(|(start, end)| set.stretch(start, end)), expected);
    }

    fn set(ranges: &[Range<u64>]) -> Ranges {
        let mut set = Ranges::default();
        ranges.iter().cloned().for_each(|range| set.push(range));
        set
    }

    #[test]
    fn sets_are_cut_by_each_other() {
        let (one, other) = (set(&[10..30, 40..50, 60..70]), set(&[0..15, 20..45, 65..99]));
        assert_eq!(one.and(&other), set(&[10..15, 20..30, 40..45, 65..70]));
        assert_eq!(one.without(&other), set(&[15..20, 45..50, 60..65]));
        assert_eq!([one.within(0..99), one.within(15..62)], [one.clone(), set(&[15..30, 40..50, 60..62])]);
        assert_eq!((one.without(&set(&[])), one.and(&set(&[]))), (one, set(&[])));
    }
}
