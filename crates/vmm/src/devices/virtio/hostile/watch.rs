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
use crate::memory::GuestMemoryMmap;
use std::ops::Range;
use virtio_bindings::virtio_ids::{VIRTIO_ID_BALLOON, VIRTIO_ID_BLOCK};

/// Chains of a ring that are remembered.
const HELD_MAX: usize = 64;

/// What a byte of guest memory is.
const WRITABLE: u8 = 1;
/// In more than one buffer.
const SHARED: u8 = 1 << 1;
/// Of the descriptors and available rings.
const DRIVERS: u8 = 1 << 2;
/// Of the used rings.
const USED: u8 = 1 << 3;
/// Changed by the second vCPU.
const FLIPPED: u8 = 1 << 4;

/// A ring and what is in it.
struct Ring {
    index: usize,
    state: QueueState,
    /// What the device may take off it, and what it has taken and not returned.
    chains: Vec<Given>,
}

/// Chains that a device has taken off its rings, by ring, and will return in a later call.
pub(super) type Held = Vec<(usize, Given)>;

/// Guest memory before a call.
pub(super) struct Watch {
    before: Vec<u8>,
    rings: Vec<Ring>,
    /// What each byte is; `None` where nothing can be said.
    kinds: Option<Vec<u8>>,
    is_meddled: bool,
}

impl Watch {
    pub(super) fn begin(
        memory: &GuestMemoryMmap,
        rings: &[QueueState],
        flips: &[Flip],
        held: &Held,
    ) -> Self {
        let before = read_image(memory);
        let versions = Versions {
            image: &before,
            flips,
        };
        let rings = rings.iter().enumerate().filter(|(_, state)| state.ready);
        let rings: Vec<_> = rings
            .map(|(index, state)| {
                let mut chains = versions.chains(state);
                for (_, given) in held.iter().filter(|(ring, _)| *ring == index) {
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
        let kinds = kinds(&rings, flips);
        Self {
            before,
            rings,
            kinds,
            is_meddled: !flips.is_empty(),
        }
    }

    /// Checks, and gives what the device has not returned yet.
    ///
    /// # Panics
    /// When the device wrote what it was not given, or says something else of it.
    pub(super) fn end(self, memory: &GuestMemoryMmap, rings: &[QueueState], device: u32) -> Held {
        let after = read_image(memory);
        if let Some(kinds) = &self.kinds {
            let changed = changes(&self.before, &after);
            for &place in &changed {
                assert!(
                    kinds[place] & (WRITABLE | USED | FLIPPED) != 0,
                    "the device wrote to {place:#x}, which it was not given"
                );
            }
            if !self.is_meddled {
                self.check_used(&after, rings, device, &changed, kinds);
            }
        }
        let held = self.rings.into_iter().flat_map(|ring| {
            let index = ring.index;
            let chains = ring.not_returned(&rings[index], &after);
            chains.into_iter().map(move |chain| (index, chain))
        });
        held.collect()
    }

    fn check_used(
        &self,
        after: &[u8],
        rings: &[QueueState],
        device: u32,
        changed: &[usize],
        kinds: &[u8],
    ) {
        for ring in &self.rings {
            for (id, len) in ring.used_until(rings[ring.index].next_used, after) {
                let chain = ring.chains.iter().find(|chain| u32::from(chain.head) == id);
                let chain = chain.expect("the device used what it was not given");
                if !chain.is_tangled {
                    check_length(chain, len, device, changed, kinds);
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

fn check_length(chain: &Given, len: u32, device: u32, changed: &[usize], kinds: &[u8]) {
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
        for &place in changed
            .iter()
            .filter(|place| range.contains(&(**place as u64)))
        {
            let at = position + place as u64 - range.start;
            // A request's status is its last byte, whatever is before it (5.2.6).
            let is_status = device == VIRTIO_ID_BLOCK && at + 1 == capacity;
            let is_only_its = kinds[place] & SHARED == 0;
            assert!(
                at < len || is_status || !is_only_its,
                "byte {at} of a buffer was written, and {len} are said to be"
            );
        }
        position += range.end - range.start;
    }
}

fn kinds(rings: &[Ring], flips: &[Flip]) -> Option<Vec<u8>> {
    let mut kinds = vec![0; END as usize];
    for Ring {
        state: ring,
        chains,
        ..
    } in rings
    {
        let size = u64::from(ring.size);
        mark(&mut kinds, ring.driver..ring.driver + 6 + 2 * size, DRIVERS)?;
        mark(&mut kinds, ring.device..ring.device + 6 + 8 * size, USED)?;
        for chain in chains {
            for range in &chain.descriptors {
                mark(&mut kinds, range.clone(), DRIVERS)?;
            }
        }
    }
    for chain in rings.iter().flat_map(|ring| &ring.chains) {
        for range in &chain.writable {
            mark(&mut kinds, range.clone(), WRITABLE)?;
        }
    }
    for flip in flips {
        mark(&mut kinds, flip.address..flip.address + 1, FLIPPED)?;
    }
    Some(kinds)
}

/// Notes what these bytes are; `None` when the device writes to what it reads, or to a used
/// ring for two reasons.
fn mark(kinds: &mut [u8], range: Range<u64>, kind: u8) -> Option<()> {
    let (start, end) = (range.start.min(END), range.end.min(END));
    for byte in &mut kinds[start as usize..end as usize] {
        if *byte & kind & WRITABLE != 0 {
            *byte |= SHARED;
        }
        let is_twice_used = *byte & kind & USED != 0;
        *byte |= kind;
        let purposes = *byte & (WRITABLE | USED | DRIVERS);
        let is_written = purposes & (WRITABLE | USED) != 0;
        if is_twice_used || is_written && purposes.count_ones() > 1 {
            return None;
        }
    }
    Some(())
}

/// Where the two differ.
fn changes(before: &[u8], after: &[u8]) -> Vec<usize> {
    const PIECE: usize = 256;
    let pieces = before.chunks(PIECE).zip(after.chunks(PIECE)).enumerate();
    let pieces = pieces.filter(|(_, (before, after))| before != after);
    pieces
        .flat_map(|(index, (before, after))| {
            let bytes = before.iter().zip(after).enumerate();
            let bytes = bytes.filter(|(_, (before, after))| before != after);
            bytes.map(move |(place, _)| index * PIECE + place)
        })
        .collect()
}
