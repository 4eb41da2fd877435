//! Ranges of the process's address space that the monitor owns, and what is mapped there.
//!
//! ```text
//! Mapping ──────────> Arc<AddressRange> <────── regions of guest memory, tracking, free pages
//! says what is        the addresses: unmapped   read, write, and drop pages
//! mapped there        when the last of all is gone
//! ```

use super::check;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags};
use std::io;
use std::ops::{Deref, Range};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// Alignment of every range, so that huge pages can back it.
const ALIGN: usize = 2 << 20;

/// Addresses that stay reserved as long as a value refers to them, whatever is mapped there.
///
/// The memory there is guest memory: the guest, its devices and the kernel change it at any time.
/// So no Rust reference to it is ever made; it is accessed by volatile operations and by system
/// calls. The mapping may be replaced meanwhile: the kernel does that in one step, and a later
/// access finds other bytes, as if they had been written. An access where nothing is mapped kills
/// the process by a signal.
#[derive(Debug)]
pub struct AddressRange {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the addresses are the process's, not a thread's.
unsafe impl Send for AddressRange {}
// SAFETY: see above: all methods either touch no memory, or access it by volatile operations or
// system calls, which other threads may do at the same time. The exception is unsafe to call.
unsafe impl Sync for AddressRange {}

/// The owner of an [`AddressRange`], who alone can change what is mapped there. The addresses
/// never change, so KVM can keep a memory slot over them.
#[derive(Debug)]
pub struct Mapping(Arc<AddressRange>);

impl Deref for Mapping {
    type Target = AddressRange;

    fn deref(&self) -> &AddressRange {
        &self.0
    }
}

impl Mapping {
    /// Reserves `len` bytes of addresses, aligned to 2 MiB, with nothing behind
    /// them.
    ///
    /// # Errors
    /// When the address space is used up.
    pub fn reserve(len: usize) -> io::Result<Self> {
        let padded = len.checked_add(ALIGN).ok_or(io::ErrorKind::OutOfMemory)?;
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
        Ok(Self(Arc::new(AddressRange {
            // SAFETY: mmap never returns null on success for a non-fixed mapping.
            base: unsafe { NonNull::new_unchecked(base) },
            len,
        })))
    }

    /// The addresses, for other values to refer to.
    pub fn range(&self) -> &Arc<AddressRange> {
        &self.0
    }

    /// Maps the first bytes of `file` here, shared: writes go to the file. Children made
    /// by `fork(2)` do not inherit it: they could write a file that is sealed for all others.
    ///
    /// # Errors
    /// As `mmap(2)` and `madvise(2)`.
    pub fn place_shared(&mut self, file: impl AsFd) -> io::Result<()> {
        self.place(0..self.len, file, 0, MapFlags::SHARED)?;
        keep_from_children(self.base.as_ptr(), self.len)
    }

    /// Asks for huge pages, if the host gives them on request.
    pub fn prefer_huge_pages(&mut self) {
        // SAFETY: a hint, which changes no contents. The kernel may ignore it.
        unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE) };
    }

    /// Maps the first bytes of `file` here, private: writes stay in this process.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub fn place_private(&mut self, file: impl AsFd) -> io::Result<()> {
        self.place_private_part(0..self.len, file, 0)
    }

    /// Maps what `file` holds from `offset` on at `range`, private.
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
        // SAFETY: MAP_FIXED replaces only our own range; its users hold raw addresses
        // and no references, so new contents under them are what is asked for.
        unsafe {
            rustix::mm::mmap(
                self.at(&range).cast(),
                range.len(),
                ProtFlags::READ | ProtFlags::WRITE,
                sharing | MapFlags::FIXED | MapFlags::NORESERVE,
                file,
                offset,
            )?;
        }
        Ok(())
    }

    /// Moves the mapping in `range`, with its page tables, to the same offset in `aside`. The file
    /// stays mapped here, but without page tables. Mapping over a populated range instead would
    /// tear the page tables down while the guest waits.
    ///
    /// # Errors
    /// As `mremap(2)`.
    ///
    /// # Panics
    /// When the range is not inside both mappings.
    pub fn move_aside(&mut self, range: Range<usize>, aside: &mut Self) -> io::Result<()> {
        // SAFETY: both ranges are ours and of one length. DONTUNMAP leaves the old
        // range mapped, so no other thread can be given its addresses.
        unsafe {
            rustix::mm::mremap_fixed(
                self.at(&range).cast(),
                range.len(),
                range.len(),
                MremapFlags::MAYMOVE | MremapFlags::DONTUNMAP,
                aside.at(&range).cast(),
            )?;
        }
        Ok(())
    }

    /// Takes over this mapping, private pages included, in a child made by `fork(2)`, where the
    /// parent's value is of no use any more.
    pub fn inherit(&mut self) -> Self {
        Self(self.0.clone())
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
        let at = self.at(&(offset..offset.saturating_add(len)));
        // SAFETY: the range is inside ours and writable; populating changes no contents.
        check(unsafe { libc::madvise(at.cast(), len, MADV_POPULATE_WRITE) }).map(drop)
    }
}

impl AddressRange {
    /// Drops the private pages in `range`: where a file is mapped privately, its contents show
    /// again.
    ///
    /// # Errors
    /// As `madvise(2)`, `MADV_DONTNEED`.
    ///
    /// # Panics
    /// When the range is not inside the mapping.
    pub fn drop_own(&self, range: Range<usize>) -> io::Result<()> {
        // SAFETY: the range is inside ours. Its users hold raw addresses and no references;
        // to them it is as if the file's bytes had been written there.
        let result =
            unsafe { libc::madvise(self.at(&range).cast(), range.len(), libc::MADV_DONTNEED) };
        check(result).map(drop)
    }

    /// The `len` bytes at `offset`, to be accessed as guest memory is.
    ///
    /// # Panics
    /// When they are not inside the mapping.
    pub fn volatile(&self, offset: usize, len: usize) -> VolatileSlice<'_> {
        let at = self.at(&(offset..offset.saturating_add(len)));
        // SAFETY: the addresses are reserved as long as the borrow lasts, and accessed in no
        // other way than volatilely and by system calls.
        unsafe { VolatileSlice::new(at, len) }
    }

    /// Writes the bytes of `range` to `file` at `offset`; they may be changing meanwhile.
    ///
    /// # Errors
    /// As `pwrite(2)`.
    ///
    /// # Panics
    /// When the range is not inside the mapping.
    pub fn write_out(&self, range: Range<usize>, file: impl AsFd, offset: u64) -> io::Result<()> {
        let at = self.at(&range);
        let mut done = 0;
        while done < range.len() {
            // SAFETY: the kernel reads inside the mapping, which is readable memory.
            let wrote = unsafe {
                libc::pwrite(
                    file.as_fd().as_raw_fd(),
                    at.add(done).cast(),
                    range.len() - done,
                    (offset as usize + done) as libc::off_t,
                )
            };
            match wrote {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                1.. => done += wrote as usize,
                _ => uninterrupted()?,
            }
        }
        Ok(())
    }

    /// A copy of the bytes of `range`, read as if a guest were writing them.
    ///
    /// # Panics
    /// When the range is not inside the mapping.
    pub fn bytes(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = vec![0; range.len()];
        self.volatile(range.start, range.len()).copy_to(&mut bytes);
        bytes
    }

    /// Copies the bytes of `range` of `source` to `at` in this mapping.
    ///
    /// # Safety
    /// Both must be mapped. Until this returns, nothing writes what is copied, and nothing
    /// reads or writes where it is copied to.
    ///
    /// # Panics
    /// When either is not inside its mapping.
    pub unsafe fn copy_in(&self, at: usize, source: &Self, range: Range<usize>) {
        let to = self.at(&(at..at.saturating_add(range.len())));
        // SAFETY: both lie inside their mappings, and two mappings do not overlap. The rest
        // is the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(source.at(&range), to, range.len()) };
    }

    /// Reads `file` from `offset` on into `ranges`, one behind the other.
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
            let part = |range: &Range<usize>| libc::iovec {
                iov_base: self.at(range).cast(),
                iov_len: range.len(),
            };
            let mut parts: Vec<_> = ranges.iter().map(part).collect();
            let mut parts = &mut parts[..];
            while !parts.is_empty() {
                let (fd, count) = (file.as_fd().as_raw_fd(), parts.len() as libc::c_int);
                // SAFETY: the kernel writes inside the mapping, where no reference points.
                let read =
                    unsafe { libc::preadv(fd, parts.as_ptr(), count, offset as libc::off_t) };
                match read {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    1.. => {
                        offset += read as u64;
                        parts = behind(parts, read as usize);
                    }
                    _ => uninterrupted()?,
                }
            }
        }
        Ok(())
    }

    /// Where `range` begins.
    fn at(&self, range: &Range<usize>) -> *mut u8 {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the addresses that are ours.
        unsafe { self.base.as_ptr().add(range.start) }
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

/// What is left to be read of `parts` when `read` bytes have been.
fn behind(parts: &mut [libc::iovec], mut read: usize) -> &mut [libc::iovec] {
    let is_read = |part: &&libc::iovec| {
        let all = part.iov_len <= read;
        read -= if all { part.iov_len } else { 0 };
        all
    };
    let whole = parts.iter().take_while(is_read).count();
    let left = &mut parts[whole..];
    if let Some(first) = left.first_mut() {
        first.iov_base = first.iov_base.wrapping_byte_add(read);
        first.iov_len -= read;
    }
    left
}

/// What a system call has failed with, unless it was interrupted by a signal.
fn uninterrupted() -> io::Result<()> {
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error => Err(error),
    }
}

impl Drop for AddressRange {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        // SAFETY: the range is ours and its last user is gone with us.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Keeps children made by `fork(2)` from inheriting the pages at `base`.
///
/// # Errors
/// As `madvise(2)`, `MADV_DONTFORK`.
pub fn keep_from_children(base: *mut u8, len: usize) -> io::Result<()> {
    // SAFETY: changes nothing in this process. If a child uses the addresses
    // nevertheless, it gets a signal, not memory of another.
    check(unsafe { libc::madvise(base.cast(), len, libc::MADV_DONTFORK) }).map(drop)
}

#[cfg(test)]
mod tests;
