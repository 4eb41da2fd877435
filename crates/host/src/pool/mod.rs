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
//! A shell is taken once, and its process ends as a VM's. When no client is connected any more,
//! the pool ends, and so do the shells that were not taken: their hand-over sockets close.
//!
//! Neither side waits for the other without a limit. A client that gets no answer in time goes
//! on without the pool; a shell that does not take its orders is dropped.

mod builder;
mod client;
mod policy;
mod server;
mod stock;

pub use client::{PendingTake, Pool, settle, warm};
pub use server::main;

use crate::config::Config;
use crate::run_dir::{RunDir, VmDir, make_fleeting};
use hyperfork_net::address::Pool as AddressPool;
use hyperfork_state::Shape;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Most shells in one answer, for each comes with a descriptor.
const MOST_AT_ONCE: usize = 128;

/// A request of a VM's process to the pool.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The first request: the client may need shells of this shape, as long as it is
    /// connected. All further requests are for this shape. Has no answer.
    Register(Shape),
    /// Give the client as many shells as there are, up to the number that it needs.
    Take(usize),
    /// Have shells for this client preload this memory, as long as the client is connected; its
    /// descriptors come with it. Has no answer.
    Preload(Vec<u8>),
    /// Answer when this many shells are in stock, and have preloaded what they should.
    Warm(usize),
    /// Answer when nothing is left to do for shells of the client's shape.
    Settle,
}

/// The answer to a request; the shells' hand-over sockets come with it, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) shells: Vec<VmDir>,
}

/// The directory of all pools' directories.
const POOLS: &str = ".pool";

/// A pool's directory, named after the program's file and the addresses of VMs. Another version
/// of the program, which may be installed while VMs run, is another file and has a pool of its
/// own, since the messages may differ. VMs with other addresses have a pool of their own, too,
/// since shells have their networks already.
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

    /// Makes the directory; a pool that is ending may remove it at any moment.
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

    /// Takes the lock, which a pool holds as long as it lives, unless there is a pool already.
    ///
    /// # Errors
    /// The file system's; `NotFound` also when the directory was removed meanwhile.
    fn take(&self) -> io::Result<Option<File>> {
        let mut how = OpenOptions::new();
        let how = how.read(true).write(true).create(true).truncate(false);
        let lock = how.open(self.lock())?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let there = fs::metadata(self.lock())?;
        Ok((there.ino() == lock.metadata()?.ino()).then_some(lock))
    }

    /// The addresses of its shells.
    fn addresses(&self) -> Option<AddressPool> {
        let name = self.path.file_name()?.to_str()?;
        let mut parts = name.rsplitn(3, '-');
        let (prefix, base) = (parts.next()?, parts.next()?);
        format!("{base}/{prefix}").parse().ok()
    }

    /// Removes the directory.
    fn remove(&self) {
        let _ = fs::remove_dir_all(&self.path);
        // Succeeds only when there is no other pool.
        let _ = fs::remove_dir(&self.pools);
    }
}

/// Removes what pools that were killed have left behind, if there is no VM any more: the next
/// fork of a VM starts a pool, which does that at its end. To be called after a removal of VMs.
pub fn clear_up(run_dir: &RunDir) {
    // Also removes what is left of their shells.
    if run_dir.list().is_ok_and(|vms| vms.is_empty()) {
        let pools = run_dir.path().join(POOLS);
        for entry in fs::read_dir(&pools).into_iter().flatten().flatten() {
            let (pools, path) = (pools.clone(), entry.path());
            let dir = PoolDir { pools, path };
            if let Ok(Some(_lock)) = dir.take() {
                dir.remove();
                if let Some(addresses) = dir.addresses() {
                    hyperfork_net::tidy(&addresses);
                }
            }
        }
    }
}
