//! Frees host memory behind pages that the guest reports as free (virtio-balloon, free page
//! reporting).
//!
//! A page that is freed reads as zeroes afterwards, in its machine and in all later clones of it.
//! Where that is not certain, the page is left alone, so contents that a guest has overwritten
//! never reappear.

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

/// Frees pages of a RAM. It shares that RAM's parts; the balloon device has a clone of it.
#[derive(Debug, Clone)]
pub struct FreePages {
    pub(super) backing: Arc<Mutex<Backing>>,
    pub(super) ram: Arc<AddressRange>,
    pub(super) pagemap: Arc<Pagemap>,
    pub(super) tracking: Tracking,
}

/// The guest reported memory that it does not have.
#[derive(Debug, thiserror::Error)]
#[error("no memory at {start:#x}, or not {len:#x} bytes of it")]
pub struct NoSuchMemory {
    start: u64,
    len: u64,
}

const PAGE: usize = 4096;
/// Bytes that are read at a time.
const CHUNK: usize = 16 * PAGE;

impl FreePages {
    /// Frees the whole pages within the `len` bytes at the guest physical address `start`, unless
    /// the memory is being frozen. Pages that the host refuses to free stay.
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
        // The preparation of a freeze holds the lock for long, and other devices must not wait.
        if let Ok(backing) = self.backing.try_lock()
            && !pages.is_empty()
        {
            // A failure is no error: the guest expects nothing of these pages.
            let _ = match &*backing {
                Backing::Reserved | Backing::Preloaded(_) => Ok(()),
                Backing::Shared(shared) => shared.give_back(pages),
                Backing::Frozen(image) => self.drop_private_pages(image, pages),
            };
        }
        Ok(())
    }

    /// Drops private pages where the base below them holds zeroes. While writes are tracked nothing
    /// is dropped: the copies of all private pages made for the last fork still exist, and clones
    /// would get them.
    fn drop_private_pages(&self, image: &RamImage, pages: Range<usize>) -> io::Result<()> {
        let taken = self.tracking.unless_tracking(|| {
            let own = self.pagemap.private_ranges_in(&self.ram, pages)?;
            // Changed pages are not compared: they may hold anything.
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

/// The whole pages between these addresses of a region, as offsets in the RAM.
fn whole_pages(start: u64, end: u64, region: &RamRegion) -> Range<usize> {
    let place = |address: u64| (address - region.start + region.offset) as usize;
    place(start).next_multiple_of(PAGE)..place(end) / PAGE * PAGE
}

#[cfg(test)]
mod tests;
