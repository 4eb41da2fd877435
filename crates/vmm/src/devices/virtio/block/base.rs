//! The base of a disk: a read-only image under the disk's layers.

use super::qcow2::{Qcow2, Qcow2State};
use super::sparse::{self, Run};
use crate::blobs::{BlobReader, BlobWriter};
use hyperfork_state::{BlobRef, BlobRole};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// An image, open for reading only.
#[derive(Debug)]
pub enum Base {
    /// A raw image: its bytes are the disk's.
    Raw {
        /// The image.
        file: File,
        /// Its bytes.
        len: u64,
    },
    /// QEMU's format.
    Qcow2(Qcow2),
    /// A base that calls back before each access, and so can be as slow as a test wants.
    #[cfg(test)]
    Watched(Box<Base>, Watch),
}

/// The callback of each access.
#[cfg(test)]
#[derive(Clone)]
pub struct Watch(pub std::sync::Arc<dyn Fn() + Send + Sync>);

#[cfg(test)]
impl std::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Watch")
    }
}

/// An image at rest: its files are blobs. Encoded by number: new kinds come last.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum BaseState {
    /// See [`Base::Raw`].
    Raw(BlobRef),
    /// See [`Base::Qcow2`].
    Qcow2(Qcow2State),
}

impl BaseState {
    /// Its files.
    pub(super) fn blobs(&self) -> Vec<BlobRef> {
        match self {
            Self::Raw(file) => vec![*file],
            Self::Qcow2(image) => image.blobs(),
        }
    }
}

#[cfg(test)]
impl BaseState {
    /// For golden files: never changed.
    pub(crate) fn sample_of_qcow2() -> Self {
        Self::Qcow2(Qcow2State::sample())
    }
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

    /// The runs that may hold something other than zeroes, as far as that is known without reading.
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
    pub fn save(&self, blobs: &mut BlobWriter) -> io::Result<BaseState> {
        Ok(match self {
            Self::Raw { file, len } => {
                BaseState::Raw(blobs.put(file, BlobRole::DiskImage, *len)?)
            }
            Self::Qcow2(image) => BaseState::Qcow2(image.save(blobs)?),
            #[cfg(test)]
            Self::Watched(base, _) => base.save(blobs)?,
        })
    }

    /// Restores the parent's base in a clone.
    ///
    /// # Errors
    /// As [`raw`](Self::raw); when the process is out of descriptors.
    pub fn restore(state: &BaseState, blobs: BlobReader<'_>) -> io::Result<Self> {
        match state {
            BaseState::Raw(file) => Self::raw(File::from(blobs.open(*file)?)),
            BaseState::Qcow2(state) => Ok(Self::Qcow2(Qcow2::restore(state, blobs)?)),
        }
    }
}
