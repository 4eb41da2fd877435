//! A base image and an overlay of layers as one disk.
//!
//! ```text
//!   write ──> top        private; made at the first write after a freeze
//!             layer n  ┐
//!             ...      │ frozen; shared with clones
//!             layer 1  ┘
//!   read  <── base       read-only; shared with everybody
//! ```
//!
//! A cluster is read from the highest layer that holds it. A fork freezes the
//! top; parent and clone go on with an empty one each. A new top takes over
//! ("absorbs") recent layers when there are many of them, each small beside
//! what lies under it: so chains of forks have a bounded number of layers, and
//! no cluster is copied often. That happens at the first write after the fork,
//! not while the parent is paused.

use super::clusters::{CLUSTER, Extent};
use super::layer::{Layer, TopLayer};
use super::overlays::Overlays;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of a sector, the unit of all virtio block requests (5.2.4).
pub const SECTOR: u64 = 512;

/// Frozen layers from which on a new top absorbs some.
const LAYERS_MAX: usize = 8;

/// A disk of one VM.
#[derive(Debug)]
pub struct Disk {
    base: File,
    /// Bytes of the base; the disk's last sector may reach beyond, as zeroes.
    base_len: u64,
    /// From the base upwards.
    layers: Vec<Layer>,
    top: Option<TopLayer>,
    /// Where tops are made. `None` for a read-only disk.
    overlays: Option<Overlays>,
}

impl Disk {
    /// See [`Block::new`](super::Block::new).
    ///
    /// # Errors
    /// When the base's length cannot be found out.
    pub fn new(mut base: File, read_only: bool, overlays: &Overlays) -> io::Result<Self> {
        // Unlike fstat(2), this also knows the length of a block device.
        let base_len = base.seek(SeekFrom::End(0))?;
        let overlays = (!read_only).then(|| overlays.clone());
        Ok(Self {
            base,
            base_len,
            layers: Vec::new(),
            top: None,
            overlays,
        })
    }

    /// Puts a saved layer on top of those there are.
    ///
    /// # Errors
    /// As [`Layer::from_saved`].
    pub fn add_layer(&mut self, file: File, clusters: &[Extent]) -> io::Result<()> {
        self.layers
            .push(Layer::from_saved(file, clusters, self.clusters())?);
        Ok(())
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

    /// The base image.
    pub fn base(&self) -> &File {
        &self.base
    }

    /// The frozen layers, from the base upwards.
    pub fn frozen(&self) -> &[Layer] {
        &self.layers
    }

    /// Makes what has been written so far immutable. Costs nothing by size.
    pub fn freeze(&mut self) {
        if let Some(top) = self.top.take_if(|top| top.layer().clusters().count() > 0) {
            self.layers.push(top.freeze());
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
            let mut next = at / CLUSTER + 1;
            let holder = self.holder(at / CLUSTER);
            while next * CLUSTER < end && self.holder(next) == holder {
                next += 1;
            }
            let len = (next * CLUSTER).min(end) - at;
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
            // A wish only (5.2.6.2): a file system without holes cannot grant it.
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
        self.base.read_exact_at(base, offset)
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

    fn layer(&self, index: usize) -> &Layer {
        match &self.top {
            Some(top) if index == self.layers.len() => top.layer(),
            _ => &self.layers[index],
        }
    }

    fn top(&mut self) -> io::Result<&mut TopLayer> {
        let top = match self.top.take() {
            Some(top) => top,
            None => self.new_top()?,
        };
        Ok(self.top.insert(top))
    }

    fn new_top(&mut self) -> io::Result<TopLayer> {
        let overlays = self
            .overlays
            .as_ref()
            .ok_or(io::ErrorKind::PermissionDenied)?;
        let mut top = TopLayer::create(overlays, self.clusters())?;
        let first = first_absorbed(&self.layers);
        match absorb(&mut top, &self.layers[first..]) {
            Ok(()) => {
                self.layers.truncate(first);
                Ok(top)
            }
            // No room to tidy up. The layers are as they were.
            Err(_) => TopLayer::create(overlays, self.clusters()),
        }
    }
}

/// The clusters that lie in a range of bytes with all of theirs.
fn whole_clusters(offset: u64, len: u64) -> Range<u64> {
    offset.div_ceil(CLUSTER)..(offset + len) / CLUSTER
}

/// The first of the layers that a new top absorbs: all above it too, so many
/// that what is left beneath is at least twice as big as all of them.
fn first_absorbed(layers: &[Layer]) -> usize {
    if layers.len() < LAYERS_MAX {
        return layers.len();
    }
    let mut first = layers.len() - 2;
    let mut sum: u64 = layers[first..]
        .iter()
        .map(|layer| layer.clusters().count())
        .sum();
    while first > 0 && layers[first - 1].clusters().count() < 2 * sum {
        first -= 1;
        sum += layers[first].clusters().count();
    }
    first
}

/// Copies what `layers` hold, the higher over the lower.
fn absorb(top: &mut TopLayer, layers: &[Layer]) -> io::Result<()> {
    let mut buffer = vec![0; 64 * CLUSTER as usize];
    for layer in layers {
        for extent in layer.clusters().extents() {
            let (mut at, end) = (
                extent.first * CLUSTER,
                (extent.first + extent.count) * CLUSTER,
            );
            while at < end {
                let len = (end - at).min(buffer.len() as u64);
                let run = &mut buffer[..len as usize];
                layer.read_at(at, run)?;
                top.write_at(at, run)?;
                at += len;
            }
        }
    }
    Ok(())
}
