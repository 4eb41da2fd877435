//! Fills the user's pool with shells for a measurement.

use crate::error::BenchError;
use crate::guest::Guest;
use crate::vms::Vms;
use hyperfork_api::VmName;
use hyperfork_host::pool::{self, Pool};
use hyperfork_state::Shape;
use std::thread;
use std::time::Duration;

/// How long a shell usually takes to preload, at most.
const GETTING_READY: Duration = Duration::from_millis(1);

/// Shells for the clones of one kind of guest. While the stock is full the pool builds none,
/// which would disturb the measurement; the pool builds some also for a VM that is only booted.
///
/// Where there is no pool, what clones need is built while they wait, and every fork's
/// report says so.
pub(crate) struct Stock {
    shape: Shape,
    /// How many the pool keeps.
    kept: usize,
    /// As long as it is connected.
    pool: Option<Pool>,
}

impl Stock {
    /// Has the pool fill its stock for forks into `clones` at a time, and waits for it.
    pub(crate) fn fill(
        guest: &Guest,
        cpus: u8,
        memory_mib: u64,
        clones: u32,
        vms: &Vms<'_>,
    ) -> Result<Self, BenchError> {
        let spec = guest.spec(VmName::new("any")?, cpus, memory_mib, "");
        let shape = Shape::of(&spec);
        // The pool keeps twice what was wanted.
        let kept = 2 * clones as usize;
        Ok(Self {
            pool: filled(&shape, kept, vms),
            shape,
            kept,
        })
    }

    /// The pool's process.
    pub(crate) fn pool_pid(&self) -> Option<u32> {
        self.pool.as_ref()?.pid().ok()
    }

    /// Waits until the pool has replaced the shells that were taken, has preloaded them for the VM
    /// that took them, and has nothing more to do.
    pub(crate) fn settle(&self, vms: &Vms<'_>) {
        // Where there is no pool, clones' shells are built while they wait.
        let _ = pool::settle(vms.host(), &self.shape);
        // The last shells have their order to preload, and do so now.
        thread::sleep(GETTING_READY * self.kept as u32);
    }

    /// Waits until those that were taken have been replaced.
    pub(crate) fn refill(&self, vms: &Vms<'_>) {
        drop(filled(&self.shape, self.kept, vms));
    }
}

fn filled(shape: &Shape, kept: usize, vms: &Vms<'_>) -> Option<Pool> {
    pool::warm(vms.host(), shape, kept).ok().flatten()
}
