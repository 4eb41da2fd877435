//! Checks and locks one opened file of an image.

use super::image_error::ImageError;
use super::lock;
use rustix::fs::{FileType, OFlags, fstat};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The flags to open it with: a pipe must not wait for its other end.
pub(super) const OPEN_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// Locks the file, if it is one that can be an image.
///
/// # Errors
/// [`ImageError`].
pub(super) fn ready(file: OwnedFd, path: &Path) -> Result<File, ImageError> {
    let mode = fstat(&file).map(|stat| FileType::from_raw_mode(stat.st_mode));
    if !matches!(mode, Ok(FileType::RegularFile | FileType::BlockDevice)) {
        return Err(ImageError::NoFile(path.to_owned()));
    }
    let file = File::from(file);
    match lock::for_reading(&file) {
        Ok(()) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(ImageError::Locked(path.to_owned()))
        }
        Err(source) => Err(ImageError::Open {
            path: path.to_owned(),
            source,
        }),
    }
}
