//! Memory that a fork copies pages into, populated in advance: copying 1 000 pages takes 2–7 ms
//! into fresh memory, 0.15 ms into populated memory (PVM host).

use super::at_rest::AtRest;
use super::ranges;
use crate::sys::mapping::{AddressRange, Mapping};
use crate::sys::memfd::{FrozenFile, MemoryFile, SealError};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A memory file mapped for writing. Only the process that made it writes it, and only until it
/// is [frozen](Self::freeze).
#[derive(Debug)]
pub(super) struct Arena {
    mapping: Mapping,
    file: MemoryFile,
    used: AtomicUsize,
}

/// An arena for the next fork, made in the background.
#[derive(Debug, Clone, Default)]
pub(super) struct Spare(Arc<Mutex<Option<Arena>>>);

/// Least bytes of a spare arena, and most: a fork that needs more populates the rest itself.
const LEAST: usize = 256 << 10;
const MOST: usize = 64 << 20;

/// A spare arena has room for twice the expected bytes, but for at most this many more than
/// expected.
const ROOM: usize = 1 << 20;

impl Arena {
    /// An arena of `len` bytes, populated.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let file = MemoryFile::create("hyperfork-changes", len as u64)?;
        let mut mapping = Mapping::reserve(len)?;
        mapping.place_shared(&file)?;
        mapping.populate_write(0, len)?;
        Ok(Self {
            mapping,
            file,
            used: AtomicUsize::new(0),
        })
    }

    /// Copies `ranges` of `source`, one behind the other. Several threads may do so at once.
    /// Returns the offset of the first, or `None` if there is no room for them.
    pub(super) fn append(
        &self,
        source: &AddressRange,
        ranges: &[Range<usize>],
        _: &AtRest,
    ) -> Option<usize> {
        let len = ranges::len(ranges);
        let end = |used| Some(used + len).filter(|&end| end <= self.mapping.len());
        let relaxed = Ordering::Relaxed;
        let begin = self.used.fetch_update(relaxed, relaxed, end).ok()?;
        let mut at = begin;
        for range in ranges {
            // SAFETY: the source is mapped, and at rest. These bytes of the arena are mapped, and
            // reserved for this thread; the arena is read only after all copying has ended.
            unsafe { self.mapping.copy_in(at, source, range.clone()) };
            at += range.len();
        }
        Some(begin)
    }

    /// Whether anything was copied into it.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed) > 0
    }

    /// Seals it so that it can be shared with other processes. Nothing can be appended any more.
    ///
    /// Memory that was not used cannot be freed later, and freeing a page now takes as long as
    /// copying one. So up to [`ROOM`], as left over by most forks, it is kept as long as the
    /// copies are.
    ///
    /// # Errors
    /// When it cannot be sealed.
    pub(super) fn freeze(&self) -> io::Result<FrozenFile> {
        let used = self.used.load(Ordering::Relaxed);
        if self.mapping.len() - used > ROOM {
            self.file.set_len(used as u64)?;
        }
        Ok(self.file.freeze()?)
    }

    /// Off the fork path: seals it for good.
    ///
    /// # Errors
    /// As [`MemoryFile::complete`].
    pub(super) fn complete(self) -> Result<(), SealError> {
        drop(self.mapping);
        self.file.complete().map(drop)
    }
}

impl Spare {
    /// The spare arena, if there is one.
    pub(super) fn take(&self) -> Option<Arena> {
        self.lock().take()
    }

    /// Returns an arena that was not used.
    pub(super) fn put_back(&self, arena: Arena) {
        *self.lock() = Some(arena);
    }

    /// Makes a spare arena for a fork that copies about `expected` bytes.
    pub(super) fn prepare(&self, expected: usize) -> io::Result<()> {
        const PAGE: usize = 4096;
        let len = (expected + expected.min(ROOM)).next_multiple_of(PAGE);
        let len = len.clamp(LEAST, MOST);
        self.put_back(Arena::new(len)?);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arena>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{SealFlags, fcntl_add_seals};

    const PAGE: usize = 4096;

    /// An arena of `pages` in which there is one.
    fn used(pages: usize) -> Arena {
        let (source, arena) = (Arena::new(PAGE).unwrap(), Arena::new(pages * PAGE).unwrap());
        // SAFETY: nothing writes the source any more.
        let at_rest = unsafe { AtRest::new() };
        let page = std::slice::from_ref(&(0..PAGE));
        assert_eq!(arena.append(&source.mapping, page, &at_rest), Some(0));
        arena
    }

    #[test]
    fn much_that_was_not_needed_is_given_back_before_it_is_shared() {
        let len = |arena: &Arena| arena.freeze().unwrap().metadata().unwrap().len() as usize;
        assert_eq!(len(&used(ROOM / PAGE)), ROOM);
        assert_eq!(len(&used(ROOM / PAGE + 2)), PAGE);
    }

    #[test]
    fn an_arena_that_cannot_be_sealed_is_not_shared() {
        let arena = used(2);
        fcntl_add_seals(&arena.file, SealFlags::SEAL).unwrap();
        let error = arena.freeze().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    impl Spare {
        /// Leaves one that cannot be sealed.
        pub(in super::super) fn prepare_unsealable(&self) {
            let arena = Arena::new(LEAST).unwrap();
            fcntl_add_seals(&arena.file, SealFlags::SEAL).unwrap();
            self.put_back(arena);
        }
    }
}
