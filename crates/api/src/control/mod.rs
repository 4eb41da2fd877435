//! What a VM's process is asked over its control socket
//! (`<run dir>/<name>/control.sock`): one JSON [`Request`] a line, answered by
//! one JSON [`Reply`] a line, as many as one likes on a connection.

use crate::{ForkReport, Secrets, Strategy, VmInfo, VmName};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What one may ask of a VM's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Tell about yourself.
    Info,
    /// Answer when the VM is ready, or when it has failed to become so.
    WaitReady,
    /// Answer when the main program has ended (or the VM has).
    WaitExit,
    /// Stop the vCPUs where they are.
    Pause,
    /// Let them run on.
    Resume,
    /// Clone yourself.
    Fork(Fork),
    /// Write a disk as it is now into a new raw image.
    ExportDisk {
        /// Which, as [`DiskInfo::device`](crate::DiskInfo).
        device: String,
        /// The image, an absolute path; a file that is there is replaced.
        path: PathBuf,
    },
    /// Look where the vCPUs are, many times over: a profiler for guests.
    Sample {
        /// How often.
        count: u32,
        /// Microseconds between two looks.
        interval_us: u32,
    },
    /// End: ask the guest first, and end without it after this long.
    Stop {
        /// Milliseconds the guest has to power off; 0 ends it at once.
        grace_ms: u64,
    },
}

/// A request to fork.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// How many clones, from 1.
    pub count: u32,
    /// Clones are named `<prefix>-<k>`; the parent's name where unset.
    pub prefix: Option<VmName>,
    /// How.
    pub strategy: Strategy,
    /// What the clones may know. They know none of their parent's.
    #[serde(default)]
    pub secrets: Secrets,
    /// Milliseconds after which a clone that is not ready is given up; the parent's where unset.
    #[serde(default)]
    pub ready_timeout_ms: Option<u64>,
    /// Whether clones succeed or fail one by one; otherwise all come to life or none does.
    #[serde(default)]
    pub best_effort: bool,
}

impl Fork {
    /// A request for so many clones, with nothing else asked for.
    pub fn new(count: u32) -> Self {
        Self {
            count,
            prefix: None,
            strategy: Strategy::Image,
            secrets: Secrets::default(),
            ready_timeout_ms: None,
            best_effort: false,
        }
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Ok,
    /// About the VM.
    Info(Box<VmInfo>),
    /// Where the vCPUs were, most frequent first.
    Samples(Vec<Sampled>),
    /// The fork is complete.
    Forked(ForkReport),
    /// It could not be done; one line that says why and what to do.
    Error(String),
}

/// An instruction at which vCPUs were found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampled {
    /// Its address, as the guest sees it.
    pub rip: u64,
    /// How many times.
    pub count: u32,
}
