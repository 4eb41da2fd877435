//! VMs from outside their processes: finding, starting, asking, forking and stopping them.
//!
//! ```text
//!  hyperfork run                         hyperfork fork p
//!       │ launch: claims the name,            │ control.sock
//!       │ starts a process                    ▼
//!       ▼                              ┌─ process of p ──────────────┐
//!  ┌─ process of p ──┐                 │  1 takes shells (pool)      │
//!  │ shell -> boot   │                 │  2 pause, capture, resume   │
//!  │ owner           │                 │  3 hand over                │
//!  └─────────────────┘                 └──┬──────────────────────────┘
//!                                         ▼ state, memory, descriptors
//!                                      ┌─ process of p-1 ─┐
//!                                      │ shell -> restore │ …
//!                                      │ owner            │
//!                                      └──────────────────┘
//! ```
//!
//! A VM is a process of its own, which runs [`hyperfork-vm`](program) and is reached by the
//! sockets in its [run directory](run_dir) alone. The command line, the benchmarks and a VM that
//! is forked use this library; it does not depend on KVM.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | the caller's configuration |
//! | [`program`] | the program that VMs and the pool run |
//! | [`run_dir`] | a directory per VM: names, locks, cleaning up |
//! | [`handover`] | the protocol between a launcher and the process it has started |
//! | [`launch`](mod@launch) | starting a VM |
//! | [`pool`] | shells in stock |
//! | [`client`], [`lines`] | the client of a VM's control socket |
//! | [`events`] | following the events of VMs |
//! | [`lifecycle`] | stopping and removing VMs |
//! | [`agent`] | the client of a guest's agent |
//! | [`identity`], [`record`] | the identity of a VM, and the files that describe it |
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod agent;
pub mod client;
pub mod config;
pub mod events;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod handover;
pub mod identity;
pub mod launch;
pub mod lifecycle;
pub mod lines;
pub mod pool;
pub mod program;
pub mod record;
pub mod run_dir;

pub use client::{Client, ClientError};
pub use config::{Config, PoolConfig, Settings};
pub use launch::{Launch, LaunchError, launch};
pub use program::Program;
pub use run_dir::{RunDir, RunDirError, VmDir};
