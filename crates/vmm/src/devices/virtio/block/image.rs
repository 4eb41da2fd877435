//! Opens a disk image that a user names. Its contents are untrusted.

use super::base::Base;
use super::chain::Chain;
use super::disk;
use super::image_error::{ImageError, LEN_MAX, broken};
use super::image_file::{OPEN_FLAGS, ready};
use super::probe::probe;
use super::qcow2::Qcow2;
use hyperfork_api::spec::DiskFormat;
use rustix::fs::{CWD, Mode, openat};
use std::path::Path;

/// Opens the image at `path`, read-only and locked against writers. Without `format` it is probed.
/// That is safe because the guest never writes to the image, so it cannot change what the probe
/// finds.
///
/// # Errors
/// [`ImageError`].
pub fn open(path: &Path, format: Option<DiskFormat>) -> Result<Base, ImageError> {
    let file = openat(CWD, path, OPEN_FLAGS, Mode::empty()).map_err(|errno| ImageError::Open {
        path: path.to_owned(),
        source: errno.into(),
    })?;
    let file = ready(file, path)?;
    let format = match format {
        Some(format) => format,
        None => probe(&file, path)?,
    };
    let base = match format {
        DiskFormat::Raw => Base::raw(file).map_err(|source| ImageError::Open {
            path: path.to_owned(),
            source,
        })?,
        DiskFormat::Qcow2 => {
            let files = Chain::new(path)?.follow(file)?;
            Base::Qcow2(Qcow2::open(files).map_err(broken(path))?)
        }
    };
    let (path, len) = (path.to_owned(), base.size());
    match len {
        0 => Err(ImageError::Empty(path)),
        len if len > LEN_MAX => Err(ImageError::TooLarge { path, len }),
        len if !len.is_multiple_of(disk::SECTOR) => Err(ImageError::Sectors { path, len }),
        _ => Ok(base),
    }
}

#[cfg(test)]
mod tests;
