//! One request of the block driver (5.2.6): a header, data, a status byte.

use super::clusters::CLUSTER;
use super::disk::{Disk, SECTOR};
use super::{DISCARD_PIECE, DISCARD_SECTORS_MAX, PIECE, REQUEST_MAX, ZERO_SECTORS_MAX};
use crate::devices::virtio::DeviceError;
use crate::devices::virtio::ring::{Chain, Outcome};
use crate::memory::GuestMemoryMmap;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::ops::Range;
use virtio_bindings::virtio_blk::*;
use virtio_queue::{Reader, Writer};
use zerocopy::{FromBytes, IntoBytes};

/// What a request begins with: `struct virtio_blk_outhdr`, little-endian, as our hosts are.
#[derive(FromBytes, IntoBytes)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

const HEADER_LEN: usize = size_of::<Header>();

/// What DISCARD and WRITE_ZEROES are about: `struct virtio_blk_discard_write_zeroes`.
#[derive(FromBytes, IntoBytes)]
#[repr(C)]
struct Segment {
    sector: u64,
    sectors: u32,
    flags: u32,
}

/// What GET_ID answers, padded with zeroes to 20 bytes (5.2.6).
const ID: &[u8; VIRTIO_BLK_ID_BYTES as usize] = b"hyperfork\0\0\0\0\0\0\0\0\0\0\0";

/// Why a request ends in a status other than OK.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("a request of type {0}")]
    Unsupported(u32),
    #[error("sectors {sector}+{bytes} bytes are not on the disk, or too much at once")]
    Range { sector: u64, bytes: u64 },
    #[error("the driver has changed a request under way")]
    Changed,
    #[error("the disk failed")]
    Io(#[from] io::Error),
}

impl Refusal {
    fn status(&self) -> u8 {
        let status = match self {
            Self::Unsupported(_) => VIRTIO_BLK_S_UNSUPP,
            Self::Range { .. } | Self::Changed | Self::Io(_) => VIRTIO_BLK_S_IOERR,
        };
        status as u8
    }
}

/// A request with data, which is served in pieces. The device can be preempted between two of them.
/// This then holds the progress, and the request's header is not read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    /// Where its chain begins.
    head: u16,
    kind: Kind,
    /// The range of the disk, in bytes.
    start: u64,
    end: u64,
    /// It is done up to here.
    at: u64,
}

#[cfg(test)]
impl Request {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            head: 300,
            kind: Kind::Write,
            start: 1 << 20,
            end: 2 << 20,
            at: 3 << 19,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Read,
    Write,
    Zero,
    Discard,
}

impl Request {
    /// Whether it can be one of this disk.
    pub(super) fn is_of(&self, disk: &Disk) -> bool {
        (self.start..=self.end).contains(&self.at) && self.end <= disk.len()
    }

    /// The end of the next piece: at a cluster boundary, so that no cluster is written in two
    /// halves.
    fn piece_end(&self) -> u64 {
        let most = match self.kind {
            Kind::Read | Kind::Write | Kind::Zero => PIECE,
            Kind::Discard => DISCARD_PIECE,
        };
        match self.end - self.at <= most {
            true => self.end,
            false => (self.at + most) / CLUSTER * CLUSTER,
        }
    }
}

/// Serves requests on a disk.
pub(super) struct Server<'a> {
    pub(super) disk: &'a mut Disk,
    /// Scratch space for a piece.
    pub(super) buffer: &'a mut [u8],
    pub(super) unfinished: &'a mut Option<Request>,
    /// Whether the disk's storage on the host may have changed.
    pub(super) has_written: bool,
    pub(super) preempted: &'a dyn Fn() -> bool,
}

/// Where a request's data is in guest memory.
struct Data<'m> {
    /// What follows the header.
    from_driver: Reader<'m>,
    /// What precedes the status.
    to_driver: Writer<'m>,
}

impl Server<'_> {
    /// Serves the request in `chain`, or a part of it.
    ///
    /// # Errors
    /// When the chain leaves guest memory, or has no place for a header or for the
    /// status, so that the driver cannot be answered.
    pub(super) fn serve(
        &mut self,
        chain: Chain<'_>,
        memory: &GuestMemoryMmap,
    ) -> Result<Outcome, DeviceError> {
        let head = chain.head_index();
        let mut header = chain.clone().reader(memory)?;
        let mut to_driver = chain.writer(memory)?;
        let status_at = to_driver
            .available_bytes()
            .checked_sub(1)
            .ok_or(DeviceError::Request(
                "a block request without a status byte",
            ))?;
        let mut status = to_driver.split_at(status_at)?;
        if header.available_bytes() < HEADER_LEN {
            return Err(DeviceError::Request("a block request without a header"));
        }
        let mut data = Data {
            from_driver: header.split_at(HEADER_LEN)?,
            to_driver,
        };

        // If another chain is next now, the driver has aborted its own request.
        let unfinished = self.unfinished.take().filter(|it| it.head == head);
        let (begun, mut written) = match unfinished {
            Some(request) => (data.skip(&request).map(|()| Some(request)), 0),
            None => {
                let begun = self.begin(head, &mut header, &mut data);
                (begun, data.to_driver.bytes_written())
            }
        };
        let result = begun.and_then(|request| {
            let Some(mut request) = request else {
                return Ok(true);
            };
            let is_done = self.advance(&mut request, &mut data);
            if request.kind == Kind::Read {
                written = (request.at - request.start) as usize;
            }
            if let Ok(false) = is_done {
                *self.unfinished = Some(request);
            }
            is_done
        });
        if let Err(Refusal::Io(error)) = &result {
            self.disk.counters().note_failure(error);
        }
        let code = match &result {
            Ok(false) => return Ok(Outcome::Unfinished),
            Ok(true) => VIRTIO_BLK_S_OK as u8,
            Err(refusal) => refusal.status(),
        };
        status.write_all(&[code])?;
        Ok(Outcome::Done((written + 1) as u32))
    }

    /// Reads the header. Serves the request if that takes no time; otherwise returns it, to be
    /// served in pieces.
    fn begin(
        &self,
        head: u16,
        header: &mut Reader<'_>,
        data: &mut Data<'_>,
    ) -> Result<Option<Request>, Refusal> {
        let Header { kind, sector, .. } = read(header)?;
        let (what, range) = match kind {
            VIRTIO_BLK_T_IN => {
                let len = data.to_driver.available_bytes() as u64;
                (Kind::Read, self.on_disk(sector, len, REQUEST_MAX as u64)?)
            }
            VIRTIO_BLK_T_OUT => {
                let len = data.from_driver.available_bytes() as u64;
                (Kind::Write, self.on_disk(sector, len, REQUEST_MAX as u64)?)
            }
            VIRTIO_BLK_T_FLUSH => return Ok(None),
            VIRTIO_BLK_T_GET_ID => {
                let len = data.to_driver.available_bytes().min(ID.len());
                data.to_driver.write_all(&ID[..len])?;
                return Ok(None);
            }
            VIRTIO_BLK_T_DISCARD if !self.disk.is_read_only() => {
                let max = DISCARD_SECTORS_MAX;
                (Kind::Discard, self.segment(kind, 0, max, data)?)
            }
            VIRTIO_BLK_T_WRITE_ZEROES if !self.disk.is_read_only() => {
                let (flags, max) = (VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, ZERO_SECTORS_MAX);
                (Kind::Zero, self.segment(kind, flags, max, data)?)
            }
            _ => return Err(Refusal::Unsupported(kind)),
        };
        Ok(Some(Request {
            head,
            kind: what,
            start: range.start,
            end: range.end,
            at: range.start,
        }))
    }

    /// What DISCARD and WRITE_ZEROES are about: one segment of sector, number of sectors,
    /// flags (5.2.6.2: discards have none; zeroing may allow to unmap).
    fn segment(
        &self,
        kind: u32,
        allowed_flags: u32,
        max: u32,
        data: &mut Data<'_>,
    ) -> Result<Range<u64>, Refusal> {
        if data.from_driver.available_bytes() != size_of::<Segment>() {
            return Err(Refusal::Range {
                sector: 0,
                bytes: data.from_driver.available_bytes() as u64,
            });
        }
        let segment: Segment = read(&mut data.from_driver)?;
        if segment.flags & !allowed_flags != 0 {
            return Err(Refusal::Unsupported(kind));
        }
        let len = u64::from(segment.sectors) * SECTOR;
        self.on_disk(segment.sector, len, u64::from(max) * SECTOR)
    }

    /// Does the next pieces, one at least. Returns whether they were the last.
    fn advance(&mut self, request: &mut Request, data: &mut Data<'_>) -> Result<bool, Refusal> {
        if request.kind != Kind::Read {
            self.has_written = true;
            self.disk.prepare_to_write(self.preempted)?;
        }
        while request.at < request.end {
            self.piece(request, data)?;
            if request.at < request.end && (self.preempted)() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn piece(&mut self, request: &mut Request, data: &mut Data<'_>) -> Result<(), Refusal> {
        let (at, end) = (request.at, request.piece_end());
        match request.kind {
            Kind::Read => {
                let bytes = &mut self.buffer[..(end - at) as usize];
                self.disk.read_at(at, bytes)?;
                data.to_driver.write_all(bytes)?;
            }
            Kind::Write => {
                let bytes = &mut self.buffer[..(end - at) as usize];
                data.from_driver.read_exact(bytes)?;
                self.disk.write_at(at, bytes)?;
            }
            Kind::Zero => self.disk.zero(at, end - at)?,
            Kind::Discard => self.disk.discard(at, end - at)?,
        }
        request.at = end;
        Ok(())
    }

    /// A range of whole sectors that lies on the disk, in bytes.
    fn on_disk(&self, sector: u64, bytes: u64, max: u64) -> Result<Range<u64>, Refusal> {
        let start = sector.checked_mul(SECTOR);
        let end = start.and_then(|start| start.checked_add(bytes));
        match (start, end) {
            (Some(start), Some(end))
                if bytes.is_multiple_of(SECTOR) && bytes <= max && end <= self.disk.len() =>
            {
                Ok(start..end)
            }
            _ => Err(Refusal::Range { sector, bytes }),
        }
    }
}

impl Data<'_> {
    /// Skips the part of a request's data that was moved already.
    fn skip(&mut self, request: &Request) -> Result<(), Refusal> {
        let (all, done) = (request.end - request.start, request.at - request.start);
        let has = match request.kind {
            Kind::Read => self.to_driver.available_bytes(),
            Kind::Write => self.from_driver.available_bytes(),
            Kind::Zero | Kind::Discard => return Ok(()),
        };
        if has as u64 != all {
            return Err(Refusal::Changed);
        }
        let changed = |_| Refusal::Changed;
        match request.kind {
            Kind::Read => {
                self.to_driver = self.to_driver.split_at(done as usize).map_err(changed)?;
            }
            _ => self.from_driver = self.from_driver.split_at(done as usize).map_err(changed)?,
        }
        Ok(())
    }
}

/// Reads what the driver has put there, once.
fn read<T: FromBytes + IntoBytes>(from: &mut Reader<'_>) -> io::Result<T> {
    let mut value = T::new_zeroed();
    from.read_exact(value.as_mut_bytes())?;
    Ok(value)
}
