//! A base image and an overlay of layers as one disk.
//!
//! ```text
//!   write ──> top        private; made at the first write after a freeze
//!             layer n  ┐
//!             ...      │ frozen; shared with clones
//!             layer 1  ┘
//!   read  <── base       an image; read-only; shared with all VMs that use it
//! ```
//!
//! A cluster is read from the highest layer that holds it. A fork freezes the
//! top; parent and clone go on with an empty one each. A new top takes over
//! ("absorbs") recent layers when there are many of them, each small beside
//! what lies under it: so chains of forks have a bounded number of layers, and
//! no cluster is copied often. That happens at the first write after the fork,
//! not while the parent is paused.

use super::absorb;
use super::base::Base;
use super::clusters::CLUSTER;
use super::disk_state::{DiskState, LayerState};
use super::layer::{Layer, TopLayer};
use super::overlays::Overlays;
use super::sparse::Run;
use super::usage::Counters;
use crate::blobs::{BlobReader, BlobWriter};
use hyperfork_state::BlobRole;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes of a sector, the unit of all virtio block requests (5.2.4).
pub const SECTOR: u64 = 512;

/// A disk of one VM.
#[derive(Debug)]
pub struct Disk {
    base: Base,
    /// Bytes of the base; the disk's last sector may reach beyond, as zeroes.
    base_len: u64,
    /// From the base upwards.
    layers: Vec<Layer>,
    top: Option<TopLayer>,
    /// Makes the files of new top layers. `None` for a read-only disk.
    overlays: Option<Overlays>,
    counters: Arc<Counters>,
}

impl Disk {
    /// See [`Block::new`](super::Block::new).
    pub fn new(base: Base, read_only: bool, overlays: &Overlays) -> Self {
        Self::with(base, (!read_only).then(|| overlays.clone()))
    }

    fn with(base: Base, overlays: Option<Overlays>) -> Self {
        let base_len = base.size();
        Self {
            base,
            base_len,
            layers: Vec::new(),
            top: None,
            overlays,
            counters: Arc::new(Counters::of_size(base_len.next_multiple_of(SECTOR))),
        }
    }

    /// Freezes what was written until now, and shares all with a clone.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn save(&mut self, blobs: &mut BlobWriter) -> io::Result<DiskState> {
        self.freeze();
        let base = self.base.save(blobs)?;
        let len = self.clusters() * CLUSTER;
        let layers = self.layers.iter().map(|layer| {
            Ok(LayerState {
                file: blobs.put(layer.file(), BlobRole::DiskLayer, len)?,
                clusters: layer.clusters().extents(),
            })
        });
        Ok(DiskState {
            base,
            read_only: self.is_read_only(),
            len: self.len(),
            layers: layers.collect::<io::Result<_>>()?,
        })
    }

    /// See [`Block::restore`](super::Block::restore).
    ///
    /// # Errors
    /// As there.
    pub fn restore(
        state: &DiskState,
        blobs: BlobReader<'_>,
        overlays: &Overlays,
    ) -> io::Result<Self> {
        let overlays = (!state.read_only).then(|| overlays.clone());
        Self::from_state(state, blobs, overlays)
    }

    fn from_state(
        state: &DiskState,
        blobs: BlobReader<'_>,
        overlays: Option<Overlays>,
    ) -> io::Result<Self> {
        let base = Base::restore(&state.base, blobs)?;
        let mut disk = Self::with(base, overlays);
        if disk.len() != state.len {
            let what = format!("a disk of {} bytes is now one of {}", state.len, disk.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        for layer in &state.layers {
            let file = File::from(blobs.open(layer.file)?);
            let layer = Layer::from_saved(file, &layer.clusters, disk.clusters())?;
            disk.layers.push(layer);
        }
        disk.count_shared();
        Ok(disk)
    }

    /// The disk as it is now, for reading. Later writes are not in it.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn snapshot(&mut self) -> io::Result<Self> {
        let mut blobs = BlobWriter::default();
        let state = self.save(&mut blobs)?;
        Self::from_state(&state, blobs.reader(), None)
    }

    /// The counters of its storage on the host.
    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Updates the storage of its private layer; called after writes.
    pub(super) fn count_private(&self) {
        let private = self.top.as_ref().map_or(0, |top| top.layer().storage());
        self.counters.set_private(private);
    }

    fn count_shared(&self) {
        let shared = self.layers.iter().map(Layer::storage).sum();
        self.counters.set_shared(shared);
    }

    /// Bytes of the disk: whole sectors.
    pub fn len(&self) -> u64 {
        self.base_len.next_multiple_of(SECTOR)
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.base_len == 0
    }

    /// Whether the guest can only read.
    pub fn is_read_only(&self) -> bool {
        self.overlays.is_none()
    }

    /// Freezes the top layer, in constant time.
    fn freeze(&mut self) {
        if let Some(top) = self.top.take_if(|top| top.layer().clusters().count() > 0) {
            self.layers.push(top.freeze());
            self.counters.share();
        }
    }

    /// Fills `buffer` from byte `offset` on. The range must lie on the disk.
    ///
    /// # Errors
    /// As `pread(2)`; `UnexpectedEof` when the base has been cut.
    pub fn read_at(&self, offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        let mut at = offset;
        while !buffer.is_empty() {
            let (holder, end) = self.held_alike(at, end);
            let len = end - at;
            let (run, rest) = buffer.split_at_mut(len as usize);
            match holder {
                Some(holder) => self.layer(holder).read_at(at, run)?,
                None => self.read_base(at, run)?,
            }
            buffer = rest;
            at += len;
        }
        Ok(())
    }

    /// Copies all that is not zero into `target`, an empty file.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at) and `pwrite(2)`.
    pub fn copy_to(&self, target: &File) -> io::Result<()> {
        let len = self.len();
        target.set_len(len)?;
        let mut at = 0;
        while at < len {
            let (holder, end) = self.held_alike(at, len);
            let runs = match holder {
                Some(holder) => self.layer(holder).runs(at..end)?,
                None => self.base.runs(at..end.min(self.base_len))?,
            };
            for run in runs.iter().filter(|run| run.stored) {
                self.copy_run(run, target)?;
            }
            at = end;
        }
        Ok(())
    }

    fn copy_run(&self, run: &Run, target: &File) -> io::Result<()> {
        let mut buffer = vec![0; 64 * CLUSTER as usize];
        let mut at = run.bytes.start;
        while at < run.bytes.end {
            let len = (run.bytes.end - at).min(buffer.len() as u64);
            let data = &mut buffer[..len as usize];
            self.read_at(at, data)?;
            for (cluster, at) in data
                .chunks(CLUSTER as usize)
                .zip((at..).step_by(CLUSTER as usize))
            {
                if cluster.iter().any(|&byte| byte != 0) {
                    target.write_all_at(cluster, at)?;
                }
            }
            at += len;
        }
        Ok(())
    }

    /// Writes `data` from byte `offset` on. The range must lie on the disk.
    /// After an error each of the clusters holds either its old or its new
    /// content, but for those in the private layer already, which may hold a mix.
    ///
    /// # Errors
    /// `PermissionDenied` for a read-only disk; as `pwrite(2)`, above all when
    /// the host's disk is full.
    pub fn write_at(&mut self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        let mut at = offset;
        while !data.is_empty() {
            let within = at % CLUSTER;
            let len = match within {
                0 if data.len() as u64 >= CLUSTER => data.len() as u64 / CLUSTER * CLUSTER,
                _ => (CLUSTER - within).min(data.len() as u64),
            };
            let (run, rest) = data.split_at(len as usize);
            if len < CLUSTER {
                self.write_within_cluster(at, run)?;
            } else {
                self.top()?.write_at(at, run)?;
            }
            data = rest;
            at += len;
        }
        Ok(())
    }

    fn write_within_cluster(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        let cluster = at / CLUSTER;
        if self.top()?.layer().clusters().contains(cluster) {
            return self.top()?.write_at(at, data);
        }
        let mut copy = [0; CLUSTER as usize];
        self.read_at(cluster * CLUSTER, &mut copy)?;
        let within = (at % CLUSTER) as usize;
        copy[within..within + data.len()].copy_from_slice(data);
        self.top()?.write_at(cluster * CLUSTER, &copy)
    }

    /// Writes zeroes, without storage for them where the host can.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let whole = whole_clusters(offset, len);
        if whole.is_empty() || self.top()?.punch(whole.clone()).is_err() {
            return self.write_zeroes(offset..offset + len);
        }
        self.write_zeroes(offset..whole.start * CLUSTER)?;
        self.write_zeroes(whole.end * CLUSTER..offset + len)
    }

    fn write_zeroes(&mut self, bytes: Range<u64>) -> io::Result<()> {
        let zeroes = [0; 16 * CLUSTER as usize];
        let mut at = bytes.start;
        while at < bytes.end {
            let len = (bytes.end - at).min(zeroes.len() as u64);
            self.write_at(at, &zeroes[..len as usize])?;
            at += len;
        }
        Ok(())
    }

    /// Gives storage back to the host where that is simple: whole clusters read
    /// as zeroes afterwards, parts of clusters keep their content.
    ///
    /// # Errors
    /// `PermissionDenied` for a read-only disk.
    pub fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        match self.top()?.punch(whole_clusters(offset, len)) {
            // Only a hint (5.2.6.2), which a file system without holes cannot follow.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn read_base(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let there = self
            .base_len
            .saturating_sub(offset)
            .min(buffer.len() as u64);
        let (base, beyond) = buffer.split_at_mut(there as usize);
        beyond.fill(0);
        match base.is_empty() {
            true => Ok(()),
            false => self.base.read_at(offset, base),
        }
    }

    fn clusters(&self) -> u64 {
        self.base_len.div_ceil(CLUSTER)
    }

    /// The highest layer that holds `cluster`, counted from the base upwards,
    /// the top last.
    fn holder(&self, cluster: u64) -> Option<usize> {
        (0..self.layers.len() + usize::from(self.top.is_some()))
            .rev()
            .find(|&index| self.layer(index).clusters().contains(cluster))
    }

    /// The layer that holds byte `at`, and the end, at most `end`, of the bytes in that same layer.
    fn held_alike(&self, at: u64, end: u64) -> (Option<usize>, u64) {
        let holder = self.holder(at / CLUSTER);
        let mut next = at / CLUSTER + 1;
        while next * CLUSTER < end && self.holder(next) == holder {
            next += 1;
        }
        (holder, (next * CLUSTER).min(end))
    }

    fn layer(&self, index: usize) -> &Layer {
        match &self.top {
            Some(top) if index == self.layers.len() => top.layer(),
            _ => &self.layers[index],
        }
    }

    /// Makes the top layer if there is none, so that the next write takes no longer than others.
    /// Merging layers is put off if it is `preempted`, unless it is overdue.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub(super) fn prepare_to_write(&mut self, preempted: &dyn Fn() -> bool) -> io::Result<()> {
        if self.top.is_none() {
            self.top = Some(self.new_top(preempted)?);
        }
        Ok(())
    }

    fn top(&mut self) -> io::Result<&mut TopLayer> {
        let top = match self.top.take() {
            Some(top) => top,
            None => self.new_top(&|| false)?,
        };
        Ok(self.top.insert(top))
    }

    fn new_top(&mut self, preempted: &dyn Fn() -> bool) -> io::Result<TopLayer> {
        let overlays = self
            .overlays
            .as_ref()
            .ok_or(io::ErrorKind::PermissionDenied)?;
        let mut top = TopLayer::create(overlays, self.clusters())?;
        let first = absorb::first(&self.layers);
        let preempted = || preempted() && !absorb::is_overdue(&self.layers);
        match absorb::absorb(&mut top, &self.layers[first..], &preempted) {
            Ok(()) => {
                if first < self.layers.len() {
                    self.layers.truncate(first);
                    self.count_shared();
                }
                Ok(top)
            }
            // No room to merge, or preempted. The layers are as they were.
            Err(_) => TopLayer::create(overlays, self.clusters()),
        }
    }
}

/// The clusters that lie entirely in a range of bytes.
fn whole_clusters(offset: u64, len: u64) -> Range<u64> {
    offset.div_ceil(CLUSTER)..(offset + len) / CLUSTER
}
