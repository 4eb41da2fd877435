//! What makes a clone a machine of its own.

use crate::VmName;
use crate::net::GuestNetwork;
use serde::{Deserialize, Serialize};

/// Who a VM is. Every way to bring a machine to life (boot, fork, restore) takes
/// one by value: a clone without its own identity does not compile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name, also its hostname.
    pub name: VmName,
    /// Which clone of the latest fork this is, from 1; 0 for a VM that was
    /// booted. What a guest reads from the [signal port](crate::signal).
    pub index: u32,
    /// How many forks lie between this VM and the boot it stems from.
    pub generation: u32,
    /// Its virtio-vsock context identifier (3 or above; virtio 1.2, 5.10.4).
    pub cid: u32,
    /// Its network, if it has one: that of the process it lives in.
    pub network: Option<GuestNetwork>,
    /// Fresh randomness from the host, for the guest's generators.
    #[serde(with = "serde_bytes")]
    pub seed: Vec<u8>,
}

impl Identity {
    /// Bytes of fresh randomness an identity carries.
    pub const SEED_LEN: usize = 32;
}
