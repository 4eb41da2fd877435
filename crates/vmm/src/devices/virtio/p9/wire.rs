//! The encoding of 9P2000.L messages: little-endian integers, strings with a 16-bit length, and the
//! numbers of the message types.

use rustix::io::Errno;

/// `size[4] type[1] tag[2]`, before every message.
pub(super) const HEADER_LEN: usize = 7;

/// Longest message either way, in bytes: what Linux asks for by default.
pub(super) const MAX_MESSAGE: u32 = 128 << 10;

/// Requests; the answer's number is one higher.
pub(super) mod request {
    pub(in super::super) const STATFS: u8 = 8;
    pub(in super::super) const LOPEN: u8 = 12;
    pub(in super::super) const LCREATE: u8 = 14;
    pub(in super::super) const SYMLINK: u8 = 16;
    pub(in super::super) const MKNOD: u8 = 18;
    pub(in super::super) const RENAME: u8 = 20;
    pub(in super::super) const READLINK: u8 = 22;
    pub(in super::super) const GETATTR: u8 = 24;
    pub(in super::super) const SETATTR: u8 = 26;
    pub(in super::super) const READDIR: u8 = 40;
    pub(in super::super) const FSYNC: u8 = 50;
    pub(in super::super) const LOCK: u8 = 52;
    pub(in super::super) const GETLOCK: u8 = 54;
    pub(in super::super) const LINK: u8 = 70;
    pub(in super::super) const MKDIR: u8 = 72;
    pub(in super::super) const RENAMEAT: u8 = 74;
    pub(in super::super) const UNLINKAT: u8 = 76;
    pub(in super::super) const VERSION: u8 = 100;
    pub(in super::super) const ATTACH: u8 = 104;
    pub(in super::super) const FLUSH: u8 = 108;
    pub(in super::super) const WALK: u8 = 110;
    pub(in super::super) const READ: u8 = 116;
    pub(in super::super) const WRITE: u8 = 118;
    pub(in super::super) const CLUNK: u8 = 120;
    pub(in super::super) const REMOVE: u8 = 122;
}

/// The answer that carries an error number of Linux.
pub(super) const RLERROR: u8 = 7;

/// The body of a request, read from front to back. What is missing is `EPROTO`.
pub(super) struct Decoder<'a>(pub(super) &'a [u8]);

impl<'a> Decoder<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Errno::PROTO)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Errno> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Errno> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Errno> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Errno> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Errno> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Errno::PROTO)?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Errno> {
        let len = self.u16()?;
        self.bytes(len.into())
    }
}

/// An answer under construction, header included.
#[derive(Default)]
pub(super) struct Encoder(Vec<u8>);

impl Encoder {
    /// Begins an answer, over whatever was there.
    pub(super) fn begin(&mut self) {
        self.0.clear();
        self.0.resize(HEADER_LEN, 0);
    }

    /// Begins something that is not an answer: a part of one.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Completes the header.
    pub(super) fn finish(&mut self, kind: u8, tag: u16) {
        let len = self.0.len() as u32;
        if let Some(header) = self.0.first_chunk_mut::<HEADER_LEN>() {
            header[..4].copy_from_slice(&len.to_le_bytes());
            header[4] = kind;
            header[5..].copy_from_slice(&tag.to_le_bytes());
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    /// A string of at most 65535 bytes; names and paths of Linux are shorter.
    pub(super) fn string(&mut self, value: &[u8]) {
        let value = &value[..value.len().min(u16::MAX.into())];
        self.u16(value.len() as u16);
        self.0.extend(value);
    }

    /// `count[4] data[count]`, where `fill` writes at most `max` bytes of data and
    /// says how many.
    ///
    /// # Errors
    /// Those of `fill`.
    pub(super) fn data(
        &mut self,
        max: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        let start = self.0.len() + 4;
        self.0.resize(start + max, 0);
        let len = fill(&mut self.0[start..])?.min(max);
        self.0.truncate(start + len);
        self.0[start - 4..start].copy_from_slice(&(len as u32).to_le_bytes());
        Ok(())
    }
}
