//! What lies under a disk's layers: an image that nobody writes to.

use super::qcow2::{Qcow2, Qcow2State};
use super::sparse::{self, Run};
use crate::sys::fds::{FdIndex, FdTable};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// An image, open for reading only.
#[derive(Debug)]
pub enum Base {
    /// Its bytes are the disk's.
    Raw {
        /// The image.
        file: File,
        /// Its bytes.
        len: u64,
    },
    /// QEMU's format.
    Qcow2(Qcow2),
    /// One that tells of each access before it happens, and so can be as slow as a test wants.
    #[cfg(test)]
    Watched(Box<Base>, Watch),
}

/// What is told of each access.
#[cfg(test)]
#[derive(Clone)]
pub struct Watch(pub std::sync::Arc<dyn Fn() + Send + Sync>);

#[cfg(test)]
impl std::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Watch")
    }
}

/// An image at rest: its files by descriptor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum BaseState {
    /// See [`Base::Raw`].
    Raw(FdIndex),
    /// See [`Base::Qcow2`].
    Qcow2(Qcow2State),
}

impl Base {
    /// A raw image.
    ///
    /// # Errors
    /// When its length cannot be found out.
    pub fn raw(mut file: File) -> io::Result<Self> {
        // Unlike fstat(2), this also knows the length of a block device.
        let len = file.seek(SeekFrom::End(0))?;
        Ok(Self::Raw { file, len })
    }

    /// Bytes of the disk in it.
    pub fn size(&self) -> u64 {
        match self {
            Self::Raw { len, .. } => *len,
            Self::Qcow2(image) => image.size(),
            #[cfg(test)]
            Self::Watched(base, _) => base.size(),
        }
    }

    /// Fills `buffer` from byte `offset` on. The range must lie in the image.
    ///
    /// # Errors
    /// As `pread(2)`; `UnexpectedEof` when a raw image has been cut; when what is in a
    /// qcow2 image makes no sense.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Raw { file, .. } => file.read_exact_at(buffer, offset),
            Self::Qcow2(image) => image.read_at(offset, buffer),
            #[cfg(test)]
            Self::Watched(base, watch) => {
                (watch.0)();
                base.read_at(offset, buffer)
            }
        }
    }

    /// Where there is something other than zeroes, as far as that is known without
    /// looking.
    ///
    /// # Errors
    /// As [`sparse::runs`].
    pub fn runs(&self, bytes: Range<u64>) -> io::Result<Vec<Run>> {
        match self {
            Self::Raw { file, .. } => sparse::runs(file, bytes),
            Self::Qcow2(_) => Ok(vec![Run {
                bytes,
                stored: true,
            }]),
            #[cfg(test)]
            Self::Watched(base, _) => base.runs(bytes),
        }
    }

    /// Shares it with a clone.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn save(&self, fds: &mut FdTable) -> io::Result<BaseState> {
        Ok(match self {
            Self::Raw { file, .. } => BaseState::Raw(fds.push(file)?),
            Self::Qcow2(image) => BaseState::Qcow2(image.save(fds)?),
            #[cfg(test)]
            Self::Watched(base, _) => base.save(fds)?,
        })
    }

    /// That of a parent.
    ///
    /// # Errors
    /// As [`raw`](Self::raw); when the process is out of descriptors.
    pub fn restore(state: &BaseState, fds: &FdTable) -> io::Result<Self> {
        match state {
            BaseState::Raw(file) => Self::raw(File::from(fds.get(*file)?)),
            BaseState::Qcow2(state) => Ok(Self::Qcow2(Qcow2::restore(state, fds)?)),
        }
    }
}
