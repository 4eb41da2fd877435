//! How a machine is built: all that has to be known before there is a guest.

use hyperfork_api::spec::{Guest, SpecError, check_size};
use hyperfork_api::{Bytes, NetKind, VmSpec};
use serde::{Deserialize, Serialize};

/// How a machine is built. A machine can be restored only where one of the same shape
/// was prepared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Virtual CPUs.
    pub cpus: u8,
    /// Guest memory.
    pub memory: Bytes,
    /// How many rings each virtio device has, by slot.
    pub rings: Vec<u8>,
    /// The kind of network around it, if any.
    pub net: Option<NetKind>,
    /// Whether it has shared directories, whose devices open files by name.
    pub shares: bool,
}

/// How many rings (virtqueues) each kind of device has (virtio 1.2, chapter 5).
pub mod rings {
    /// Requests, the one queue that is used.
    pub const BLOCK: u8 = 1;
    /// Receive and transmit of the one port.
    pub const CONSOLE: u8 = 2;
    /// Receive, transmit, events.
    pub const VSOCK: u8 = 3;
    /// Requests.
    pub const RNG: u8 = 1;
    /// Inflate, deflate, free page reports.
    pub const BALLOON: u8 = 3;
    /// Receive and transmit.
    pub const NET: u8 = 2;
    /// Requests.
    pub const P9: u8 = 1;
}

impl Shape {
    /// How a machine for `spec` is built. A Linux guest has, in the order of the slots:
    /// its disks, console, vsock, rng, balloon, its network card, its shared directories.
    pub fn of(spec: &VmSpec) -> Self {
        let (rings, shares) = match &spec.guest {
            Guest::Nano { .. } => (Vec::new(), false),
            Guest::Linux(guest) => {
                let disks = guest.disks.iter().map(|_| rings::BLOCK);
                let always = [rings::CONSOLE, rings::VSOCK, rings::RNG, rings::BALLOON];
                let card = guest.network.iter().map(|_| rings::NET);
                let shares = guest.shares.iter().map(|_| rings::P9);
                let all = disks.chain(always).chain(card).chain(shares);
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
