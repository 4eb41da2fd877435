//! One request of the block driver (5.2.6): a header, data, a status byte.

use super::disk::{Disk, SECTOR};
use super::{DISCARD_SECTORS_MAX, REQUEST_MAX, ZERO_SECTORS_MAX};
use crate::devices::virtio::DeviceError;
use crate::devices::virtio::ring::Chain;
use crate::memory::GuestMemoryMmap;
use std::io::{self, Read, Write};
use virtio_bindings::virtio_blk::*;
use virtio_queue::{Reader, Writer};

/// What GET_ID answers, padded with zeroes to 20 bytes (5.2.6).
const ID: &[u8; VIRTIO_BLK_ID_BYTES as usize] = b"hyperfork\0\0\0\0\0\0\0\0\0\0\0";

/// Why a request ends in a status other than OK.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("a request of type {0}")]
    Unsupported(u32),
    #[error("sectors {sector}+{bytes} bytes are not on the disk, or too much at once")]
    Range { sector: u64, bytes: u64 },
    #[error("the disk failed")]
    Io(#[from] io::Error),
}

impl Refusal {
    fn status(&self) -> u8 {
        let status = match self {
            Self::Unsupported(_) => VIRTIO_BLK_S_UNSUPP,
            Self::Range { .. } | Self::Io(_) => VIRTIO_BLK_S_IOERR,
        };
        status as u8
    }
}

/// Serves the request in `chain`; returns the bytes written into it. `buffer`
/// is scratch space.
///
/// # Errors
/// When the chain leaves guest memory, or has no place for a header or for the
/// status, so that the driver cannot be answered.
pub(super) fn serve(
    disk: &mut Disk,
    chain: Chain<'_>,
    memory: &GuestMemoryMmap,
    buffer: &mut [u8],
) -> Result<u32, DeviceError> {
    let mut input = chain.clone().reader(memory)?;
    let mut output = chain.writer(memory)?;
    let status_at = output
        .available_bytes()
        .checked_sub(1)
        .ok_or(DeviceError::Request(
            "a block request without a status byte",
        ))?;
    let mut status = output.split_at(status_at)?;

    let mut header = [0; 16];
    input
        .read_exact(&mut header)
        .map_err(|_| DeviceError::Request("a block request without a header"))?;
    let kind = u32_at(&header, 0);
    let sector = u64_at(&header, 8);

    let result = match kind {
        VIRTIO_BLK_T_IN => read(disk, sector, &mut output, buffer),
        VIRTIO_BLK_T_OUT => write(disk, sector, &mut input, buffer),
        VIRTIO_BLK_T_FLUSH => Ok(()),
        VIRTIO_BLK_T_GET_ID => identify(&mut output),
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if !disk.is_read_only() => {
            clear(disk, kind, &mut input)
        }
        _ => Err(Refusal::Unsupported(kind)),
    };
    if let Err(Refusal::Io(error)) = &result {
        disk.note_failure(error);
    }
    let code = match &result {
        Ok(()) => VIRTIO_BLK_S_OK as u8,
        Err(refusal) => refusal.status(),
    };
    status.write_all(&[code])?;
    Ok((output.bytes_written() + 1) as u32)
}

fn read(
    disk: &Disk,
    sector: u64,
    output: &mut Writer<'_>,
    buffer: &mut [u8],
) -> Result<(), Refusal> {
    let mut left = output.available_bytes();
    let mut at = on_disk(disk, sector, left as u64, REQUEST_MAX as u64)?;
    while left > 0 {
        let len = left.min(buffer.len());
        disk.read_at(at, &mut buffer[..len])?;
        output.write_all(&buffer[..len])?;
        at += len as u64;
        left -= len;
    }
    Ok(())
}

fn write(
    disk: &mut Disk,
    sector: u64,
    input: &mut Reader<'_>,
    buffer: &mut [u8],
) -> Result<(), Refusal> {
    let mut left = input.available_bytes();
    let mut at = on_disk(disk, sector, left as u64, REQUEST_MAX as u64)?;
    while left > 0 {
        let len = left.min(buffer.len());
        input.read_exact(&mut buffer[..len])?;
        disk.write_at(at, &buffer[..len])?;
        at += len as u64;
        left -= len;
    }
    Ok(())
}

fn identify(output: &mut Writer<'_>) -> Result<(), Refusal> {
    let len = output.available_bytes().min(ID.len());
    Ok(output.write_all(&ID[..len])?)
}

/// DISCARD and WRITE_ZEROES: one segment of sector, number of sectors, flags.
fn clear(disk: &mut Disk, kind: u32, input: &mut Reader<'_>) -> Result<(), Refusal> {
    let discard = kind == VIRTIO_BLK_T_DISCARD;
    let max = if discard {
        DISCARD_SECTORS_MAX
    } else {
        ZERO_SECTORS_MAX
    };
    let mut segment = [0; 16];
    if input.available_bytes() != segment.len() {
        return Err(Refusal::Range {
            sector: 0,
            bytes: input.available_bytes() as u64,
        });
    }
    input.read_exact(&mut segment)?;
    let sector = u64_at(&segment, 0);
    let len = u64::from(u32_at(&segment, 8)) * SECTOR;
    let flags = u32_at(&segment, 12);
    // 5.2.6.2: discards have no flags; zeroing may allow to unmap.
    let allowed = if discard {
        0
    } else {
        VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
    };
    if flags & !allowed != 0 {
        return Err(Refusal::Unsupported(kind));
    }
    let at = on_disk(disk, sector, len, u64::from(max) * SECTOR)?;
    match discard {
        true => disk.discard(at, len)?,
        false => disk.zero(at, len)?,
    }
    Ok(())
}

/// The byte offset of a range of whole sectors that lies on the disk.
fn on_disk(disk: &Disk, sector: u64, bytes: u64, max: u64) -> Result<u64, Refusal> {
    let start = sector.checked_mul(SECTOR);
    let end = start.and_then(|start| start.checked_add(bytes));
    match (start, end) {
        (Some(start), Some(end))
            if bytes.is_multiple_of(SECTOR) && bytes <= max && end <= disk.len() =>
        {
            Ok(start)
        }
        _ => Err(Refusal::Range { sector, bytes }),
    }
}

fn u32_at(bytes: &[u8; 16], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; 16], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
