//! A machine: vCPUs, memory and devices, assembled and running.
//!
//! ```text
//!   boot ─────┐                          pause           capture
//!   fork ─────┼─> assemble ─> Machine ──────────> Paused ────────> Capture
//!   restore ──┘                      <──────────              (state, memory, fds)
//!                                       drop                       │
//!                                                                  └─> fork, restore
//! ```
//!
//! All three ways end in [`assemble`](assemble::assemble), so a test of one way tests most of the
//! others too.

mod assemble;
mod boot;
mod capture;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod pending;
mod ports;
mod restore;
mod run;
mod shell;
mod signal_port;
pub mod slots;
mod vcpus;

pub use capture::{Capture, Paused};
pub use error::MachineError;
pub use restore::Restored;
pub use run::Machine;
pub use shell::Shell;
pub use signal_port::GuestFork;
pub use slots::{Backends, NicBackend};
pub use vcpus::{End, VcpuJobError};

use crate::sys::clock::Monotonic;
use hyperfork_api::signal::Message;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The callback by which a machine reports its [`Event`]s; called on the thread that noticed.
pub type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// How a machine began to run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct FirstRun {
    /// The first vCPU entered `KVM_RUN`.
    pub entered: Monotonic,
    /// The first exit from it.
    pub exited: Monotonic,
}

/// Something that happened inside a machine and that its owner has to know.
#[derive(Debug)]
pub enum Event {
    /// The first vCPU exit: the guest has executed.
    FirstExit(FirstRun),
    /// The guest wrote to the signal port.
    Message(Message),
    /// The guest reset or powered itself off. Reported once; no vCPU runs after it.
    Reset,
    /// A vCPU or the device thread failed; the reason in one line. Reported once; no vCPU runs
    /// after it.
    Fault(String),
}
