//! Making identities.

use hyperfork_api::{Id, Identity, VmName};
use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

/// First context identifier a guest may have (virtio 1.2, 5.10.4).
const FIRST_CID: u32 = 3;

/// The identity of a VM that is booted.
///
/// # Errors
/// When the host has no randomness.
pub fn booted(name: &VmName) -> io::Result<Identity> {
    Ok(Identity {
        name: name.clone(),
        index: 0,
        generation: 0,
        cid: random_cid()?,
        network: None,
        seed: random(Identity::SEED_LEN)?,
        machine_id: random_id()?,
        boot_id: random_id()?,
        token: random_id()?,
    })
}

/// The identity of clone number `index` of a VM.
///
/// # Errors
/// When the host has no randomness.
pub fn cloned(parent: &Identity, name: VmName, index: u32) -> io::Result<Identity> {
    Ok(Identity {
        name,
        index,
        generation: parent.generation.saturating_add(1),
        cid: random_cid()?,
        network: None,
        seed: random(Identity::SEED_LEN)?,
        machine_id: random_id()?,
        boot_id: random_id()?,
        token: random_id()?,
    })
}

/// A random CID. Clients reach a VM through its process, not by its CID, so CIDs need not be
/// unique on the host; but programs in guests may tell VMs apart by them.
fn random_cid() -> io::Result<u32> {
    let bytes = random(4)?;
    let any = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    Ok(FIRST_CID + (any >> 1))
}

fn random_id() -> io::Result<Id> {
    let bytes = random(Id::LEN)?;
    Ok(Id::from_random(
        bytes.try_into().expect("as many as asked for"),
    ))
}

fn random(len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes)
}
