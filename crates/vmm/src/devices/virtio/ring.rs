//! Serving a ring: the part that is the same for every device.
//!
//! Devices take chains and give them back; they never deal with the driver's
//! available-buffer notifications (2.7.10). [`transport`](super::transport)
//! re-arms those after each call, for every ring that has moved.

use super::{Context, DeviceError, Notify};
use crate::memory::GuestMemoryMmap;
use std::sync::atomic::{Ordering, fence};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// A descriptor chain in guest memory.
pub type Chain<'m> = DescriptorChain<&'m GuestMemoryMmap>;

/// The next chain the driver has made available, if any.
///
/// # Errors
/// When the available index cannot be (2.7.13: more entries than the ring has).
pub fn pop<'m>(
    queue: &mut Queue,
    memory: &'m GuestMemoryMmap,
) -> Result<Option<Chain<'m>>, DeviceError> {
    if !queue.ready() {
        return Ok(None);
    }
    Ok(queue.iter(memory)?.next())
}

/// The result of a device's work on a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The work is done, and so many bytes are written into the chain.
    Done(u32),
    /// The device was preempted. The chain goes back to the available ring, and is the next one
    /// of it again.
    Unfinished,
}

/// Takes chains off ring `index` one by one, has `work` done for each, and
/// returns it as used with the number of bytes `work` says it has written.
///
/// At most one ring's worth in a call, so that a driver that never stops cannot
/// keep the thread from other devices, and none after the first once it is preempted: the
/// transport calls again.
///
/// # Errors
/// Those of the ring, and the first one of `work`.
pub fn serve(
    context: Context<'_>,
    index: usize,
    mut work: impl FnMut(Chain<'_>) -> Result<u32, DeviceError>,
) -> Result<Notify, DeviceError> {
    let most = context.queues[index].size();
    serve_at_most(most, context, index, |chain| work(chain).map(Outcome::Done))
}

/// The same for a single chain, whose work may take long.
///
/// # Errors
/// As [`serve`].
pub fn serve_one(
    context: Context<'_>,
    index: usize,
    mut work: impl FnMut(Chain<'_>) -> Result<u32, DeviceError>,
) -> Result<Notify, DeviceError> {
    serve_at_most(1, context, index, |chain| work(chain).map(Outcome::Done))
}

/// As [`serve`], for work that is done in pieces and can be preempted between them.
///
/// # Errors
/// As [`serve`].
pub fn serve_in_pieces(
    context: Context<'_>,
    index: usize,
    work: impl FnMut(Chain<'_>) -> Result<Outcome, DeviceError>,
) -> Result<Notify, DeviceError> {
    let most = context.queues[index].size();
    serve_at_most(most, context, index, work)
}

fn serve_at_most(
    most: u16,
    context: Context<'_>,
    index: usize,
    mut work: impl FnMut(Chain<'_>) -> Result<Outcome, DeviceError>,
) -> Result<Notify, DeviceError> {
    let Context {
        queues,
        memory,
        preemption,
    } = context;
    let queue = &mut queues[index];
    let mut notify = Notify::default();
    let mut any = false;
    for _ in 0..most {
        let before = queue.next_avail();
        let Some(chain) = pop(queue, memory)? else {
            break;
        };
        let head = chain.head_index();
        match work(chain)? {
            Outcome::Done(written) => queue.add_used(memory, head, written)?,
            Outcome::Unfinished => {
                queue.set_next_avail(before);
                notify.unfinished = true;
                break;
            }
        }
        any = true;
        if preemption.is_wanted() {
            break;
        }
    }
    notify.used = any && queue.needs_notification(memory)?;
    Ok(notify)
}

/// Returns several chains as used, by head and bytes written, so that the driver sees all
/// of them or none (mergeable receive buffers, 5.1.6.4). Returns whether to interrupt it. Not to be
/// mixed with `add_used` on the same ring, which keeps its own count of used buffers that the
/// driver was not interrupted for.
///
/// # Errors
/// Those of the ring.
pub fn publish(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    used: &[(u16, u32)],
) -> Result<bool, DeviceError> {
    use virtio_queue::Error;
    let at = |ring: u64, offset: u64| ring.checked_add(offset).map(GuestAddress);
    let size = queue.size();
    let old = queue.next_used();
    let mut next = old;
    for &(head, len) in used {
        if head >= size {
            return Err(Error::InvalidDescriptorIndex.into());
        }
        let offset = 4 + 8 * u64::from(next % size);
        let address = at(queue.used_ring(), offset).ok_or(Error::AddressOverflow)?;
        let element = u64::from(head) | u64::from(len) << 32;
        let written = memory.write_obj(element.to_le(), address);
        written.map_err(Error::GuestMemory)?;
        next = next.wrapping_add(1);
    }
    let index = at(queue.used_ring(), 2).ok_or(Error::AddressOverflow)?;
    let stored = memory.store(next.to_le(), index, Ordering::Release);
    stored.map_err(Error::GuestMemory)?;
    queue.set_next_used(next);
    if !queue.event_idx_enabled() {
        return Ok(true);
    }
    // The index is written before `used_event` is read (2.7.7.2).
    fence(Ordering::SeqCst);
    let event = at(queue.avail_ring(), 4 + 2 * u64::from(size)).ok_or(Error::AddressOverflow)?;
    let event: u16 = memory
        .load(event, Ordering::Relaxed)
        .map_err(Error::GuestMemory)?;
    let event = u16::from_le(event);
    Ok(next.wrapping_sub(event).wrapping_sub(1) < next.wrapping_sub(old))
}

/// Reads `data.len()` bytes at `offset` of a configuration space; bytes beyond
/// its end read as 0.
pub fn read_config(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|offset| config.get(offset..));
    for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_space_reads_as_zero_beyond_its_end() {
        let mut data = [0xaa; 4];
        read_config(&[1, 2, 3], 1, &mut data);
        assert_eq!(data, [2, 3, 0, 0]);
        for offset in [3, 4, u64::from(u32::MAX), u64::MAX] {
            let mut data = [0xaa; 8];
            read_config(&[1, 2, 3], offset, &mut data);
            assert_eq!(data, [0; 8]);
        }
    }
}
