//! What a VM tells about itself: `ps --json`, `inspect`, `tree --json`.

use crate::port::PublishedPort;
use crate::{ForkReport, NetMode, VmName};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Being built, booted, or cloned; not yet ready.
    Starting,
    /// Running, its agent (if it has one) answering.
    Running,
    /// Its vCPUs stand still.
    Paused,
    /// It has ended, as asked or by its own doing.
    Stopped,
    /// It ended by a guest panic or a fault; `error` says which.
    Failed,
}

impl VmState {
    /// Whether a process stands behind the VM.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Paused)
    }
}

/// What there is to know about one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInfo {
    /// Its name.
    pub name: VmName,
    /// Where it is in its life.
    pub state: VmState,
    /// Whether its process has just said so itself; `false` where it did not answer, and this
    /// is what it said before.
    #[serde(default)]
    pub answers: bool,
    /// Name of the image it was booted from, or `nano`.
    pub image: String,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Guest memory, MiB.
    pub memory_mib: u64,
    /// The VM's process; `null` once it has ended.
    pub pid: Option<u32>,
    /// Whose clone it is; `null` if it was booted.
    pub parent: Option<VmName>,
    /// Forks between it and the boot it stems from.
    pub generation: u32,
    /// Its number among its parent's clones, from 1; 0 if it was booted.
    pub index: u32,
    /// Its vsock context identifier.
    pub cid: u32,
    /// The guest's machine-id(5), 32 digits.
    pub machine_id: String,
    /// What its clones' addresses are; `null` without a network.
    pub net: Option<NetMode>,
    /// Whom it and its clones may begin to speak to, as `run --egress` takes it; `null` without
    /// a network.
    pub egress: Option<Vec<String>>,
    /// Its address, as the host knows it; `null` without a network.
    pub ip: Option<Ipv4Addr>,
    /// Its published ports.
    pub ports: Vec<PublishedPort>,
    /// When it was booted or cloned, milliseconds since 1970.
    pub created_unix_ms: u64,
    /// How many clones were made of it.
    pub forks: u32,
    /// How many it may make; `null` for no limit.
    pub max_forks: Option<u32>,
    /// What became of the latest fork that a program in it asked for; `null` if none
    /// did.
    pub guest_fork: Option<GuestForkOutcome>,
    /// What runs as its main program.
    pub command: Option<Vec<String>>,
    /// The main program's exit status, or a `done` message's result code.
    pub exit_status: Option<i32>,
    /// What went wrong, in one line.
    pub error: Option<String>,
    /// Frozen guest memory it shares with its relatives, KiB: the whole image, once
    /// for all of them.
    pub shared_kib: u64,
    /// Guest memory of its own, KiB.
    pub private_kib: u64,
    /// Of all its process's memory, shared and private: what the host has swapped out, KiB.
    #[serde(default)]
    pub swapped_kib: u64,
    /// Its disks, in order.
    #[serde(default)]
    pub disks: Vec<DiskInfo>,
    /// From the request to ready, microseconds: the cold boot, or the fork.
    pub ready_us: Option<u64>,
}

/// What there is to know about a disk. MiB are rounded up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// What it is called in the guest: `vda`, `vdb`, …
    pub device: String,
    /// Its image.
    pub path: PathBuf,
    /// Whether the guest can only read.
    pub read_only: bool,
    /// The disk's size, MiB.
    pub size_mib: u64,
    /// What of it was written before a fork and is shared with relatives, MiB of the
    /// host's storage.
    pub shared_mib: u64,
    /// What was written since, MiB of the host's storage.
    pub private_mib: u64,
    /// That the host could not read or write what the guest wanted, and why.
    pub error: Option<String>,
}

/// What became of a fork that a guest asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestForkOutcome {
    /// It is complete.
    Report(ForkReport),
    /// There is no clone, for this reason, in one line.
    Error(String),
}
