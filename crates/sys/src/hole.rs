//! Punches holes in files.

use super::seccomp::{Argument, Is};
use rustix::fs::{FallocateFlags, fallocate};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

const FLAGS: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// The argument of fallocate(2) that punches holes, for seccomp filters.
pub const PUNCH: Argument = Argument {
    index: 1,
    is: Is::Exactly("PUNCH_HOLE | KEEP_SIZE", FLAGS.bits()),
};

/// Makes a hole of these bytes of `file`: it reads as zeroes, also where it is mapped,
/// and takes no storage or memory until it is written again. The file stays as long as it is.
///
/// # Errors
/// As `fallocate(2)`: `EOPNOTSUPP` where the file system knows no holes, `EPERM` when the file
/// is [sealed](super::memfd::MemoryFile::freeze).
pub fn punch(file: impl AsFd, range: Range<u64>) -> io::Result<()> {
    Ok(fallocate(
        file,
        FLAGS,
        range.start,
        range.end - range.start,
    )?)
}
