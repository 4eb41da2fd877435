//! The identity of a VM: all that distinguishes a clone from its parent and its siblings.

use crate::VmName;
use crate::net::GuestNetwork;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The identity of a VM. Boot, fork and restore each take one by value: a clone without an
/// identity of its own does not compile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name, also its hostname.
    pub name: VmName,
    /// Which clone of the latest fork this is, from 1; 0 for a VM that was
    /// booted. A guest reads it from the [signal port](crate::signal).
    pub index: u32,
    /// How many forks lie between this VM and the boot of its first ancestor.
    pub generation: u32,
    /// Its virtio-vsock context identifier (3 or above; virtio 1.2, 5.10.4).
    pub cid: u32,
    /// Its network, if it has one, which is its process's.
    pub network: Option<GuestNetwork>,
    /// Fresh randomness from the host, for the guest's generators.
    #[serde(with = "serde_bytes")]
    pub seed: Vec<u8>,
    /// The guest's machine-id(5).
    pub machine_id: Id,
    /// The content of `/proc/sys/kernel/random/boot_id` in the guest.
    pub boot_id: Id,
    /// A secret that only the guest's root and the VM's user on the host can read.
    pub token: Id,
}

/// 128 random bits, unique to one VM.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Id([u8; Id::LEN]);

impl Id {
    /// Its length in bytes.
    pub const LEN: usize = 16;

    /// Made of random bytes: a UUID of version 4 (RFC 9562, 5.4).
    pub fn from_random(mut bytes: [u8; Self::LEN]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Its bytes.
    pub fn into_bytes(self) -> [u8; Self::LEN] {
        self.0
    }

    /// In the form of a UUID.
    pub fn as_uuid(&self) -> String {
        let hex = self.to_string();
        let parts = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ];
        parts.join("-")
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Identity {
    /// Bytes of fresh randomness an identity carries.
    pub const SEED_LEN: usize = 32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_told_as_digits_and_as_a_uuid() {
        let id = Id::from_random([0xff; Id::LEN]);
        assert_eq!(id.to_string(), "ffffffffffff4fffbfffffffffffffff");
        assert_eq!(id.as_uuid(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
