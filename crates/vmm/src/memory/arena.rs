//! Memory for the pages a fork copies, populated before they are copied: into fresh
//! memory 1 000 pages take 2–7 ms, into populated memory 0.15 (PVM host).

use crate::sys::mapping::Mapping;
use crate::sys::memfd;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A memory file mapped for writing. Only its maker writes it, and only until it is
/// [finished](Self::finish).
#[derive(Debug)]
pub(super) struct Arena {
    mapping: Mapping,
    file: Arc<File>,
    used: usize,
}

/// An arena for the next fork, made by whoever has time.
#[derive(Debug, Clone, Default)]
pub(super) struct Spare(Arc<Mutex<Option<Arena>>>);

/// Least bytes of a spare arena, and most: a fork that needs more pays for it itself.
const LEAST: usize = 256 << 10;
const MOST: usize = 64 << 20;

impl Arena {
    /// An arena of `len` bytes, populated.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let file = memfd::create("hyperfork-changes", len as u64)?;
        let mut mapping = Mapping::reserve(len)?;
        mapping.place_shared(&file)?;
        mapping.populate_write(0, len)?;
        Ok(Self {
            mapping,
            file: Arc::new(file),
            used: 0,
        })
    }

    /// Copies `ranges` of a mapping that stands still, one behind the other.
    pub(super) fn copy_from(&mut self, source: &Mapping, ranges: &[Range<usize>]) {
        for range in ranges {
            let place = self.used..self.used + range.len();
            self.used = place.end;
            let bytes = source.bytes(range.clone());
            let filled: Result<(), std::convert::Infallible> = self.mapping.fill(place, |target| {
                target.copy_from_slice(bytes);
                Ok(())
            });
            let Ok(()) = filled;
        }
    }

    /// The file, for readers.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Gives back what was not needed and seals the rest.
    pub(super) fn finish(self) -> io::Result<()> {
        drop(self.mapping);
        self.file.set_len(self.used as u64)?;
        memfd::seal(&*self.file)
    }
}

impl Spare {
    /// The spare arena if it is large enough, or a new one.
    pub(super) fn take(&self, len: usize) -> io::Result<Arena> {
        let spare = self.lock().take();
        match spare.filter(|arena| arena.mapping.len() >= len) {
            Some(arena) => Ok(arena),
            None => Arena::new(len),
        }
    }

    /// Makes one that would do for a fork that needs about `expected` bytes.
    pub(super) fn prepare(&self, expected: usize) -> io::Result<()> {
        const PAGE: usize = 4096;
        const ROOM: usize = 1 << 20;
        let len = (expected + expected.min(ROOM)).next_multiple_of(PAGE);
        let len = len.clamp(LEAST, MOST);
        let arena = Arena::new(len)?;
        *self.lock() = Some(arena);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arena>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
