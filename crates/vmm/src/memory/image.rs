//! A frozen image of guest RAM: placing it in a mapping, and sharing it with other processes.

use super::layers::{Layers, LayersState};
use super::ranges;
use crate::blobs::{BlobReader, BlobWriter};
use crate::sys::hands::{Helpers, NoHelpers};
use crate::sys::mapping::Mapping;
use crate::sys::memfd::FrozenFile;
use hyperfork_state::{BlobRef, BlobRole, RecordType};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// Guest RAM as it was at one point in time. It never changes; any number of machines map it
/// privately.
///
/// It consists of a `base`, which all machines of a family share, and `changes`: the pages that
/// the captured machine had written since the base was frozen.
#[derive(Debug, Clone)]
pub struct RamImage {
    /// A memory file of the RAM's size, complete. (A base that is still being fetched would have
    /// to tell which ranges are absent. A pager would write into the file, by a mapping made before
    /// it was frozen, and not into private pages, which count as written. And a hole would not
    /// mean zeroes, which [free pages](super::FreePages) assume.)
    pub(super) base: FrozenFile,
    /// The pages that differ from the base.
    pub(super) changes: Layers,
}

/// The result of placing an image in a mapping.
pub(super) struct Mapped {
    /// What is mapped: all pages of the mapping that are not private are as in this image.
    pub(super) image: RamImage,
    /// The changes that were copied into private pages.
    copied: Vec<Range<usize>>,
}

/// Pieces of this many bytes or more are mapped rather than copied. Mapping one takes as
/// long as copying four pages, and the kernel then maps 16 pages at each read fault.
const LEAST_MAPPED: usize = 64 << 10;

/// The changes of an image are all copied if they are in more files than this, so that a long
/// line of clones does not need ever more files.
pub(super) const MOST_FILES: usize = 24;

/// The contents of a mapping that was [preloaded](RamImage::preload).
#[derive(Debug)]
pub(super) struct Preloaded {
    /// Device and inode of the base.
    base: (u64, u64),
    /// Pages that may differ from the base.
    changed: Vec<Range<usize>>,
    /// Private pages; all others are the base's.
    populated: Vec<Range<usize>>,
}

impl Preloaded {
    /// Whether an image with this `base` and changes in `changed` can be placed on top: it must
    /// overwrite every page that differs from the base. So it does not matter for which machine
    /// the mapping was preloaded.
    fn suits(&self, base: &File, changed: &[Range<usize>]) -> io::Result<bool> {
        let same_base = identity(base)? == self.base;
        Ok(same_base && ranges::without(&self.changed, changed).is_empty())
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino()))
}

/// A [`RamImage`] as a record: its files are blobs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RamImageState {
    base: BlobRef,
    changes: Option<LayersState>,
}

impl RecordType for RamImageState {
    const KIND: &'static str = "ram";
    const VERSION: u16 = 1;

    fn blobs(&self) -> Vec<BlobRef> {
        let changes = self.changes.iter().flat_map(LayersState::blobs);
        std::iter::once(self.base).chain(changes.copied()).collect()
    }
}

#[cfg(test)]
impl RamImageState {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            base: BlobRef(0),
            changes: Some(LayersState::sample()),
        }
    }
}

impl RamImage {
    /// An image without changes.
    pub(super) fn of_base(base: FrozenFile) -> Self {
        let changes = Layers::default();
        Self { base, changes }
    }

    /// The image, or when placing it would copy more than `most` bytes, its base alone.
    pub(crate) fn bounded(self, most: usize) -> Self {
        match self.changes.len_below(LEAST_MAPPED) <= most {
            true => self,
            false => Self::of_base(self.base),
        }
    }

    /// Puts the image into `mapping`, privately. What `preloaded` says is there already
    /// need not be made again. Large pieces of the changes are mapped, as the base is;
    /// small ones, and such as are in pages that the mapping has of its own, are copied, by
    /// all `helpers`. Returns what is mapped.
    ///
    /// # Errors
    /// As `mmap(2)`; `InvalidData` when the image does not fit the mapping.
    pub(super) fn place(
        &self,
        mapping: &mut Mapping,
        preloaded: Option<&Preloaded>,
        helpers: &dyn Helpers,
    ) -> io::Result<Mapped> {
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if self.base.metadata()?.len() != mapping.len() as u64 {
            return invalid("the image is not of this machine's memory size");
        }
        if !self.changes.are_within(mapping.len()) {
            return invalid("the image's changes lie outside of it");
        }
        let mut populated: &[Range<usize>] = &[];
        match preloaded {
            Some(preloaded) if preloaded.suits(&self.base, &self.changes.ranges())? => {
                populated = &preloaded.populated;
            }
            _ => mapping.place_private(&self.base)?,
        }
        let least = match self.changes.depth() {
            ..=MOST_FILES => LEAST_MAPPED,
            _ => usize::MAX,
        };
        let (mapped, copied) = self.changes.split(populated, least);
        mapped.map_into(mapping)?;
        let copied_ranges = copied.ranges();
        for range in ranges::without(&copied_ranges, populated) {
            mapping.populate_write(range.start, range.len())?;
        }
        copied.read_into(mapping, helpers)?;
        Ok(Mapped {
            image: Self {
                base: self.base.clone(),
                changes: mapped,
            },
            copied: copied_ranges,
        })
    }

    /// Maps the image into `mapping` in advance, for a clone from a later image of the same
    /// family, and makes the pages in `touched` private.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub(super) fn preload(
        &self,
        mapping: &mut Mapping,
        touched: &[Range<usize>],
    ) -> io::Result<Preloaded> {
        let Mapped { copied, .. } = self.place(mapping, None, &NoHelpers)?;
        if !ranges::are_ordered_within(touched, mapping.len()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // Populating for a write copies each page.
        for range in touched {
            mapping.populate_write(range.start, range.len())?;
        }
        Ok(Preloaded {
            base: identity(&self.base)?,
            changed: self.changes.ranges(),
            populated: ranges::union(&copied, touched),
        })
    }

    /// Saves it for another process.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn save(&self, blobs: &mut BlobWriter) -> io::Result<RamImageState> {
        let len = self.base.metadata()?.len();
        let base = blobs.put(self.base.as_fd(), BlobRole::RamBase, len)?;
        let changes = Some(self.changes.save(blobs)?);
        Ok(RamImageState { base, changes })
    }

    /// Restores it in that process.
    ///
    /// # Errors
    /// When the carrier does not find its blobs, or their files can still be
    /// [written](crate::sys::memfd::NotFrozen).
    pub fn restore(state: RamImageState, blobs: BlobReader<'_>) -> io::Result<Self> {
        let changes = state
            .changes
            .map(|changes| Layers::restore(changes, blobs))
            .transpose()?;
        Ok(Self {
            base: FrozenFile::receive(blobs.open(state.base)?)?,
            changes: changes.unwrap_or_default(),
        })
    }
}
