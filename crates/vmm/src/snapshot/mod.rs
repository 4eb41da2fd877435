//! The state of a captured machine, which a parent hands to its clones and a snapshot keeps.
//!
//! In this process it is a [`MachineState`], whose parts have their own types. Between processes
//! it is a [`Manifest`], with a record of each part. Memory and disks, which are too large for a
//! record, are [`blobs`](crate::blobs).

use crate::blobs::BlobWriter;
use crate::devices::serial::SerialState;
use crate::devices::virtio::transport::DeviceState;
use crate::kvm::{VcpuState, VmState};
use crate::memory::image::{RamImage, RamImageState};
use crate::sys::fds::FdTable;
pub use hyperfork_state::Shape;
use hyperfork_state::{
    Blob, CheckError, Device, HostFingerprint, Manifest, ManifestError, Record, RecordError,
    RecordType, Taken,
};
use serde::{Deserialize, Serialize};
use std::io;
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

/// Why the rings of a state are none. The rest of it is checked as a [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Rings are missing, or too many.
    #[error("device {slot} of the captured machine has {found} rings and says that it has {said}")]
    Count {
        /// The device's slot.
        slot: usize,
        /// States of rings.
        found: usize,
        /// Rings of its shape.
        said: u8,
    },
    /// A ring that no driver can have set up, or that is ahead of its driver.
    #[error("ring {ring} of the captured machine's device {slot} cannot be one")]
    Impossible {
        /// The device's slot.
        slot: usize,
        /// The ring's number.
        ring: usize,
    },
}

/// Checks that the devices have the rings that the machine's shape says, and such as there can
/// be. As many devices as it says there are.
fn check_rings(said: &[u8], devices: &[DeviceState]) -> Result<(), RingError> {
    for (slot, (device, &said)) in devices.iter().zip(said).enumerate() {
        let queues = &device.transport.queues;
        if queues.len() != usize::from(said) {
            let found = queues.len();
            return Err(RingError::Count { slot, found, said });
        }
        if let Some(ring) = queues.iter().position(|queue| !queue.can_be()) {
            return Err(RingError::Impossible { slot, ring });
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
    /// They are of one whose devices cannot be.
    #[error(transparent)]
    Rings(#[from] RingError),
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
        let decoded = [Self::decode(SAMPLE), Self::decode(SAMPLE)];
        debug_assert!(decoded[0].is_ok(), "the golden file is a state");
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
        let devices = devices.collect::<Result<Vec<_>, RecordError>>()?;
        check_rings(&manifest.shape.rings, &devices)?;
        let vcpus = manifest.vcpus.iter().map(Record::decode);
        Ok(Self {
            host: Arc::new(manifest.host),
            taken: manifest.taken,
            shape: manifest.shape,
            vm: manifest.vm.decode()?,
            vcpus: vcpus.collect::<Result<_, RecordError>>()?,
            serial: manifest.serial.decode()?,
            signal_port: manifest.signal_port.decode()?,
            devices,
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
    /// For clones of machines whose memory was `image`: of its base alone, where placing all
    /// of it would copy more than `most` bytes. With it comes what it refers to, and no more:
    /// what shells wait with are no disks.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn of(
        image: RamImage,
        most: usize,
        touched: Vec<Range<usize>>,
    ) -> io::Result<(Self, FdTable)> {
        let mut blobs = BlobWriter::default();
        let image = image.bounded(most).save(&mut blobs)?;
        let (blobs, fds) = blobs.into_parts();
        let preload = Self {
            image,
            blobs,
            touched,
        };
        Ok((preload, fds))
    }

    /// As bytes.
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
