//! The network device (virtio 1.2, section 5.1): frames between the driver and a TAP.
//!
//! Checksum and segmentation offloads are passed through: the header before each frame says what is
//! still to be done, and the TAP has the same header. There is one pair of rings, with one queue of
//! the TAP.
//!
//! **Forks.** The rings are guest memory. At rest the device holds at most one frame for which the
//! driver had no room; it stays with the parent, to which it was sent. A clone has a TAP of its
//! own, and its Ethernet address is in configuration space.

mod rate;
mod receive;
mod transmit;
mod wake;

use rate::Limit;

use super::{Context, DeviceError, Notify, VirtioDevice, ring};
use crate::blobs::BlobWriter;
use crate::sys::clock::Monotonic;
use crate::sys::tap::{Offload, Tap};
use hyperfork_api::Mac;
use hyperfork_state::{Record, RecordType, devices};
use receive::Receiver;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use transmit::Transmitter;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use wake::Wake;
use zerocopy::{Immutable, IntoBytes};

/// The ring whose buffers the driver gives us to fill with frames (5.1.2).
const RECEIVE: usize = 0;
/// The ring with the driver's frames.
const TRANSMIT: usize = 1;

/// The largest size of each ring.
pub(crate) const QUEUE_SIZES: [u16; 2] = [256, 256];

/// Longest frame with its header: 64 KiB of TCP, and what is before it.
const FRAME_MAX: usize = 65_562;

/// Frames that are moved in one call, so that other devices are served, too.
const BUDGET: usize = 64;

/// The features offered: offloads in both directions, and mergeable receive buffers.
const FEATURES: [u32; 11] = [
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_STATUS,
];

/// A network device.
#[derive(Debug)]
pub struct Net {
    tap: Tap,
    mac: Mac,
    /// As negotiated; 0 until then.
    features: u64,
    bytes_per_s: Option<u64>,
    receiver: Receiver,
    transmitter: Transmitter,
    wake: Wake,
}

/// The state of a network device, without its Ethernet address: a clone has another one.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct NetState {
    features: u64,
    bytes_per_s: Option<u64>,
}

impl RecordType for NetState {
    const KIND: &'static str = devices::NET.name;
    const VERSION: u16 = 1;
}

#[cfg(test)]
impl NetState {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            features: 1 << 40 | 2,
            bytes_per_s: Some(3_000_000),
        }
    }
}

impl Net {
    /// A device with this Ethernet address and this rate limit in each direction.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(tap: Tap, mac: Mac, bytes_per_s: Option<u64>) -> io::Result<Self> {
        let now = now();
        let limit = || Limit::new(bytes_per_s, FRAME_MAX as u64, now);
        Ok(Self {
            wake: Wake::new(tap.as_fd())?,
            tap,
            mac,
            features: 0,
            bytes_per_s,
            receiver: Receiver::new(limit()),
            transmitter: Transmitter::new(limit()),
        })
    }

    /// A device as it was when the state was saved, but with its own TAP and address.
    ///
    /// # Errors
    /// As [`new`](Self::new), and the TAP's.
    pub fn restore(state: &NetState, tap: Tap, mac: Mac) -> io::Result<Self> {
        let mut net = Self::new(tap, mac, state.bytes_per_s)?;
        net.features = state.features;
        net.tap.set_offload(net.offload())?;
        Ok(net)
    }

    fn has(&self, feature: u32) -> bool {
        self.features & 1 << feature != 0
    }

    /// What the driver takes from us.
    fn offload(&self) -> Offload {
        Offload {
            checksum: self.has(VIRTIO_NET_F_GUEST_CSUM),
            tso4: self.has(VIRTIO_NET_F_GUEST_TSO4),
            tso6: self.has(VIRTIO_NET_F_GUEST_TSO6),
            ecn: self.has(VIRTIO_NET_F_GUEST_ECN),
        }
    }

    /// Moves frames both ways as far as rings, TAP and limits allow, and has itself woken
    /// when there is more to do.
    fn work(&mut self, context: Context<'_>) -> Result<Notify, DeviceError> {
        let Context { queues, memory, .. } = context;
        let now = now();
        let merge = self.has(VIRTIO_NET_F_MRG_RXBUF);
        let sent = self
            .transmitter
            .run(&self.tap, &mut queues[TRANSMIT], memory, now)?;
        let received = self
            .receiver
            .run(&self.tap, &mut queues[RECEIVE], memory, merge, now)?;
        let waits = [sent.again, received.again];
        if let Some(wait) = waits.into_iter().flatten().min() {
            self.wake.after(wait)?;
        }
        Ok(Notify {
            used: sent.used | received.used,
            config: false,
            ..Notify::default()
        })
    }
}

/// `struct virtio_net_config` (5.1.4) as far as the features go, little-endian, as our hosts are.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Config {
    mac: [u8; 6],
    status: u16,
}

/// What came of moving frames one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Moved {
    /// The driver wants to know.
    used: bool,
    /// When to continue: after this time, or at the next event if `None`.
    again: Option<Duration>,
}

impl VirtioDevice for Net {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURES.iter().fold(0, |all, feature| all | 1 << feature)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = Config {
            mac: self.mac.0,
            status: VIRTIO_NET_S_LINK_UP as u16,
        };
        ring::read_config(config.as_bytes(), offset, data);
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
        self.offload_or_tell();
    }

    fn reset(&mut self) {
        self.features = 0;
        self.receiver.reset();
        self.offload_or_tell();
    }

    fn process_queue(&mut self, _: usize, context: Context<'_>) -> Result<Notify, DeviceError> {
        self.work(context)
    }

    fn host_events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wake.events())
    }

    fn process_host_events(&mut self, context: Context<'_>) -> Result<Notify, DeviceError> {
        self.receiver.ready |= self.wake.take()?;
        self.work(context)
    }

    fn save(&mut self, _: &mut BlobWriter) -> io::Result<Record> {
        Ok(Record::of(&NetState {
            features: self.features,
            bytes_per_s: self.bytes_per_s,
        }))
    }
}

impl Net {
    fn offload_or_tell(&mut self) {
        if let Err(error) = self.tap.set_offload(self.offload()) {
            crate::sys::note!("the network device cannot set the offloads of its TAP: {error}");
        }
    }
}

/// The time, for limits.
fn now() -> Duration {
    Monotonic::now().as_duration()
}

#[cfg(test)]
mod tests;
