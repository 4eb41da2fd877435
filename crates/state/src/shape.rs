//! The shape of a machine: what a shell has to have before there is a guest.

use crate::devices;
use hyperfork_api::spec::{Guest, SpecError, check_size};
use hyperfork_api::{Bytes, NetKind, VmSpec};
use serde::{Deserialize, Serialize};

/// The shape of a machine. It can be restored only in a shell of the same shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Virtual CPUs.
    pub cpus: u8,
    /// Guest memory.
    pub memory: Bytes,
    /// How many rings each virtio device has, by slot.
    pub rings: Vec<u8>,
    /// The kind of its network, if it has one.
    pub net: Option<NetKind>,
    /// Whether it has shared directories, whose devices open files by name.
    pub shares: bool,
}

impl Shape {
    /// The shape of a machine for `spec`. A Linux guest has, in the order of the slots: its disks,
    /// console, vsock, rng, balloon, its network device, its shared directories.
    pub fn of(spec: &VmSpec) -> Self {
        let (rings, shares) = match &spec.guest {
            Guest::Nano { .. } => (Vec::new(), false),
            Guest::Linux(guest) => {
                let disks = guest.disks.iter().map(|_| devices::BLOCK.rings);
                let always = [
                    devices::CONSOLE.rings,
                    devices::VSOCK.rings,
                    devices::RNG.rings,
                    devices::BALLOON.rings,
                ];
                let nic = guest.network.iter().map(|_| devices::NET.rings);
                let shares = guest.shares.iter().map(|_| devices::P9.rings);
                let all = disks.chain(always).chain(nic).chain(shares);
                (all.collect(), !guest.shares.is_empty())
            }
        };
        Self {
            cpus: spec.cpus,
            memory: spec.memory,
            rings,
            net: spec.guest.network().map(|network| network.kind.clone()),
            shares,
        }
    }

    /// Whether there can be such a machine.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn check(&self) -> Result<(), SpecError> {
        check_size(self.cpus, self.memory)?;
        if self.rings.len() > VmSpec::MAX_DEVICES {
            return Err(SpecError::Devices(self.rings.len()));
        }
        Ok(())
    }
}
