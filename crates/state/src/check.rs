//! Checks a manifest against itself: that the captured machine is complete and consistent.

use crate::devices::{self, DeviceKind};
use crate::{BlobRef, BlobRole, BlobSource, Manifest, Record};
use hyperfork_api::spec::SpecError;

/// How a manifest contradicts itself.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// There can be no such machine.
    #[error("the captured machine's shape is impossible")]
    Shape(#[source] SpecError),
    /// vCPUs are missing, or too many.
    #[error("the captured machine has {found} vCPUs and says that it has {said}")]
    Vcpus {
        /// Records of vCPUs.
        found: usize,
        /// vCPUs of its shape.
        said: u8,
    },
    /// Devices are missing, or too many.
    #[error("the captured machine has {found} devices and says that it has {said}")]
    Devices {
        /// Records of devices.
        found: usize,
        /// Devices of its shape.
        said: usize,
    },
    /// A device that this program does not know.
    #[error("the captured machine has a device {kind:?} in slot {slot}, which is not known here")]
    UnknownDevice {
        /// Its slot.
        slot: usize,
        /// What it says it is.
        kind: String,
    },
    /// A device in another's slot.
    #[error("the captured machine has its {kind} in slot {slot}, where it cannot be")]
    Slot {
        /// The slot.
        slot: usize,
        /// The device.
        kind: &'static str,
    },
    /// A device with more or fewer rings than its kind has.
    #[error("the captured machine says that its {kind} in slot {slot} has {said} rings")]
    Rings {
        /// The slot.
        slot: usize,
        /// The device.
        kind: &'static str,
        /// Rings of its shape.
        said: u8,
    },
    /// Its shape says that it has this kind of device, but it has none; or the reverse.
    #[error("the captured machine contradicts itself on whether it has a {kind}")]
    Around {
        /// The device.
        kind: &'static str,
    },
    /// A record refers to a blob that does not exist.
    #[error("a record of {kind} refers to blob {blob}, and there are {count}")]
    NoBlob {
        /// The record.
        kind: String,
        /// The blob.
        blob: u32,
        /// How many there are.
        count: usize,
    },
    /// A record refers to a blob with a role that does not belong to it.
    #[error("a record of {kind} refers to blob {blob}, which is {role:?}")]
    Role {
        /// The record.
        kind: String,
        /// The blob.
        blob: u32,
        /// What it holds.
        role: BlobRole,
    },
    /// Two records, or one twice, refer to a blob.
    #[error("blob {0} of the captured machine is referred to twice")]
    SharedBlob(u32),
    /// No record refers to a blob.
    #[error("no record refers to blob {0} of the captured machine")]
    UnusedBlob(u32),
    /// Two blobs are found at the same place.
    #[error("blob {0} of the captured machine is where another one is")]
    Source(u32),
    /// Its memory has another size than it says.
    #[error("the captured machine has {found:?} bytes of memory and says that it has {said}")]
    Memory {
        /// Bytes of the base; `None` without one, or with several.
        found: Option<u64>,
        /// Bytes of its shape.
        said: u64,
    },
}

impl Manifest {
    /// Checks the manifest against itself: that it has all that its shape says, and nothing else.
    ///
    /// # Errors
    /// [`CheckError`], the first that is found.
    pub fn check(&self) -> Result<(), CheckError> {
        self.shape.check().map_err(CheckError::Shape)?;
        let (found, said) = (self.vcpus.len(), self.shape.cpus);
        if found != usize::from(said) {
            return Err(CheckError::Vcpus { found, said });
        }
        self.check_devices()?;
        self.check_references()?;
        self.check_sources()?;
        self.check_memory()
    }

    /// The devices are those of the shape, in the order of slots.
    fn check_devices(&self) -> Result<(), CheckError> {
        let (found, said) = (self.devices.len(), self.shape.rings.len());
        if found != said {
            return Err(CheckError::Devices { found, said });
        }
        // The lowest position in the order that the next device may have.
        let mut next = 0;
        for (slot, (device, &said)) in self.devices.iter().zip(&self.shape.rings).enumerate() {
            let Some(place) = place(&device.own) else {
                let kind = device.own.kind.clone().into_owned();
                return Err(CheckError::UnknownDevice { slot, kind });
            };
            let DeviceKind { name, rings, many } = devices::IN_ORDER[place];
            let kind = name;
            if place < next {
                return Err(CheckError::Slot { slot, kind });
            }
            if said != rings {
                return Err(CheckError::Rings { slot, kind, said });
            }
            next = place + usize::from(!many);
        }
        let around = [
            (devices::NET.name, self.shape.net.is_some()),
            (devices::P9.name, self.shape.shares),
        ];
        for (kind, said) in around {
            if self.devices.iter().any(|device| device.own.kind == kind) != said {
                return Err(CheckError::Around { kind });
            }
        }
        Ok(())
    }

    /// Each blob is there, and belongs to one record of its kind.
    fn check_references(&self) -> Result<(), CheckError> {
        let mut used = vec![false; self.blobs.len()];
        for record in self.records() {
            for &BlobRef(blob) in &record.blobs {
                let kind = || record.kind.clone().into_owned();
                let Some(it) = self.blobs.get(blob as usize) else {
                    let count = self.blobs.len();
                    let kind = kind();
                    return Err(CheckError::NoBlob { kind, blob, count });
                };
                if !self.may_have(record, it.role) {
                    let (kind, role) = (kind(), it.role);
                    return Err(CheckError::Role { kind, blob, role });
                }
                if std::mem::replace(&mut used[blob as usize], true) {
                    return Err(CheckError::SharedBlob(blob));
                }
            }
        }
        match used.iter().position(|used| !used) {
            Some(unused) => Err(CheckError::UnusedBlob(unused as u32)),
            None => Ok(()),
        }
    }

    fn may_have(&self, record: &Record, role: BlobRole) -> bool {
        match role {
            BlobRole::RamBase | BlobRole::RamLayer => std::ptr::eq(record, &self.ram),
            BlobRole::DiskImage | BlobRole::DiskLayer => record.kind == devices::BLOCK.name,
            BlobRole::Directory => record.kind == devices::P9.name,
        }
    }

    /// No two blobs are in one place, and the places are without gaps: a table of
    /// descriptors has as many as there are blobs in it.
    fn check_sources(&self) -> Result<(), CheckError> {
        let mut taken = vec![false; self.blobs.len()];
        for (blob, it) in self.blobs.iter().enumerate() {
            let BlobSource::Table(place) = it.source;
            match taken.get_mut(place as usize) {
                Some(taken) if !*taken => *taken = true,
                _ => return Err(CheckError::Source(blob as u32)),
            }
        }
        Ok(())
    }

    fn check_memory(&self) -> Result<(), CheckError> {
        let bases = self
            .blobs
            .iter()
            .filter(|blob| blob.role == BlobRole::RamBase);
        let bases: Vec<_> = bases.collect();
        let found = match bases[..] {
            [base] => Some(base.len),
            _ => None,
        };
        let said = self.shape.memory.0;
        match found == Some(said) {
            true => Ok(()),
            false => Err(CheckError::Memory { found, said }),
        }
    }
}

/// The device's place in the order of slots.
fn place(record: &Record) -> Option<usize> {
    let mut kinds = devices::IN_ORDER.iter();
    kinds.position(|kind| kind.name == record.kind)
}
