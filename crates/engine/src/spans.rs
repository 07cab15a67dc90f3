//! Sets of addresses as ascending ranges that neither touch nor overlap.

/// A set of addresses. All operations take time in the number of ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans(Vec<(u64, u64)>);

impl Spans {
    /// The union of ranges in any order; empty ones are left out.
    #[must_use]
    pub fn of(mut ranges: Vec<(u64, u64)>) -> Self {
        ranges.retain(|(start, end)| start < end);
        ranges.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            match joined.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => joined.push((start, end)),
            }
        }
        Self(joined)
    }

    /// The ranges, ascending.
    #[must_use]
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// How many addresses it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let (mut a, mut b) = (0, 0);
        let mut both = Vec::new();
        while let (Some(&(s, e)), Some(&(t, f))) = (self.0.get(a), other.0.get(b)) {
            let (start, end) = (s.max(t), e.min(f));
            if start < end {
                both.push((start, end));
            }
            if e < f {
                a += 1;
            } else {
                b += 1;
            }
        }
        Self(both)
    }

    /// What is in this one and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut b = 0;
        for &(mut start, end) in &self.0 {
            while other.0.get(b).is_some_and(|(_, f)| *f <= start) {
                b += 1;
            }
            let mut at = b;
            while let Some(&(t, f)) = other.0.get(at)
                && t < end
            {
                if start < t {
                    left.push((start, t));
                }
                start = start.max(f);
                at += 1;
            }
            if start < end {
                left.push((start, end));
            }
        }
        Self(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(spans: &Spans) -> Vec<u64> {
        spans.0.iter().flat_map(|(start, end)| *start..*end).collect()
    }

    #[test]
    fn operations_are_those_of_sets() {
        // All sets over eight addresses, as bits, each with each.
        let set = |bits: u64| {
            Spans::of((0..8).filter(|i| bits >> i & 1 == 1).map(|i| (i, i + 1)).collect())
        };
        for a in 0..256 {
            for b in 0..256 {
                let (x, y) = (set(a), set(b));
                assert_eq!(x.and(&y), set(a & b), "{a:08b} {b:08b}");
                assert_eq!(x.without(&y), set(a & !b), "{a:08b} {b:08b}");
            }
            assert_eq!(set(a).len(), u64::from(a.count_ones()));
        }
    }

    #[test]
    fn ranges_in_any_order_are_joined() {
        let spans = Spans::of(vec![(5, 7), (1, 2), (7, 9), (3, 3), (6, 8)]);
        assert_eq!(spans.ranges(), [(1, 2), (5, 9)]);
        assert_eq!(members(&spans), [1, 5, 6, 7, 8]);
    }
}
