//! The part of a ring's work that is the same for every device.
//!
//! Devices take chains and give them back; they never deal with the driver's
//! available-buffer notifications (2.7.10). [`transport`](super::transport)
//! re-arms those after each call, for every ring that has moved.

use super::{Context, DeviceError, Notify};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

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

/// Takes chains off ring `index` one by one, has `work` done for each, and
/// returns it as used with the number of bytes `work` says it has written.
///
/// At most one ring's worth in a call, so that a driver that never stops cannot
/// keep the thread from other devices: the transport calls again.
///
/// # Errors
/// Those of the ring, and the first one of `work`.
pub fn serve(
    context: Context<'_>,
    index: usize,
    mut work: impl FnMut(Chain<'_>) -> Result<u32, DeviceError>,
) -> Result<Notify, DeviceError> {
    let Context { queues, memory } = context;
    let queue = &mut queues[index];
    let mut any = false;
    for _ in 0..queue.size() {
        let Some(chain) = pop(queue, memory)? else {
            break;
        };
        let head = chain.head_index();
        let written = work(chain)?;
        queue.add_used(memory, head, written)?;
        any = true;
    }
    let used = any && queue.needs_notification(memory)?;
    Ok(Notify {
        used,
        config: false,
    })
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
