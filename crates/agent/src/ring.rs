//! The last part of an endless output.

use std::collections::VecDeque;

/// Keeps the last [`Ring::CAPACITY`] bytes that were pushed, each under its
/// offset since the beginning.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    kept: VecDeque<u8>,
    end: u64,
}

impl Ring {
    /// Bytes that are kept.
    pub(crate) const CAPACITY: usize = 1 << 20;

    /// Appends, forgetting the oldest bytes where there are too many.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(Self::CAPACITY)..];
        let too_many = (self.kept.len() + bytes.len()).saturating_sub(Self::CAPACITY);
        self.kept.drain(..too_many);
        self.kept.extend(bytes);
    }

    /// The offset after the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Up to `max` bytes from `offset` on, or from the oldest that is kept, and
    /// the offset after them.
    pub(crate) fn read(&self, offset: u64, max: usize) -> (Vec<u8>, u64) {
        let oldest = self.end - self.kept.len() as u64;
        let from = offset.clamp(oldest, self.end);
        let skip = (from - oldest) as usize;
        let len = max.min(self.kept.len() - skip);
        let bytes = self.kept.range(skip..skip + len).copied().collect();
        (bytes, from + len as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_ring_is_the_tail_of_all_that_was_pushed(
            parts in proptest::collection::vec((any::<u8>(), 0..700_000_usize), 0..6),
            offset in 0..4_000_000_u64,
            max in 0..100_000_usize,
        ) {
            let mut ring = Ring::default();
            let mut all = Vec::new();
            for (byte, len) in parts {
                let part = vec![byte; len];
                ring.push(&part);
                all.extend(part);
            }
            prop_assert_eq!(ring.end(), all.len() as u64);
            let oldest = all.len().saturating_sub(Ring::CAPACITY);
            let from = (offset as usize).clamp(oldest, all.len());
            let to = all.len().min(from + max);
            prop_assert_eq!(ring.read(offset, max), (all[from..to].to_vec(), to as u64));
        }
    }
}
