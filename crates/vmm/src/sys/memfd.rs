//! Anonymous memory files.

use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

/// A new, empty memory file of `len` bytes. `name` shows in `/proc/*/maps`.
///
/// # Errors
/// Out of descriptors or memory.
pub fn create(name: &str, len: u64) -> io::Result<File> {
    let file = File::from(rustix::fs::memfd_create(
        name,
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    file.set_len(len)?;
    Ok(file)
}

/// Forbids every change to `file`, for ever and for everybody.
///
/// # Errors
/// `EBUSY` while somebody has it mapped shared and writable.
pub fn seal(file: impl AsFd) -> io::Result<()> {
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    Ok(rustix::fs::fcntl_add_seals(file, all)?)
}
