//! What a caller of this library decides; nothing here reads the environment.

use crate::program::Program;
use crate::run_dir::RunDir;
use hyperfork_net::Setup;
use hyperfork_net::address::Pool as AddressPool;
use serde::{Deserialize, Serialize};

/// How VMs are run and where they are found.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where VMs are found.
    pub run_dir: RunDir,
    /// What VMs and the pool run.
    pub program: Program,
    /// What a VM passes on to its clones and to the pool.
    pub settings: Settings,
}

/// What a VM passes on to its clones and to the pool that it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whether and how shells are kept in stock.
    pub pool: PoolConfig,
    /// The addresses of VMs with networks.
    pub addresses: AddressPool,
}

impl Config {
    /// What networks are made with.
    pub fn network(&self) -> Setup {
        Setup {
            pool: self.settings.addresses,
            program: self.program.path().to_owned(),
        }
    }
}

/// Whether and how shells are kept in stock for forks to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolConfig {
    /// How many shells may wait at most, in a pool that is started with this; 0 for no pool.
    pub most: usize,
    /// Whether shells get memory ready for the clones of a VM that was forked.
    pub preload: bool,
}

impl PoolConfig {
    /// As many as serve a node: one takes about 2 MiB and what KVM needs for its memory
    /// slot, up to 5 MiB at 2 GiB.
    pub const DEFAULT: Self = Self {
        most: 128,
        preload: true,
    };
}
