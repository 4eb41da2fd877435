//! Files written through a mapping, without a system call.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// The beginning of a file, mapped. Others may read it at the same time.
#[derive(Debug)]
pub(crate) struct Page {
    start: NonNull<AtomicU8>,
    len: usize,
}

impl Page {
    /// The usual length of one.
    pub(crate) const LEN: usize = 4096;

    /// Maps the beginning of a file that has at least `len` bytes and goes on having them:
    /// a program that cuts it short ends this process.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` for a file that is too short.
    pub(crate) fn map(file: &File, len: usize) -> io::Result<Self> {
        if len == 0 || file.metadata()?.len() < len as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let shared = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
        let start = unsafe {
            let fd = file.as_raw_fd();
            libc::mmap(ptr::null_mut(), len, access, shared, fd, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { start, len })
    }

    fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: `len` bytes that are mapped for reading and writing as long as `self` lives.
        // What other processes do to them meanwhile is what atomics are for.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Overwrites all of it with zeros.
    pub(crate) fn clear(&self) {
        for place in self.bytes() {
            place.store(0, Ordering::Release);
        }
    }

    /// Writes the bytes at the beginning, the last one first.
    ///
    /// A reader in the usual order that finds the first bytes new has only new ones;
    /// a reader that finds the last ones old has only old ones.
    pub(crate) fn write(&self, bytes: &[u8]) {
        self.write_at(0, bytes);
    }

    /// The same from another place on.
    pub(crate) fn write_at(&self, offset: usize, bytes: &[u8]) {
        for (place, byte) in self.bytes()[offset..].iter().zip(bytes).rev() {
            place.store(*byte, Ordering::Release);
        }
    }

    /// Reads all of it, the first byte first.
    #[cfg(test)]
    pub(crate) fn read(&self) -> Vec<u8> {
        let bytes = self.bytes().iter();
        bytes.map(|byte| byte.load(Ordering::Acquire)).collect()
    }

    /// The first four bytes as a number, in the processor's order.
    pub(crate) fn number(&self) -> &AtomicU32 {
        assert!(self.len >= size_of::<AtomicU32>());
        // SAFETY: a page's beginning is aligned, long enough as was just seen, and lives as
        // long as `self`. The bytes are only accessed atomically.
        unsafe { self.start.cast::<AtomicU32>().as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the whole of a mapping that no code refers to any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
