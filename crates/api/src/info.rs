//! The description of a VM: what `ps --json`, `inspect` and `tree --json` print.

use crate::port::PublishedPort;
use crate::{ForkReport, NetMode, VmName};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The state of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Being built, booted, or cloned; not yet ready.
    Starting,
    /// Running, its agent (if it has one) answering.
    Running,
    /// Its vCPUs are stopped.
    Paused,
    /// It has ended: it was stopped, or its guest has powered off.
    Stopped,
    /// It ended by a guest panic or a fault; `error` says which.
    Failed,
}

impl VmState {
    /// Whether the VM has a process in this state.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Paused)
    }
}

/// The description of a VM. In JSON it is one flat object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmInfo {
    /// What never changes.
    pub about: VmAbout,
    /// Its present status.
    pub status: VmStatus,
    /// Its use of memory and disks.
    pub usage: VmUsage,
}

/// What never changes about a VM. (All fields but the name have defaults, so that a later version
/// can read what an earlier one has written.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmAbout {
    /// Its name.
    pub name: VmName,
    /// Name of the image it was booted from, or `nano`.
    #[serde(default)]
    pub image: String,
    /// Virtual CPUs.
    #[serde(default)]
    pub cpus: u8,
    /// Guest memory, MiB.
    #[serde(default)]
    pub memory_mib: u64,
    /// The VM that it is a clone of; `null` if it was booted.
    #[serde(default)]
    pub parent: Option<VmName>,
    /// How many forks lie between it and the boot of its first ancestor.
    #[serde(default)]
    pub generation: u32,
    /// Its number among its parent's clones, from 1; 0 if it was booted.
    #[serde(default)]
    pub index: u32,
    /// Its vsock context identifier.
    #[serde(default)]
    pub cid: u32,
    /// The guest's machine-id(5), 32 digits.
    #[serde(default)]
    pub machine_id: String,
    /// Which addresses its clones have; `null` without a network.
    #[serde(default)]
    pub net: Option<NetMode>,
    /// Where it and its clones may connect to, as `run --egress` takes it; `null` without a
    /// network.
    #[serde(default)]
    pub egress: Option<Vec<String>>,
    /// When it was booted or cloned, milliseconds since 1970.
    #[serde(default)]
    pub created_unix_ms: u64,
    /// How many clones it may make; `null` for no limit.
    #[serde(default)]
    pub max_forks: Option<u32>,
    /// Its main program and the arguments.
    #[serde(default)]
    pub command: Option<Vec<String>>,
}

/// A VM's present status. (As [`VmAbout`], with defaults for all fields but the state.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Its state.
    pub state: VmState,
    /// Whether its process has just answered; `false` if it did not, and this is its last
    /// description on disk.
    #[serde(default)]
    pub answers: bool,
    /// The VM's process; `null` once it has ended.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Its address, as the host knows it; `null` without a network.
    #[serde(default)]
    pub ip: Option<Ipv4Addr>,
    /// Its published ports.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// How many clones were made of it.
    #[serde(default)]
    pub forks: u32,
    /// The outcome of the latest fork that a program in its guest requested; `null` if there was
    /// none.
    #[serde(default)]
    pub guest_fork: Option<GuestForkOutcome>,
    /// The main program's exit status, or a `done` message's result code.
    #[serde(default)]
    pub exit_status: Option<i32>,
    /// What went wrong, in one line.
    #[serde(default)]
    pub error: Option<String>,
    /// From the request to ready, microseconds: the cold boot, or the fork.
    #[serde(default)]
    pub ready_us: Option<u64>,
}

impl VmStatus {
    /// The status of a VM that is starting.
    pub fn starting() -> Self {
        Self {
            state: VmState::Starting,
            answers: true,
            pid: None,
            ip: None,
            ports: Vec::new(),
            forks: 0,
            guest_fork: None,
            exit_status: None,
            error: None,
            ready_us: None,
        }
    }
}

/// A VM's use of memory and disks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VmUsage {
    /// Frozen guest memory that it shares with its parent, siblings and clones, KiB: the whole
    /// image, once for all of them.
    pub shared_kib: u64,
    /// Guest memory of its own, KiB.
    pub private_kib: u64,
    /// Memory of its process, shared and private, that the host has swapped out, KiB.
    pub swapped_kib: u64,
    /// Its disks, in order.
    pub disks: Vec<DiskInfo>,
}

/// A [`VmInfo`] as a flat object, which only self-describing formats can have.
#[derive(Serialize, Deserialize)]
struct Flat<A, S, U> {
    #[serde(flatten)]
    about: A,
    #[serde(flatten)]
    status: S,
    #[serde(flatten)]
    usage: U,
}

impl Serialize for VmInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (about, status, usage) = (&self.about, &self.status, &self.usage);
        if !serializer.is_human_readable() {
            return (about, status, usage).serialize(serializer);
        }
        let flat = Flat {
            about,
            status,
            usage,
        };
        flat.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for VmInfo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (about, status, usage) = if deserializer.is_human_readable() {
            let flat = Flat::deserialize(deserializer)?;
            (flat.about, flat.status, flat.usage)
        } else {
            Deserialize::deserialize(deserializer)?
        };
        Ok(Self {
            about,
            status,
            usage,
        })
    }
}

/// The description of a disk. MiB are rounded up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// Its name in the guest: `vda`, `vdb`, …
    pub device: String,
    /// Its image.
    pub path: PathBuf,
    /// Whether the guest can only read.
    pub read_only: bool,
    /// The disk's size, MiB.
    pub size_mib: u64,
    /// What was written to it before a fork and is shared with other VMs, MiB of the host's
    /// storage.
    pub shared_mib: u64,
    /// What was written to it since, MiB of the host's storage.
    pub private_mib: u64,
    /// Why the host could not read or write the disk for the guest, if so.
    pub error: Option<String>,
}

/// The outcome of a fork that a guest requested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestForkOutcome {
    /// It is complete.
    Report(ForkReport),
    /// There is no clone, for this reason, in one line.
    Error(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn disk() -> DiskInfo {
        DiskInfo {
            device: "vda".to_owned(),
            path: "/disk".into(),
            read_only: false,
            size_mib: 3,
            shared_mib: 2,
            private_mib: 1,
            error: None,
        }
    }

    fn info() -> VmInfo {
        let least = r#"{"name":"p-1","state":"running"}"#;
        let mut info: VmInfo = serde_json::from_str(least).unwrap();
        info.about.parent = Some(VmName::new("p").unwrap());
        info.status.ip = Some(Ipv4Addr::new(10, 213, 0, 7));
        info.status.guest_fork = Some(GuestForkOutcome::Error("no".to_owned()));
        info.usage.disks = vec![disk()];
        info
    }

    #[test]
    fn in_json_all_there_is_to_know_is_one_flat_object() {
        let value = serde_json::to_value(info()).unwrap();
        let keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        let mut expected = [
            "name image cpus memory_mib parent generation index cid machine_id net egress",
            "created_unix_ms max_forks command state answers pid ip ports forks guest_fork",
            "exit_status error ready_us shared_kib private_kib swapped_kib disks",
        ]
        .map(|names| names.split(' ').collect::<Vec<_>>())
        .concat();
        expected.sort_unstable();
        let mut found = keys.clone();
        found.sort();
        assert_eq!(found, expected);
        assert_eq!(value["ip"], "10.213.0.7");
        assert_eq!(value["guest_fork"], json!({ "error": "no" }));
        assert!(!keys.iter().any(|key| key.contains("token")));
        assert_eq!(serde_json::from_value::<VmInfo>(value).unwrap(), info());
    }

    #[test]
    fn processes_pass_it_on_without_names() {
        let bytes = postcard::to_stdvec(&info()).unwrap();
        let (read, rest) = postcard::take_from_bytes::<VmInfo>(&bytes).unwrap();
        assert_eq!((read, rest.len()), (info(), 0));
    }

    /// A VM's description as a version before this protocol has written it.
    const OLD: &str = r#"{
        "name": "old", "state": "running", "image": "nano", "cpus": 1, "memory_mib": 64,
        "pid": 366, "parent": null, "generation": 0, "index": 0, "cid": 64238395,
        "machine_id": "c6786d698f9f4bb7b3355d62fbad25ec",
        "token": "44619345ca2a46a99e6549610c047a33", "net": null, "egress": null, "ip": null,
        "ports": [], "created_unix_ms": 1795896830876, "forks": 0, "max_forks": null,
        "guest_fork": null, "command": null, "exit_status": null, "error": null,
        "shared_kib": 0, "private_kib": 0, "swapped_kib": 0, "disks": [], "ready_us": 19875
    }"#;

    #[test]
    fn what_an_older_version_has_left_is_read_and_its_token_is_not_passed_on() {
        let info: VmInfo = serde_json::from_str(OLD).unwrap();
        assert_eq!((info.about.cid, info.status.pid), (64_238_395, Some(366)));
        assert_eq!(info.status.ready_us, Some(19_875));
        let again: Value = serde_json::to_value(info).unwrap();
        assert!(again.get("token").is_none());
    }
}
