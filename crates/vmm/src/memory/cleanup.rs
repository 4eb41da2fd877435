//! What a freeze leaves to be done where no one waits for it.

use super::arena::{Arena, Spare};
use super::tracking::{Copied, Tracking};
use crate::sys::mapping::Mapping;
use crate::sys::memfd::{MemoryFile, SealError};
use crate::sys::pagemap::Pagemap;
use std::io;
use std::sync::Arc;

/// Work that takes milliseconds per GiB, for after a fork. To drop it instead loses no more
/// than time: the next fork may take longer, and images keep only the seals they were handed
/// over with. Nothing in it sleeps or waits unless it is [run](Self::run).
#[derive(Debug, Default)]
#[must_use = "run it off the fork path"]
pub struct DeferredCleanup {
    /// Of a first freeze.
    retired: Option<RetiredMapping>,
    /// Where later ones have copied to.
    arenas: Vec<Arena>,
    next: Option<NextFreeze>,
}

/// Where RAM was mapped before its first freeze, and the file that was mapped there: it can
/// be sealed for good when that is unmapped.
#[derive(Debug)]
pub(super) struct RetiredMapping {
    mapping: Mapping,
    base: MemoryFile,
}

/// How to make ready for the next freeze.
#[derive(Debug)]
pub(super) struct NextFreeze {
    /// Where to put another arena.
    pub(super) spare: Spare,
    pub(super) tracking: Tracking,
    pub(super) pagemap: Arc<Pagemap>,
    /// What the last one has copied.
    pub(super) copied: Copied,
}

impl RetiredMapping {
    /// `base` is mapped, shared, in `mapping` and nowhere else.
    pub(super) fn new(mapping: Mapping, base: MemoryFile) -> Self {
        Self { mapping, base }
    }

    fn complete(self) -> Result<(), SealError> {
        drop(self.mapping);
        self.base.complete().map(drop)
    }
}

impl DeferredCleanup {
    /// After a first freeze.
    pub(super) fn retire(&mut self, mapping: RetiredMapping) {
        self.retired = Some(mapping);
    }

    /// After each that has copied something into `arenas`.
    pub(super) fn prepare_next(&mut self, arenas: Vec<Arena>, next: NextFreeze) {
        self.arenas.extend(arenas);
        self.next = Some(next);
    }

    /// Unmaps what was mapped before, seals the image for good, and makes ready for the next
    /// freeze. All of it is tried, whatever fails.
    ///
    /// # Errors
    /// When the image cannot be sealed: somewhere it is still mapped writable. When the host
    /// is out of memory.
    pub fn run(self) -> io::Result<()> {
        let Self {
            retired,
            arenas,
            next,
        } = self;
        let base = retired.map_or(Ok(()), RetiredMapping::complete);
        let has_copied = !arenas.is_empty();
        let mut completed = Ok(());
        for arena in arenas {
            completed = completed.and(arena.complete());
        }
        let prepared = next.map_or(Ok(()), |next| next.prepare(has_copied));
        base.and(completed)?;
        prepared
    }
}

impl NextFreeze {
    fn prepare(self, has_copied: bool) -> io::Result<()> {
        let settled = self.tracking.settle(self.copied, &self.pagemap);
        let expected = *settled.as_ref().unwrap_or(&self.copied.while_at_rest());
        if has_copied {
            self.spare.prepare(expected)?;
        }
        settled.map(drop)
    }
}
