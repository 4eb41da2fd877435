//! Anonymous memory files.

use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

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

/// Forbids every change to `file`, for ever and for everybody. May take a second: the
/// kernel refuses while somebody holds on to a page for a moment, as I/O does.
///
/// # Errors
/// `EBUSY` while somebody has it mapped shared and writable.
pub fn seal(file: impl AsFd) -> io::Result<()> {
    const ATTEMPTS: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(50);
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    for _ in 1..ATTEMPTS {
        match rustix::fs::fcntl_add_seals(&file, all) {
            Err(rustix::io::Errno::BUSY) => thread::sleep(PAUSE),
            result => return Ok(result?),
        }
    }
    Ok(rustix::fs::fcntl_add_seals(file, all)?)
}
