//! The changes of an image to its base: pieces of guest RAM whose contents lie in files, newer
//! ones on top of older ones.

use super::ranges;
use crate::blobs::{BlobReader, BlobWriter};
use crate::sys::hands::Helpers;
use crate::sys::mapping::Mapping;
use crate::sys::memfd::FrozenFile;
use hyperfork_state::{BlobRef, BlobRole};
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes that are read at a time. (The C library keeps memory that was freed: buffers for whole
/// pieces left tens of MiB in the parents of many forks.)
const PART: usize = 256 << 10;

/// Pages of guest RAM, and the files that hold their contents.
#[derive(Debug, Clone, Default)]
pub(super) struct Layers {
    files: Vec<FrozenFile>,
    /// Ascending, and not overlapping.
    pieces: Vec<Piece>,
}

/// Pages whose contents lie one after the other in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    /// Of guest RAM, in bytes.
    range: Range<usize>,
    /// Which file.
    file: usize,
    /// Where in it.
    offset: u64,
}

/// Pieces whose contents lie one after the other in a file from `offset` on, for one read.
struct Read {
    file: usize,
    offset: u64,
    ranges: Vec<Range<usize>>,
}

/// Most pieces of one read: so few that there are enough reads for the helpers.
const MOST_READ: usize = 64;

/// [`Layers`] as a part of a record: the files are blobs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LayersState {
    files: Vec<BlobRef>,
    #[serde(with = "packed")]
    pieces: Vec<Piece>,
}

/// Encodes pieces as bytes: a fork waits for this, and there may be thousands. Field by field it
/// took ten times as long.
mod packed {
    use super::Piece;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const FIELD: usize = size_of::<u64>();
    const FIELDS: usize = 4;

    pub(super) fn serialize<S: Serializer>(pieces: &[Piece], to: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(pieces.len() * FIELDS * FIELD);
        for Piece {
            range,
            file,
            offset,
        } in pieces
        {
            let fields = [range.start as u64, range.end as u64, *file as u64, *offset];
            bytes.extend_from_slice(fields.map(u64::to_le_bytes).as_flattened());
        }
        to.serialize_bytes(&bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Piece>, D::Error> {
        let bytes = <&[u8]>::deserialize(from)?;
        let (fields, rest) = bytes.as_chunks::<FIELD>();
        let (pieces, rest_of_fields) = fields.as_chunks::<FIELDS>();
        if !rest.is_empty() || !rest_of_fields.is_empty() {
            return Err(D::Error::custom("pieces that are not whole"));
        }
        let piece = |fields: &[[u8; FIELD]; FIELDS]| {
            let [start, end, file, offset] = fields.map(u64::from_le_bytes);
            Piece {
                range: start as usize..end as usize,
                file: file as usize,
                offset,
            }
        };
        Ok(pieces.iter().map(piece).collect())
    }
}

impl Layers {
    /// The pages `ranges`, whose contents are in `file` one after the other.
    pub(super) fn of(ranges: Vec<Range<usize>>, file: FrozenFile) -> Self {
        Self::of_parts(vec![(ranges, 0)], file)
    }

    /// Several lists of such pages in ascending order, each with its offset in `file`.
    pub(super) fn of_parts(parts: Vec<(Vec<Range<usize>>, usize)>, file: FrozenFile) -> Self {
        let mut pieces = Vec::with_capacity(parts.iter().map(|(ranges, _)| ranges.len()).sum());
        for (ranges, place) in parts {
            let mut offset = place as u64;
            for range in ranges {
                let len = range.len() as u64;
                pieces.push(Piece {
                    range,
                    file: 0,
                    offset,
                });
                offset += len;
            }
        }
        let mut layers = Self {
            files: vec![file],
            pieces,
        };
        layers.drop_unused_files();
        layers
    }

    /// Puts newer contents of some pages on top, and drops files that hold no current contents
    /// any more.
    pub(super) fn put(&mut self, newer: Self) {
        if self.pieces.is_empty() {
            *self = newer;
            return;
        }
        let mut pieces = self.pieces_without(&newer.ranges());
        let above = self.files.len();
        pieces.extend(newer.pieces.into_iter().map(|piece| Piece {
            file: above + piece.file,
            ..piece
        }));
        pieces.sort_by_key(|piece| piece.range.start);
        self.files.extend(newer.files);
        self.pieces = pieces;
        self.drop_unused_files();
    }

    /// Splits off the pieces of at least `least` bytes that lie outside of `taken`. Returns those,
    /// and the rest.
    pub(super) fn split(&self, taken: &[Range<usize>], least: usize) -> (Self, Self) {
        let is_large = |piece: &Piece| piece.range.len() >= least;
        let large = self.pieces.iter().filter(|piece| is_large(piece));
        let large: Vec<_> = large.flat_map(|piece| piece.without(taken)).collect();
        let large = self.part(large.into_iter().filter(is_large).collect());
        let others = match large.pieces.is_empty() {
            true => self.clone(),
            false => self.part(self.pieces_without(&large.ranges())),
        };
        (large, others)
    }

    fn part(&self, pieces: Vec<Piece>) -> Self {
        let files = self.files.clone();
        let mut part = Self { files, pieces };
        part.drop_unused_files();
        part
    }

    fn pieces_without(&self, ranges: &[Range<usize>]) -> Vec<Piece> {
        let pieces = self.pieces.iter();
        pieces.flat_map(|piece| piece.without(ranges)).collect()
    }

    fn drop_unused_files(&mut self) {
        let mut kept = Vec::new();
        let mut new_places = vec![None; self.files.len()];
        for piece in &mut self.pieces {
            let place = new_places[piece.file].get_or_insert_with(|| {
                kept.push(self.files[piece.file].clone());
                kept.len() - 1
            });
            piece.file = *place;
        }
        self.files = kept;
    }

    /// How many files they are in.
    pub(super) fn depth(&self) -> usize {
        self.files.len()
    }

    /// The pages, as ranges of bytes.
    pub(super) fn ranges(&self) -> Vec<Range<usize>> {
        let mut joined: Vec<Range<usize>> = Vec::with_capacity(self.pieces.len());
        for Piece { range, .. } in &self.pieces {
            match joined.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => joined.push(range.clone()),
            }
        }
        joined
    }

    /// Bytes of guest RAM in them.
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.range.len()).sum()
    }

    /// Bytes of guest RAM in pieces of less than `least` bytes.
    pub(super) fn len_below(&self, least: usize) -> usize {
        let lens = self.pieces.iter().map(|piece| piece.range.len());
        lens.filter(|&len| len < least).sum()
    }

    /// Whether they are pieces of a RAM of `len` bytes.
    pub(super) fn are_within(&self, len: usize) -> bool {
        let ranges: Vec<_> = self
            .pieces
            .iter()
            .map(|piece| piece.range.clone())
            .collect();
        ranges::are_ordered_within(&ranges, len)
    }

    /// Reads all of them into `mapping`, in which no guest runs yet; with the help of `helpers`
    /// if there are several reads.
    ///
    /// # Errors
    /// As `preadv(2)`; when a file is too short.
    pub(super) fn read_into(&self, mapping: &Mapping, helpers: &dyn Helpers) -> io::Result<()> {
        let reads = self.reads();
        let (next, result) = (AtomicUsize::new(0), Mutex::new(Ok(())));
        let read_all = || {
            while let Some(read) = reads.get(next.fetch_add(1, Ordering::Relaxed)) {
                let file = &self.files[read.file];
                if let Err(error) = mapping.read_into(&read.ranges, file, read.offset) {
                    *result.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
                }
            }
        };
        match reads.len() {
            0 | 1 => read_all(),
            _ => helpers.run(&read_all),
        }
        result.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reads that cover all pieces, of at most [`MOST_READ`] pieces each.
    fn reads(&self) -> Vec<Read> {
        let mut reads = Vec::new();
        for file in 0..self.files.len() {
            let mut pieces = self
                .pieces
                .iter()
                .filter(|piece| piece.file == file)
                .peekable();
            while let Some(first) = pieces.next() {
                let mut ranges = vec![first.range.clone()];
                let mut end = first.end();
                while ranges.len() < MOST_READ
                    && let Some(next) = pieces.next_if(|next| next.offset == end)
                {
                    end = next.end();
                    ranges.push(next.range.clone());
                }
                reads.push(Read {
                    file,
                    offset: first.offset,
                    ranges,
                });
            }
        }
        reads
    }

    /// Maps all of them privately into `mapping`: a page is copied when it is written.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub(super) fn map_into(&self, mapping: &mut Mapping) -> io::Result<()> {
        self.pieces.iter().try_for_each(|piece| {
            let file = &self.files[piece.file];
            mapping.place_private_part(piece.range.clone(), file, piece.offset)
        })
    }

    /// Calls `reader` with the contents in the order of [`ranges`](Self::ranges), at most
    /// [`PART`] bytes at a time.
    ///
    /// # Errors
    /// As `pread(2)`, and the reader's.
    pub(super) fn for_each(
        &self,
        mut reader: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut bytes = vec![0; PART];
        for piece in &self.pieces {
            let mut at = piece.offset;
            while at < piece.end() {
                let len = PART.min((piece.end() - at) as usize);
                let bytes = &mut bytes[..len];
                self.files[piece.file].read_exact_at(bytes, at)?;
                reader(bytes)?;
                at += len as u64;
            }
        }
        Ok(())
    }

    /// Saves them for another process.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub(super) fn save(&self, blobs: &mut BlobWriter) -> io::Result<LayersState> {
        // The length of each file up to the end of its last piece.
        let mut lens = vec![0; self.files.len()];
        for piece in &self.pieces {
            lens[piece.file] = piece.end().max(lens[piece.file]);
        }
        let files = self.files.iter().zip(lens);
        let files = files.map(|(file, len)| blobs.put(file.as_fd(), BlobRole::RamLayer, len));
        Ok(LayersState {
            files: files.collect::<io::Result<_>>()?,
            pieces: self.pieces.clone(),
        })
    }

    /// Restores them in that process.
    ///
    /// # Errors
    /// When the carrier does not find its blobs, or their files can still be written;
    /// `InvalidData` when a piece lies beyond the end of its blob or file.
    pub(super) fn restore(state: LayersState, blobs: BlobReader<'_>) -> io::Result<Self> {
        let receive = |&file| Ok(FrozenFile::receive(blobs.open(file)?)?);
        let files = state.files.iter().map(receive);
        let files = files.collect::<io::Result<Vec<_>>>()?;
        let lens = files.iter().zip(&state.files);
        let lens = lens.map(|(file, &blob)| Ok(file.metadata()?.len().min(blobs.get(blob)?.len)));
        let lens = lens.collect::<io::Result<Vec<_>>>()?;
        let is_there = |piece: &Piece| {
            let end = piece.offset.checked_add(piece.range.len() as u64);
            let len = lens.get(piece.file);
            end.zip(len).is_some_and(|(end, &len)| end <= len)
        };
        if !state.pieces.iter().all(is_there) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self {
            files,
            pieces: state.pieces,
        })
    }
}

impl LayersState {
    /// Its files.
    pub(super) fn blobs(&self) -> &[BlobRef] {
        &self.files
    }
}

#[cfg(test)]
impl LayersState {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            files: vec![BlobRef(1), BlobRef(2)],
            pieces: vec![
                Piece {
                    range: 0x1000..0x3000,
                    file: 1,
                    offset: 0,
                },
                Piece {
                    range: 0x10_0000..0x20_0000,
                    file: 0,
                    offset: 0x4000,
                },
            ],
        }
    }
}

impl Piece {
    /// Where it ends in its file.
    fn end(&self) -> u64 {
        self.offset + self.range.len() as u64
    }

    /// What of it is not in `ranges`.
    fn without(&self, ranges: &[Range<usize>]) -> Vec<Self> {
        // Only those around it matter.
        let first = ranges.partition_point(|range| range.end <= self.range.start);
        let last = ranges.partition_point(|range| range.start < self.range.end);
        let near = &ranges[first..last.max(first)];
        let rest = ranges::without(std::slice::from_ref(&self.range), near);
        rest.into_iter()
            .map(|range| Self {
                file: self.file,
                offset: self.offset + (range.start - self.range.start) as u64,
                range,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
