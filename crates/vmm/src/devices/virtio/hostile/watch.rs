//! Checks guest memory before and after each call into a device.
//!
//! * A byte that changed was in a buffer that the device was given to write, or in a used
//!   ring.
//! * A chain comes back once it was given, and its used length (2.7.8) is neither more than
//!   there was room for nor less than was written.
//!
//! Nothing is checked if a buffer overlaps the rings: the device may have written what it read
//! next.

use super::given::{Given, Versions};
use super::meddler::Flip;
use super::{END, read_image};
use crate::devices::virtio::transport::QueueState;
use crate::memory::{GuestMemoryMmap, ranges};
use std::ops::Range;
use virtio_bindings::virtio_ids::{VIRTIO_ID_BALLOON, VIRTIO_ID_BLOCK};

/// Chains of a ring that are remembered.
const HELD_MAX: usize = 64;

/// Watches a device from call to call.
#[derive(Default)]
pub(super) struct Watch {
    /// Guest memory before a call, and after it.
    before: Vec<u8>,
    after: Vec<u8>,
    /// Chains that the device has taken off its rings, by ring, and will return in a later call.
    held: Vec<(usize, Given)>,
}

/// What a device may do in one call.
pub(super) struct Allowed {
    rings: Vec<Ring>,
    /// `None` where nothing can be said.
    places: Option<Places>,
    is_meddled: bool,
}

/// A ring and what is in it.
struct Ring {
    index: usize,
    state: QueueState,
    /// What the device may take off it, and what it has taken and not returned.
    chains: Vec<Given>,
}

/// Bytes of guest memory. (As ranges, which are compared as a whole: byte by byte, in a build that
/// watches its comparisons, this took most of a run's time.)
struct Places {
    /// Buffers, used rings, and what the second vCPU changes.
    writable: Vec<Range<usize>>,
    /// In more than one buffer.
    shared: Vec<Range<usize>>,
}

impl Watch {
    /// Before a call.
    pub(super) fn begin(
        &mut self,
        memory: &GuestMemoryMmap,
        rings: &[QueueState],
        flips: &[Flip],
    ) -> Allowed {
        read_image(memory, &mut self.before);
        let versions = Versions {
            image: &self.before,
            flips,
        };
        let rings = rings.iter().enumerate().filter(|(_, state)| state.ready);
        let rings: Vec<_> = rings
            .map(|(index, state)| {
                let mut chains = versions.chains(state);
                for (_, given) in self.held.iter().filter(|(ring, _)| *ring == index) {
                    // Read when it was taken, or once more.
                    let mut again = versions.chain(state, given.head);
                    again.is_tangled = true;
                    chains.extend([given.clone(), again]);
                }
                Ring {
                    index,
                    state: *state,
                    chains,
                }
            })
            .collect();
        Allowed {
            places: Places::of(&rings, flips),
            rings,
            is_meddled: !flips.is_empty(),
        }
    }

    /// After it: checks what the device has done, and remembers what it has not returned.
    ///
    /// # Panics
    /// When the device wrote what it was not given, or says something else of it.
    pub(super) fn end(
        &mut self,
        allowed: Allowed,
        memory: &GuestMemoryMmap,
        rings: &[QueueState],
        device: u32,
    ) {
        read_image(memory, &mut self.after);
        if let Some(places) = &allowed.places {
            let all = std::slice::from_ref(&(0..END as usize));
            for others in ranges::without(all, &places.writable) {
                if let Some(place) = self.first_change(others) {
                    panic!("the device wrote to {place:#x}, which it was not given");
                }
            }
            if !allowed.is_meddled {
                self.check_used(&allowed.rings, rings, device, &places.shared);
            }
        }
        let held = allowed.rings.into_iter().flat_map(|ring| {
            let index = ring.index;
            let chains = ring.not_returned(&rings[index], &self.after);
            chains.into_iter().map(move |chain| (index, chain))
        });
        self.held = held.collect();
    }

    /// The first byte in `range` that has changed.
    fn first_change(&self, range: Range<usize>) -> Option<usize> {
        let (before, after) = (&self.before[range.clone()], &self.after[range.clone()]);
        if before == after {
            return None;
        }
        let mut bytes = before.iter().zip(after);
        let place = bytes.position(|(before, after)| before != after);
        place.map(|place| range.start + place)
    }

    fn check_used(
        &self,
        before: &[Ring],
        now: &[QueueState],
        device: u32,
        shared: &[Range<usize>],
    ) {
        for ring in before {
            for (id, len) in ring.used_until(now[ring.index].next_used, &self.after) {
                let chain = ring.chains.iter().find(|chain| u32::from(chain.head) == id);
                let chain = chain.expect("the device used what it was not given");
                if !chain.is_tangled {
                    self.check_length(chain, len, device, shared);
                }
            }
        }
    }

    fn check_length(&self, chain: &Given, len: u32, device: u32, shared: &[Range<usize>]) {
        let (len, capacity) = (u64::from(len), chain.capacity());
        assert!(
            len <= capacity,
            "{len} bytes used of {capacity} that could be written"
        );
        // What the driver reports as free is taken, not written.
        if device == VIRTIO_ID_BALLOON {
            return;
        }
        let mut position = 0;
        for range in &chain.writable {
            let begin = position;
            position += range.end - range.start;
            // A request's status is its last byte, whatever is before it (5.2.6).
            let has_status = device == VIRTIO_ID_BLOCK && position == capacity;
            let start = range.start.saturating_add(len.saturating_sub(begin));
            let end = range.end.saturating_sub(has_status.into());
            for unused in ranges::without(within_memory(start..end).as_slice(), shared) {
                if let Some(place) = self.first_change(unused) {
                    let at = begin + place as u64 - range.start;
                    panic!("byte {at} of a buffer was written, and {len} are said to be");
                }
            }
        }
    }
}

impl Ring {
    /// The entries of the used ring that are new, by head and length.
    fn used_until(&self, next_used: u16, image: &[u8]) -> Vec<(u32, u32)> {
        let state = &self.state;
        let count = next_used
            .wrapping_sub(state.next_used)
            .min(state.size as u16);
        let entry = |place: u16| {
            let slot = u64::from(state.next_used.wrapping_add(place)) % u64::from(state.size);
            let at = (state.device + 4 + 8 * slot) as usize;
            let [id, len] = [at, at + 4].map(|at| {
                let bytes = image[at..at + 4].try_into();
                u32::from_le_bytes(bytes.expect("4 bytes"))
            });
            (id, len)
        };
        (0..count).map(entry).collect()
    }

    /// The chains that may have been taken and are not in the used ring. What was written
    /// into them is not known any more.
    fn not_returned(self, now: &QueueState, image: &[u8]) -> Vec<Given> {
        if now.next_avail == now.next_used {
            return Vec::new();
        }
        let used = self.used_until(now.next_used, image);
        let is_used = |head: u16| used.iter().any(|(id, _)| *id == u32::from(head));
        let mut chains = self.chains;
        chains.retain(|chain| !is_used(chain.head));
        chains.truncate(HELD_MAX);
        chains.iter_mut().for_each(|chain| chain.is_tangled = true);
        chains
    }
}

impl Places {
    /// `None` when the device writes to what it reads, or to a used ring for two reasons.
    fn of(rings: &[Ring], flips: &[Flip]) -> Option<Self> {
        let (mut used, mut read, mut buffers) = (Vec::new(), Vec::new(), Vec::new());
        for Ring { state, chains, .. } in rings {
            let size = u64::from(state.size);
            used.extend(within_memory(state.device..state.device + 6 + 8 * size));
            read.extend(within_memory(state.driver..state.driver + 6 + 2 * size));
            for chain in chains {
                read.extend(chain.descriptors.iter().cloned().filter_map(within_memory));
                buffers.extend(chain.writable.iter().cloned().filter_map(within_memory));
            }
        }
        let (used, used_twice) = joined(used);
        let (read, _) = joined(read);
        let (buffers, shared) = joined(buffers);
        let overlap =
            |one: &[Range<usize>], other: &[Range<usize>]| ranges::without(one, other) != one;
        let is_unclear = !used_twice.is_empty()
            || overlap(&used, &read)
            || overlap(&buffers, &read)
            || overlap(&buffers, &used);
        let flipped = flips.iter().map(|flip| flip.address..flip.address + 1);
        let (flipped, _) = joined(flipped.filter_map(within_memory).collect());
        (!is_unclear).then(|| Self {
            writable: ranges::union(&ranges::union(&buffers, &used), &flipped),
            shared,
        })
    }
}

/// What of a range of addresses is guest memory.
fn within_memory(range: Range<u64>) -> Option<Range<usize>> {
    let range = range.start as usize..range.end.min(END) as usize;
    (!range.is_empty()).then_some(range)
}

/// The bytes in any of these ranges, and those in more than one.
fn joined(mut all: Vec<Range<usize>>) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
    all.sort_by_key(|range| range.start);
    let (mut once, mut again): (Vec<Range<usize>>, Vec<Range<usize>>) = Default::default();
    for range in all {
        match once.last_mut() {
            Some(last) if range.start < last.end => {
                again.push(range.start..range.end.min(last.end));
                last.end = last.end.max(range.end);
            }
            _ => once.push(range),
        }
    }
    (once, ranges::union(&again, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_joined_and_what_is_in_several_is_found(
            all in prop::collection::vec((0usize..30, 1usize..9), 0..12)
        ) {
            let all: Vec<_> = all.into_iter().map(|(start, len)| start..start + len).collect();
            let (once, again) = joined(all.clone());
            for place in 0..40 {
                let count = all.iter().filter(|range| range.contains(&place)).count();
                let is_in = |ranges: &[Range<usize>]| ranges.iter().any(|range| range.contains(&place));
                prop_assert_eq!((is_in(&once), is_in(&again)), (count > 0, count > 1));
            }
            prop_assert!(ranges::are_ordered_within(&once, 40));
            prop_assert!(ranges::are_ordered_within(&again, 40));
        }
    }
}
