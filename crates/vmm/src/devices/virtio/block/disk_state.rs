//! The saved state of a disk.

use super::base::BaseState;
use super::clusters::Extent;
use hyperfork_state::BlobRef;
use serde::{Deserialize, Serialize};

/// A disk at rest: its base and frozen layers are blobs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiskState {
    pub(super) base: BaseState,
    pub(super) read_only: bool,
    /// Bytes of the disk; a base of another length is another disk.
    pub(super) len: u64,
    /// From the base upwards.
    pub(super) layers: Vec<LayerState>,
}

/// A frozen layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LayerState {
    pub(super) file: BlobRef,
    pub(super) clusters: Vec<Extent>,
}

impl DiskState {
    /// Its files.
    pub(super) fn blobs(&self) -> Vec<BlobRef> {
        let layers = self.layers.iter().map(|layer| layer.file);
        self.base.blobs().into_iter().chain(layers).collect()
    }
}

#[cfg(test)]
impl DiskState {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            base: BaseState::Raw(BlobRef(1)),
            read_only: false,
            len: 2 << 30,
            layers: vec![LayerState {
                file: BlobRef(2),
                clusters: vec![Extent {
                    first: 300,
                    count: 70_000,
                }],
            }],
        }
    }

    /// The same of a disk on a qcow2 image.
    pub(crate) fn sample_of_qcow2() -> Self {
        Self {
            base: BaseState::sample_of_qcow2(),
            read_only: true,
            len: 5 << 30,
            layers: Vec::new(),
        }
    }
}
