//! The state of a ring: its registers as the driver has set them, and the device's progress.

use crate::memory::GuestMemoryMmap;
use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};

/// One ring's registers (4.2.2) and how far the device has got in it. The rest
/// of a ring is in guest memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// QueueReady.
    pub ready: bool,
    /// QueueNum, as the driver wrote it.
    pub size: u32,
    /// QueueDesc: guest physical address of the descriptor table.
    pub desc: u64,
    /// QueueDriver: guest physical address of the available ring.
    pub driver: u64,
    /// QueueDevice: guest physical address of the used ring.
    pub device: u64,
    /// The next entry of the available ring the device will take.
    pub next_avail: u16,
    /// The next entry of the used ring the device will fill.
    pub next_used: u16,
}

impl QueueState {
    /// Whether a driver can have set it up like this (2.7), and the device's progress is possible.
    pub fn can_be(&self) -> bool {
        let is_size = self.size.is_power_of_two() && self.size <= 1 << 15;
        let taken = self.next_avail.wrapping_sub(self.next_used);
        !self.ready || is_size && u32::from(taken) <= self.size
    }

    /// The ring described, if the specification allows it (2.7) and it lies in
    /// guest memory.
    pub(super) fn to_queue(
        self,
        max_size: u16,
        event_idx: bool,
        memory: &GuestMemoryMmap,
    ) -> Option<Queue> {
        // The library takes an available ring at 0 for one that was never set.
        if self.driver == 0 {
            return None;
        }
        let queue = Queue::try_from(virtio_queue::QueueState {
            max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: event_idx,
            size: self.size.try_into().ok()?,
            ready: true,
            desc_table: self.desc,
            avail_ring: self.driver,
            used_ring: self.device,
        })
        .ok()?;
        queue.is_valid(memory).then_some(queue)
    }
}
