//! A ring buffer that keeps the last part of an output.

use crate::program::Source;
use std::collections::VecDeque;

/// Keeps the last [`Ring::CAPACITY`] bytes that were pushed, each under its
/// offset since the beginning, and where each came from.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    kept: VecDeque<u8>,
    end: u64,
    /// From which offset on the bytes come from where: ascending, the first at or before
    /// the oldest byte that is kept.
    runs: VecDeque<(u64, Source)>,
}

/// A part of an output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Bytes before it that are not kept any more.
    pub(crate) skipped: u64,
    pub(crate) source: Source,
    pub(crate) bytes: Vec<u8>,
}

impl Ring {
    /// Bytes that are kept.
    pub(crate) const CAPACITY: usize = 1 << 20;

    /// Most changes between sources that are kept: each takes as much as 16 bytes.
    const MOST_RUNS: usize = 1 << 16;

    /// Appends, forgetting the oldest bytes where there are too many.
    pub(crate) fn push(&mut self, source: Source, bytes: &[u8]) {
        if self.runs.back().is_none_or(|(_, last)| *last != source) {
            self.runs.push_back((self.end, source));
        }
        self.end += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(Self::CAPACITY)..];
        let too_many = (self.kept.len() + bytes.len()).saturating_sub(Self::CAPACITY);
        self.kept.drain(..too_many);
        self.kept.extend(bytes);
        self.forget_runs();
    }

    /// Forgets the runs of which nothing is kept, and the oldest where there are too
    /// many.
    fn forget_runs(&mut self) {
        let too_many = self.runs.len().saturating_sub(Self::MOST_RUNS);
        self.runs.drain(..too_many);
        if too_many > 0 {
            let more = self.runs[0].0.saturating_sub(self.oldest());
            self.kept.drain(..more as usize);
        }
        let oldest = self.oldest();
        while self.runs.get(1).is_some_and(|(start, _)| *start <= oldest) {
            self.runs.pop_front();
        }
    }

    /// The offset of the first byte that is kept.
    fn oldest(&self) -> u64 {
        self.end - self.kept.len() as u64
    }

    /// The offset after the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Up to `max` bytes of one source, from `offset` on, or from the oldest that is
    /// kept; none where there are none yet.
    pub(crate) fn read(&self, offset: u64, max: usize) -> Part {
        let oldest = self.oldest();
        let from = offset.clamp(oldest, self.end);
        let next = self.runs.partition_point(|(start, _)| *start <= from);
        let source = match next.checked_sub(1) {
            Some(run) => self.runs[run].1,
            None => Source::Stdout,
        };
        let run_end = self.runs.get(next).map_or(self.end, |(start, _)| *start);
        let skip = (from - oldest) as usize;
        let len = max.min((run_end - from) as usize);
        Part {
            skipped: from.saturating_sub(offset),
            source,
            bytes: self.kept.range(skip..skip + len).copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All that is there from an offset on: what was skipped, and the bytes.
    fn read_all(ring: &Ring, offset: u64, max: usize) -> (u64, Vec<(Source, u8)>) {
        let (mut skipped, mut all) = (0, Vec::new());
        while offset + skipped + (all.len() as u64) < ring.end() {
            let part = ring.read(offset + skipped + all.len() as u64, max);
            assert!(all.is_empty() || part.skipped == 0);
            assert!((1..=max).contains(&part.bytes.len()));
            skipped += part.skipped;
            all.extend(part.bytes.into_iter().map(|byte| (part.source, byte)));
        }
        (skipped, all)
    }

    proptest! {
        #[test]
        fn the_ring_is_the_tail_of_all_that_was_pushed(
            parts in proptest::collection::vec(
                (any::<bool>(), any::<u8>(), 0..700_000_usize), 0..6),
            offset in 0..4_000_000_u64,
            max in 1..100_000_usize,
        ) {
            let mut ring = Ring::default();
            let mut all = Vec::new();
            for (to_stderr, byte, len) in parts {
                let source = if to_stderr { Source::Stderr } else { Source::Stdout };
                ring.push(source, &vec![byte; len]);
                all.extend(std::iter::repeat_n((source, byte), len));
            }
            prop_assert_eq!(ring.end(), all.len() as u64);
            let oldest = all.len().saturating_sub(Ring::CAPACITY);
            let from = (offset as usize).clamp(oldest, all.len());
            let (skipped, read) = read_all(&ring, offset, max);
            if !read.is_empty() {
                prop_assert_eq!(skipped, from as u64 - (offset.min(from as u64)));
            }
            prop_assert!(read == all[from..]);
        }
    }

    #[test]
    fn sources_that_take_turns_for_ever_take_no_more_memory_than_they_may() {
        let mut ring = Ring::default();
        for round in 0..2 * Ring::MOST_RUNS {
            let source = [Source::Stdout, Source::Stderr][round % 2];
            ring.push(source, &[round as u8, round as u8]);
        }
        assert!(ring.runs.len() <= Ring::MOST_RUNS);
        let (skipped, read) = read_all(&ring, 0, 100);
        assert_eq!(skipped + read.len() as u64, ring.end());
        assert!(read.len() > Ring::MOST_RUNS);
        assert_eq!(
            read.last(),
            Some(&(Source::Stderr, (2 * Ring::MOST_RUNS - 1) as u8))
        );
    }
}
