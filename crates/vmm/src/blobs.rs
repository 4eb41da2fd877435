//! The blobs of a captured machine: collecting them, and opening them again.
//!
//! Memory and disks, which are too large for a record, are [`Blob`]s. A record refers to a blob by
//! its index in the machine's table of blobs. A carrier ([`Blobs`]) finds the contents. A fork's
//! carrier is a table of descriptors; a store and a pager will be others.

use crate::sys::fds::FdTable;
use hyperfork_state::{Blob, BlobRef, BlobRole, BlobSource};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A carrier of blobs: finds their contents.
pub trait Blobs {
    /// Opens the blob at `source`.
    ///
    /// # Errors
    /// `InvalidData` if there is none; when the process is out of descriptors.
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
    /// Adds the file, directory or device behind `fd`, of which the machine uses `len` bytes.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn put(&mut self, fd: impl AsFd, role: BlobRole, len: u64) -> io::Result<BlobRef> {
        let source = BlobSource::Table(self.fds.push(fd)?);
        self.table.push(Blob { role, len, source });
        Ok(BlobRef((self.table.len() - 1) as u32))
    }

    /// The table of blobs, and the descriptors that carry them.
    pub fn into_parts(self) -> (Vec<Blob>, FdTable) {
        (self.table, self.fds)
    }

    /// A reader of the blobs collected so far.
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
    /// A reader of the blobs in `table`, which `carrier` finds.
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
    /// `InvalidData` if the table has no such blob, or the carrier does not find it; when the
    /// process is out of descriptors.
    pub fn open(&self, blob: BlobRef) -> io::Result<OwnedFd> {
        self.carrier.open(self.get(blob)?.source)
    }

    /// The entry of one in the table.
    ///
    /// # Errors
    /// `InvalidData` if the table has no such blob.
    pub fn get(&self, BlobRef(place): BlobRef) -> io::Result<&'a Blob> {
        self.table.get(place as usize).ok_or_else(|| {
            let count = self.table.len();
            let message = format!("the state refers to blob {place}, and there are {count}");
            io::Error::new(io::ErrorKind::InvalidData, message)
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
