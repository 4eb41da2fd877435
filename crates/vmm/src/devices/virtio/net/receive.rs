//! Receiving: moves frames from the TAP to the driver.

use super::{BUDGET, DeviceError, FRAME_MAX, Limit, Moved, ring};
use crate::memory::GuestMemoryMmap;
use crate::sys::tap::{HEADER_LEN, Tap};
use std::io::Write;
use std::mem::offset_of;
use std::time::Duration;
use virtio_bindings::virtio_net::virtio_net_hdr_v1;
use virtio_queue::{Queue, QueueT};

/// Where the number of buffers is in the header (5.1.6).
const NUM_BUFFERS: usize = offset_of!(virtio_net_hdr_v1, num_buffers);

/// Puts frames into the ring.
#[derive(Debug)]
pub(super) struct Receiver {
    limit: Limit,
    /// Whether the TAP may have frames: its events tell only of new ones.
    pub(super) ready: bool,
    frame: Vec<u8>,
    /// The length of a frame for which the driver had no room yet.
    kept: Option<usize>,
    /// Buffers used for a frame, by head and bytes.
    used: Vec<(u16, u32)>,
}

impl Receiver {
    pub(super) fn new(limit: Limit) -> Self {
        Self {
            limit,
            ready: true,
            frame: vec![0; FRAME_MAX],
            kept: None,
            used: Vec::new(),
        }
    }

    /// Drops a frame for which the driver before the reset had no room.
    pub(super) fn reset(&mut self) {
        self.kept = None;
    }

    /// Delivers the frames in the TAP.
    pub(super) fn run(
        &mut self,
        tap: &Tap,
        queue: &mut Queue,
        memory: &GuestMemoryMmap,
        merge: bool,
        now: Duration,
    ) -> Result<Moved, DeviceError> {
        let mut moved = Moved::default();
        // Without a driver, frames stay where they are, and the oldest are kept.
        if !queue.ready() {
            return Ok(moved);
        }
        for _ in 0..BUDGET {
            if let Some(wait) = self.limit.wait(now) {
                moved.again = (self.ready || self.kept.is_some()).then_some(wait);
                return Ok(moved);
            }
            let Some(len) = self.next(tap)? else {
                return Ok(moved);
            };
            let Some(used) = self.deliver(len, queue, memory, merge)? else {
                // The driver notifies when it has added buffers.
                return Ok(moved);
            };
            self.kept = None;
            moved.used |= used;
            self.limit.take_tokens(len - HEADER_LEN);
        }
        moved.again = Some(Duration::ZERO);
        Ok(moved)
    }

    /// Reads the next frame into `frame`; its length.
    fn next(&mut self, tap: &Tap) -> Result<Option<usize>, DeviceError> {
        while self.kept.is_none() && self.ready {
            match tap.read(&mut self.frame)? {
                None => self.ready = false,
                // No frame at all.
                Some(..=HEADER_LEN) => {}
                Some(len) => self.kept = Some(len),
            }
        }
        Ok(self.kept)
    }

    /// Copies the frame into as many buffers as it takes (one, unless the driver merges
    /// them). `None` if there are not enough; otherwise whether to interrupt the driver.
    fn deliver(
        &mut self,
        len: usize,
        queue: &mut Queue,
        memory: &GuestMemoryMmap,
        merge: bool,
    ) -> Result<Option<bool>, DeviceError> {
        let before = queue.next_avail();
        let mut writers = Vec::new();
        let mut room = 0;
        while room < len && (merge || writers.is_empty()) {
            let Some(chain) = ring::pop(queue, memory)? else {
                // To be told of the first buffer after all of these, not after those
                // that were used.
                if queue.ready() && queue.enable_notification(memory)? {
                    continue;
                }
                queue.set_next_avail(before);
                return Ok(None);
            };
            let head = chain.head_index();
            let writer = chain.writer(memory)?;
            if writer.available_bytes() < HEADER_LEN {
                return Err(DeviceError::Request("a buffer without room for a header"));
            }
            room += writer.available_bytes();
            writers.push((head, writer));
        }
        if room < len {
            // The frame can never fit, so it is dropped. The buffer is used for the next one.
            queue.set_next_avail(before);
            return Ok(Some(false));
        }
        let count = writers.len() as u16;
        self.frame[NUM_BUFFERS..][..2].copy_from_slice(&count.to_le_bytes());
        self.used.clear();
        let mut rest = &self.frame[..len];
        for (head, mut writer) in writers {
            let (part, left) = rest.split_at(rest.len().min(writer.available_bytes()));
            writer.write_all(part)?;
            self.used.push((head, part.len() as u32));
            rest = left;
        }
        ring::publish(queue, memory, &self.used).map(Some)
    }
}
