//! virtio-vsock (5.10): the guest's sockets, on Unix sockets of the host.
//!
//! ```text
//!  host thread ── VsockHandle::connect ──┐                       ┌── rx ring ──▶
//!  client ── <path> ── Greeter ──────────┼─ Connection ─ Muxer ──┤              guest
//!  server ◀─ <path>_<port> ──────────────┘                       ├◀─ tx ring ──
//!                                                    Vsock ──────┴── event ring ▶
//! ```
//! [`Vsock`] serves the rings, [`muxer`] knows the connections, [`connection`]
//! is the state of one, [`host_stream`] its end on the host, [`credit`] its flow control,
//! [`listener`] the public sockets, [`poller`] the epoll set, [`events`] the
//! event ring. A connection holds at most [`credit::BUFFER`] bytes of the guest and
//! one read of the host; a reader that is slow on either side stops only its own
//! writer.
//!
//! # Clones
//! A clone starts without connections, under its own CID. Its driver assumes those
//! of its parent until it has handled a `TRANSPORT_RESET` event (5.10.6.7): it then
//! reads the CID again and ends every connected socket with `ECONNRESET`; listening
//! sockets stay. Linux handles events and packets in no particular order, so the
//! event would also end a connection made before it was handled. Therefore new
//! connections wait until the driver has returned the event's buffer, which it does
//! after handling the event ([`Events::are_handled`]). Packets of the driver about
//! connections of the parent are answered with RST. The parent is not affected.

mod connection;
mod credit;
mod events;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod handle;
mod host_stream;
mod listener;
mod muxer;
mod packet;
mod poller;
#[cfg(test)]
mod tests;

pub use handle::VsockHandle;

use super::{Context, DeviceError, Notify, VirtioDevice, ring};
use crate::blobs::BlobWriter;
use crate::memory::GuestMemoryMmap;
use events::Events;
use hyperfork_state::{Record, RecordType, devices};
use muxer::Muxer;
use packet::{HEADER_LEN, Header};
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::sync::mpsc;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_queue::{Queue, QueueT};

/// `VIRTIO_VSOCK_F_STREAM` (5.10.3), the only socket type.
const F_STREAM: u64 = 1 << 0;

/// The rings (5.10.2): packets to the guest, packets from it, events to it.
/// Linux fills all of the first with buffers of 4 KiB.
pub(crate) const QUEUE_SIZES: [u16; 3] = [128, 128, 16];

/// Most packets moved each way by one call, so that a busy guest cannot keep the
/// device thread from the other devices. The transport calls again.
const BUDGET: usize = 256;

/// The saved state of the device. Connections do not survive a fork, so they are not in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VsockState {
    /// The next host port to use.
    next_port: u32,
    events: Events,
}

impl RecordType for VsockState {
    const KIND: &'static str = devices::VSOCK.name;
    const VERSION: u16 = 1;
}

#[cfg(test)]
impl VsockState {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            next_port: 70_000,
            events: Events::sample(),
        }
    }
}

/// A virtio-vsock device.
///
/// Dropping it closes its descriptors and does nothing else, so a child made by
/// `fork(2)` may drop its copy.
pub struct Vsock {
    muxer: Muxer,
    events: Events,
}

impl Vsock {
    /// The device of a guest that boots, with its own `cid` (3 or more).
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(cid: u32) -> io::Result<(Self, VsockHandle)> {
        Self::build(cid, None, Events::default())
    }

    /// The device of a clone, under a new `cid`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn restore(cid: u32, state: &VsockState) -> io::Result<(Self, VsockHandle)> {
        Self::build(cid, Some(state.next_port), state.events.for_clone())
    }

    fn build(cid: u32, next_port: Option<u32>, events: Events) -> io::Result<(Self, VsockHandle)> {
        let (sender, commands) = mpsc::channel();
        let muxer = Muxer::new(cid, next_port, commands)?;
        let handle = VsockHandle::new(sender, muxer.wake().clone());
        Ok((Self { muxer, events }, handle))
    }

    /// Moves everything that can be moved. Each ring may be what another one was
    /// waiting for, so they are always served together.
    fn pump(&mut self, context: Context<'_>) -> Result<Notify, DeviceError> {
        let Context { queues, memory, .. } = context;
        let [rx, tx, event] = queues else {
            return Ok(Notify::default());
        };
        let mut used = self.events.serve(event, memory)?;
        used |= self.serve_tx(tx, memory)?;
        used |= self.serve_rx(rx, memory)?;
        Ok(Notify {
            used,
            config: false,
            ..Notify::default()
        })
    }

    fn serve_tx(
        &mut self,
        queue: &mut Queue,
        memory: &GuestMemoryMmap,
    ) -> Result<bool, DeviceError> {
        let mut any = false;
        // No packet is taken from a guest that does not take answers; this continues at the call
        // after it has added buffers.
        for _ in 0..BUDGET {
            if self.muxer.is_congested() {
                break;
            }
            let Some(chain) = ring::pop(queue, memory)? else {
                break;
            };
            let head = chain.head_index();
            let mut reader = chain.reader(memory)?;
            let mut header = [0; HEADER_LEN];
            reader
                .read_exact(&mut header)
                .map_err(|_| DeviceError::Request("packet shorter than its header"))?;
            self.muxer
                .receive(&Header::from_bytes(&header), &mut reader)
                .map_err(|_| DeviceError::Request("packet shorter than its header says"))?;
            queue.add_used(memory, head, 0)?;
            any = true;
        }
        Ok(any && queue.needs_notification(memory)?)
    }

    fn serve_rx(
        &mut self,
        queue: &mut Queue,
        memory: &GuestMemoryMmap,
    ) -> Result<bool, DeviceError> {
        let mut any = false;
        for _ in 0..BUDGET {
            if !self.muxer.prepare(self.events.are_handled()) {
                break;
            }
            let Some(chain) = ring::pop(queue, memory)? else {
                break;
            };
            let head = chain.head_index();
            let mut writer = chain.writer(memory)?;
            let Some(space) = writer.available_bytes().checked_sub(HEADER_LEN) else {
                return Err(DeviceError::Request("receive buffer shorter than a header"));
            };
            let len = self.muxer.emit(space, &mut writer)?;
            queue.add_used(memory, head, len as u32)?;
            any = true;
        }
        Ok(any && queue.needs_notification(memory)?)
    }
}

impl VirtioDevice for Vsock {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        F_STREAM
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        ring::read_config(&u64::from(self.muxer.cid()).to_le_bytes(), offset, data);
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {
        self.events = Events::default();
        self.muxer.reset();
    }

    fn process_queue(
        &mut self,
        _index: usize,
        context: Context<'_>,
    ) -> Result<Notify, DeviceError> {
        self.pump(context)
    }

    fn host_events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.muxer.events())
    }

    fn process_host_events(&mut self, context: Context<'_>) -> Result<Notify, DeviceError> {
        self.muxer.process_host_events()?;
        self.pump(context)
    }

    fn save(&mut self, _: &mut BlobWriter) -> io::Result<Record> {
        let next_port = self.muxer.next_port();
        Ok(Record::of(&VsockState {
            next_port,
            events: self.events.clone(),
        }))
    }
}
