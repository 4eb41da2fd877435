//! The configuration that a caller of this library gives; nothing here reads the environment.

use crate::program::Program;
use crate::run_dir::RunDir;
use hyperfork_net::Setup;
use hyperfork_net::address::Pool as AddressPool;
use serde::{Deserialize, Serialize};

/// How VMs are run, and where they are.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the VMs' directories are.
    pub run_dir: RunDir,
    /// The program that VMs and the pool run.
    pub program: Program,
    /// The settings that a VM passes on to its clones and to the pool.
    pub settings: Settings,
}

/// The settings that a VM passes on to its clones and to the pool that it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whether and how shells are kept in stock.
    pub pool: PoolConfig,
    /// The addresses of VMs with networks.
    pub addresses: AddressPool,
}

impl Config {
    /// The setup of the VMs' networks.
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
    /// Most shells in stock, in a pool that is started with this; 0 for no pool.
    pub most: usize,
    /// Whether shells preload memory for the clones of a VM that was forked.
    pub preload: bool,
}

impl PoolConfig {
    /// Enough shells for a node: each takes about 2 MiB, and what KVM needs for its memory slot,
    /// up to 5 MiB at 2 GiB.
    pub const DEFAULT: Self = Self {
        most: 128,
        preload: true,
    };
}
