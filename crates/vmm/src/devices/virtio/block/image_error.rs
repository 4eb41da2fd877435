//! Why an image cannot be a disk.

use std::io;
use std::path::{Path, PathBuf};

/// Largest disk, bytes: what a sparse overlay can be on the file systems in use.
pub(super) const LEN_MAX: u64 = 8 << 40;

/// Most files of an image, its backing files included. Each is a descriptor in every clone.
pub(super) const FILES_MAX: usize = 8;

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
    /// Another program writes to it.
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

/// The library cannot read it as a qcow2 image.
pub(super) fn broken(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Qcow2 {
        path: path.to_owned(),
        source,
    }
}
