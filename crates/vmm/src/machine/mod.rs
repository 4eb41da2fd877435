//! A machine: vCPUs, memory and devices, put together and running.
//!
//! ```text
//!   boot ─────┐                          pause           capture
//!   fork ─────┼─> assemble ─> Machine ──────────> Paused ────────> Capture
//!   restore ──┘                      <──────────              (state, memory, fds)
//!                                       drop                       │
//!                                                                  └─> fork, restore
//! ```
//!
//! [`assemble`](assemble::assemble) is the only way to a machine, so that whatever tests one way
//! tests them all.

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
pub use slots::{Backends, Plug};
pub use vcpus::{End, VcpuJobError};

use crate::sys::clock::Monotonic;
use hyperfork_api::signal::Message;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Whom a machine tells what happens in it; called by whichever thread noticed.
pub type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// How a machine began to run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct FirstRun {
    /// The first vCPU entered `KVM_RUN`.
    pub entered: Monotonic,
    /// One came out of it.
    pub exited: Monotonic,
}

/// What happens inside a machine that its owner has to know.
#[derive(Debug)]
pub enum Event {
    /// A vCPU came out of the guest for the first time: so it has executed.
    FirstExit(FirstRun),
    /// The guest wrote to the signal port.
    Message(Message),
    /// The guest reset or powered itself off. It is told once, and no vCPU runs any more.
    Reset,
    /// A vCPU or the device thread cannot go on: why, in one line. It is told once, and no
    /// vCPU runs any more.
    Fault(String),
}
