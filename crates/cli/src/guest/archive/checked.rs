//! A filter in front of the library that unpacks archives.
//!
//! The library keeps some of an archive in memory, as much as the archive says: long names,
//! extended headers, the maps of sparse files. A guest's agent sends none of these but
//! names, which are bounded; so nothing else gets through.

use std::io::{self, Read};
use tar::{EntryType, Header};

/// Bytes of a header, and of what contents are padded to.
const BLOCK: usize = 512;
/// Longest name that comes in an entry of its own (`PATH_MAX`, linux/limits.h).
const LONGEST_NAME: u64 = 4096;

/// Why an archive is not unpacked.
#[derive(Debug, thiserror::Error)]
enum Unsound {
    #[error("the archive has a name of {0} bytes")]
    LongName(u64),
    #[error("the archive has an entry of a kind that no agent sends ({0:?})")]
    Kind(EntryType),
}

/// An archive of which each header has been looked at before it is passed on.
#[derive(Debug)]
pub(super) struct Checked<R> {
    archive: R,
    header: Header,
    next: Next,
}

/// What comes next of the archive.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// A header, not read yet.
    Header,
    /// The rest of the header that has been read, from this byte on.
    Rest(usize),
    /// So many bytes of content and its padding.
    Content(u64),
    /// What follows the archive's end, which is ignored.
    Padding,
}

impl<R: Read> Checked<R> {
    pub(super) fn new(archive: R) -> Self {
        Self {
            archive,
            header: Header::new_old(),
            next: Next::Header,
        }
    }

    /// Reads the next header, if it is one that may be passed on; false where the archive
    /// ends without a mark.
    fn read_header(&mut self) -> io::Result<bool> {
        let block = self.header.as_mut_bytes();
        // The first byte alone: an archive may end here, but not further on.
        if self.archive.read(&mut block[..1])? == 0 {
            return Ok(false);
        }
        self.archive.read_exact(&mut block[1..])?;
        Ok(true)
    }

    /// What comes after the header.
    fn after_header(&self) -> io::Result<Next> {
        if self.header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(Next::Padding);
        }
        let size = self.header.entry_size()?;
        let unsound = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        match self.header.entry_type() {
            EntryType::GNULongName | EntryType::GNULongLink if size > LONGEST_NAME => {
                return unsound(Unsound::LongName(size));
            }
            EntryType::GNULongName
            | EntryType::GNULongLink
            | EntryType::Regular
            | EntryType::Directory
            | EntryType::Symlink
            | EntryType::Link
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo => {}
            kind => return unsound(Unsound::Kind(kind)),
        }
        match size.checked_next_multiple_of(BLOCK as u64) {
            Some(0) => Ok(Next::Header),
            Some(padded) => Ok(Next::Content(padded)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if let Next::Header = self.next {
            if !self.read_header()? {
                return Ok(0);
            }
            self.after_header()?;
            self.next = Next::Rest(0);
        }
        match self.next {
            Next::Header => Ok(0),
            Next::Rest(from) => {
                let len = (&self.header.as_bytes()[from..]).read(into)?;
                self.next = match from + len {
                    BLOCK => self.after_header()?,
                    to => Next::Rest(to),
                };
                Ok(len)
            }
            Next::Content(left) => {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
                let len = self.archive.read(&mut into[..most])?;
                self.next = match left - len as u64 {
                    0 => Next::Header,
                    left => Next::Content(left),
                };
                Ok(len)
            }
            Next::Padding => self.archive.read(into),
        }
    }
}

#[cfg(test)]
mod tests;
