//! Shells in stock: a small process per user that builds them before they are needed,
//! so that a fork only has to take one.
//!
//! ```text
//!   process of p                   pool                          shells
//!   (connected while it lives)     server: answers at once       hyperfork __vm, each with
//!      Keep(shape) ──────────────> stock: what there is          its directory under .shells,
//!      Take(shape, n) ───────────> builder: fills it up,  ─────> VM, vCPUs that have run,
//!      <──── n hand-over sockets   after a fork, not during      device lines, threads
//! ```
//!
//! A shell taken is used once; it ends as a VM. When nobody is connected any more the
//! pool ends, and with it the shells that nobody took: their hand-over sockets close.

mod builder;
mod client;
mod server;
mod stock;

pub(super) use client::Taking;
pub use client::{Pool, settle, start, warm};

use super::rundir::{RunDir, VmDir};
use crate::net;
use crate::snapshot::{Primer, Shape};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::process::ExitCode;

/// The first argument that makes a program of ours the pool: its `main` calls
/// [`pool_main`] then. The second is the run directory.
pub const POOL_ARGUMENT: &str = "__pool";

/// Environment variable: how many shells may wait at most; 0 for no pool.
pub const POOL_MAX: &str = "HYPERFORK_POOL_MAX";

/// Environment variable: 0 has shells wait as they were built, with nothing of a VM that
/// was forked made ready in them. It counts in the VM's own process, which has it from
/// whoever booted it, and clones from whoever started the pool.
pub const PRIME: &str = "HYPERFORK_PRIME";

/// Most shells in stock, where [`POOL_MAX`] says nothing else. One takes about 2 MiB and
/// what KVM needs for its memory slot, up to 5 MiB at 2 GiB.
const DEFAULT_MAX: usize = 128;

/// Most shells in one answer, for each comes with a descriptor.
const MOST_AT_ONCE: usize = 128;

/// What a VM's process asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// I may want shells of this shape one day. Holds as long as the connection, and has
    /// no answer.
    Keep(Shape),
    /// Give me as many as you have, up to this number; so many are wanted in all.
    Take { shape: Shape, count: usize },
    /// Make those of my shape ready for clones of this line, as long as I am connected;
    /// its descriptors come with it. Has no answer.
    Prime(Primer),
    /// Have this many in stock, all made ready that can be, and answer then.
    Warm { shape: Shape, count: usize },
    /// Answer when nothing is left to do for machines of this shape.
    Settle(Shape),
}

/// The answer; the shells' hand-over sockets come with it, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) shells: Vec<VmDir>,
    /// How many are still in stock.
    pub(super) left: usize,
}

/// Becomes the pool of the run directory at `path`.
pub fn pool_main(path: PathBuf) -> ExitCode {
    let status = server::main(path);
    // The shells, and their networks, are gone with it.
    net::tidy();
    status
}

/// How many shells may wait at most, if the pool is one that this process starts; 0 for no
/// pool.
pub fn most() -> usize {
    std::env::var(POOL_MAX)
        .ok()
        .and_then(|max| max.parse().ok())
        .unwrap_or(DEFAULT_MAX)
}

/// Whether shells are made ready for the clones of VMs that this process boots.
pub fn primes() -> bool {
    std::env::var_os(PRIME).is_none_or(|wanted| wanted != "0")
}

fn socket(run_dir: &RunDir) -> PathBuf {
    run_dir.pool().join("pool.sock")
}
