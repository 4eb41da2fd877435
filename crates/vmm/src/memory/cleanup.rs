//! Work that a freeze leaves to be done off the fork path.

use super::arena::{Arena, Spare};
use super::tracking::{Copied, Tracking};
use crate::sys::mapping::Mapping;
use crate::sys::memfd::{MemoryFile, SealError};
use crate::sys::pagemap::Pagemap;
use std::io;
use std::sync::Arc;

/// Work that takes milliseconds per GiB, to be done after a fork. Dropping it instead is safe: the
/// next fork may take longer, and images keep only the seals they were handed over with.
#[derive(Debug, Default)]
#[must_use = "run it off the fork path"]
pub struct DeferredCleanup {
    /// Left over by the first freeze.
    retired: Option<RetiredMapping>,
    /// What later freezes have copied into.
    arenas: Vec<Arena>,
    next: Option<NextFreeze>,
}

/// The shared mapping of RAM before its first freeze, and the file behind it, which can get all
/// its seals when that mapping is gone.
#[derive(Debug)]
pub(super) struct RetiredMapping {
    mapping: Mapping,
    base: MemoryFile,
}

/// Preparations for the next freeze.
#[derive(Debug)]
pub(super) struct NextFreeze {
    /// Takes the next spare arena.
    pub(super) spare: Spare,
    pub(super) tracking: Tracking,
    pub(super) pagemap: Arc<Pagemap>,
    /// What the last freeze has copied.
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
    /// Adds what the first freeze leaves over.
    pub(super) fn retire(&mut self, mapping: RetiredMapping) {
        self.retired = Some(mapping);
    }

    /// Adds what each freeze leaves over, which has copied into `arenas`.
    pub(super) fn prepare_next(&mut self, arenas: Vec<Arena>, next: NextFreeze) {
        self.arenas.extend(arenas);
        self.next = Some(next);
    }

    /// Unmaps the retired mapping, gives the image its last seals, and prepares the next freeze.
    /// If one of these fails, the others are done nevertheless.
    ///
    /// # Errors
    /// When the image cannot be sealed, because it is still mapped writable somewhere. When the
    /// host is out of memory.
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
