//! The buffers that a device may write: read from the rings as the device may read them, in every
//! version that a [second vCPU](super::meddler) makes of them.

use super::meddler::Flip;
use crate::devices::virtio::transport::QueueState;
use std::collections::HashSet;
use std::ops::Range;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

/// Descriptors that are looked at for one call.
const DESCRIPTORS_MAX: usize = 2048;

/// Bytes that a chain may have (2.7.5.2). A device takes a longer one for a chain that ends before
/// the descriptor with which it is too long.
const BYTES_MAX: u64 = u32::MAX as u64;

/// Guest memory at one moment, with all that may be there in the next.
pub(super) struct Versions<'a> {
    pub(super) image: &'a [u8],
    pub(super) flips: &'a [Flip],
}

/// A chain that the driver has made available.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    pub(super) head: u16,
    /// What the device may write, in the chain's order.
    pub(super) writable: Vec<Range<u64>>,
    /// Descriptors that say so.
    pub(super) descriptors: Vec<Range<u64>>,
    /// A descriptor was reached twice, or there are too many, or too many bytes.
    pub(super) is_tangled: bool,
}

impl Given {
    /// Bytes that the device may write.
    pub(super) fn capacity(&self) -> u64 {
        self.writable
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }
}

impl Versions<'_> {
    /// The chains that the device may take off this ring.
    pub(super) fn chains(&self, ring: &QueueState) -> Vec<Given> {
        let count = self.of(ring.driver + 2).into_iter().map(|index| {
            let count = u16::from_le_bytes(index).wrapping_sub(ring.next_avail);
            // More than the ring has is an error, upon which the device takes none.
            if u32::from(count) <= ring.size {
                count
            } else {
                0
            }
        });
        let count = count.max().unwrap_or(0);
        let places = (0..count).map(|place| {
            let slot = u64::from(ring.next_avail.wrapping_add(place)) % u64::from(ring.size);
            ring.driver + 4 + 2 * slot
        });
        let heads = places.flat_map(|place| self.of(place));
        heads
            .map(|head| self.chain(ring, u16::from_le_bytes(head)))
            .collect()
    }

    /// The chain that begins with this descriptor.
    pub(super) fn chain(&self, ring: &QueueState, head: u16) -> Given {
        let mut given = Given {
            head,
            ..Given::default()
        };
        let (mut seen, mut bytes_seen) = (HashSet::new(), 0);
        // Tables by address and length, and a place in each.
        let mut waiting = vec![(ring.desc, ring.size, u32::from(head))];
        while let Some((table, size, index)) = waiting.pop() {
            if index >= size {
                continue;
            }
            let Some(place) = table.checked_add(16 * u64::from(index)) else {
                continue;
            };
            if !seen.insert(place) || seen.len() > DESCRIPTORS_MAX {
                given.is_tangled = true;
                continue;
            }
            given.descriptors.push(place..place.saturating_add(16));
            for bytes in self.of::<16>(place) {
                let [address, rest] = [0, 8].map(|at| {
                    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 of 16 bytes"))
                });
                let (len, flags) = (u64::from(rest as u32), (rest >> 32) as u32 & 0xffff);
                bytes_seen += len;
                given.is_tangled |= bytes_seen > BYTES_MAX;
                if flags & VRING_DESC_F_INDIRECT != 0 {
                    waiting.push((address, (len / 16) as u32, 0));
                    continue;
                }
                if flags & VRING_DESC_F_WRITE != 0 {
                    given.writable.push(address..address.saturating_add(len));
                }
                if flags & VRING_DESC_F_NEXT != 0 {
                    waiting.push((table, size, (rest >> 48) as u32));
                }
            }
        }
        given
    }

    /// What may be read at an address; nothing where there is no memory.
    fn of<const N: usize>(&self, address: u64) -> Vec<[u8; N]> {
        let place = usize::try_from(address).ok();
        let bytes = place.and_then(|place| self.image.get(place..)?.first_chunk());
        let mut versions: Vec<[u8; N]> = bytes.copied().into_iter().collect();
        for flip in self.flips {
            let at = flip.address.checked_sub(address);
            if let Some(at) = at.filter(|at| *at < N as u64) {
                let mut others = versions.clone();
                others
                    .iter_mut()
                    .for_each(|bytes| bytes[at as usize] = flip.other);
                versions.extend(others);
            }
        }
        versions
    }
}
