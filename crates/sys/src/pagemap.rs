//! Finds the private pages of a mapping, and those written since they were protected
//! (Documentation/admin-guide/mm/pagemap.rst): by `PAGEMAP_SCAN`, which returns ranges, or before
//! Linux 6.7 by reading a word per page.

use super::check;
use super::mapping::AddressRange;
use super::secrecy;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// `struct pm_scan_arg` of linux/fs.h, which Debian 12's headers do not have.
#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
/// A private page is anonymous: present or swapped, and not the file's.
/// This category is inverted in all scans.
const PRIVATE: u64 = PAGE_IS_FILE;
const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;
/// The request of ioctl(2) that finds pages: `_IOWR('f', 16, struct pm_scan_arg)`.
pub const SCAN: u32 = 0xc060_6610;
const PAGEMAP_SCAN: libc::c_ulong = SCAN as libc::c_ulong;

const PAGE: usize = 4096;

/// Regions, or entries, fetched per call: so few that room for them is soon made.
const BATCH: usize = 128;

/// The page tables of the process that opens it: a child made by `fork(2)` needs one of
/// its own.
#[derive(Debug)]
pub struct Pagemap(File);

impl Pagemap {
    /// Opens the page tables of this process.
    ///
    /// # Errors
    /// When `/proc/self/pagemap` cannot be opened.
    pub fn open() -> io::Result<Self> {
        secrecy::open_own(Path::new("/proc/self/pagemap")).map(Self)
    }

    /// The parts of `mapping`, a private mapping of a file, that differ from the file
    /// because this process wrote there: offsets in bytes, ascending, not touching.
    ///
    /// # Errors
    /// When the page tables cannot be read.
    pub fn private_ranges(&self, mapping: &AddressRange) -> io::Result<Vec<Range<usize>>> {
        self.private_ranges_in(mapping, 0..mapping.len())
    }

    /// Those in a part of the mapping.
    ///
    /// # Errors
    /// As [`private_ranges`](Self::private_ranges).
    pub fn private_ranges_in(
        &self,
        mapping: &AddressRange,
        part: Range<usize>,
    ) -> io::Result<Vec<Range<usize>>> {
        match scan(&self.0, mapping, part.clone(), PRIVATE) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                read_all(&self.0, mapping, part)
            }
            result => result,
        }
    }

    /// The private pages in a part of the mapping that have been written since they were
    /// [protected](Self::protect), or never were protected.
    ///
    /// # Errors
    /// When the page tables cannot be read, or the kernel cannot tell (Linux 6.7).
    pub fn written_ranges(
        &self,
        mapping: &AddressRange,
        part: Range<usize>,
    ) -> io::Result<Vec<Range<usize>>> {
        scan(&self.0, mapping, part, PRIVATE | PAGE_IS_WRITTEN)
    }

    /// Write-protects `ranges` of a mapping that is
    /// [watched](super::userfault::Userfault::watch), so that writes to them show.
    ///
    /// # Errors
    /// When the mapping is not watched.
    pub fn protect(&self, mapping: &AddressRange, ranges: &[Range<usize>]) -> io::Result<()> {
        let base = mapping.base() as u64;
        for range in ranges {
            let mut arg = ScanArg {
                size: size_of::<ScanArg>() as u64,
                flags: PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
                start: base + range.start as u64,
                end: base + range.end as u64,
                category_mask: PAGE_IS_WRITTEN,
                return_mask: PAGE_IS_WRITTEN,
                ..Default::default()
            };
            // SAFETY: the argument lives across the call, and there is no vector. Writes
            // to protected pages go through as before.
            check(unsafe { libc::ioctl(self.0.as_raw_fd(), PAGEMAP_SCAN, &mut arg) })?;
        }
        Ok(())
    }
}

/// The pages in `part` of `mapping` of all `categories`, which are [`PRIVATE`] and others.
fn scan(
    pagemap: &File,
    mapping: &AddressRange,
    part: Range<usize>,
    categories: u64,
) -> io::Result<Vec<Range<usize>>> {
    assert!(part.end <= mapping.len());
    let base = mapping.base() as u64;
    let end = base + part.end as u64;
    let mut found = Vec::new();
    let mut regions = [Region::default(); BATCH];
    let mut start = base + part.start as u64;
    while start < end {
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            start,
            end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: BATCH as u64,
            category_inverted: PRIVATE,
            category_mask: categories,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_FILE,
            ..Default::default()
        };
        // SAFETY: the argument and the vector it points to live across the call, and
        // the lengths are theirs. The scan itself changes no memory.
        let count = check(unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &mut arg) })?;
        for region in &regions[..count as usize] {
            append(
                &mut found,
                (region.start - base) as usize..(region.end - base) as usize,
            );
        }
        start = arg.walk_end;
    }
    Ok(found)
}

/// Bits of an entry: the page is the file's (or shared), swapped, present.
const ENTRY_FILE: u64 = 1 << 61;
const ENTRY_SWAPPED: u64 = 1 << 62;
const ENTRY_PRESENT: u64 = 1 << 63;

fn read_all(
    pagemap: &File,
    mapping: &AddressRange,
    part: Range<usize>,
) -> io::Result<Vec<Range<usize>>> {
    let first = mapping.base() as usize / PAGE;
    let (begin, end) = (part.start / PAGE, part.end.min(mapping.len()) / PAGE);
    let mut found = Vec::new();
    let mut entries = vec![0; BATCH * size_of::<u64>()];
    for begin in (begin..end).step_by(BATCH) {
        let count = BATCH.min(end - begin);
        let bytes = &mut entries[..count * size_of::<u64>()];
        pagemap.read_exact_at(bytes, ((first + begin) * size_of::<u64>()) as u64)?;
        for (page, entry) in (begin..).zip(bytes.as_chunks::<8>().0) {
            let entry = u64::from_ne_bytes(*entry);
            if entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0 && entry & ENTRY_FILE == 0 {
                append(&mut found, page * PAGE..(page + 1) * PAGE);
            }
        }
    }
    Ok(found)
}

/// Adds a range behind the others, joined to the last if they touch.
fn append(found: &mut Vec<Range<usize>>, range: Range<usize>) {
    match found.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => found.push(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mapping;
    use crate::memfd;
    use crate::userfault::Userfault;
    use std::sync::Arc;

    #[test]
    fn only_written_pages_are_private() {
        let file = memfd::create("test", 64 * PAGE as u64).unwrap();
        let mut mapping = Mapping::reserve(64 * PAGE).unwrap();
        mapping.place_private(&file).unwrap();
        let pagemap = Pagemap::open().unwrap();
        assert_eq!(pagemap.private_ranges(&mapping).unwrap(), []);
        for page in [0, 1, 7, 63] {
            // SAFETY: inside the mapping, which only this test uses.
            unsafe { mapping.base().add(page * PAGE).write_volatile(1) };
        }
        // Reading makes a page present, not private.
        // SAFETY: as above.
        let _ = unsafe { mapping.base().add(20 * PAGE).read_volatile() };
        let expected = [0..2, 7..8, 63..64].map(|pages| pages.start * PAGE..pages.end * PAGE);
        assert_eq!(pagemap.private_ranges(&mapping).unwrap(), expected);
        let all = 0..mapping.len();
        assert_eq!(read_all(&pagemap.0, &mapping, all).unwrap(), expected);
        let (part, expected) = (PAGE..8 * PAGE, [PAGE..2 * PAGE, 7 * PAGE..8 * PAGE]);
        let found = pagemap.private_ranges_in(&mapping, part.clone());
        assert_eq!(found.unwrap(), expected);
        assert_eq!(read_all(&pagemap.0, &mapping, part).unwrap(), expected);
    }

    #[test]
    fn of_watched_pages_those_written_since_they_were_protected_are_told() {
        let file = memfd::create("test", 64 * PAGE as u64).unwrap();
        let mut mapping = Mapping::reserve(64 * PAGE).unwrap();
        mapping.place_private(&file).unwrap();
        // SAFETY: inside the mapping, which only this test uses.
        let write = |page: usize| unsafe { mapping.base().add(page * PAGE).write_volatile(1) };
        let pages = |pages: Range<usize>| pages.start * PAGE..pages.end * PAGE;
        let pagemap = Pagemap::open().unwrap();
        [1, 2, 7].into_iter().for_each(write);
        let watched = match Userfault::open() {
            Ok(userfault) => Arc::new(userfault).watch(mapping.range()).unwrap(),
            // Before Linux 6.7, which has no `PAGEMAP_SCAN` either.
            Err(error) => {
                assert!(error.is_final());
                return assert!(scan(&pagemap.0, &mapping, 0..PAGE, PRIVATE).is_err());
            }
        };
        let all = [pages(1..3), pages(7..8)];
        assert_eq!(
            pagemap.written_ranges(&mapping, 0..mapping.len()).unwrap(),
            all
        );
        pagemap.protect(&mapping, &all).unwrap();
        assert_eq!(
            pagemap.written_ranges(&mapping, 0..mapping.len()).unwrap(),
            []
        );
        [2, 40].into_iter().for_each(write);
        let written = [pages(2..3), pages(40..41)];
        assert_eq!(
            pagemap.written_ranges(&mapping, 0..mapping.len()).unwrap(),
            written
        );
        assert_eq!(pagemap.private_ranges(&mapping).unwrap().len(), 3);
        drop(watched);
    }
}
