//! Blobs: the parts of a captured machine that are too large for a record.

use serde::{Deserialize, Serialize};

/// A blob's index in the table of its manifest. Records refer to blobs by it, so no record changes
/// when a blob is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobRef(pub u32);

/// One blob of a captured machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// What it holds.
    pub role: BlobRole,
    /// Bytes of it that the machine uses. 0 for a directory.
    pub len: u64,
    /// How it is found.
    pub source: BlobSource,
}

/// What a blob holds. Encoded by number: new ones come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BlobRole {
    /// All of guest RAM, as it was when it was first frozen.
    RamBase,
    /// Pieces of guest RAM that were written since.
    RamLayer,
    /// A disk's image, or a backing file of one.
    DiskImage,
    /// Clusters of a disk that were written.
    DiskLayer,
    /// A directory of the host that the guest shares: a reference to it, not its contents.
    Directory,
}

/// How a carrier finds a blob. Encoded by number: new ones come last.
///
/// A fork's blobs are descriptors. A store will find blobs by the digest of their contents, with
/// another variant: a snapshot will then be a fork's manifest with other sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BlobSource {
    /// An index in the table of descriptors that comes with the manifest.
    Table(u32),
}
