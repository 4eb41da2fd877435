//! What belongs to a captured machine and is too large for a record.

use serde::{Deserialize, Serialize};

/// A blob's place in the table of its manifest. Records name their blobs by it, so wherever
/// a blob is moved to, no record changes.
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
    /// A disk's image, or a file that one lies on.
    DiskImage,
    /// Clusters of a disk that were written.
    DiskLayer,
    /// A directory of the host that the guest shares. Not contents: a name for them.
    Directory,
}

/// How a carrier finds a blob. Encoded by number: new ones come last.
///
/// A fork's blobs are descriptors. A store will find them by the digest of their contents,
/// for which there will be a variant of its own: then a snapshot is a fork's manifest with
/// other sources, and the rest of it stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BlobSource {
    /// A place in the table of descriptors that comes with the manifest.
    Table(u32),
}
