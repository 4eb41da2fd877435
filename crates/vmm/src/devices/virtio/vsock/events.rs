//! The event ring, by which a clone's driver learns of its new CID.
//!
//! As soon as there is an event, all buffers are taken off the ring and kept until they are needed.
//! So a buffer that the driver adds later is one that it returns after handling an event, and it
//! notifies the device of it.

use crate::devices::virtio::{DeviceError, ring};
use crate::memory::GuestMemoryMmap;
use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` (5.10.6.7), as on the ring.
const TRANSPORT_RESET: [u8; 4] = 0u32.to_le_bytes();

/// A buffer of the driver for one event.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Buffer {
    head: u16,
    address: u64,
}

/// The device's state of the event ring.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Events {
    /// A `TRANSPORT_RESET` has to be sent to the driver.
    reset_due: bool,
    /// Events in the driver's hands: it has not given their buffers back.
    unhandled: u16,
    /// Buffers taken off the ring and not used yet.
    spare: Vec<Buffer>,
}

#[cfg(test)]
impl Events {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            reset_due: true,
            unhandled: 300,
            spare: vec![Buffer {
                head: 400,
                address: 0x5000_0000,
            }],
        }
    }
}

impl Events {
    /// The events of a clone of this machine.
    pub(super) fn for_clone(&self) -> Self {
        Self {
            reset_due: true,
            ..self.clone()
        }
    }

    /// Whether the driver knows its CID and which connections are gone.
    pub(super) fn are_handled(&self) -> bool {
        !self.reset_due && self.unhandled == 0
    }

    /// Sends the events that are due, and counts those that the driver has handled.
    /// Returns whether to interrupt it.
    ///
    /// # Errors
    /// When ring or buffer are malformed.
    pub(super) fn serve(
        &mut self,
        queue: &mut Queue,
        memory: &GuestMemoryMmap,
    ) -> Result<bool, DeviceError> {
        if self.are_handled() || !queue.ready() {
            return Ok(false);
        }
        while let Some(mut chain) = ring::pop(queue, memory)? {
            if self.spare.len() >= usize::from(queue.size()) {
                return Err(DeviceError::Request("more event buffers than the ring has"));
            }
            let head = chain.head_index();
            let descriptor = chain
                .next()
                .ok_or(DeviceError::Request("event without a buffer"))?;
            if !descriptor.is_write_only() || (descriptor.len() as usize) < TRANSPORT_RESET.len() {
                return Err(DeviceError::Request("event buffer that holds no event"));
            }
            self.spare.push(Buffer {
                head,
                address: descriptor.addr().0,
            });
            self.unhandled = self.unhandled.saturating_sub(1);
        }
        if !self.reset_due {
            return Ok(false);
        }
        let Some(buffer) = self.spare.pop() else {
            return Ok(false);
        };
        memory
            .write_slice(&TRANSPORT_RESET, GuestAddress(buffer.address))
            .map_err(|_| DeviceError::Request("event buffer outside memory"))?;
        queue.add_used(memory, buffer.head, TRANSPORT_RESET.len() as u32)?;
        self.reset_due = false;
        self.unhandled = self.unhandled.saturating_add(1);
        Ok(queue.needs_notification(memory)?)
    }
}
