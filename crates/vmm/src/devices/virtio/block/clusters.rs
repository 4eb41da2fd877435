//! A set of clusters of a disk: those that a layer holds.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Bytes of a cluster, the unit of copy on write. It is the size of a page, so that a file system
/// with 4 KiB blocks never copies anything.
pub const CLUSTER: u64 = 4096;

/// Consecutive clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The first cluster's number.
    pub first: u64,
    /// How many clusters, at least 1.
    pub count: u64,
}

/// Clusters of a chunk.
const CHUNK: u64 = 64 * WORDS as u64;

/// Words of a chunk.
const WORDS: usize = 64;

/// A set of clusters: one bit each, kept only for chunks (16 MiB of a disk) that have any. So its
/// size, and the time to list it, depend on what was written and not on the disk's size. A fork
/// lists the set of each layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clusters {
    chunks: Vec<Option<Box<[u64; WORDS]>>>,
    /// Clusters of the disk.
    total: u64,
    /// Clusters in the set.
    count: u64,
}

impl Clusters {
    /// None of the `total` clusters of a disk.
    pub fn none_of(total: u64) -> Self {
        Self {
            chunks: vec![None; total.div_ceil(CHUNK) as usize],
            total,
            count: 0,
        }
    }

    /// The set of these extents, if each is valid and lies within `total`.
    pub fn from_extents(total: u64, extents: &[Extent]) -> Option<Self> {
        let mut clusters = Self::none_of(total);
        for extent in extents {
            let end = extent.first.checked_add(extent.count)?;
            if extent.count == 0 || end > total {
                return None;
            }
            clusters.insert(extent.first..end);
        }
        Some(clusters)
    }

    /// The set as extents, ascending, none touching the next.
    pub fn extents(&self) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for (first, word) in self.words() {
            let mut rest = word;
            while rest != 0 {
                let skip = rest.trailing_zeros();
                let run = (rest >> skip).trailing_ones();
                let first = first + u64::from(skip);
                match extents.last_mut() {
                    Some(last) if last.first + last.count == first => last.count += u64::from(run),
                    _ => extents.push(Extent {
                        first,
                        count: u64::from(run),
                    }),
                }
                rest &= !mask(skip, run);
            }
        }
        extents
    }

    /// The words of all chunks that are kept, each with the number of its first cluster.
    fn words(&self) -> impl Iterator<Item = (u64, u64)> {
        let chunks = (0..).step_by(CHUNK as usize).zip(&self.chunks);
        let chunks = chunks.filter_map(|(first, chunk)| Some((first, chunk.as_ref()?)));
        chunks.flat_map(|(first, chunk)| (first..).step_by(64).zip(chunk.iter().copied()))
    }

    /// How many clusters are in the set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether `cluster` is in the set.
    pub fn contains(&self, cluster: u64) -> bool {
        let chunk = self.chunks.get((cluster / CHUNK) as usize);
        chunk.and_then(Option::as_ref).is_some_and(|chunk| {
            let word = chunk[(cluster % CHUNK / 64) as usize];
            word >> (cluster % 64) & 1 == 1
        })
    }

    /// Adds clusters, which must be of this disk.
    pub fn insert(&mut self, clusters: Range<u64>) {
        assert!(
            clusters.end <= self.total,
            "{clusters:?} of {} clusters",
            self.total
        );
        let mut first = clusters.start;
        while first < clusters.end {
            let within = (first % 64) as u32;
            let run = (clusters.end - first).min(u64::from(64 - within)) as u32;
            let chunk = &mut self.chunks[(first / CHUNK) as usize];
            let chunk = chunk.get_or_insert_with(|| Box::new([0; WORDS]));
            let word = &mut chunk[(first % CHUNK / 64) as usize];
            let added = mask(within, run) & !*word;
            *word |= added;
            self.count += u64::from(added.count_ones());
            first += u64::from(run);
        }
    }
}

/// `run` ones from bit `from` on.
fn mask(from: u32, run: u32) -> u64 {
    match run {
        0 => 0,
        _ => (u64::MAX >> (64 - run)) << from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_of_clusters_is_a_set(
            total in 1u64..20_000,
            ranges in prop::collection::vec((0u64..20_000, 0u64..6000), 0..12),
        ) {
            let mut clusters = Clusters::none_of(total);
            let mut model = BTreeSet::new();
            for (first, count) in ranges {
                let range = first.min(total)..(first + count).min(total);
                clusters.insert(range.clone());
                model.extend(range);
            }
            prop_assert_eq!(clusters.count(), model.len() as u64);
            for cluster in 0..total + 70 {
                prop_assert_eq!(clusters.contains(cluster), model.contains(&cluster));
            }
            let extents = clusters.extents();
            for pair in extents.windows(2) {
                prop_assert!(pair[0].first + pair[0].count < pair[1].first);
            }
            prop_assert_eq!(Clusters::from_extents(total, &extents), Some(clusters));
        }
    }

    #[test]
    fn extents_that_leave_the_disk_or_are_empty_are_refused() {
        let refused =
            |first, count| Clusters::from_extents(100, &[Extent { first, count }]).is_none();
        assert!(refused(100, 1));
        assert!(refused(0, 101));
        assert!(refused(u64::MAX, 2));
        assert!(refused(5, 0));
        assert!(!refused(99, 1));
    }
}
