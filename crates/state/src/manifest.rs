//! A captured machine: what it consists of, and its bytes.

use crate::envelope::{self, EnvelopeError, HEADER};
use crate::{Blob, HostFingerprint, Record, Shape};
use serde::{Deserialize, Serialize};
use std::iter;

/// All of a captured machine but its identity, which a clone does not inherit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Where it was captured.
    pub host: HostFingerprint,
    /// When.
    pub taken: Taken,
    /// How it is built.
    pub shape: Shape,
    /// Its interrupt controllers, timer and clocks.
    pub vm: Record,
    /// Its CPUs, in order.
    pub vcpus: Vec<Record>,
    /// Its serial port.
    pub serial: Record,
    /// The port at which its guest asks for forks.
    pub signal_port: Record,
    /// Its virtio devices, by slot.
    pub devices: Vec<Device>,
    /// Its memory.
    pub ram: Record,
    /// What its records refer to.
    pub blobs: Vec<Blob>,
}

/// When a machine was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// `CLOCK_MONOTONIC` of its host, nanoseconds.
    pub monotonic_ns: u64,
    /// `CLOCK_REALTIME`, nanoseconds since 1970.
    pub wall_ns: u64,
}

/// A virtio device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What all devices have: registers and rings.
    pub transport: Record,
    /// What sets this one apart. Its kind says which one it is.
    pub own: Record,
}

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// They are not what was once written.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// They are, but hold impossible values.
    #[error("this captured machine cannot be read")]
    Malformed(#[source] postcard::Error),
    /// There is more in them than a manifest.
    #[error("{0} bytes are left over within a captured machine")]
    LeftOver(usize),
}

impl Manifest {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.len_at_least());
        bytes.resize(HEADER, 0);
        let mut bytes = postcard::to_extend(self, bytes).expect("a manifest is plain data");
        envelope::fill_header(&mut bytes);
        bytes
    }

    /// From bytes. What is in the records is not looked at.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        match postcard::take_from_bytes(envelope::open(bytes)?) {
            Ok((manifest, [])) => Ok(manifest),
            Ok((_, rest)) => Err(ManifestError::LeftOver(rest.len())),
            Err(error) => Err(ManifestError::Malformed(error)),
        }
    }

    /// All records, in the order in which they are written.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        let devices = self.devices.iter();
        let devices = devices.flat_map(|device| [&device.transport, &device.own]);
        iter::once(&self.vm)
            .chain(&self.vcpus)
            .chain([&self.serial, &self.signal_port])
            .chain(devices)
            .chain(iter::once(&self.ram))
    }

    /// Bytes of the body that are the records' own: nearly all.
    fn len_at_least(&self) -> usize {
        const ROOM: usize = 4 << 10;
        self.records()
            .map(|record| record.bytes.len())
            .sum::<usize>()
            + ROOM
    }
}

#[cfg(test)]
mod tests;
