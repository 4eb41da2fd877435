//! What backs a machine's RAM, and how that changes.
//!
//! ```text
//!                  share                    freeze
//!   Reserved ────────────────> Shared ────────────────> Frozen <─┐
//!     │  │                                               ^  ^ │  │ freeze
//!     │  └───────────────────── place ───────────────────┘  │ └──┘
//!     │                                                     │
//!     └─────── preload ──────> Preloaded ────── place ──────┘
//!                               ^     │ preload
//!                               └─────┘
//! ```
//!
//! | state | what is mapped | of |
//! |---|---|---|
//! | reserved | nothing | a shell |
//! | shared | a memory file that only this process has, shared | a machine that was booted and never forked, and a shell that has warmed up |
//! | frozen | an image, privately: writes make pages of the machine's own | a machine that has forked, and a clone |
//! | preloaded | an image that the one to come will probably differ little from, privately | a shell |
//!
//! A shell that is given an image forgets what it had before, in whatever state it is.
//!
//! Not here yet: a base of which parts are still elsewhere. That would be a property of the
//! image's [base](RamImage::base), not another state: the private pages above it, and all that
//! is done with them, stay as they are.

use super::cleanup::RetiredMapping;
use super::image::{Mapped, Preloaded, RamImage};
use crate::sys::hands::Helpers;
use crate::sys::hole;
use crate::sys::mapping::Mapping;
use crate::sys::memfd::{FrozenFile, MemoryFile};
use std::io;
use std::mem;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

/// What backs a machine's RAM.
#[derive(Debug, Default)]
pub(super) enum Backing {
    /// Nothing yet: only the addresses are there.
    #[default]
    Reserved,
    /// A memory file that only this process has.
    Shared(Shared),
    /// An image under private pages: what is mapped, not all that was copied.
    Frozen(RamImage),
    /// The same, put there before there is a clone.
    Preloaded(Preloaded),
}

/// Writes go to the file, but for those to its first `private` bytes: what is written there
/// is the machine's alone. So the file can be frozen piece by piece, and while the machine
/// runs: an access finds the file's page or the private one, never something in between, and
/// an image is the file and whatever has become private by then.
#[derive(Debug)]
pub(super) struct Shared {
    file: MemoryFile,
    private: usize,
    /// Where what was mapped before is moved to: unmapping it costs milliseconds per GiB.
    retired: Mapping,
}

/// A machine that has no memory cannot be frozen.
#[derive(Debug, thiserror::Error)]
#[error("there is no machine whose memory could be frozen")]
struct NoMachine;

/// What becomes private at once. An access to it meanwhile waits for 0.25 ms where KVM has
/// mapped all of it (PVM host); it is KVM that takes the time.
const PIECE: usize = 32 << 20;

impl Backing {
    /// Puts fresh zeroed memory there.
    ///
    /// # Errors
    /// As `memfd_create(2)` and `mmap(2)`. It is then reserved.
    pub(super) fn share(&mut self, ram: &mut Mapping) -> io::Result<()> {
        *self = Self::Reserved;
        let file = MemoryFile::create("hyperfork-ram", ram.len() as u64)?;
        let retired = Mapping::reserve(ram.len())?;
        ram.place_shared(&file)?;
        ram.prefer_huge_pages();
        *self = Self::Shared(Shared {
            file,
            private: 0,
            retired,
        });
        Ok(())
    }

    /// Puts an image there, of which need not be made what is preloaded.
    ///
    /// # Errors
    /// As [`RamImage::place`]. It is then reserved.
    pub(super) fn place(
        &mut self,
        ram: &mut Mapping,
        image: &RamImage,
        helpers: &dyn Helpers,
    ) -> io::Result<()> {
        let preloaded = match mem::take(self) {
            Self::Preloaded(preloaded) => Some(preloaded),
            _ => None,
        };
        let Mapped { image, .. } = image.place(ram, preloaded.as_ref(), helpers)?;
        *self = Self::Frozen(image);
        Ok(())
    }

    /// Puts an image there for [`place`](Self::place), and makes the pages `touched` private.
    ///
    /// # Errors
    /// As [`RamImage::preload`]. It is then reserved.
    pub(super) fn preload(
        &mut self,
        ram: &mut Mapping,
        image: &RamImage,
        touched: &[Range<usize>],
    ) -> io::Result<()> {
        *self = Self::Reserved;
        *self = Self::Preloaded(image.preload(ram, touched)?);
        Ok(())
    }

    /// Does of a [`freeze`](Self::freeze) what takes long; the machine may run.
    ///
    /// # Errors
    /// As `mmap(2)` and `mremap(2)`. What is private by then remains so.
    pub(super) fn prepare_freeze(&mut self, ram: &mut Mapping) -> io::Result<()> {
        match self {
            Self::Shared(shared) => shared.make_private(ram),
            Self::Reserved | Self::Frozen(_) | Self::Preloaded(_) => Ok(()),
        }
    }

    /// Makes what is mapped an image; writes are private from here on. With that of a first
    /// time comes what was mapped before.
    ///
    /// # Errors
    /// When it cannot be mapped privately, or not be sealed: memory holds what it held, and
    /// the machine can go on.
    pub(super) fn freeze(
        &mut self,
        ram: &mut Mapping,
    ) -> io::Result<(RamImage, Option<RetiredMapping>)> {
        match mem::take(self) {
            Self::Shared(mut shared) => match shared.freeze(ram) {
                Ok(base) => {
                    let image = RamImage::of_base(base);
                    *self = Self::Frozen(image.clone());
                    let retired = RetiredMapping::new(shared.retired, shared.file);
                    Ok((image, Some(retired)))
                }
                Err(error) => {
                    *self = Self::Shared(shared);
                    Err(error)
                }
            },
            Self::Frozen(image) => {
                *self = Self::Frozen(image.clone());
                Ok((image, None))
            }
            other => {
                *self = other;
                Err(io::Error::new(io::ErrorKind::InvalidInput, NoMachine))
            }
        }
    }
}

impl Shared {
    fn make_private(&mut self, ram: &mut Mapping) -> io::Result<()> {
        while self.private < ram.len() {
            let piece = self.private..ram.len().min(self.private + PIECE);
            ram.move_aside(piece.clone(), &mut self.retired)?;
            ram.place_private_part(piece.clone(), &self.file, piece.start as u64)?;
            self.private = piece.end;
        }
        Ok(())
    }

    fn freeze(&mut self, ram: &mut Mapping) -> io::Result<FrozenFile> {
        self.make_private(ram)?;
        Ok(self.file.freeze()?)
    }

    /// Gives back free pages, unless some have become private: then a page may lie in the
    /// file or above it, and once the file is frozen no holes can be made.
    ///
    /// # Errors
    /// As [`hole::punch`].
    pub(super) fn give_back(&self, pages: Range<usize>) -> io::Result<()> {
        match self.private {
            0 => hole::punch(&self.file, pages.start as u64..pages.end as u64),
            _ => Ok(()),
        }
    }

    /// Bytes of the file that exist.
    ///
    /// # Errors
    /// As `fstat(2)`.
    pub(super) fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }
}

#[cfg(test)]
impl Backing {
    /// Has the memory file take no more seals.
    pub(super) fn refuse_seals(&self) {
        let Self::Shared(Shared { file, .. }) = self else {
            panic!("not shared");
        };
        rustix::fs::fcntl_add_seals(file, rustix::fs::SealFlags::SEAL).unwrap();
    }
}
