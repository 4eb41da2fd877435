//! A disk seen from outside the device thread.

use super::disk::{Disk, Usage};
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A machine's disk. The device thread has it while it works on requests.
#[derive(Debug, Clone)]
pub struct DiskHandle(Arc<Mutex<Disk>>);

impl DiskHandle {
    pub(super) fn new(disk: Disk) -> Self {
        Self(Arc::new(Mutex::new(disk)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it takes of the host now.
    pub fn usage(&self) -> Usage {
        self.lock().usage()
    }

    /// The disk as it is now: between two requests. It costs no time by size, and what
    /// it holds stays as it is.
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
