//! Opening an image that a user names. It may be anything, and come from anybody.

use super::base::Base;
use super::chain::{Chain, FILES_MAX};
use super::probe::probe;
use super::qcow2::Qcow2;
use super::{disk, lock};
use hyperfork_api::spec::DiskFormat;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Largest disk, bytes: what a sparse overlay can be on the file systems in use.
const LEN_MAX: u64 = 8 << 40;

/// Why an image cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be opened.
    #[error("cannot open disk {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is a directory, a pipe, or the like.
    #[error("{0} cannot be a disk: name a file or a block device")]
    NoFile(PathBuf),
    /// Somebody writes to it.
    #[error("disk {0} is in use by a program that may write to it: end that first, or copy it")]
    Locked(PathBuf),
    /// There is nothing in it.
    #[error("disk {0} is empty")]
    Empty(PathBuf),
    /// A raw image of an odd length.
    #[error(
        "disk {path} has {len} bytes, which is not a multiple of 512: it is no raw image, or was cut"
    )]
    Sectors {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        len: u64,
    },
    /// More than there can be.
    #[error("disk {path} has {}GiB, and {}GiB are the most", len >> 30, LEN_MAX >> 30)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes of the disk in it.
        len: u64,
    },
    /// It is of another format.
    #[error("disk {path} is {what}, not a raw or qcow2 image: {remedy}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// What can be done.
        remedy: &'static str,
    },
    /// It is broken, or uses what the library does not know.
    #[error("disk {path} cannot be read as a qcow2 image")]
    Qcow2 {
        /// The file.
        path: PathBuf,
        /// The library's reason.
        source: io::Error,
    },
    /// It needs a key.
    #[error("disk {0} is encrypted, which is not supported: convert it with `qemu-img convert`")]
    Encrypted(PathBuf),
    /// Its data is in another file.
    #[error(
        "disk {0} keeps its data in another file, which is not supported: convert it with `qemu-img convert`"
    )]
    ExternalData(PathBuf),
    /// It does not tell how to read the file it lies on.
    #[error(
        "disk {path} lies on {backing} of {}: only raw and qcow2 are supported; tell it with `qemu-img rebase -u -F FORMAT`",
        format.as_deref().map_or("an untold format".to_owned(), |name| format!("the format {name}"))
    )]
    BackingFormat {
        /// The file.
        path: PathBuf,
        /// What it lies on.
        backing: String,
        /// What is said of that.
        format: Option<String>,
    },
    /// What it lies on may be any file of this host.
    #[error(
        "disk {path} lies on {backing}, which is not in its directory: move that there, or join both with `qemu-img convert`"
    )]
    Escapes {
        /// The file.
        path: PathBuf,
        /// What it lies on.
        backing: String,
    },
    /// It lies on itself.
    #[error("disk {path} lies on {backing}, and that on it again")]
    Loop {
        /// The file.
        path: PathBuf,
        /// What it lies on.
        backing: String,
    },
    /// It lies on too many.
    #[error("disk {path} lies on more than {} others: join some with `qemu-img convert`", FILES_MAX - 1)]
    TooDeep {
        /// The file.
        path: PathBuf,
    },
}

/// Opens the image at `path`, for reading only and locked against writers; of the format
/// it seems to have, where none is given. Whatever the guest writes goes elsewhere, so it
/// cannot make its image seem to be of another format.
///
/// # Errors
/// [`ImageError`].
pub fn open(path: &Path, format: Option<DiskFormat>) -> Result<Base, ImageError> {
    let file = openat(CWD, path, HOW, Mode::empty()).map_err(|errno| ImageError::Open {
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

/// Without waiting for the other end of a pipe.
pub(super) const HOW: OFlags = OFlags::RDONLY
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

pub(super) fn broken(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Qcow2 {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
