//! virtio-9p: a directory of the host in the guest's tree, over 9P2000.L
//! (Linux's `Documentation/filesystems/9p.rst`; `docs/adr/0002` says why 9p).
//!
//! The guest mounts it with `mount -t 9p -o trans=virtio,version=9p2000.L TAG DIR`.
//! On the host, files belong to the monitor's user, and that user's permissions apply.
//! The directory is shared between guest and host, and between a guest and all its
//! clones; a fork does not copy it. A clone opens its open files again by their path.
//!
//! [`wire`] is the encoding, [`server`] the protocol, [`fids`] its table of files in use,
//! [`qid`] the identity of files, [`tree`] the only code that accesses the directory.

mod fids;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod qid;
mod server;
#[cfg(test)]
mod tests;
mod tree;
mod wire;

use super::{Context, DeviceError, Notify, VirtioDevice, ring};
use crate::blobs::{BlobReader, BlobWriter};
use crate::memory::GuestMemoryMmap;
use hyperfork_state::{BlobRef, BlobRole, Record, RecordType, devices};
use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};
use server::{SavedFid, Server};
use std::io::{self, Read, Write};
use std::path::Path;
use tree::Tree;
use virtio_bindings::virtio_ids::VIRTIO_ID_9P;
use wire::{Encoder, HEADER_LEN, MAX_MESSAGE};

/// `VIRTIO_9P_MOUNT_TAG`: the configuration space holds the tag.
const F_MOUNT_TAG: u64 = 1 << 0;

/// One ring, of requests.
pub(crate) const QUEUE_SIZES: [u16; 1] = [128];

/// Longest tag, in bytes: Linux's limit less its terminator.
const MAX_TAG: usize = 31;

/// The longest answer with an error, which every request must have room for.
const ERROR_LEN: usize = HEADER_LEN + 4;

/// How the shared directory itself is opened.
const OPEN_FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The saved state of the device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct P9State {
    tag: String,
    read_only: bool,
    /// The shared directory itself.
    root: BlobRef,
    /// Longest message agreed upon, in bytes.
    limit: u32,
    fids: Vec<SavedFid>,
}

impl RecordType for P9State {
    const KIND: &'static str = devices::P9.name;
    const VERSION: u16 = 1;

    fn blobs(&self) -> Vec<BlobRef> {
        vec![self.root]
    }
}

#[cfg(test)]
impl P9State {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            tag: "hf0".to_owned(),
            read_only: true,
            root: BlobRef(1),
            limit: 8192,
            fids: vec![SavedFid::sample()],
        }
    }
}

/// A shared directory.
pub struct P9 {
    tag: String,
    server: Server,
    request: Vec<u8>,
    answer: Encoder,
}

impl P9 {
    /// Shares the directory `root` under the name `tag` (1 to 31 bytes).
    ///
    /// # Errors
    /// `InvalidInput` for another tag; when `root` is not a directory or cannot
    /// be opened.
    pub fn new(tag: &str, root: &Path, read_only: bool) -> io::Result<Self> {
        if tag.is_empty() || tag.len() > MAX_TAG {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the tag of a shared directory has 1 to {MAX_TAG} bytes, not {}",
                    tag.len()
                ),
            ));
        }
        let root = openat(CWD, root, OPEN_FLAGS, Mode::empty())?;
        Ok(Self::build(tag, Server::new(Tree::new(root, read_only)?)))
    }

    /// The device of a clone. Open files are opened again by their path; those
    /// that cannot be answer `ESTALE`.
    ///
    /// # Errors
    /// When the state names a directory that is not among `blobs`, or no path.
    pub fn restore(state: &P9State, blobs: BlobReader<'_>) -> io::Result<Self> {
        let tree = Tree::new(blobs.open(state.root)?, state.read_only)?;
        let server = Server::restore(tree, state.limit, &state.fids)?;
        Ok(Self::build(&state.tag, server))
    }

    fn build(tag: &str, server: Server) -> Self {
        Self {
            tag: tag.to_owned(),
            server,
            request: Vec::new(),
            answer: Encoder::default(),
        }
    }

    fn serve(
        &mut self,
        chain: ring::Chain<'_>,
        memory: &GuestMemoryMmap,
    ) -> Result<u32, DeviceError> {
        let mut writer = chain.clone().writer(memory)?;
        let space = writer.available_bytes();
        if space < ERROR_LEN {
            return Err(DeviceError::Request("no room for an answer"));
        }
        let mut reader = chain.reader(memory)?;
        let short = |_| DeviceError::Request("message shorter than its header says");
        let mut header = [0; HEADER_LEN];
        reader.read_exact(&mut header).map_err(short)?;
        let [a, b, c, d, kind, e, f] = header;
        let (size, tag) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
        if size > self.server.limit().min(MAX_MESSAGE) {
            return Err(DeviceError::Request("message longer than agreed"));
        }
        let body = (size as usize)
            .checked_sub(HEADER_LEN)
            .ok_or(DeviceError::Request("message shorter than its header"))?;
        self.request.resize(body, 0);
        reader.read_exact(&mut self.request).map_err(short)?;
        self.server
            .answer(kind, tag, &self.request, space, &mut self.answer);
        writer.write_all(self.answer.as_bytes())?;
        Ok(self.answer.as_bytes().len() as u32)
    }
}

impl VirtioDevice for P9 {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_9P
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        F_MOUNT_TAG
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let len = self.tag.len() as u16;
        let config = [&len.to_le_bytes(), self.tag.as_bytes()].concat();
        ring::read_config(&config, offset, data);
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {
        self.server.reset();
    }

    fn process_queue(&mut self, index: usize, context: Context<'_>) -> Result<Notify, DeviceError> {
        let memory = context.memory;
        ring::serve(context, index, |chain| self.serve(chain, memory))
    }

    fn save(&mut self, blobs: &mut BlobWriter) -> io::Result<Record> {
        Ok(Record::of(&P9State {
            tag: self.tag.clone(),
            read_only: self.server.tree().is_read_only(),
            root: blobs.put(self.server.tree().root(), BlobRole::Directory, 0)?,
            limit: self.server.limit(),
            fids: self.server.save(),
        }))
    }
}
