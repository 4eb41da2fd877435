//! What a fork reports: the document that `hyperfork fork --json` prints.

use crate::VmName;
use crate::port::PublishedPort;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// How memory and state are duplicated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Frozen RAM images under private mappings, in a process built for it.
    #[default]
    Image,
    /// The HyperFork paper's: `fork(2)` of the monitor.
    ProcessFork,
}

/// One fork of a parent into clones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkReport {
    /// The VM that was forked.
    pub parent: VmName,
    /// How long the parent's vCPUs were stopped, microseconds.
    pub pause_us: u64,
    /// The strategy that was used.
    pub strategy: Strategy,
    /// The clones, in order of their names' numbers.
    pub clones: Vec<CloneReport>,
    /// The clones that did not come to life, of a best-effort fork.
    #[serde(default)]
    pub failed: Vec<CloneFailure>,
}

impl ForkReport {
    /// The names of the clones that live.
    pub fn names(&self) -> Vec<VmName> {
        self.clones.iter().map(|clone| clone.name.clone()).collect()
    }
}

/// A clone that did not come to life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneFailure {
    /// The name that it would have had.
    pub name: VmName,
    /// Why, in one line.
    pub error: String,
}

/// One clone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneReport {
    /// Its name.
    pub name: VmName,
    /// Its address; `null` without a network.
    pub ip: Option<Ipv4Addr>,
    /// Its published ports.
    pub ports: Vec<PublishedPort>,
    /// From the request's arrival to the first guest instruction the clone is
    /// known to have executed (its first exit after `KVM_RUN`), microseconds.
    pub total_us: u64,
    /// From the request's arrival to the agent's first answer (for a guest
    /// without an agent, its first message on the signal port), microseconds.
    pub ready_us: u64,
    /// Where its shell came from.
    pub shell_source: ShellSource,
    /// Where the time went.
    pub phases_us: Phases,
}

/// Where the shell of a clone, a VM without a state, came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShellSource {
    /// It had been built in advance.
    Pool,
    /// It was built for this clone: there is no pool, or the pool had none left.
    Built,
    /// It is a copy of the parent's process (strategy `process-fork`).
    Process,
}

/// Durations of a clone's phases, microseconds. `pause`, `capture` and `image` are
/// shared by all clones of one fork; the others are the clone's own.
///
/// ```text
/// arrival ──pause──┐
///         ─────────┴──────capture (image)──┬──hand_over──┬─memory─┬─state─┬─enter─┬─first_run─┬─ready─
///         ───shell (since it was wanted)─────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Phases {
    /// From the request's arrival until the parent was paused.
    pub pause: u64,
    /// From the request's arrival until the parent was captured and had resumed.
    pub capture: u64,
    /// Part of that: freezing the parent's memory.
    pub image: u64,
    /// From then until the shell had the capture.
    pub hand_over: u64,
    /// Getting a shell: from asking for one until it had the capture.
    pub shell: u64,
    /// Putting the image under the shell's memory slot.
    pub memory: u64,
    /// Setting vCPU, VM and device state.
    pub state: u64,
    /// From there until the first vCPU entered `KVM_RUN`.
    #[serde(default)]
    pub enter: u64,
    /// From there to the first exit to the monitor: by then the guest has executed. A guest that
    /// only computes has no exit of its own, so this may end long after its first instruction.
    pub first_run: u64,
    /// From there until the clone was ready.
    pub ready: u64,
}
