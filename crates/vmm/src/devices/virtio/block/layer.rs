//! The layers of an overlay; each is one file.

use super::clusters::{CLUSTER, Clusters, Extent};
use super::overlays::Overlays;
use super::sparse::{self, Run};
use crate::sys::hole;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

/// A frozen layer, shared with every clone made since.
///
/// The file is sparse, as long as the disk, and each cluster lies where it lies
/// on the disk. It is open for reading only, so no process that has been given
/// the descriptor can change what its siblings read.
#[derive(Debug)]
pub struct Layer {
    file: File,
    clusters: Clusters,
}

/// The layer this VM writes to.
#[derive(Debug)]
pub struct TopLayer {
    layer: Layer,
    writer: File,
}

impl Layer {
    /// A layer saved by another process, of a disk of `total` clusters.
    ///
    /// # Errors
    /// `InvalidData` when the extents are not of such a disk.
    pub fn from_saved(file: File, extents: &[Extent], total: u64) -> io::Result<Self> {
        let clusters = Clusters::from_extents(total, extents).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "not a layer of this disk")
        })?;
        Ok(Self { file, clusters })
    }

    /// The file, open for reading only.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The clusters this layer holds.
    pub fn clusters(&self) -> &Clusters {
        &self.clusters
    }

    /// Reads clusters that this layer holds.
    ///
    /// # Errors
    /// As `pread(2)`.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Where clusters that this layer holds have storage, and where they are zeroes.
    ///
    /// # Errors
    /// As [`sparse::runs`].
    pub fn runs(&self, bytes: Range<u64>) -> io::Result<Vec<Run>> {
        sparse::runs(&self.file, bytes)
    }

    /// Bytes that it takes on the host.
    pub fn storage(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.blocks() * 512)
    }
}

impl TopLayer {
    /// An empty layer for a disk of `total` clusters.
    ///
    /// # Errors
    /// As [`Overlays::create`].
    pub fn create(overlays: &Overlays, total: u64) -> io::Result<Self> {
        let (writer, file) = overlays.create()?;
        writer.set_len(total * CLUSTER)?;
        Ok(Self {
            layer: Layer {
                file,
                clusters: Clusters::none_of(total),
            },
            writer,
        })
    }

    /// What can be read of it.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Writes anywhere within clusters that the layer holds already, or whole
    /// clusters, which it holds from then on. If writing fails, no cluster is
    /// added.
    ///
    /// # Errors
    /// As `pwrite(2)`; above all when the host's disk is full.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writer.write_all_at(data, offset)?;
        let end = offset + data.len() as u64;
        self.layer
            .clusters
            .insert(offset.div_ceil(CLUSTER)..end / CLUSTER);
        Ok(())
    }

    /// Holds whole clusters as zeroes from now on, without storage for them.
    ///
    /// # Errors
    /// As `fallocate(2)`; above all `EOPNOTSUPP`.
    pub fn punch(&mut self, clusters: Range<u64>) -> io::Result<()> {
        if clusters.is_empty() {
            return Ok(());
        }
        hole::punch(
            &self.writer,
            clusters.start * CLUSTER..clusters.end * CLUSTER,
        )?;
        self.layer.clusters.insert(clusters);
        Ok(())
    }

    /// Freezes it: it cannot be written any more.
    pub fn freeze(self) -> Layer {
        self.layer
    }
}
