//! Makes the virtio devices of a machine, in the order of their MMIO slots.

use crate::blobs::BlobReader;
use crate::devices::log::Log;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::balloon::{Balloon, BalloonState};
use crate::devices::virtio::block::handle::DiskHandle;
use crate::devices::virtio::block::image;
use crate::devices::virtio::block::image_error::ImageError;
use crate::devices::virtio::block::overlays::Overlays;
use crate::devices::virtio::block::{Block, BlockState};
use crate::devices::virtio::console::{Console, ConsoleState};
use crate::devices::virtio::net::{Net, NetState};
use crate::devices::virtio::p9::{P9, P9State};
use crate::devices::virtio::rng::{Rng, RngState};
use crate::devices::virtio::vsock::{Vsock, VsockHandle, VsockState};
use crate::memory::FreePages;
use crate::sys::tap::Tap;
use hyperfork_api::Mac;
use hyperfork_api::spec::{Disk, LinuxGuest, Share};
use hyperfork_state::{Record, RecordError, RecordType};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

/// The host's side of a machine's devices. Each clone has its own.
#[derive(Debug)]
pub struct Backends {
    /// Where console and serial output goes.
    pub log: Log,
    /// Where clients of the console connect.
    pub console: UnixListener,
    /// Makes the files that its disks write to.
    pub overlays: Option<Overlays>,
    /// What its network device is connected to.
    pub nic: Option<NicBackend>,
}

/// The host's side of a virtio-net device.
#[derive(Debug)]
pub struct NicBackend {
    /// The TAP that carries its frames.
    pub tap: Tap,
    /// The device's Ethernet address.
    pub mac: Mac,
}

/// A machine's devices in slot order, and the handles of its disks and its vsock device.
pub(super) struct Slots {
    pub(super) devices: Vec<Box<dyn VirtioDevice>>,
    pub(super) disks: Vec<DiskHandle>,
    pub(super) vsock: Option<VsockHandle>,
}

/// Why a device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// A disk image cannot be used.
    #[error(transparent)]
    Disk(#[from] ImageError),
    /// A directory cannot be shared.
    #[error("cannot share {path}")]
    Share {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The state of a device cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The state is of a device that this program does not have.
    #[error("no device here has a state of the kind {0:?}")]
    Unknown(String),
    /// Another device cannot be set up.
    #[error("cannot set up the {device}")]
    Device {
        /// Which one.
        device: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl SlotError {
    fn device(device: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Device { device, source }
    }
}

/// The 9p mount tag of share number `index`.
pub fn share_tag(index: usize) -> String {
    format!("hf{index}")
}

/// What a guest calls disk number `index`.
pub fn disk_name(index: usize) -> String {
    format!("vd{}", char::from(b'a' + index as u8))
}

/// The devices of a Linux guest that boots.
pub(super) fn fresh(
    guest: &LinuxGuest,
    cid: u32,
    backends: &Backends,
    free_pages: &FreePages,
) -> Result<Slots, SlotError> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    let mut disks = Vec::new();
    for disk in &guest.disks {
        let block = open_disk(disk, backends)?;
        disks.push(block.handle());
        devices.push(Box::new(block));
    }
    devices.push(Box::new(console(backends, Console::new)?));
    let (vsock, handle) = Vsock::new(cid).map_err(SlotError::device("socket device"))?;
    devices.push(Box::new(vsock));
    devices.push(Box::new(Rng));
    devices.push(Box::new(Balloon::new(free_pages.clone())));
    if let Some(network) = &guest.network {
        devices.push(Box::new(nic(backends, |tap, mac| {
            Net::new(tap, mac, network.bytes_per_s)
        })?));
    }
    for (index, share) in guest.shares.iter().enumerate() {
        devices.push(Box::new(open_share(index, share)?));
    }
    Ok(Slots {
        devices,
        disks,
        vsock: Some(handle),
    })
}

/// The devices of a restored machine.
pub(super) fn restored<'a>(
    states: impl Iterator<Item = &'a Record>,
    blobs: BlobReader<'_>,
    cid: u32,
    backends: &Backends,
    free_pages: &FreePages,
) -> Result<Slots, SlotError> {
    let mut slots = Slots {
        devices: Vec::new(),
        disks: Vec::new(),
        vsock: None,
    };
    for state in states {
        let device: Box<dyn VirtioDevice> = match &*state.kind {
            BalloonState::KIND => Box::new(Balloon::restore(&state.decode()?, free_pages.clone())),
            BlockState::KIND => {
                let state = state.decode()?;
                let block = overlays(backends)
                    .and_then(|overlays| Block::restore(&state, blobs, overlays))
                    .map_err(SlotError::device("disk"))?;
                slots.disks.push(block.handle());
                Box::new(block)
            }
            ConsoleState::KIND => {
                let state = state.decode()?;
                let restore = |log, listener| Console::restore(&state, log, listener);
                Box::new(console(backends, restore)?)
            }
            NetState::KIND => {
                let state = state.decode()?;
                Box::new(nic(backends, |tap, mac| Net::restore(&state, tap, mac))?)
            }
            P9State::KIND => {
                let share = P9::restore(&state.decode()?, blobs);
                Box::new(share.map_err(SlotError::device("shared directory"))?)
            }
            RngState::KIND => Box::new(Rng::restore(&state.decode()?)),
            VsockState::KIND => {
                let restored = Vsock::restore(cid, &state.decode()?);
                let (vsock, handle) = restored.map_err(SlotError::device("socket device"))?;
                slots.vsock = Some(handle);
                Box::new(vsock)
            }
            unknown => return Err(SlotError::Unknown(unknown.to_owned())),
        };
        slots.devices.push(device);
    }
    Ok(slots)
}

fn open_disk(disk: &Disk, backends: &Backends) -> Result<Block, SlotError> {
    let base = image::open(&disk.path, disk.format)?;
    let overlays = overlays(backends).map_err(SlotError::device("disk"))?;
    Ok(Block::new(base, disk.read_only, overlays))
}

fn overlays(backends: &Backends) -> io::Result<&Overlays> {
    let overlays = backends.overlays.as_ref();
    overlays.ok_or_else(|| io::ErrorKind::NotConnected.into())
}

fn open_share(index: usize, share: &Share) -> Result<P9, SlotError> {
    P9::new(&share_tag(index), &share.path, share.read_only).map_err(|source| SlotError::Share {
        path: share.path.clone(),
        source,
    })
}

fn nic(
    backends: &Backends,
    make: impl FnOnce(Tap, Mac) -> io::Result<Net>,
) -> Result<Net, SlotError> {
    let nic = backends.nic.as_ref().ok_or(io::ErrorKind::NotConnected);
    nic.map_err(io::Error::from)
        .and_then(|nic| make(nic.tap.try_clone()?, nic.mac))
        .map_err(SlotError::device("network device"))
}

fn console(
    backends: &Backends,
    make: impl FnOnce(Log, UnixListener) -> io::Result<Console>,
) -> Result<Console, SlotError> {
    backends
        .console
        .try_clone()
        .and_then(|listener| make(backends.log.clone(), listener))
        .map_err(SlotError::device("console"))
}
