//! The blobs of a captured machine: how they are collected, and how they are found again.
//!
//! What is too large for a record (memory, disks) is a [`Blob`], and a record names it by its
//! place in the machine's table of blobs. Where the contents are is the business of a carrier
//! ([`Blobs`]). A fork carries descriptors; a store will be another carrier, and one that
//! fetches what is read a third.

use crate::sys::fds::FdTable;
use hyperfork_state::{Blob, BlobRef, BlobRole, BlobSource};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A carrier of blobs.
pub trait Blobs {
    /// Opens what is found there.
    ///
    /// # Errors
    /// `InvalidData` when nothing is; when the process is out of descriptors.
    fn open(&self, source: BlobSource) -> io::Result<OwnedFd>;
}

impl Blobs for FdTable {
    fn open(&self, source: BlobSource) -> io::Result<OwnedFd> {
        let BlobSource::Table(place) = source;
        self.get(place)
    }
}

/// Collects the blobs of a machine that is captured.
#[derive(Debug, Default)]
pub struct BlobWriter {
    table: Vec<Blob>,
    fds: FdTable,
}

impl BlobWriter {
    /// Adds the file, directory or device that `fd` is open on, of which the machine uses
    /// `len` bytes.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn put(&mut self, fd: impl AsFd, role: BlobRole, len: u64) -> io::Result<BlobRef> {
        let source = BlobSource::Table(self.fds.push(fd)?);
        self.table.push(Blob { role, len, source });
        Ok(BlobRef((self.table.len() - 1) as u32))
    }

    /// The table, and what it is of.
    pub fn into_parts(self) -> (Vec<Blob>, FdTable) {
        (self.table, self.fds)
    }

    /// What has been collected so far, to be found again.
    pub fn reader(&self) -> BlobReader<'_> {
        BlobReader::new(&self.table, &self.fds)
    }
}

/// Finds the blobs of one captured machine.
#[derive(Clone, Copy)]
pub struct BlobReader<'a> {
    table: &'a [Blob],
    carrier: &'a dyn Blobs,
}

impl<'a> BlobReader<'a> {
    /// Those of `table`, by what carries them.
    pub fn new(table: &'a [Blob], carrier: &'a dyn Blobs) -> Self {
        Self { table, carrier }
    }

    /// All of them.
    pub fn table(&self) -> &'a [Blob] {
        self.table
    }

    /// Opens one.
    ///
    /// # Errors
    /// `InvalidData` for one that there is not, or that is not found; when the process is out
    /// of descriptors.
    pub fn open(&self, blob: BlobRef) -> io::Result<OwnedFd> {
        self.carrier.open(self.get(blob)?.source)
    }

    /// What there is to say of one.
    ///
    /// # Errors
    /// `InvalidData` for one that there is not.
    pub fn get(&self, BlobRef(place): BlobRef) -> io::Result<&'a Blob> {
        self.table.get(place as usize).ok_or_else(|| {
            let count = self.table.len();
            let words = format!("the state refers to blob {place}, and there are {count}");
            io::Error::new(io::ErrorKind::InvalidData, words)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    #[test]
    fn what_was_put_is_found_by_its_place_and_nothing_else_is() {
        let mut blobs = BlobWriter::default();
        let mut put = |text: &str| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let len = text.len() as u64;
            blobs.put(&file, BlobRole::DiskImage, len).unwrap()
        };
        let refs = [put("one"), put("two")];
        for (blob, text) in refs.into_iter().zip(["one", "two"]) {
            assert_eq!(blobs.reader().get(blob).unwrap().len, 3);
            let mut file = File::from(blobs.reader().open(blob).unwrap());
            let mut read = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut read).unwrap();
            assert_eq!(read, text);
        }
        let missing = blobs.reader().open(BlobRef(2)).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::InvalidData);
        let (table, _) = blobs.into_parts();
        let nothing = FdTable::default();
        let lost = BlobReader::new(&table, &nothing).open(refs[0]);
        assert_eq!(lost.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
