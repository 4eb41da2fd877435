//! Requests about the contents of files and directories: opening, reading, writing, listing,
//! locking.

use super::super::qid::{put_qid, put_raw_qid};
use super::super::tree::Name;
use super::super::wire::{Decoder, Encoder, HEADER_LEN};
use super::{AT_OPEN, OPEN_FLAGS, Server};
use rustix::fs::{self, FileType, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

/// What comes before the data in the answer to a read, in bytes.
const IO_HEADER: usize = HEADER_LEN + 4;

impl Server {
    pub(super) fn open(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let (fid, flags) = (d.u32()?, OFlags::from_bits_truncate(d.u32()?) & OPEN_FLAGS);
        self.fids.room_to_open()?;
        let path = self.fids.unopened(fid)?;
        let file = self.tree.open(path, flags)?;
        let stat = fs::fstat(&file)?;
        self.fids.set_open(fid, None, flags & !AT_OPEN, file);
        put_qid(out, &stat);
        out.u32(0);
        Ok(())
    }

    pub(super) fn create(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let (fid, name, flags, mode) = (d.u32()?, Name::new(d.string()?)?, d.u32()?, d.u32()?);
        let flags = OFlags::from_bits_truncate(flags) & OPEN_FLAGS.union(OFlags::EXCL);
        self.fids.room_to_open()?;
        let path = self.fids.unopened(fid)?.join(name)?;
        let file = self.tree.create(&path, flags, mode)?;
        let stat = fs::fstat(&file)?;
        self.fids.set_open(fid, Some(path), flags & !AT_OPEN, file);
        put_qid(out, &stat);
        out.u32(0);
        Ok(())
    }

    pub(super) fn read(
        &mut self,
        d: &mut Decoder<'_>,
        space: usize,
        out: &mut Encoder,
    ) -> Result<(), Errno> {
        let (fid, offset, count) = (d.u32()?, d.u64()?, d.u32()?);
        let file = self.fids.file(fid)?;
        let max = (count as usize).min(space.saturating_sub(IO_HEADER));
        out.data(max, |data| rustix::io::pread(file, data, offset))
    }

    pub(super) fn write(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let (fid, offset, count) = (d.u32()?, d.u64()?, d.u32()?);
        let data = d.bytes(count as usize)?;
        let written = rustix::io::pwrite(self.fids.file(fid)?, data, offset)?;
        out.u32(written as u32);
        Ok(())
    }

    pub(super) fn sync(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        let (fid, data_only) = (d.u32()?, d.u32()?);
        let file = self.fids.file(fid)?;
        if data_only != 0 {
            fs::fdatasync(file)
        } else {
            fs::fsync(file)
        }
    }

    /// Locks hold between the programs of one guest, by the guest's own kernel;
    /// between clones there are none.
    pub(super) fn lock(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        const SUCCESS: u8 = 0;
        self.fids.file(d.u32()?)?;
        out.u8(SUCCESS);
        Ok(())
    }

    pub(super) fn get_lock(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        const UNLOCKED: u8 = 2;
        self.fids.file(d.u32()?)?;
        let _kind = d.u8()?;
        let (start, len, process, client) = (d.u64()?, d.u64()?, d.u32()?, d.string()?);
        out.u8(UNLOCKED);
        out.u64(start);
        out.u64(len);
        out.u32(process);
        out.string(client);
        Ok(())
    }

    pub(super) fn read_directory(
        &mut self,
        d: &mut Decoder<'_>,
        space: usize,
        out: &mut Encoder,
    ) -> Result<(), Errno> {
        let (fid, offset, count) = (d.u32()?, d.u64()?, d.u32()?);
        let directory = self.fids.file(fid)?;
        fs::seek(directory, SeekFrom::Start(offset))?;
        let max = (count as usize).min(space.saturating_sub(IO_HEADER));
        out.data(max, |data| list(directory, data))
    }
}

/// Writes as many entries of `directory` into `data` as fit; returns their length.
fn list(directory: BorrowedFd<'_>, data: &mut [u8]) -> Result<usize, Errno> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut entry_bytes = Encoder::default();
    let mut len = 0;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        entry_bytes.clear();
        put_raw_qid(&mut entry_bytes, entry.file_type(), 0, entry.ino());
        entry_bytes.u64(entry.next_entry_cookie());
        entry_bytes.u8(directory_type(entry.file_type()));
        entry_bytes.string(entry.file_name().to_bytes());
        let entry = entry_bytes.as_bytes();
        let Some(room) = data.get_mut(len..len + entry.len()) else {
            // Not even one: the guest would take no entries for the end.
            return if len == 0 { Err(Errno::INVAL) } else { Ok(len) };
        };
        room.copy_from_slice(entry);
        len += entry.len();
    }
    Ok(len)
}

/// `d_type` of readdir(3).
fn directory_type(kind: FileType) -> u8 {
    match kind {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}
