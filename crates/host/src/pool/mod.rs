//! Shells in stock: a small process per user that builds them before they are needed, so
//! that a fork only has to take one.
//!
//! ```text
//!   process of p                   pool                          shells
//!   (connected while it lives)     server: answers at once       hyperfork-vm, each with
//!      Register(shape) ──────────> stock: what there is          its directory under .shells,
//!      Take(n) ──────────────────> builder: fills it up,  ─────> VM, vCPUs that have run,
//!      <──── n hand-over sockets   after a fork, not during      device lines, threads
//! ```
//!
//! A shell taken is used once; it ends as a VM. When no client is connected any more the
//! pool ends, and with it the shells that were not taken: their hand-over sockets close.
//!
//! Neither side waits for the other without a limit. A client that gets no answer in time
//! does without the pool; a shell that does not take its orders is dropped.

mod builder;
mod client;
mod policy;
mod server;
mod stock;

pub use client::{PendingTake, Pool, settle, warm};
pub use server::main;

use crate::config::Config;
use crate::run_dir::{VmDir, make_fleeting};
use hyperfork_state::Shape;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Most shells in one answer, for each comes with a descriptor.
const MOST_AT_ONCE: usize = 128;

/// What a VM's process asks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// First of all: I may want shells of this shape one day. Holds as long as the
    /// connection, and has no answer. All further requests are for this shape.
    Register(Shape),
    /// Give me as many as you have, up to this number; so many are wanted in all.
    Take(usize),
    /// Have my shells preload this memory, as long as I am connected; its descriptors come
    /// with it. Has no answer.
    Preload(Vec<u8>),
    /// Have this many in stock, all with memory preloaded that can be, and answer then.
    Warm(usize),
    /// Answer when nothing is left to do for shells of my shape.
    Settle,
}

/// The answer; the shells' hand-over sockets come with it, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) shells: Vec<VmDir>,
}

/// Where pools are, each in a directory of its own.
const POOLS: &str = ".pool";

/// A pool's directory. Another version of the program, which may be installed while VMs
/// live, is another file, and has a pool of its own: the two would not understand each other.
/// So have VMs with other addresses, for shells have their networks already.
#[derive(Debug, Clone)]
struct PoolDir {
    pools: PathBuf,
    path: PathBuf,
}

impl PoolDir {
    fn of(config: &Config) -> io::Result<Self> {
        let file = fs::metadata(config.program.path())?;
        let addresses = config.settings.addresses;
        let pools = config.run_dir.path().join(POOLS);
        let path = pools.join(format!(
            "{:x}-{:x}-{}-{}",
            file.dev(),
            file.ino(),
            addresses.base(),
            addresses.prefix()
        ));
        Ok(Self { pools, path })
    }

    /// Makes it; the last pool may take it away at any moment.
    fn make(&self) -> io::Result<()> {
        make_fleeting(&self.path)
    }

    fn socket(&self) -> PathBuf {
        self.path.join("pool.sock")
    }

    fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    fn log(&self) -> PathBuf {
        self.path.join("pool.log")
    }

    /// Removes it; nothing in it is of use any more.
    fn remove(&self) {
        let _ = fs::remove_dir_all(&self.path);
        // Succeeds only when there is no other pool.
        let _ = fs::remove_dir(&self.pools);
    }
}
