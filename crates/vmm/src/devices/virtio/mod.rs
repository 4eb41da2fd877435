//! Virtio 1.2 devices over the MMIO transport.
//!
//! [`transport`] owns what all devices have in common (registers, rings, status,
//! interrupts); a [`VirtioDevice`] is only what sets it apart. Everything the
//! guest can write is untrusted: a device answers a malformed request with an
//! error status where the specification has one, and otherwise with a
//! [`DeviceError`], upon which the transport sets DEVICE_NEEDS_RESET (2.1) and
//! never touches that device's rings again until the driver resets it.

pub mod balloon;
pub mod block;
pub mod console;
#[cfg(any(test, feature = "fuzzing"))]
pub mod hostile;
pub mod net;
pub mod p9;
pub mod ring;
pub mod rng;
#[cfg(test)]
pub(crate) mod testing;
pub mod transport;
pub mod vsock;

use crate::blobs::BlobWriter;
use crate::devices::turns::Preemption;
use crate::memory::GuestMemoryMmap;
use hyperfork_state::Record;
use std::io;
use std::os::fd::BorrowedFd;
use virtio_queue::Queue;

/// What a device sees of the machine while it works.
pub struct Context<'a> {
    /// The device's rings, all of them. Those the device may touch say that they
    /// are ready; none is before DRIVER_OK or after a failure.
    pub queues: &'a mut [Queue],
    /// Guest memory. May change under any read: never read a value twice.
    pub memory: &'a GuestMemoryMmap,
    /// Checked between two pieces of work: whether to return now.
    pub preemption: &'a Preemption,
}

/// What to notify the driver of after a device has worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct Notify {
    /// Buffers were used, and the driver wants an interrupt for them (2.7.10).
    pub used: bool,
    /// The configuration space changed.
    pub config: bool,
    /// The device was preempted in the middle of a ring's work, and has to be called for that ring
    /// again. The driver is not notified of this.
    pub unfinished: bool,
}

/// Why a device can no longer work for this driver.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A ring is not what the specification says.
    #[error("malformed ring")]
    Ring(#[from] virtio_queue::Error),
    /// A descriptor chain is not what this device's section says.
    #[error("malformed request: {0}")]
    Request(&'static str),
    /// The host failed underneath.
    #[error("host I/O failed")]
    Host(#[from] io::Error),
}

/// The part of a device that is specific to its kind.
///
/// Methods are called one at a time: the `process_` ones on the device thread,
/// those that answer register accesses on a vCPU's, `save` on the thread that captures.
/// None may block for long: the device thread serves every device of the VM, and
/// a fork waits for it to come to rest. Work that takes long is done in pieces of
/// at most 256 KiB of data, and between two of them the device checks whether it is
/// [preempted](Context::preemption).
pub trait VirtioDevice: Send {
    /// Device ID (section 5).
    fn device_id(&self) -> u32;
    /// The largest size of each ring; their number is the number of rings.
    fn queue_sizes(&self) -> &'static [u16];
    /// Feature bits offered, without those of the transport.
    fn features(&self) -> u64;
    /// Reads configuration space; bytes beyond its end read as 0.
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }
    /// Writes configuration space; devices without writable fields ignore it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
    /// The driver is ready (DRIVER_OK) with these features. Not called again for
    /// a device that is restored.
    fn activate(&mut self, features: u64);
    /// The driver has reset the device: forget everything of it.
    fn reset(&mut self);
    /// Serves the buffers in ring `index`: at least one piece, even if it is
    /// preempted. Also called once for every ring when a paused or cloned machine
    /// resumes, so it must be harmless when there are none.
    ///
    /// # Errors
    /// [`DeviceError`] when the driver broke the protocol or the host failed.
    fn process_queue(&mut self, index: usize, context: Context<'_>) -> Result<Notify, DeviceError>;
    /// A descriptor that is readable when the host has something for the device
    /// (an epoll descriptor, if it has many). The same one for life, and not
    /// readable while nothing can be done about it: it is level-triggered.
    fn host_events(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Serves the host's events, whether the rings are ready or not. Also called when a
    /// paused or cloned machine resumes.
    ///
    /// # Errors
    /// As [`process_queue`](Self::process_queue).
    fn process_host_events(&mut self, _context: Context<'_>) -> Result<Notify, DeviceError> {
        Ok(Notify::default())
    }
    /// The device's own state for a clone or a snapshot. Called only while the
    /// machine is paused. What the device shares with its clone afterwards must be
    /// frozen by this call: later changes of one must not be visible to the other.
    ///
    /// # Errors
    /// When the host is out of descriptors or disk space.
    fn save(&mut self, blobs: &mut BlobWriter) -> io::Result<Record>;
}
