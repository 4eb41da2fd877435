//! A process per VM, and how others reach it.
//!
//! ```text
//!  hyperfork run                         hyperfork fork p
//!       │ launch: claims the name,            │ control.sock
//!       │ starts a process                    ▼
//!       ▼                              ┌─ process of p ──────────────┐
//!  ┌─ process of p ──┐                 │ owner: fork()               │
//!  │ shell -> boot   │                 │  1 start processes (shells) │
//!  │ owner           │                 │  2 pause, capture, resume   │
//!  └─────────────────┘                 │  3 hand over                │
//!                                      └──┬──────────────────────────┘
//!                                         ▼ state, memory, descriptors
//!                                      ┌─ process of p-1 ─┐
//!                                      │ shell -> restore │ …
//!                                      │ owner            │
//!                                      └──────────────────┘
//! ```
//!
//! A VM's process is started with one end of a socket, the [hand-over](handover),
//! over which it learns what to become and reports how far it is. When it is ready
//! (for clones: when all of them are) its starter releases it; when that socket
//! closes before, nobody wants the VM any more: the process ends and leaves nothing
//! behind. Afterwards it is reached by the sockets in its [run directory](rundir).

pub mod agent;
mod client;
mod control;
mod follow;
mod fork;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handover;
mod identify;
mod launch;
mod owner;
pub mod pool;
mod publish;
mod record;
mod rundir;
mod signals;
mod vm_main;

pub use client::{Client, ClientError};
pub use launch::{Launch, LaunchError, launch};
pub use rundir::{RunDir, RunDirError, VmDir};
pub use vm_main::{VM_ARGUMENT, vm_main};
