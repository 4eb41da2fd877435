//! A machine at rest: what a fork hands to its children, and what a snapshot
//! keeps. Memory and descriptors go beside it (see [`RamImageState`] and
//! [`FdTable`](crate::sys::fds::FdTable)).

use crate::devices::serial::SerialState;
use crate::devices::virtio::transport::TransportState;
use crate::kvm::{VcpuState, VmState};
use crate::memory::image::RamImageState;
use hyperfork_api::{Bytes, NetKind};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// All of a machine but its identity.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    /// How it is built.
    pub shape: Shape,
    /// Its interrupt controllers, timer and clock.
    pub vm: VmState,
    /// Its CPUs, in order.
    pub vcpus: Vec<VcpuState>,
    /// Its serial port.
    pub serial: SerialState,
    /// Its virtio devices, by slot.
    pub devices: Vec<TransportState>,
    /// What its guest reads of the fork it has asked for
    /// ([`ForkStatus`](hyperfork_api::signal::ForkStatus)).
    pub guest_fork: u32,
    /// Its memory.
    pub ram: RamImageState,
}

/// Why a state is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// vCPUs are missing, or too many.
    #[error("it has {found} vCPUs and says that it has {said}")]
    Vcpus {
        /// States of vCPUs.
        found: usize,
        /// vCPUs of its shape.
        said: u8,
    },
    /// A machine has at least one.
    #[error("it has no vCPU")]
    NoVcpu,
    /// Devices are missing, or too many.
    #[error("it has {found} devices and says that it has {said}")]
    Devices {
        /// States of devices.
        found: usize,
        /// Devices of its shape.
        said: usize,
    },
    /// Rings are missing, or too many.
    #[error("its device {slot} has {found} rings and says that it has {said}")]
    Rings {
        /// The device's slot.
        slot: usize,
        /// States of rings.
        found: usize,
        /// Rings of its shape.
        said: u8,
    },
    /// A ring that no driver can have set up, or that is ahead of its driver.
    #[error("ring {ring} of its device {slot} cannot be one")]
    Ring {
        /// The device's slot.
        slot: usize,
        /// The ring's number.
        ring: usize,
    },
}

impl MachineState {
    /// Checks the state against itself: that all is there that it says it has.
    ///
    /// # Errors
    /// [`StateError`], the first that is found.
    pub fn check(&self) -> Result<(), StateError> {
        self.shape.check(self.vcpus.len(), &self.devices)
    }
}

impl Shape {
    fn check(&self, vcpus: usize, devices: &[TransportState]) -> Result<(), StateError> {
        if self.cpus == 0 {
            return Err(StateError::NoVcpu);
        }
        if vcpus != usize::from(self.cpus) {
            let said = self.cpus;
            return Err(StateError::Vcpus { found: vcpus, said });
        }
        if devices.len() != self.rings.len() {
            let (found, said) = (devices.len(), self.rings.len());
            return Err(StateError::Devices { found, said });
        }
        for (slot, (device, &said)) in devices.iter().zip(&self.rings).enumerate() {
            let found = device.queues.len();
            if found != usize::from(said) {
                return Err(StateError::Rings { slot, found, said });
            }
            if let Some(ring) = device.queues.iter().position(|queue| !queue.can_be()) {
                return Err(StateError::Ring { slot, ring });
            }
        }
        Ok(())
    }
}

/// What makes shells ready for clones of one line before there are any.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Primer {
    /// Memory as it was at the last fork.
    pub image: RamImageState,
    /// Pages, as ranges of bytes, that clones write first.
    pub touched: Vec<Range<usize>>,
}

/// What has to be known to build a shell for a machine.
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

#[cfg(test)]
mod tests;
