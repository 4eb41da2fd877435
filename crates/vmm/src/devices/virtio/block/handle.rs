//! A handle to a disk for threads other than the device thread.

use super::disk::Disk;
use super::usage::{Counters, Usage};
use crate::devices::turns::Turns;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::process;
use std::sync::{Arc, MutexGuard};

/// A machine's disk. The device thread locks it while it works on requests.
#[derive(Debug, Clone)]
pub struct DiskHandle {
    disk: Arc<Turns<Disk>>,
    counters: Arc<Counters>,
}

impl DiskHandle {
    pub(super) fn new(disk: Disk) -> Self {
        Self {
            counters: disk.counters().clone(),
            disk: Arc::new(Turns::new(disk)),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock()
    }

    /// Locks the disk for the device thread, which lets other threads go first.
    pub(super) fn lock_last(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock_last()
    }

    /// Whether another thread waits for the disk.
    pub(super) fn is_wanted(&self) -> bool {
        self.disk.is_wanted()
    }

    /// Its storage on the host, as of the latest write. Waits for no request.
    pub fn usage(&self) -> Usage {
        self.counters.usage()
    }

    /// The disk as it is now, between two pieces of requests. It takes constant time, and later
    /// writes are not in it.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn snapshot(&self) -> io::Result<Disk> {
        self.lock().snapshot()
    }
}

/// Writes a disk as a raw image to `path`: all of it, or nothing. A file that is there
/// is replaced, not overwritten: it may be an image in use.
///
/// # Errors
/// The disk cannot be read, or the image not be written.
pub fn export(disk: &Disk, path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut part = name.to_owned();
    part.push(format!(".part-{}", process::id()));
    let part = path.with_file_name(part);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&part)?;
    let exported = disk.copy_to(&file).and_then(|()| fs::rename(&part, path));
    if exported.is_err() {
        let _ = fs::remove_file(&part);
    }
    exported
}
