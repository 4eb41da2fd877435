//! Keeping writers away from an image, as long as a VM or a clone of it has it.
//!
//! Two kinds of locks are in use for images, so there are two: `flock(2)`, shared, which
//! `flock(1)` and file systems' tools take exclusively; and the bytes by which QEMU's
//! programs tell each other what they do with an image and what they do not bear: one
//! from 100 on for each of the first, from 200 on for the second (QEMU's
//! `docs/system/images.rst`, "Disk image file locking"). Locks are advisory: a program
//! that takes none writes into a disk in use.

use crate::sys::file_lock;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;

/// What somebody does with an image, as a bit of QEMU's.
mod usage {
    pub(super) const READ: i64 = 0;
    pub(super) const WRITE: i64 = 1;
    pub(super) const RESIZE: i64 = 3;
}

/// The byte for somebody who does it.
fn does(usage: i64) -> i64 {
    100 + usage
}

/// The byte for somebody who does not bear that others do it.
fn does_not_bear(usage: i64) -> i64 {
    200 + usage
}

/// Locks `file` for reading, until the last descriptor of this opening of it is closed.
/// On a file system without locks it does nothing.
///
/// # Errors
/// `WouldBlock` while somebody writes to it, or wants to have it alone.
pub(super) fn for_reading(file: &File) -> io::Result<()> {
    match lock(file) {
        Err(error) if has_no_locks(&error) => Ok(()),
        result => result,
    }
}

fn lock(file: &File) -> io::Result<()> {
    flock(file, FlockOperation::NonBlockingLockShared)?;
    for byte in [
        does(usage::READ),
        does_not_bear(usage::WRITE),
        does_not_bear(usage::RESIZE),
    ] {
        file_lock::share(file, byte)?;
    }
    // Locked first, then looked: of two who do so at the same time one at least sees the
    // other.
    for byte in [
        does(usage::WRITE),
        does(usage::RESIZE),
        does_not_bear(usage::READ),
    ] {
        if file_lock::is_locked(file, byte)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
    Ok(())
}

fn has_no_locks(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOLCK | Errno::OPNOTSUPP | Errno::INVAL))
}
