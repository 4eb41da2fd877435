//! Sets of pages as ranges of bytes: ascending, and not overlapping.

use std::ops::Range;

/// Whether these are such ranges, and end at `end` at the latest.
pub(crate) fn are_ordered_within(ranges: &[Range<usize>], end: usize) -> bool {
    let mut at = 0;
    ranges.iter().all(|range| {
        let good = at <= range.start && range.start <= range.end && range.end <= end;
        at = range.end;
        good
    })
}

/// How many bytes they are.
pub(crate) fn len(ranges: &[Range<usize>]) -> usize {
    ranges.iter().map(Range::len).sum()
}

/// What of `all` is not in `other`.
pub(crate) fn without(all: &[Range<usize>], other: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut rest = Vec::new();
    let mut others = other.iter().peekable();
    for range in all {
        let mut start = range.start;
        while let Some(other) = others.peek() {
            if other.end <= start {
                others.next();
                continue;
            }
            if other.start >= range.end {
                break;
            }
            if start < other.start {
                rest.push(start..other.start);
            }
            start = other.end.min(range.end);
            if other.end > range.end {
                break;
            }
            others.next();
        }
        if start < range.end {
            rest.push(start..range.end);
        }
    }
    rest
}

/// What is in either.
pub(crate) fn union(one: &[Range<usize>], other: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut all = [one, other].concat();
    all.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in all {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// The first of `ranges`, up to `bytes` in all.
pub(crate) fn first(ranges: &[Range<usize>], bytes: usize) -> Vec<Range<usize>> {
    let mut left = bytes;
    let cut = ranges.iter().map_while(|range| {
        let len = range.len().min(left);
        left -= len;
        (len > 0).then(|| range.start..range.start + len)
    });
    cut.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ranges() -> impl Strategy<Value = Vec<Range<usize>>> {
        prop::collection::vec((0usize..5, 1usize..5), 0..8).prop_map(|steps| {
            let mut at = 0;
            let step = |(gap, len)| {
                let range = at + gap..at + gap + len;
                at = range.end;
                range
            };
            steps.into_iter().map(step).collect()
        })
    }

    fn set(ranges: &[Range<usize>]) -> BTreeSet<usize> {
        ranges.iter().cloned().flatten().collect()
    }

    proptest! {
        #[test]
        fn they_behave_as_sets(one in ranges(), other in ranges(), bytes in 0usize..20) {
            let (a, b) = (set(&one), set(&other));
            let difference = without(&one, &other);
            prop_assert_eq!(set(&difference), a.difference(&b).copied().collect());
            let both = union(&one, &other);
            prop_assert_eq!(set(&both), a.union(&b).copied().collect());
            prop_assert_eq!(set(&first(&one, bytes)), a.iter().take(bytes).copied().collect());
            for result in [difference, both] {
                prop_assert!(are_ordered_within(&result, 100));
            }
        }
    }

    #[test]
    fn what_is_out_of_order_or_too_long_is_noticed() {
        let good = [0..4, 4..8, 10..12];
        assert!(are_ordered_within(&good, 12));
        assert!(!are_ordered_within(&good, 11));
        assert!(!are_ordered_within(&[4..8, 0..4], 100));
        assert!(!are_ordered_within(&[0..5, 4..8], 100));
    }
}
