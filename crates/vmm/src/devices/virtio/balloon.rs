//! The memory balloon (virtio 1.2, section 5.5), of which only free page reporting is used
//! (5.5.6.7): the driver reports which of its pages are free, and the host frees the memory behind
//! them, where it [can](FreePages), until they are written again.
//!
//! The device never inflates, so no page is taken that the guest needs. The driver may not expect
//! any contents in pages that it has reported (5.5.6.7). A driver that poisons free pages would
//! expect the poison, so it does not report them, because VIRTIO_BALLOON_F_PAGE_POISON is not
//! offered. A driver that reports pages in use harms only its own machine and later clones of it.
//!
//! The device is at rest during a capture: a report was either served before, or is still in the
//! ring, where parent and clone find it.

use super::{Context, DeviceError, Notify, VirtioDevice, ring};
use crate::blobs::BlobWriter;
use crate::memory::FreePages;
use hyperfork_state::{Record, RecordType, devices};
use serde::{Deserialize, Serialize};
use std::io;
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;

/// The feature bit of free page reporting (5.5.3).
const VIRTIO_BALLOON_F_REPORTING: u32 = 5;

/// The rings: inflate, deflate, and free page reporting. (Others exist only with their features.)
/// Linux reports 32 runs of pages at a time, and needs a ring that holds them.
pub(crate) const QUEUE_SIZES: [u16; 3] = [16, 16, 64];
const REPORTING: usize = 2;

/// At most this many runs of one report are freed, and at most this many bytes in all: those of
/// Linux's largest report. Freeing takes milliseconds, and a fork would have to wait. The rest is
/// not freed.
const RUNS_MAX: usize = 64;
const BYTES_MAX: u64 = 128 << 20;

/// A balloon.
#[derive(Debug)]
pub struct Balloon {
    free_pages: FreePages,
}

/// The state of a balloon: none.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct BalloonState;

impl RecordType for BalloonState {
    const KIND: &'static str = devices::BALLOON.name;
    const VERSION: u16 = 1;
}

impl Balloon {
    /// A balloon of the machine whose free pages these are.
    pub fn new(free_pages: FreePages) -> Self {
        Self { free_pages }
    }

    /// The same, as it was when the state was saved.
    pub fn restore(_: &BalloonState, free_pages: FreePages) -> Self {
        Self::new(free_pages)
    }

    fn take(&self, report: ring::Chain<'_>) -> Result<(), DeviceError> {
        let mut room = BYTES_MAX;
        for run in report.take(RUNS_MAX) {
            if !run.is_write_only() {
                return Err(DeviceError::Request("free pages that cannot be written"));
            }
            let len = u64::from(run.len()).min(room);
            room -= len;
            let taken = self.free_pages.take(run.addr().0, len);
            taken.map_err(|_| DeviceError::Request("free pages that do not exist"))?;
        }
        Ok(())
    }
}

impl VirtioDevice for Balloon {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_BALLOON_F_REPORTING
    }

    // Its configuration space reads as zeroes: no pages are wanted. How many the driver thinks
    // it has handed over does not matter.

    fn activate(&mut self, _: u64) {}

    fn reset(&mut self) {}

    fn process_queue(&mut self, index: usize, context: Context<'_>) -> Result<Notify, DeviceError> {
        match index {
            REPORTING => ring::serve_one(context, index, |report| self.take(report).map(|()| 0)),
            // Inflated pages, which the device has not asked for, are left to the guest.
            _ => ring::serve(context, index, |_| Ok(0)),
        }
    }

    fn save(&mut self, _: &mut BlobWriter) -> io::Result<Record> {
        Ok(Record::of(&BalloonState))
    }
}

/// Runs `script` as a [hostile driver](super::hostile) in a machine that was booted, or that
/// is a clone. Its rings lie in the memory that it reports.
///
/// # Panics
/// When the device misbehaves, or the host is out of memory.
#[cfg(any(test, feature = "fuzzing"))]
pub fn drive_hostile(is_clone: bool, script: &[u8]) {
    use super::hostile;
    use crate::memory::{AtRest, Ram};

    let new = || Ram::reserve(hostile::MEMORY).expect("addresses");
    let mut ram = new();
    ram.back_with_zeroes().expect("memory");
    if is_clone {
        // SAFETY: nothing writes it yet.
        let at_rest = unsafe { AtRest::new() };
        let image = ram.freeze(&at_rest).expect("memory");
        ram.take_cleanup().run().expect("a seal");
        ram = new();
        ram.back_with(&image).expect("memory");
    }
    let balloon = Balloon::new(ram.free_pages().clone());
    hostile::drive_in(ram.memory().clone(), Box::new(balloon), &[7], script);
}

#[cfg(test)]
mod tests;
