//! Taking back pages of which a guest says that they are free.
//!
//! A page that is taken reads as zeroes afterwards, in its machine and in all clones made of
//! it later, or it is left alone: nothing that a guest has overwritten comes to light again.
//!
//! ```text
//! Closed ──back_with_zeroes──> Own ──a freeze is prepared──> Closed ──frozen──> Frozen
//!    └────────────────────────────back_with──────────────────────────────────────^
//! ```

use super::image::RamImage;
use super::layout::{RamRegion, ram_regions};
use super::ranges;
use super::tracking::Tracking;
use crate::sys::hole;
use crate::sys::mapping::Alias;
use crate::sys::pagemap::Pagemap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Takes back free pages of a RAM. The RAM tells it what backs it; a device has a clone of it.
#[derive(Debug, Clone)]
pub struct FreePages {
    ground: Arc<Mutex<Ground>>,
    size: u64,
}

/// What lies behind a RAM.
#[derive(Debug)]
enum Ground {
    /// Nothing yet, or something that is being frozen: nothing is taken.
    Closed,
    /// A memory file that nobody else has: holes can be made in it.
    Own(Arc<File>),
    /// Frozen memory, below pages of the machine's own.
    Frozen(Frozen),
}

#[derive(Debug)]
pub(super) struct Frozen {
    /// What shows where a page of the machine's own goes.
    pub(super) image: RamImage,
    /// As long as the RAM is there.
    pub(super) ram: Alias,
    pub(super) pagemap: Arc<Pagemap>,
    pub(super) tracking: Tracking,
}

/// There is no such memory.
#[derive(Debug, thiserror::Error)]
#[error("no memory at {start:#x}, or not {len:#x} bytes of it")]
pub struct NoSuchMemory {
    start: u64,
    len: u64,
}

const PAGE: usize = 4096;
/// What is looked at in one go.
const CHUNK: usize = 16 * PAGE;

impl FreePages {
    /// Of a RAM of `size` bytes.
    pub(super) fn of(size: u64) -> Self {
        let ground = Arc::new(Mutex::new(Ground::Closed));
        Self { ground, size }
    }

    /// Takes what can be taken of the `len` bytes at the guest physical address `start`: whole
    /// pages, and not while their memory is being frozen. What the host refuses stays.
    ///
    /// # Errors
    /// When the guest has no such memory.
    pub fn take(&self, start: u64, len: u64) -> Result<(), NoSuchMemory> {
        let end = start.checked_add(len).ok_or(NoSuchMemory { start, len })?;
        let region = ram_regions(self.size)
            .into_iter()
            .find(|region| (region.start..=region.start + region.len).contains(&start))
            .filter(|region| end <= region.start + region.len)
            .ok_or(NoSuchMemory { start, len })?;
        let pages = whole_pages(start, end, &region);
        // Who prepares a freeze has it for long, and the other devices cannot wait.
        if let Ok(ground) = self.ground.try_lock()
            && !pages.is_empty()
        {
            // The guest has been told nothing about what becomes of them.
            let _ = ground.take(pages);
        }
        Ok(())
    }

    /// Nothing is taken from now on. Waits for who does.
    pub(super) fn close(&self) {
        *self.lock() = Ground::Closed;
    }

    /// Nothing is taken while the result is there. Waits for who does.
    pub(super) fn hold(&self) -> Closed<'_> {
        Closed {
            _ground: self.lock(),
        }
    }

    /// Holes are made in `file`, which is mapped shared and frozen nowhere.
    pub(super) fn take_from_file(&self, file: Arc<File>) {
        *self.lock() = Ground::Own(file);
    }

    /// Pages of the machine's own go where what is below them is zeroes.
    pub(super) fn take_from_above(&self, frozen: Frozen) {
        *self.lock() = Ground::Frozen(frozen);
    }

    fn lock(&self) -> MutexGuard<'_, Ground> {
        self.ground.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While nothing is taken.
#[must_use = "it ends when dropped"]
pub(super) struct Closed<'a> {
    _ground: MutexGuard<'a, Ground>,
}

impl Ground {
    fn take(&self, pages: Range<usize>) -> io::Result<()> {
        match self {
            Self::Closed => Ok(()),
            Self::Own(file) => hole::punch(file, pages.start as u64..pages.end as u64),
            Self::Frozen(frozen) => frozen.take(pages),
        }
    }
}

impl Frozen {
    /// Where writes are tracked, what was frozen at the last fork of all own pages is still
    /// there, and would be in clones: nothing is taken then.
    fn take(&self, pages: Range<usize>) -> io::Result<()> {
        let taken = self.tracking.unless_on(|| {
            let own = self.pagemap.private_ranges_in(&self.ram, pages)?;
            // What was frozen in several layers is not looked at, but may be anything.
            let own = ranges::without(&own, &self.image.changes.ranges());
            own.into_iter().try_for_each(|range| {
                each_run_of_zeroes(&self.image.base, range, |run| self.ram.drop_own(run))
            })
        });
        taken.unwrap_or(Ok(()))
    }
}

/// Calls `take` for each run of pages in `range` that are zeroes in `file`.
fn each_run_of_zeroes(
    file: &File,
    range: Range<usize>,
    mut take: impl FnMut(Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    const ZEROES: [u8; PAGE] = [0; PAGE];
    let mut chunk = [0; CHUNK];
    let mut run = range.start..range.start;
    for start in range.clone().step_by(CHUNK) {
        let chunk = &mut chunk[..CHUNK.min(range.end - start)];
        file.read_exact_at(chunk, start as u64)?;
        for (page, bytes) in (start..).step_by(PAGE).zip(chunk.chunks(PAGE)) {
            if bytes == ZEROES {
                run.end = page + PAGE;
                continue;
            }
            if !run.is_empty() {
                take(run)?;
            }
            run = page + PAGE..page + PAGE;
        }
    }
    match run.is_empty() {
        true => Ok(()),
        false => take(run),
    }
}

/// Where in the RAM the whole pages lie that are between these addresses of a region.
fn whole_pages(start: u64, end: u64, region: &RamRegion) -> Range<usize> {
    let place = |address: u64| (address - region.start + region.offset) as usize;
    place(start).next_multiple_of(PAGE)..place(end) / PAGE * PAGE
}

#[cfg(test)]
mod tests;
