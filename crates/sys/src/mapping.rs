//! A range of the process's address space that the monitor owns.

use super::check;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags};
use std::io::{self, IoSliceMut};
use std::mem::ManuallyDrop;
use std::ops::{Deref, Range};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use vm_memory::MmapRegion;
use vm_memory::mmap::MmapRegionError;

/// Alignment of every range, so that huge pages can back it.
const ALIGN: usize = 2 << 20;

/// An owned range of addresses. What is mapped there changes; the addresses
/// never do while this lives, which is what lets KVM keep a memory slot over it.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

/// A [`Mapping`] of somebody else.
#[derive(Debug)]
pub struct Alias(ManuallyDrop<Mapping>);

impl Deref for Alias {
    type Target = Mapping;

    fn deref(&self) -> &Mapping {
        &self.0
    }
}

// SAFETY: a Mapping is an address range; what lies in it is guest memory, which is
// accessed only through volatile or system-call copies.
unsafe impl Send for Mapping {}
// SAFETY: as above; the methods that change what is mapped take `&mut self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves `len` bytes of addresses, aligned to 2 MiB, with nothing behind
    /// them.
    ///
    /// # Errors
    /// When the address space is used up.
    pub fn reserve(len: usize) -> io::Result<Self> {
        let padded = len + ALIGN;
        // SAFETY: a fresh anonymous mapping where the kernel likes aliases nothing.
        let raw = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                padded,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        }
        .cast::<u8>();
        let head = raw.align_offset(ALIGN);
        // SAFETY: both trimmed pieces lie inside the mapping just made, which nothing
        // refers to yet; `head < ALIGN`, so `base + len` stays inside as well.
        let base = unsafe {
            if head > 0 {
                rustix::mm::munmap(raw.cast(), head)?;
            }
            rustix::mm::munmap(raw.add(head + len).cast(), padded - head - len)?;
            raw.add(head)
        };
        Ok(Self {
            // SAFETY: mmap never returns null on success for a non-fixed mapping.
            base: unsafe { NonNull::new_unchecked(base) },
            len,
        })
    }

    /// Puts the first bytes of `file` here, shared: writes go to the file. Children made
    /// by `fork(2)` do not get it: they could write what is sealed for all others.
    ///
    /// # Errors
    /// As `mmap(2)` and `madvise(2)`.
    pub fn place_shared(&mut self, file: impl AsFd) -> io::Result<()> {
        self.place(0..self.len, file, 0, MapFlags::SHARED)?;
        keep_from_children(self.base.as_ptr(), self.len)
    }

    /// Asks for huge pages, where the host gives them on request.
    pub fn prefer_huge_pages(&mut self) {
        // SAFETY: a wish, which changes no contents. It may not come true.
        unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE) };
    }

    /// Puts the first bytes of `file` here, private: writes stay in this process.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub fn place_private(&mut self, file: impl AsFd) -> io::Result<()> {
        self.place_private_part(0..self.len, file, 0)
    }

    /// Puts what `file` holds from `offset` on into `range`, private.
    ///
    /// # Errors
    /// As `mmap(2)`.
    ///
    /// # Panics
    /// When the range is not inside the mapping.
    pub fn place_private_part(
        &mut self,
        range: Range<usize>,
        file: impl AsFd,
        offset: u64,
    ) -> io::Result<()> {
        self.place(range, file, offset, MapFlags::PRIVATE)
    }

    fn place(
        &mut self,
        range: Range<usize>,
        file: impl AsFd,
        offset: u64,
        sharing: MapFlags,
    ) -> io::Result<()> {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: MAP_FIXED replaces only our own range; its users hold raw addresses
        // and no references, so new contents under them are what is asked for.
        unsafe {
            rustix::mm::mmap(
                self.base.as_ptr().add(range.start).cast(),
                range.len(),
                ProtFlags::READ | ProtFlags::WRITE,
                sharing | MapFlags::FIXED | MapFlags::NORESERVE,
                file,
                offset,
            )?;
        }
        Ok(())
    }

    /// Moves what is mapped in `range` to the same place in `aside`, page tables and all.
    /// The file that was mapped here still is, without page tables. Mapping over a
    /// populated range instead would tear them down while the guest waits.
    ///
    /// # Errors
    /// As `mremap(2)`.
    ///
    /// # Panics
    /// When the range is not inside both mappings.
    pub fn move_aside(&mut self, range: Range<usize>, aside: &mut Self) -> io::Result<()> {
        assert!(range.start <= range.end && range.end <= self.len.min(aside.len));
        // SAFETY: both ranges are ours and of one length. DONTUNMAP leaves the old
        // range mapped, so no other thread can be given its addresses.
        unsafe {
            rustix::mm::mremap_fixed(
                self.base.as_ptr().add(range.start).cast(),
                range.len(),
                range.len(),
                MremapFlags::MAYMOVE | MremapFlags::DONTUNMAP,
                aside.base.as_ptr().add(range.start).cast(),
            )?;
        }
        Ok(())
    }

    /// Takes what is mapped here over, private pages included, and leaves nothing. The
    /// addresses stay as they are.
    pub fn take(&mut self) -> Self {
        let Self { base, len } = *self;
        self.len = 0;
        Self { base, len }
    }

    /// Faults in writable pages for `len` bytes at `offset`, at a fraction of
    /// what faulting them one by one would cost.
    ///
    /// # Errors
    /// As `madvise(2)`, `MADV_POPULATE_WRITE`.
    ///
    /// # Panics
    /// When the range is not inside the mapping.
    pub fn populate_write(&mut self, offset: usize, len: usize) -> io::Result<()> {
        const MADV_POPULATE_WRITE: libc::c_int = 23;
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: the range is inside ours and writable; populating changes no contents.
        let result = unsafe {
            libc::madvise(
                self.base.as_ptr().add(offset).cast(),
                len,
                MADV_POPULATE_WRITE,
            )
        };
        check(result).map(drop)
    }

    /// Lets go of the pages in `range` that have become this process's own: where a file is
    /// mapped privately, what that holds shows again.
    ///
    /// # Errors
    /// As `madvise(2)`, `MADV_DONTNEED`.
    ///
    /// # Panics
    /// When the range is not inside the mapping.
    pub fn drop_own(&self, range: Range<usize>) -> io::Result<()> {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: the range is inside ours. Its users hold raw addresses and no references;
        // to them it is as if somebody had written there.
        let result = unsafe {
            libc::madvise(
                self.base.as_ptr().add(range.start).cast(),
                range.len(),
                libc::MADV_DONTNEED,
            )
        };
        check(result).map(drop)
    }

    /// The same range once more, for somebody who does not own it.
    ///
    /// # Safety
    /// It must be gone before this is.
    pub unsafe fn alias(&self) -> Alias {
        let Self { base, len } = *self;
        Alias(ManuallyDrop::new(Self { base, len }))
    }

    /// Writes the bytes of `range` to `file` at `offset`, whoever may be changing them.
    ///
    /// # Errors
    /// As `pwrite(2)`.
    ///
    /// # Panics
    /// When the range is not inside the mapping.
    pub fn write_out(&self, range: Range<usize>, file: impl AsFd, offset: u64) -> io::Result<()> {
        assert!(range.start <= range.end && range.end <= self.len);
        let mut done = 0;
        while done < range.len() {
            // SAFETY: the kernel reads inside the mapping, which is readable memory.
            let wrote = unsafe {
                libc::pwrite(
                    file.as_fd().as_raw_fd(),
                    self.base.as_ptr().add(range.start + done).cast(),
                    range.len() - done,
                    (offset as usize + done) as libc::off_t,
                )
            };
            match wrote {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                1.. => done += wrote as usize,
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// The bytes of `range`, for copying out of a machine that stands still.
    ///
    /// # Panics
    /// When the range is not inside the mapping.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the mapping, which is readable memory. The machine stands
        // still, so nobody writes there while the borrow lasts; the bytes are only
        // handed to a system call.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(range.start), range.len()) }
    }

    /// Copies the bytes of `range` of a machine that stands still to `at` in this mapping,
    /// where nobody reads or writes meanwhile.
    ///
    /// # Panics
    /// When either is not inside its mapping.
    pub fn copy_in(&self, at: usize, source: &Self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= source.len);
        assert!(
            at.checked_add(range.len())
                .is_some_and(|end| end <= self.len)
        );
        // SAFETY: both lie inside their mappings, of which one is readable memory and the
        // other writable; two mappings do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(
                source.base.as_ptr().add(range.start),
                self.base.as_ptr().add(at),
                range.len(),
            );
        }
    }

    /// Reads `file` from `offset` on into `ranges`, one behind the other, of a machine
    /// that does not run yet.
    ///
    /// # Errors
    /// As `preadv(2)`; when the file is too short.
    ///
    /// # Panics
    /// When a range is not inside the mapping.
    pub fn read_into(
        &self,
        ranges: &[Range<usize>],
        file: impl AsFd,
        mut offset: u64,
    ) -> io::Result<()> {
        /// Most parts of one call (`IOV_MAX`).
        const MOST: usize = 1024;
        for ranges in ranges.chunks(MOST) {
            let mut parts: Vec<_> = ranges
                .iter()
                .map(|range| {
                    assert!(range.start <= range.end && range.end <= self.len);
                    // SAFETY: inside the mapping, which is writable memory nobody else
                    // uses yet; should ranges overlap, the bytes are only written, by
                    // the kernel.
                    IoSliceMut::new(unsafe {
                        std::slice::from_raw_parts_mut(
                            self.base.as_ptr().add(range.start),
                            range.len(),
                        )
                    })
                })
                .collect();
            let mut parts = &mut parts[..];
            while !parts.is_empty() {
                match rustix::io::preadv(&file, parts, offset) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(read) => {
                        offset += read as u64;
                        IoSliceMut::advance_slices(&mut parts, read);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// A part of the range as a library's guest memory region. It must not
    /// outlive the mapping.
    ///
    /// # Errors
    /// The library's, for a length of 0.
    ///
    /// # Panics
    /// When the range is not inside the mapping.
    pub fn region(&self, offset: usize, len: usize) -> Result<MmapRegion, MmapRegionError> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_NORESERVE | libc::MAP_SHARED;
        // SAFETY: the range is a mapping of ours that outlives the region; the region
        // does not own it, and accesses it by volatile copies only.
        unsafe { MmapRegion::build_raw(self.base.as_ptr().add(offset), len, protection, flags) }
    }

    /// Where the range begins.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no length.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        // SAFETY: the range is ours and its last user is gone with us.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Has children made by `fork(2)` not get the pages at `base`.
///
/// # Errors
/// As `madvise(2)`, `MADV_DONTFORK`.
pub fn keep_from_children(base: *mut u8, len: usize) -> io::Result<()> {
    // SAFETY: changes nothing in this process. A child that uses the addresses
    // nevertheless gets a signal, not somebody else's memory.
    check(unsafe { libc::madvise(base.cast(), len, libc::MADV_DONTFORK) }).map(drop)
}
