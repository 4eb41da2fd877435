//! A machine at rest: what a fork hands to its children, and what a snapshot
//! keeps. Memory and descriptors go beside it (see [`RamImageState`] and
//! [`FdTable`](crate::sys::fds::FdTable)).

use crate::devices::serial::SerialState;
use crate::devices::virtio::transport::TransportState;
use crate::kvm::{VcpuState, VmState};
use crate::memory::image::RamImageState;
pub use hyperfork_state::Shape;
use serde::de::DeserializeOwned;
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
        check(&self.shape, self.vcpus.len(), &self.devices)
    }
}

fn check(shape: &Shape, vcpus: usize, devices: &[TransportState]) -> Result<(), StateError> {
    let (cpus, rings) = (shape.cpus, &shape.rings);
    if cpus == 0 {
        return Err(StateError::NoVcpu);
    }
    if vcpus != usize::from(cpus) {
        let (found, said) = (vcpus, cpus);
        return Err(StateError::Vcpus { found, said });
    }
    if devices.len() != rings.len() {
        let (found, said) = (devices.len(), rings.len());
        return Err(StateError::Devices { found, said });
    }
    for (slot, (device, &said)) in devices.iter().zip(rings).enumerate() {
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

/// Memory that clones of one family have in common, for shells that wait for them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Preload {
    /// Memory as it was at the last fork.
    pub image: RamImageState,
    /// Pages, as ranges of bytes, that clones write first.
    pub touched: Vec<Range<usize>>,
}

/// Why bytes are no state.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// They are cut off, or hold impossible values.
    #[error("a captured state cannot be read")]
    Malformed(#[source] postcard::Error),
    /// There is more than a state.
    #[error("{0} bytes are left over behind a captured state")]
    LeftOver(usize),
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(DecodeError::LeftOver(rest.len())),
        Err(error) => Err(DecodeError::Malformed(error)),
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("a state is plain data")
}

impl MachineState {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode(bytes)
    }
}

impl Preload {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode(bytes)
    }
}

#[cfg(test)]
mod tests;
