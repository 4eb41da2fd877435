//! A frozen image of guest RAM.

use crate::sys::fds::{FdIndex, FdTable};
use crate::sys::mapping::Mapping;
use crate::sys::memfd;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Guest RAM as it was at one point in time. Nobody writes it any more; any
/// number of machines run privately on top.
///
/// It is a `base`, which all relatives share page by page, and `changes`: what
/// the machine it was taken from had written since the base was frozen.
#[derive(Debug, Clone)]
pub struct RamImage {
    /// A memory file of the RAM's size.
    pub(super) base: Arc<File>,
    /// What differs from it.
    pub(super) changes: Option<Changes>,
}

/// Pages that differ from an image's base: `ranges` of the RAM, whose contents
/// lie one after the other in `arena`.
#[derive(Debug, Clone)]
pub(super) struct Changes {
    ranges: Vec<Range<usize>>,
    arena: Arc<File>,
}

/// [`RamImage`] as it travels: the descriptors are in an [`FdTable`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RamImageState {
    base: FdIndex,
    changes: Option<(FdIndex, Vec<Range<usize>>)>,
}

impl Changes {
    /// Copies `ranges` out of a mapping that stands still.
    pub(super) fn copy_from(mapping: &Mapping, ranges: Vec<Range<usize>>) -> io::Result<Self> {
        let len: usize = ranges.iter().map(Range::len).sum();
        let arena = memfd::create("hyperfork-changes", len as u64)?;
        let mut offset = 0;
        for range in &ranges {
            let bytes = mapping.bytes(range.clone());
            arena.write_all_at(bytes, offset)?;
            offset += range.len() as u64;
        }
        memfd::seal(&arena)?;
        Ok(Self {
            ranges,
            arena: Arc::new(arena),
        })
    }

    /// Copies the pages into a private mapping of the same base.
    fn apply(&self, mapping: &mut Mapping) -> io::Result<()> {
        let mut offset = 0;
        for range in &self.ranges {
            if range.end > mapping.len() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the image's changes lie outside of it",
                ));
            }
            mapping.populate_write(range.start, range.len())?;
            mapping.fill(range.clone(), |bytes| {
                self.arena.read_exact_at(bytes, offset)
            })?;
            offset += range.len() as u64;
        }
        Ok(())
    }
}

impl RamImage {
    /// Puts the image into `mapping`, privately.
    ///
    /// # Errors
    /// As `mmap(2)`; `InvalidData` when the image does not fit the mapping.
    pub fn place(&self, mapping: &mut Mapping) -> io::Result<()> {
        if self.base.metadata()?.len() != mapping.len() as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the image is not of this machine's memory size",
            ));
        }
        mapping.place_private(&self.base)?;
        self.changes
            .iter()
            .try_for_each(|changes| changes.apply(mapping))
    }

    /// For the way to another process.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn save(&self, fds: &mut FdTable) -> io::Result<RamImageState> {
        let base = fds.push(self.base.as_fd())?;
        let changes = match &self.changes {
            None => None,
            Some(changes) => Some((fds.push(changes.arena.as_fd())?, changes.ranges.clone())),
        };
        Ok(RamImageState { base, changes })
    }

    /// And back.
    ///
    /// # Errors
    /// When the descriptors it names are not there.
    pub fn restore(state: RamImageState, fds: &FdTable) -> io::Result<Self> {
        let changes = match state.changes {
            None => None,
            Some((arena, ranges)) => Some(Changes {
                ranges,
                arena: Arc::new(fds.get(arena)?.into()),
            }),
        };
        Ok(Self {
            base: Arc::new(fds.get(state.base)?.into()),
            changes,
        })
    }
}
