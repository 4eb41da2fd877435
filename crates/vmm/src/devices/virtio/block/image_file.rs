//! A file of an image, open.

use super::image_error::ImageError;
use super::lock;
use rustix::fs::{FileType, OFlags, fstat};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// How it is opened: without waiting for the other end of a pipe.
pub(super) const OPEN_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// A file that can be an image, locked.
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
