//! What backs a machine's RAM, as a state machine.
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
//! | shared | a memory file that only this process has, `MAP_SHARED` | a machine that has booted and never forked, or a warm shell |
//! | frozen | an image, `MAP_PRIVATE`: a write makes a private page | a machine that has forked, or a clone |
//! | preloaded | an image that probably differs little from the next clone's, `MAP_PRIVATE` | a shell |
//!
//! Placing an image discards the contents before it, in any state.
//!
//! Not supported yet: a base that is only partly present, as for a lazy restore. That would be a
//! property of the image's [base](RamImage::base), not another state: the private pages above it
//! would be treated as they are now.

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
    /// Nothing yet: only the addresses are reserved.
    #[default]
    Reserved,
    /// A memory file that only this process has.
    Shared(Shared),
    /// An image under private pages. Changes that were copied into private pages are not in it.
    Frozen(RamImage),
    /// The same, mapped in advance for a clone.
    Preloaded(Preloaded),
}

/// A memory file whose first `private` bytes are mapped privately and all others shared. Writes to
/// the shared part go to the file, writes to the private part make private pages. So the mapping
/// can be made private piece by piece while the machine runs: each access finds either the file's
/// page or a private one. An image is the file with the private pages made by then.
#[derive(Debug)]
pub(super) struct Shared {
    file: MemoryFile,
    private: usize,
    /// Where the shared mapping is moved to: unmapping it takes milliseconds per GiB.
    retired: Mapping,
}

/// A machine that has no memory cannot be frozen.
#[derive(Debug, thiserror::Error)]
#[error("there is no machine whose memory could be frozen")]
struct NoMachine;

/// Bytes that are made private at a time. A guest's access to them waits meanwhile, for 0.25 ms if
/// KVM has mapped all of them (PVM host): KVM has to unmap them.
const PIECE: usize = 32 << 20;

impl Backing {
    /// Maps fresh zeroed memory.
    ///
    /// # Errors
    /// As `memfd_create(2)` and `mmap(2)`. The state is then reserved.
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

    /// Maps an image, reusing what was preloaded if possible.
    ///
    /// # Errors
    /// As [`RamImage::place`]. The state is then reserved.
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

    /// Maps an image in advance of [`place`](Self::place), and makes the pages `touched` private.
    ///
    /// # Errors
    /// As [`RamImage::preload`]. The state is then reserved.
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

    /// Does the slow part of a [`freeze`](Self::freeze) while the machine may run.
    ///
    /// # Errors
    /// As `mmap(2)` and `mremap(2)`. Pieces that are private by then remain so.
    pub(super) fn prepare_freeze(&mut self, ram: &mut Mapping) -> io::Result<()> {
        match self {
            Self::Shared(shared) => shared.make_private(ram),
            Self::Reserved | Self::Frozen(_) | Self::Preloaded(_) => Ok(()),
        }
    }

    /// Freezes the mapped memory as an image; from now on writes make private pages. The first
    /// freeze also returns the mapping used before.
    ///
    /// # Errors
    /// When the memory cannot be mapped privately, or the file cannot be sealed. Its contents are
    /// unchanged then, and the machine can continue.
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

    /// Frees pages of the file, unless a part of it is mapped privately already: then the current
    /// page may be in the file or above it, and a frozen file cannot be punched.
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
