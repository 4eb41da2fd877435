//! A frozen image of guest RAM.

use super::ranges;
use crate::sys::fds::{FdIndex, FdTable};
use crate::sys::mapping::Mapping;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
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

/// What is in a mapping that was [primed](RamImage::prime).
#[derive(Debug)]
pub(super) struct Primed {
    /// Device and inode of the base.
    base: (u64, u64),
    /// Pages that hold something else than the base.
    changed: Vec<Range<usize>>,
    /// Pages that are the mapping's own; all others are the base's.
    populated: Vec<Range<usize>>,
}

impl RamImageState {
    /// The image, or when its changes are more than `most` bytes, its base alone.
    pub fn bounded(mut self, most: usize) -> Self {
        self.changes = self
            .changes
            .filter(|(_, ranges)| ranges.iter().map(Range::len).sum::<usize>() <= most);
        self
    }
}

impl Primed {
    /// Whether `image` can go on top: it must overwrite every page that is not the
    /// base's. So it does not matter for which machine the mapping was primed.
    fn suits(&self, image: &RamImage) -> io::Result<bool> {
        let same_base = identity(&image.base)? == self.base;
        Ok(same_base && ranges::without(&self.changed, image.changed()).is_empty())
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino()))
}

/// [`RamImage`] as it travels: the descriptors are in an [`FdTable`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RamImageState {
    base: FdIndex,
    changes: Option<(FdIndex, Vec<Range<usize>>)>,
}

impl Changes {
    /// Pages that were copied into `arena`.
    pub(super) fn new(ranges: Vec<Range<usize>>, arena: Arc<File>) -> Self {
        Self { ranges, arena }
    }

    /// Copies the pages into a private mapping of the same base.
    fn apply(&self, mapping: &mut Mapping, populated: &[Range<usize>]) -> io::Result<()> {
        for range in ranges::without(&self.ranges, populated) {
            mapping.populate_write(range.start, range.len())?;
        }
        mapping.read_into(&self.ranges, &*self.arena)
    }
}

impl RamImage {
    /// Puts the image into `mapping`, privately. What `primed` says is there already
    /// need not be made again.
    ///
    /// # Errors
    /// As `mmap(2)`; `InvalidData` when the image does not fit the mapping.
    pub(super) fn place(&self, mapping: &mut Mapping, primed: Option<&Primed>) -> io::Result<()> {
        let changed = self.changed();
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if self.base.metadata()?.len() != mapping.len() as u64 {
            return invalid("the image is not of this machine's memory size");
        }
        if !ranges::are_ordered_within(changed, mapping.len()) {
            return invalid("the image's changes lie outside of it");
        }
        let mut populated: &[Range<usize>] = &[];
        match primed {
            Some(primed) if primed.suits(self)? => populated = &primed.populated,
            _ => mapping.place_private(&self.base)?,
        }
        self.changes
            .iter()
            .try_for_each(|changes| changes.apply(mapping, populated))
    }

    /// Puts the image into `mapping` in advance, for a clone of a later one of the same
    /// line, and makes the pages in `touched` the mapping's own.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub(super) fn prime(
        &self,
        mapping: &mut Mapping,
        touched: &[Range<usize>],
    ) -> io::Result<Primed> {
        self.place(mapping, None)?;
        if !ranges::are_ordered_within(touched, mapping.len()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // Writing nothing into a private page copies it.
        for range in touched {
            mapping.populate_write(range.start, range.len())?;
        }
        Ok(Primed {
            base: identity(&self.base)?,
            changed: self.changed().to_vec(),
            populated: ranges::union(self.changed(), touched),
        })
    }

    /// The pages that differ from the base, as ranges of bytes.
    pub fn changed(&self) -> &[Range<usize>] {
        self.changes.as_ref().map_or(&[], |changes| &changes.ranges)
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
