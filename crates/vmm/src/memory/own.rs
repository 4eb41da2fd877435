//! How a machine's own memory file becomes a base: the first freeze.

use crate::sys::mapping::Mapping;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// The memory file of a machine that was booted, and never forked.
///
/// Writes go to the file, but for those to its first `frozen` bytes, which have become
/// private: what is written there from then on is the machine's alone. So the file can be
/// frozen piece by piece, and while the machine runs: whoever reads or writes a page finds
/// the file's or the private one, never something in between, and an image is the file and
/// whatever has become private by then.
#[derive(Debug)]
pub(super) struct Own {
    file: Arc<File>,
    frozen: usize,
    /// Where what was mapped before is put: unmapping it costs milliseconds per GiB.
    aside: Mapping,
}

/// What is frozen at once. Who touches it meanwhile waits for 0.25 ms where KVM has mapped
/// all of it (PVM host); it is KVM that takes the time.
const PIECE: usize = 32 << 20;

impl Own {
    /// `file` is mapped in `ram`, shared, and nowhere else.
    ///
    /// # Errors
    /// When the address space is used up.
    pub(super) fn new(file: File, ram: &Mapping) -> io::Result<Self> {
        Ok(Self {
            file: Arc::new(file),
            frozen: 0,
            aside: Mapping::reserve(ram.len())?,
        })
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Freezes what is not frozen yet.
    ///
    /// # Errors
    /// As `mmap(2)` and `mremap(2)`. What is frozen by then remains so.
    pub(super) fn freeze(&mut self, ram: &mut Mapping) -> io::Result<()> {
        while self.frozen < ram.len() {
            let end = ram.len().min(self.frozen + PIECE);
            let piece = self.frozen..end;
            ram.move_aside(piece.clone(), &mut self.aside)?;
            ram.place_private_part(piece.clone(), &self.file, piece.start as u64)?;
            self.frozen = end;
        }
        Ok(())
    }

    /// The file, once all of it is frozen, and what to unmap before it can be sealed.
    pub(super) fn into_parts(self) -> (Arc<File>, Mapping) {
        (self.file, self.aside)
    }
}
