//! Locks an image against writers, as long as a VM or a clone of it uses it.
//!
//! Two kinds of locks are in use for images, so both are taken: a shared `flock(2)`, which
//! `flock(1)` and file system tools take exclusively; and QEMU's locks of single bytes. A QEMU
//! program locks a byte from 100 on for each permission that it uses, and a byte from 200 on for
//! each that it does not share with other programs (QEMU's `docs/system/images.rst`, "Disk image
//! file locking"). Locks are advisory: a program that takes none can write to a disk in use.

use crate::sys::file_lock;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;

/// QEMU's permissions, as offsets of their bytes.
mod permission {
    pub(super) const READ: i64 = 0;
    pub(super) const WRITE: i64 = 1;
    pub(super) const RESIZE: i64 = 3;
}

/// The byte that a program locks if it uses the permission.
fn used(permission: i64) -> i64 {
    100 + permission
}

/// The byte that a program locks if it does not share the permission.
fn unshared(permission: i64) -> i64 {
    200 + permission
}

/// Locks `file` for reading, until the last descriptor of this open file description is closed.
/// It does nothing on a file system without locks.
///
/// # Errors
/// `WouldBlock` while another program writes to it, or has locked it exclusively.
pub(super) fn for_reading(file: &File) -> io::Result<()> {
    match lock(file) {
        Err(error) if has_no_locks(&error) => Ok(()),
        result => result,
    }
}

fn lock(file: &File) -> io::Result<()> {
    flock(file, FlockOperation::NonBlockingLockShared)?;
    for byte in [
        used(permission::READ),
        unshared(permission::WRITE),
        unshared(permission::RESIZE),
    ] {
        file_lock::share(file, byte)?;
    }
    // Lock first, then check: of two programs that do so at the same time, at least one sees the
    // other's lock.
    for byte in [
        used(permission::WRITE),
        used(permission::RESIZE),
        unshared(permission::READ),
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
