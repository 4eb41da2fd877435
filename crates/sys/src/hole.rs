//! Holes in files.

use rustix::fs::{FallocateFlags, fallocate};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

/// Makes a hole of these bytes of `file`: it reads as zeroes, also where it is mapped,
/// and takes no storage or memory until it is written again. The file stays as long as it is.
///
/// # Errors
/// As `fallocate(2)`: `EOPNOTSUPP` where the file system knows no holes, `EPERM` when the file
/// is [sealed](super::memfd::seal).
pub fn punch(file: impl AsFd, range: Range<u64>) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(
        file,
        flags,
        range.start,
        range.end - range.start,
    )?)
}
