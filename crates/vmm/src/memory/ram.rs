//! The RAM of one machine: mapping, freezing and measuring it.

use super::at_rest::AtRest;
use super::backing::Backing;
use super::cleanup::{DeferredCleanup, NextFreeze};
use super::collect::{Collected, collect};
use super::free_pages::FreePages;
use super::image::RamImage;
use super::ranges;
use super::region::{GuestMemoryMmap, guest_memory};
use super::tracking::{Copied, Tracking};
use super::{arena::Spare, layout};
use crate::sys::hands::{Helpers, NoHelpers};
use crate::sys::mapping::Mapping;
use crate::sys::pagemap::Pagemap;
use crate::sys::statm::Statm;
use crate::sys::swap::swapped;
use crate::sys::userfault::Userfault;
use std::fs::File;
use std::io;
use std::mem;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A machine's RAM. Its host addresses are fixed for life, whatever [backs](Backing) them.
#[derive(Debug)]
pub struct Ram {
    mapping: Mapping,
    memory: Arc<GuestMemoryMmap>,
    backing: Arc<Mutex<Backing>>,
    /// The arena into which the next freeze copies pages.
    spare: Spare,
    /// Tells which pages are private.
    pagemap: Arc<Pagemap>,
    statm: Statm,
    pub(super) tracking: Tracking,
    free_pages: FreePages,
    /// Whether the next freeze takes longer than waking helpers, because it searches or copies
    /// many pages.
    needs_help: bool,
    /// Work that freezes have left to be done.
    cleanup: DeferredCleanup,
}

/// How much memory a machine's RAM takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The frozen image, which all machines of a family share. The number does not depend on how
    /// much of it this machine has read.
    pub shared: u64,
    /// Private pages of this machine.
    pub private: u64,
    /// What of this process, its RAM included, the host has swapped out.
    pub swapped: u64,
}

/// Why RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// A machine cannot have no memory, or more than the address space.
    #[error("a machine cannot have {size} bytes of memory")]
    Size {
        /// Bytes wanted.
        size: u64,
    },
    /// The host refused.
    #[error("cannot map {size} bytes of guest memory")]
    Map {
        /// Bytes wanted.
        size: u64,
        /// The system's reason.
        source: io::Error,
    },
}

/// [`Ram::needs_help`]: this many bytes to search, or private ones, which may have to be copied.
/// Either takes 0.1 ms.
const MUCH_RESIDENT: usize = 128 << 20;
const MUCH_PRIVATE: usize = 2 << 20;

impl Ram {
    /// Reserves addresses for `size` bytes of RAM, backed by nothing.
    ///
    /// # Errors
    /// When the address space is used up, or the process is out of descriptors.
    pub fn reserve(size: u64) -> Result<Self, RamError> {
        match usize::try_from(size) {
            Ok(len @ 1..) if size.checked_add(layout::HOLE_END).is_some() => Mapping::reserve(len)
                .and_then(Self::of)
                .map_err(|source| RamError::Map { size, source }),
            _ => Err(RamError::Size { size }),
        }
    }

    fn of(mapping: Mapping) -> io::Result<Self> {
        let memory = Arc::new(guest_memory(mapping.range(), mapping.len() as u64));
        Self::with_backing(mapping, memory, Backing::Reserved)
    }

    /// The RAM in `mapping`; `memory` must be made of that mapping.
    fn with_backing(
        mapping: Mapping,
        memory: Arc<GuestMemoryMmap>,
        backing: Backing,
    ) -> io::Result<Self> {
        let backing = Arc::new(Mutex::new(backing));
        let pagemap = Arc::new(Pagemap::open()?);
        let tracking = Tracking::of(mapping.range(), open_userfault()?);
        let free_pages = FreePages {
            backing: backing.clone(),
            ram: mapping.range().clone(),
            pagemap: pagemap.clone(),
            tracking: tracking.clone(),
        };
        Ok(Self {
            mapping,
            memory,
            backing,
            spare: Spare::default(),
            pagemap,
            statm: Statm::open()?,
            tracking,
            free_pages,
            needs_help: false,
            cleanup: DeferredCleanup::default(),
        })
    }

    /// Backs the RAM with fresh zeroed memory of its own.
    ///
    /// # Errors
    /// As `memfd_create(2)` and `mmap(2)`.
    pub fn back_with_zeroes(&mut self) -> io::Result<()> {
        self.tracking.stop();
        lock(&self.backing).share(&mut self.mapping)
    }

    /// Backs the RAM with a frozen image.
    ///
    /// # Errors
    /// As [`RamImage::place`].
    pub fn back_with(&mut self, image: &RamImage) -> io::Result<()> {
        self.back_with_help(image, &NoHelpers)
    }

    /// The same, with the help of other threads.
    ///
    /// # Errors
    /// As [`RamImage::place`].
    pub fn back_with_help(&mut self, image: &RamImage, helpers: &dyn Helpers) -> io::Result<()> {
        self.tracking.stop();
        lock(&self.backing).place(&mut self.mapping, image, helpers)
    }

    /// Maps an image in advance that probably differs little from the one that
    /// [`back_with`](Self::back_with) will get, and makes the pages `touched` private, which
    /// clones write first. A fork then need not wait for either.
    ///
    /// # Errors
    /// As [`back_with`](Self::back_with).
    pub fn preload(&mut self, image: &RamImage, touched: &[Range<usize>]) -> io::Result<()> {
        self.tracking.stop();
        lock(&self.backing).preload(&mut self.mapping, image, touched)
    }

    /// Does the slow part of a [`freeze`](Self::freeze) while the machine may run.
    ///
    /// # Errors
    /// When the host is out of memory. A freeze works nevertheless, but takes longer.
    pub fn prepare_freeze(&mut self) -> io::Result<()> {
        // Locked to the end, so that no free pages are dropped meanwhile.
        let mut backing = lock(&self.backing);
        match &*backing {
            Backing::Frozen(_) => {
                let resident = self.statm.resident()?;
                self.needs_help =
                    resident.anonymous >= MUCH_PRIVATE || resident.all >= MUCH_RESIDENT;
                self.tracking.prepare(&self.pagemap, resident.anonymous)
            }
            _ => backing.prepare_freeze(&mut self.mapping),
        }
    }

    /// Does the slow part of a [`freeze_base`](Self::freeze_base) while the machine may run.
    ///
    /// # Errors
    /// As [`prepare_freeze`](Self::prepare_freeze).
    pub fn prepare_freeze_base(&mut self) -> io::Result<()> {
        lock(&self.backing).prepare_freeze(&mut self.mapping)
    }

    /// Freezes the contents of the RAM. The machine continues at the same addresses, on private
    /// pages on top of the image.
    ///
    /// The time grows with the number of pages written since the base was frozen or, if these are
    /// many, since the last freeze. That of the first freeze also grows with the size of memory,
    /// unless it was [prepared](Self::prepare_freeze). Work that can be done later is left to
    /// [`take_cleanup`](Self::take_cleanup).
    ///
    /// # Errors
    /// When the host is out of memory, when the image cannot be sealed, and on a shell, whose RAM
    /// has no contents. The memory is then as before.
    pub fn freeze(&mut self, at_rest: &AtRest) -> io::Result<RamImage> {
        self.freeze_with_help(at_rest, &NoHelpers)
    }

    /// The same, with the help of other threads.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn freeze_with_help(
        &mut self,
        at_rest: &AtRest,
        helpers: &dyn Helpers,
    ) -> io::Result<RamImage> {
        let mut image = self.freeze_base()?;
        let (Collected { layers, arenas }, copied) = self.copy_own_pages(at_rest, helpers)?;
        image.changes.put(layers);
        let next = NextFreeze {
            spare: self.spare.clone(),
            tracking: self.tracking.clone(),
            pagemap: self.pagemap.clone(),
            copied,
        };
        self.cleanup.prepare_next(arenas, next);
        Ok(image)
    }

    /// Copies the machine's private pages, or those written since the last freeze if writes are
    /// tracked.
    fn copy_own_pages(
        &self,
        at_rest: &AtRest,
        helpers: &dyn Helpers,
    ) -> io::Result<(Collected, Copied)> {
        let (ram, pagemap, spare) = (&*self.mapping, &*self.pagemap, &self.spare);
        let helpers = Some(helpers).filter(|_| self.needs_help);
        let tracked = self
            .tracking
            .freeze(ram, pagemap, spare, helpers, at_rest)?;
        if let Some(tracked) = tracked {
            return Ok(tracked);
        }
        let find = |part| pagemap.private_ranges_in(ram, part);
        let collected = collect(ram, find, spare, helpers, at_rest)?;
        let len = collected.layers.len();
        Ok((collected, Copied::All(len)))
    }

    /// As [`freeze`](Self::freeze), but the image does not contain the machine's private pages: a
    /// child made by `fork(2)` [inherits](Self::inherit) those.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn freeze_base(&mut self) -> io::Result<RamImage> {
        let (image, retired) = lock(&self.backing).freeze(&mut self.mapping)?;
        if let Some(retired) = retired {
            self.cleanup.retire(retired);
        }
        Ok(image)
    }

    /// The work that freezes have left to be done since the last call. A fork that fails after a
    /// freeze can leave it here for the next one.
    pub fn take_cleanup(&mut self) -> DeferredCleanup {
        mem::take(&mut self.cleanup)
    }

    /// In a child made by `fork(2)`: takes over the parent's RAM, which the child has at the same
    /// addresses, with the private pages that the parent had on top of `image`, the result of its
    /// [`freeze_base`](Self::freeze_base).
    ///
    /// # Errors
    /// As [`Pagemap::open`].
    pub fn inherit(&mut self, image: RamImage) -> io::Result<Self> {
        let backing = Backing::Frozen(image);
        Self::with_backing(self.mapping.inherit(), self.memory.clone(), backing)
    }

    /// Bytes of memory that it takes: shared with the family, and private.
    ///
    /// # Errors
    /// As [`Pagemap::private_ranges`] and [`swapped`].
    pub fn usage(&self) -> io::Result<Usage> {
        let swapped = swapped()?;
        // The lock is released before the page tables are searched, so that free pages need not
        // wait for that.
        let shared = match &*lock(&self.backing) {
            Backing::Reserved | Backing::Preloaded(_) => return Ok(Usage::default()),
            Backing::Shared(shared) => {
                return Ok(Usage {
                    shared: 0,
                    private: shared.allocated()?,
                    swapped,
                });
            }
            Backing::Frozen(image) => allocated(&image.base)? + image.changes.len() as u64,
        };
        let own = self.pagemap.private_ranges(&self.mapping)?;
        Ok(Usage {
            shared,
            private: ranges::len(&own) as u64,
            swapped,
        })
    }

    /// The private pages on top of its image, as ranges of bytes, up to `most` bytes in all. Empty
    /// for a RAM without an image.
    ///
    /// # Errors
    /// As [`Pagemap::private_ranges`].
    pub fn written(&self, most: usize) -> io::Result<Vec<Range<usize>>> {
        if !matches!(&*lock(&self.backing), Backing::Frozen(_)) {
            return Ok(Vec::new());
        }
        let own = self.pagemap.private_ranges(&self.mapping)?;
        Ok(ranges::first(&own, most))
    }

    /// Bytes of guest memory.
    pub fn size(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Guest memory for devices and loaders. It stays valid across freezes, and as long as a
    /// reference to it is kept.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Frees pages that the guest reports as free.
    pub fn free_pages(&self) -> &FreePages {
        &self.free_pages
    }

    /// Where the RAM begins in the monitor's address space.
    pub fn host_base(&self) -> *mut u8 {
        self.mapping.base()
    }
}

fn lock(backing: &Mutex<Backing>) -> MutexGuard<'_, Backing> {
    backing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes allocated for a file; less than its length if it is sparse.
fn allocated(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

/// Opens the userfaultfd. A host that has none, or refuses it, is no error: writes are not
/// tracked there.
fn open_userfault() -> io::Result<Option<Arc<Userfault>>> {
    match Userfault::open().map(Arc::new) {
        Ok(userfault) => Ok(Some(userfault)),
        Err(error) if error.is_final() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
