//! The block device (virtio 1.2, section 5.2): a shared image that is only read,
//! under an overlay that is this VM's alone.
//!
//! | file | what |
//! |---|---|
//! | [`clusters`] | which 4 KiB clusters a layer holds |
//! | [`layer`] | one file of an overlay |
//! | [`overlays`] | makes these files |
//! | [`image`] | opens an image; with `probe`: its format, `lock`: locks against writers, `chain`: backing files |
//! | [`base`], [`qcow2`] | an image as the base under the layers |
//! | [`disk`] | base and layers as one disk: read, write, freeze, copy out |
//! | [`disk_state`] | what of a disk goes into a captured machine |
//! | [`handle`] | a disk seen from outside the device thread |
//! | [`sparse`] | where a file has storage |
//! | [`usage`] | what a disk takes of the host |
//! | `config` | the configuration space |
//! | `absorb` | how layers are joined |
//! | `request` | one request of the driver |
//!
//! **Flushes.** The overlay is as ephemeral as the VM: it has no name in any
//! directory and dies with the VM's process. A completed write is as durable as
//! it will ever be, so VIRTIO_BLK_F_FLUSH is not offered. A driver then treats the
//! disk as write-through (5.2.5.2), which it is for the life of the VM. A flush
//! request succeeds nevertheless.

mod absorb;
pub mod base;
mod chain;
pub mod clusters;
mod config;
pub mod disk;
pub mod disk_state;
pub mod handle;
pub mod image;
pub mod image_error;
mod image_file;
pub mod layer;
mod lock;
pub mod overlays;
mod probe;
pub mod qcow2;
mod request;
pub mod sparse;
pub mod usage;

use super::{Context, DeviceError, Notify, VirtioDevice, ring};
use crate::blobs::{BlobReader, BlobWriter};
use base::Base;
use config::Config;
use disk::Disk;
use disk_state::DiskState;
use handle::DiskHandle;
use hyperfork_state::{BlobRef, Record, RecordType, devices};
use overlays::Overlays;
use request::Request;
use serde::{Deserialize, Serialize};
use std::io;
use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use zerocopy::IntoBytes;

pub(crate) const QUEUE_SIZES: [u16; 1] = [128];
/// Data segments of one request: a full ring without header and status.
const SEG_MAX: u32 = QUEUE_SIZES[0] as u32 - 2;
/// Bytes of one data segment.
const SIZE_MAX: u32 = 128 << 10;
/// Data bytes of one request. More than any driver that keeps [`SEG_MAX`] and
/// [`SIZE_MAX`] asks for.
const REQUEST_MAX: usize = SEG_MAX as usize * SIZE_MAX as usize;
/// Bytes of a request that are served at a time.
const PIECE: u64 = 128 << 10;
/// Bytes of a discard that are: it costs no data.
const DISCARD_PIECE: u64 = 64 << 20;
/// Sectors of one discard: 1 GiB. It costs no data.
const DISCARD_SECTORS_MAX: u32 = 1 << 21;
/// Sectors of one request to write zeroes: 16 MiB. It may cost as much data.
const ZERO_SECTORS_MAX: u32 = 1 << 15;

/// A disk behind a ring.
#[derive(Debug)]
pub struct Block {
    disk: DiskHandle,
    read_only: bool,
    config: Config,
    /// Carries a piece of data between file and guest; kept, so a request allocates little.
    buffer: Vec<u8>,
    /// A request in the middle of which the device was preempted. Its chain is the next in the
    /// ring.
    unfinished: Option<Request>,
}

/// The state of a disk's device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockState {
    disk: DiskState,
    /// A request that was under way, and its progress.
    unfinished: Option<Request>,
}

impl RecordType for BlockState {
    const KIND: &'static str = devices::BLOCK.name;
    const VERSION: u16 = 1;

    fn blobs(&self) -> Vec<BlobRef> {
        self.disk.blobs()
    }
}

#[cfg(test)]
impl BlockState {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            disk: DiskState::sample(),
            unfinished: Some(Request::sample()),
        }
    }

    /// The same of a disk on a qcow2 image, with nothing under way.
    pub(crate) fn sample_of_qcow2() -> Self {
        Self {
            disk: DiskState::sample_of_qcow2(),
            unfinished: None,
        }
    }
}

impl Block {
    /// A disk with the contents of `base`, which must not change from now on. Unless
    /// `read_only`, what the guest writes goes to unlinked files in `overlays`, made
    /// at the first write.
    pub fn new(base: Base, read_only: bool, overlays: &Overlays) -> Self {
        Self::with(Disk::new(base, read_only, overlays), None)
    }

    /// A disk as it was when `state` was saved; its own writes go to new files
    /// in `overlays`.
    ///
    /// # Errors
    /// `InvalidData` when the state is not one of a disk, or its base has
    /// changed its length; when the process is out of descriptors.
    pub fn restore(
        state: &BlockState,
        blobs: BlobReader<'_>,
        overlays: &Overlays,
    ) -> io::Result<Self> {
        let disk = Disk::restore(&state.disk, blobs, overlays)?;
        if let Some(request) = &state.unfinished
            && !request.is_of(&disk)
        {
            let what = "a request under way that this disk cannot have";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(Self::with(disk, state.unfinished))
    }

    /// The disk, for other threads.
    pub fn handle(&self) -> DiskHandle {
        self.disk.clone()
    }

    fn with(disk: Disk, unfinished: Option<Request>) -> Self {
        Self {
            read_only: disk.is_read_only(),
            config: Config::of(&disk),
            disk: DiskHandle::new(disk),
            buffer: vec![0; PIECE as usize],
            unfinished,
        }
    }
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        let common = 1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_TOPOLOGY;
        let own = match self.read_only {
            true => 1 << VIRTIO_BLK_F_RO,
            false => 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES,
        };
        common | own
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        ring::read_config(self.config.as_bytes(), offset, data);
    }

    fn activate(&mut self, _: u64) {}

    fn reset(&mut self) {
        self.unfinished = None;
    }

    fn process_queue(&mut self, index: usize, context: Context<'_>) -> Result<Notify, DeviceError> {
        let (memory, preemption) = (context.memory, context.preemption);
        let disk = &mut *self.disk.lock_last();
        let mut server = request::Server {
            disk,
            buffer: &mut self.buffer,
            unfinished: &mut self.unfinished,
            has_written: false,
            preempted: &|| preemption.is_wanted() || self.disk.is_wanted(),
        };
        let served = ring::serve_in_pieces(context, index, |chain| server.serve(chain, memory));
        if server.has_written {
            disk.count_private();
        }
        served
    }

    fn save(&mut self, blobs: &mut BlobWriter) -> io::Result<Record> {
        Ok(Record::of(&BlockState {
            disk: self.disk.lock().save(blobs)?,
            unfinished: self.unfinished,
        }))
    }
}

#[cfg(test)]
mod tests;
