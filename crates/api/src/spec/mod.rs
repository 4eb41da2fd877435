//! The specification of a VM, as requested by a user.

mod check;

pub use check::{SpecError, check_size};

use crate::{Bytes, Network, VmName, guest::Command};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything needed to boot a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// The VM's name.
    pub name: VmName,
    /// Virtual CPUs, 1 to [`VmSpec::MAX_CPUS`].
    pub cpus: u8,
    /// Guest memory; a multiple of 2 MiB, [`VmSpec::MIN_MEMORY`] or more.
    pub memory: Bytes,
    /// Its guest.
    pub guest: Guest,
    /// The image's name, for listings.
    pub image: String,
    /// How many clones may be made of this VM in its life; `None` for no limit.
    pub max_forks: Option<u32>,
    /// Whether a guest without an agent may be forked, though its clones get neither an identity
    /// nor randomness of their own.
    pub identical_clones: bool,
    /// Milliseconds after which a guest that has not become ready, after boot or
    /// after a fork, has failed.
    pub ready_timeout_ms: u64,
}

impl VmSpec {
    /// Most virtual CPUs.
    pub const MAX_CPUS: u8 = 8;
    /// Least guest memory.
    pub const MIN_MEMORY: Bytes = Bytes::mib(64);
    /// Guest memory comes in units of this, so that huge pages can back it.
    pub const MEMORY_STEP: Bytes = Bytes::mib(2);
    /// Most guest memory, 1 TiB.
    pub const MAX_MEMORY: Bytes = Bytes::mib(1 << 20);
    /// Most virtio devices: each has an interrupt line of its own.
    pub const MAX_DEVICES: usize = 14;
}

/// What runs in a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant)] // A process has one or two.
pub enum Guest {
    /// The tiny embedded guest.
    Nano {
        /// Its command line: `touch_mib=N`, `mode=…`.
        options: String,
    },
    /// A Linux kernel.
    Linux(LinuxGuest),
}

impl Guest {
    /// The network it is connected to, if any.
    pub fn network(&self) -> Option<&Network> {
        match self {
            Self::Nano { .. } => None,
            Self::Linux(guest) => guest.network.as_ref(),
        }
    }
}

/// A Linux guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxGuest {
    /// An ELF `vmlinux` or a bzImage.
    pub kernel: PathBuf,
    /// An initial RAM file system, if any.
    pub initrd: Option<PathBuf>,
    /// Words added to the kernel's command line.
    pub cmdline: String,
    /// Disks in order (`/dev/vda`, `/dev/vdb`, …); the first is the root.
    pub disks: Vec<Disk>,
    /// Host directories shared into the guest.
    pub shares: Vec<Share>,
    /// The network of its NIC; `None` for no NIC.
    pub network: Option<Network>,
    /// Whether the guest runs our agent: then the VM is ready when the agent
    /// answers, and `exec` and `cp` work.
    pub agent: bool,
    /// What to run once the agent is ready.
    pub command: Option<Command>,
}

impl LinuxGuest {
    /// How many virtio devices it has: console, vsock, rng and balloon always.
    pub fn devices(&self) -> usize {
        4 + self.disks.len() + self.shares.len() + usize::from(self.network.is_some())
    }
}

/// A disk: an image that is never written, under a private overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The image: a file or a block device.
    pub path: PathBuf,
    /// The image's format; `None` to detect it.
    pub format: Option<DiskFormat>,
    /// Whether the guest sees a read-only disk (then there is no overlay).
    pub read_only: bool,
}

/// The format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskFormat {
    /// Raw: the disk's bytes in order.
    Raw,
    /// QEMU's qcow2, version 2 or 3.
    Qcow2,
}

/// A host directory shared into the guest over 9p.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The directory on the host.
    pub path: PathBuf,
    /// Where the agent mounts it; the 9p mount tag is derived from its place in
    /// the list (`hf0`, `hf1`, …).
    pub mount_point: String,
    /// Whether the guest may only read.
    pub read_only: bool,
}
