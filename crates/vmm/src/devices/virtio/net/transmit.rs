//! Transmitting: moves frames from the driver to the TAP.

use super::{BUDGET, DeviceError, FRAME_MAX, Limit, Moved, ring};
use crate::memory::GuestMemoryMmap;
use crate::sys::tap::{HEADER_LEN, Tap};
use std::io::Read;
use std::time::Duration;
use virtio_queue::{Queue, QueueT};

/// Takes frames out of the ring.
#[derive(Debug)]
pub(super) struct Transmitter {
    limit: Limit,
    frame: Vec<u8>,
}

/// How long to wait for room in the TAP.
const FULL: Duration = Duration::from_millis(1);

impl Transmitter {
    pub(super) fn new(limit: Limit) -> Self {
        Self {
            limit,
            frame: Vec::new(),
        }
    }

    /// Sends the frames in the ring. A frame that the host refuses is dropped, as on any network.
    pub(super) fn run(
        &mut self,
        tap: &Tap,
        queue: &mut Queue,
        memory: &GuestMemoryMmap,
        now: Duration,
    ) -> Result<Moved, DeviceError> {
        let mut any = false;
        let mut again = None;
        // The transport calls again for frames beyond the budget.
        for _ in 0..BUDGET {
            let before = queue.next_avail();
            let Some(chain) = ring::pop(queue, memory)? else {
                break;
            };
            again = self.limit.wait(now);
            if again.is_some() {
                queue.set_next_avail(before);
                break;
            }
            let head = chain.head_index();
            self.take(chain, memory)?;
            if let Ok(None) = tap.write(&self.frame) {
                queue.set_next_avail(before);
                again = Some(FULL);
                break;
            }
            self.limit.take_tokens(self.frame.len() - HEADER_LEN);
            queue.add_used(memory, head, 0)?;
            any = true;
        }
        let used = any && queue.needs_notification(memory)?;
        Ok(Moved { used, again })
    }

    /// Copies a frame out of guest memory: the kernel needs it in one piece, and it must not change
    /// after the kernel has checked it.
    fn take(
        &mut self,
        chain: ring::Chain<'_>,
        memory: &GuestMemoryMmap,
    ) -> Result<(), DeviceError> {
        let mut reader = chain.reader(memory)?;
        let len = reader.available_bytes();
        if !(HEADER_LEN..=FRAME_MAX).contains(&len) {
            return Err(DeviceError::Request("a frame of impossible length"));
        }
        self.frame.resize(len, 0);
        reader.read_exact(&mut self.frame)?;
        Ok(())
    }
}
