//! The state of a captured machine, which a parent hands to its clones and a snapshot keeps.
//!
//! In this process it is a [`MachineState`], whose parts have their own types. Between processes
//! it is a [`Manifest`], with a record of each part. Memory and disks, which are too large for a
//! record, are [`blobs`](crate::blobs).

use crate::devices::serial::SerialState;
use crate::devices::virtio::transport::DeviceState;
use crate::kvm::{VcpuState, VmState};
use crate::memory::image::RamImageState;
pub use hyperfork_state::Shape;
use hyperfork_state::{
    Blob, CheckError, Device, HostFingerprint, Manifest, ManifestError, Record, RecordError,
    RecordType, Taken,
};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// All of a machine but its identity.
#[derive(Debug)]
pub struct MachineState {
    /// The host it was captured on.
    pub host: Arc<HostFingerprint>,
    /// When it was captured.
    pub taken: Taken,
    /// Its vCPUs, memory and devices, in numbers.
    pub shape: Shape,
    /// Its interrupt controllers, timer and clock.
    pub vm: VmState,
    /// Its CPUs, in order.
    pub vcpus: Vec<VcpuState>,
    /// Its serial port.
    pub serial: SerialState,
    /// The port through which its guest asks for forks.
    pub signal_port: SignalPortState,
    /// Its virtio devices, by slot.
    pub devices: Vec<DeviceState>,
    /// Its memory.
    pub ram: RamImageState,
    /// What is too large for its records.
    pub blobs: Vec<Blob>,
}

/// What a guest reads about the fork it has asked for
/// ([`ForkStatus`](hyperfork_api::signal::ForkStatus), encoded).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalPortState(pub u32);

impl RecordType for SignalPortState {
    const KIND: &'static str = "signal-port";
    const VERSION: u16 = 1;
}

/// How a state contradicts itself.
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
    /// Checks that the state has the vCPUs, devices and rings that its shape says.
    ///
    /// # Errors
    /// [`StateError`], the first that is found.
    pub fn check(&self) -> Result<(), StateError> {
        check(&self.shape, self.vcpus.len(), &self.devices)
    }
}

fn check(shape: &Shape, vcpus: usize, devices: &[DeviceState]) -> Result<(), StateError> {
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
        let found = device.transport.queues.len();
        if found != usize::from(said) {
            return Err(StateError::Rings { slot, found, said });
        }
        if let Some(ring) = device
            .transport
            .queues
            .iter()
            .position(|queue| !queue.can_be())
        {
            return Err(StateError::Ring { slot, ring });
        }
    }
    Ok(())
}

/// Why bytes cannot be decoded as a [`MachineState`].
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// They are not a manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The manifest contradicts itself.
    #[error("a captured machine contradicts itself")]
    Check(#[from] CheckError),
    /// One of its records cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl MachineState {
    /// Encodes the state as the bytes of a [`Manifest`].
    pub fn encode(&self) -> Vec<u8> {
        let devices = self.devices.iter().map(|device| Device {
            transport: Record::of(&device.transport),
            own: device.own.clone(),
        });
        Manifest {
            host: (*self.host).clone(),
            taken: self.taken,
            shape: self.shape.clone(),
            vm: Record::of(&self.vm),
            vcpus: self.vcpus.iter().map(Record::of).collect(),
            serial: Record::of(&self.serial),
            signal_port: Record::of(&self.signal_port),
            devices: devices.collect(),
            ram: Record::of(&self.ram),
            blobs: self.blobs.clone(),
        }
        .encode()
    }

    /// Decodes the state of a sample machine and drops it. The first decoding in a process takes
    /// 50 µs longer than later ones, because its code is not in the page tables yet. A shell in the
    /// pool does it in advance, so that the fork that takes the shell need not.
    pub fn rehearse_decoding() {
        /// A machine with one of each device.
        const SAMPLE: &[u8] = include_bytes!("../../goldens/machine-v1.bin");
        let decoded = Self::decode(SAMPLE);
        debug_assert!(decoded.is_ok(), "the golden file is a state");
    }

    /// Decodes a state and checks the manifest. The devices' own records are decoded when the
    /// devices are made.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let manifest = Manifest::decode(bytes)?;
        manifest.check()?;
        let devices = manifest.devices.into_iter().map(|device| {
            Ok(DeviceState {
                transport: device.transport.decode()?,
                own: device.own,
            })
        });
        let vcpus = manifest.vcpus.iter().map(Record::decode);
        Ok(Self {
            host: Arc::new(manifest.host),
            taken: manifest.taken,
            shape: manifest.shape,
            vm: manifest.vm.decode()?,
            vcpus: vcpus.collect::<Result<_, RecordError>>()?,
            serial: manifest.serial.decode()?,
            signal_port: manifest.signal_port.decode()?,
            devices: devices.collect::<Result<_, RecordError>>()?,
            ram: manifest.ram.decode()?,
            blobs: manifest.blobs,
        })
    }
}

/// Memory that the clones of one family share, for shells in the pool. It is exchanged only
/// between processes of one program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Preload {
    /// Memory as it was at the last fork.
    pub image: RamImageState,
    /// The blobs that the image refers to.
    pub blobs: Vec<Blob>,
    /// The pages that clones write first, as ranges of bytes.
    pub touched: Vec<Range<usize>>,
}

/// Why bytes cannot be decoded as a [`Preload`].
#[derive(Debug, thiserror::Error)]
pub enum PreloadError {
    /// They are cut off, or hold impossible values.
    #[error("what a shell is to preload cannot be read")]
    Malformed(#[source] postcard::Error),
    /// More bytes follow.
    #[error("{0} bytes are left over behind what a shell is to preload")]
    LeftOver(usize),
}

impl Preload {
    /// Encodes it for another process of this program.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("memory's places are plain data")
    }

    /// Decodes it.
    ///
    /// # Errors
    /// [`PreloadError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PreloadError> {
        match postcard::take_from_bytes(bytes) {
            Ok((preload, [])) => Ok(preload),
            Ok((_, rest)) => Err(PreloadError::LeftOver(rest.len())),
            Err(error) => Err(PreloadError::Malformed(error)),
        }
    }
}

#[cfg(test)]
mod goldens;
#[cfg(test)]
mod tests;
