//! Taking back pages of which a guest says that they are free.
//!
//! A page that is taken reads as zeroes afterwards, in its machine and in all clones made of
//! it later, or it is left alone: nothing that a guest has overwritten comes to light again.

use super::backing::Backing;
use super::image::RamImage;
use super::layout::{RamRegion, ram_regions};
use super::ranges;
use super::tracking::Tracking;
use crate::sys::mapping::AddressRange;
use crate::sys::pagemap::Pagemap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

/// Takes back free pages of a RAM. A device has a clone of it, and the RAM all else.
#[derive(Debug, Clone)]
pub struct FreePages {
    pub(super) backing: Arc<Mutex<Backing>>,
    pub(super) ram: Arc<AddressRange>,
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
    /// Takes what can be taken of the `len` bytes at the guest physical address `start`: whole
    /// pages, and not while their memory is being frozen. What the host refuses stays.
    ///
    /// # Errors
    /// When the guest has no such memory.
    pub fn take(&self, start: u64, len: u64) -> Result<(), NoSuchMemory> {
        let end = start.checked_add(len).ok_or(NoSuchMemory { start, len })?;
        let region = ram_regions(self.ram.len() as u64)
            .into_iter()
            .find(|region| (region.start..=region.start + region.len).contains(&start))
            .filter(|region| end <= region.start + region.len)
            .ok_or(NoSuchMemory { start, len })?;
        let pages = whole_pages(start, end, &region);
        // A freeze that is being prepared has it for long, and the other devices cannot wait.
        if let Ok(backing) = self.backing.try_lock()
            && !pages.is_empty()
        {
            // The guest has been told nothing about what becomes of them.
            let _ = match &*backing {
                Backing::Reserved | Backing::Preloaded(_) => Ok(()),
                Backing::Shared(shared) => shared.give_back(pages),
                Backing::Frozen(image) => self.take_from_above(image, pages),
            };
        }
        Ok(())
    }

    /// Drops pages of the machine's own where what is mapped below them is zeroes. Where
    /// writes are tracked, what was frozen at the last fork of all own pages is still there,
    /// and would be in clones: nothing is taken then.
    fn take_from_above(&self, image: &RamImage, pages: Range<usize>) -> io::Result<()> {
        let taken = self.tracking.unless_on(|| {
            let own = self.pagemap.private_ranges_in(&self.ram, pages)?;
            // What was frozen in several layers is not looked at, but may be anything.
            let own = ranges::without(&own, &image.changes.ranges());
            own.into_iter().try_for_each(|range| {
                each_run_of_zeroes(&image.base, range, |run| self.ram.drop_own(run))
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
