//! The manifest of a captured machine, and its encoding.

use crate::envelope::{self, EnvelopeError, HEADER};
use crate::{Blob, HostFingerprint, Record, Shape};
use serde::{Deserialize, Serialize};
use std::iter;

/// All of a captured machine but its identity, which a clone does not inherit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The host it was captured on.
    pub host: HostFingerprint,
    /// When it was captured.
    pub taken: Taken,
    /// Its vCPUs, memory and devices, in numbers.
    pub shape: Shape,
    /// Its interrupt controllers, timer and clocks.
    pub vm: Record,
    /// Its CPUs, in order.
    pub vcpus: Vec<Record>,
    /// Its serial port.
    pub serial: Record,
    /// The port through which its guest asks for forks.
    pub signal_port: Record,
    /// Its virtio devices, by slot.
    pub devices: Vec<Device>,
    /// Its memory.
    pub ram: Record,
    /// The blobs that its records refer to.
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
    /// The part that all devices have: registers and rings.
    pub transport: Record,
    /// The part of this kind of device. The record's kind says which one it is.
    pub own: Record,
}

/// Why bytes cannot be decoded as a manifest.
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
    /// Encodes the manifest.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.len_at_least());
        bytes.resize(HEADER, 0);
        let mut bytes = postcard::to_extend(self, bytes).expect("a manifest is plain data");
        envelope::fill_header(&mut bytes);
        bytes
    }

    /// Decodes a manifest. Its records are not decoded.
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
