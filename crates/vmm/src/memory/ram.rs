//! The RAM of a living machine.

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
    /// For the pages that the next freeze copies.
    spare: Spare,
    /// Tell which they are.
    pagemap: Arc<Pagemap>,
    statm: Statm,
    pub(super) tracking: Tracking,
    free_pages: FreePages,
    /// Whether the next freeze has so much to look through, or to copy, that it takes longer
    /// than waking those who could help.
    is_much: bool,
    /// What freezes have left to be done.
    cleanup: DeferredCleanup,
}

/// How much memory a machine's RAM takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The frozen image: one and the same for all relatives, however much of it
    /// each has looked at.
    pub shared: u64,
    /// The machine's alone.
    pub private: u64,
    /// Of both, with the rest of this process: what the host has put into swap space.
    pub swapped: u64,
}

/// Why RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// A machine has memory.
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

/// [`Ram::is_much`]: bytes to look through, and such as may have to be copied. Either takes
/// 0.1 ms.
const MUCH: usize = 128 << 20;
const MUCH_OF_ITS_OWN: usize = 2 << 20;

impl Ram {
    /// Reserves addresses for `size` bytes of RAM, with nothing behind them.
    ///
    /// # Errors
    /// When the address space is used up, or the process out of descriptors.
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

    /// The RAM that lies in `mapping`, of which `memory` is.
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
            is_much: false,
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

    /// The same, with the help of others.
    ///
    /// # Errors
    /// As [`RamImage::place`].
    pub fn back_with_help(&mut self, image: &RamImage, helpers: &dyn Helpers) -> io::Result<()> {
        self.tracking.stop();
        lock(&self.backing).place(&mut self.mapping, image, helpers)
    }

    /// Puts an image there that the one of [`back_with`](Self::back_with) will probably
    /// differ little from, and makes the pages `touched`, which clones write first, the
    /// machine's own. Both then need not be done while a fork waits.
    ///
    /// # Errors
    /// As [`back_with`](Self::back_with).
    pub fn preload(&mut self, image: &RamImage, touched: &[Range<usize>]) -> io::Result<()> {
        self.tracking.stop();
        lock(&self.backing).preload(&mut self.mapping, image, touched)
    }

    /// Does of a [`freeze`](Self::freeze) what takes long, while the machine may run.
    ///
    /// # Errors
    /// When the host is out of memory. The freeze only takes longer then.
    pub fn prepare_freeze(&mut self) -> io::Result<()> {
        // Held to the end, so that nothing is taken back meanwhile.
        let mut backing = lock(&self.backing);
        match &*backing {
            Backing::Frozen(_) => {
                let resident = self.statm.resident()?;
                self.is_much = resident.anonymous >= MUCH_OF_ITS_OWN || resident.all >= MUCH;
                self.tracking.prepare(&self.pagemap, resident.anonymous)
            }
            _ => backing.prepare_freeze(&mut self.mapping),
        }
    }

    /// Does of a [`freeze_base`](Self::freeze_base) what takes long, while the machine may
    /// run.
    ///
    /// # Errors
    /// As [`prepare_freeze`](Self::prepare_freeze).
    pub fn prepare_freeze_base(&mut self) -> io::Result<()> {
        lock(&self.backing).prepare_freeze(&mut self.mapping)
    }

    /// Freezes what the RAM holds now. The machine goes on privately on top of
    /// the result, at the same addresses.
    ///
    /// It takes time by the number of pages written since the base was frozen or, where
    /// these are many, since the last freeze; the first one also by the size of memory,
    /// unless it was [prepared](Self::prepare_freeze). What can be done later is left to
    /// [`take_cleanup`](Self::take_cleanup).
    ///
    /// # Errors
    /// When the host is out of memory, when the image cannot be sealed against changes, and
    /// on a shell, which holds nothing. The machine's memory is then as before.
    pub fn freeze(&mut self, at_rest: &AtRest) -> io::Result<RamImage> {
        self.freeze_with_help(at_rest, &NoHelpers)
    }

    /// The same, with the help of others.
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

    /// What lies in pages of the machine's own, on top of the frozen ones.
    fn copy_own_pages(
        &self,
        at_rest: &AtRest,
        helpers: &dyn Helpers,
    ) -> io::Result<(Collected, Copied)> {
        let (ram, pagemap, spare) = (&*self.mapping, &*self.pagemap, &self.spare);
        let helpers = Some(helpers).filter(|_| self.is_much);
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

    /// As [`freeze`](Self::freeze), but what the machine has in pages of its own is not in
    /// the image: a child made by `fork(2)` [inherits](Self::inherit) it.
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

    /// What the freezes have left to be done since the last call. A fork that fails after a
    /// freeze can leave it here, for the next.
    pub fn take_cleanup(&mut self) -> DeferredCleanup {
        mem::take(&mut self.cleanup)
    }

    /// In a child made by `fork(2)`: takes over the parent's RAM, which the child has at
    /// the same addresses with all that was written since the parent's
    /// [`freeze_base`](Self::freeze_base), of which `image` is.
    ///
    /// # Errors
    /// As [`Pagemap::open`].
    pub fn inherit(&mut self, image: RamImage) -> io::Result<Self> {
        let backing = Backing::Frozen(image);
        Self::with_backing(self.mapping.inherit(), self.memory.clone(), backing)
    }

    /// Bytes of it that exist: shared with relatives, and the machine's own.
    ///
    /// # Errors
    /// As [`Pagemap::private_ranges`] and [`swapped`].
    pub fn usage(&self) -> io::Result<Usage> {
        let swapped = swapped()?;
        // The page tables are not looked through while free pages would have to wait for it.
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

    /// The pages it has written since it was made from an image, as ranges of bytes, up
    /// to `most` bytes in all. Nothing for a machine without one.
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

    /// Guest memory for devices and loaders. Stays valid across freezes, and as long as it is
    /// kept.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// What takes back pages that its guest has free.
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

/// Bytes of a file that exist, which for a sparse one is less than its length.
fn allocated(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

/// A host that has none, or refuses it, is no error: writes are not noticed there.
fn open_userfault() -> io::Result<Option<Arc<Userfault>>> {
    match Userfault::open().map(Arc::new) {
        Ok(userfault) => Ok(Some(userfault)),
        Err(error) if error.is_final() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
