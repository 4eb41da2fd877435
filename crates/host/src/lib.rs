//! VMs from outside: where they are found, how they are started, asked, forked, stopped.
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
//! sockets in its [run directory](run_dir) alone. This library is what the command line, the
//! benchmarks and a VM that forks have in common; it knows no KVM.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | what the caller decides |
//! | [`program`] | the program that VMs and the pool run |
//! | [`run_dir`] | a directory per VM: names, locks, what is left behind |
//! | [`handover`] | the protocol between a launcher and the process it has started |
//! | [`launch`](mod@launch) | starting a VM |
//! | [`pool`] | shells in stock |
//! | [`client`], [`lines`] | asking a VM's process |
//! | [`events`] | being told what happens to VMs |
//! | [`lifecycle`] | ending VMs |
//! | [`agent`] | asking the agent in its guest |
//! | [`identity`], [`record`] | what sets a VM apart, and what it tells of itself |
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
