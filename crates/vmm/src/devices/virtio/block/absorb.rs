//! Merges recent layers into a new top layer, so that there are few layers and no cluster is
//! copied often.

use super::clusters::CLUSTER;
use super::layer::{Layer, TopLayer};
use std::io;
use std::ops::Range;

/// The number of frozen layers from which on a new top absorbs some.
const LAYERS_MAX: usize = 8;

/// Whether there are so many layers that absorbing cannot be put off any more.
pub(super) fn is_overdue(layers: &[Layer]) -> bool {
    layers.len() >= 2 * LAYERS_MAX
}

/// The lowest layer that a new top absorbs, together with all above it: so many that the next layer
/// below is at least twice as big as all of them.
pub(super) fn first(layers: &[Layer]) -> usize {
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

/// Copies the contents of `layers` into the new top, those of higher layers over lower ones.
/// Discarded clusters take no storage in the new top either.
///
/// # Errors
/// When the host's disk is full; `Interrupted` when it was preempted.
pub(super) fn absorb(
    top: &mut TopLayer,
    layers: &[Layer],
    preempted: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * CLUSTER as usize];
    for layer in layers {
        for extent in layer.clusters().extents() {
            let end = extent.first + extent.count;
            for run in layer.runs(extent.first * CLUSTER..end * CLUSTER)? {
                let clusters = run.bytes.start / CLUSTER..run.bytes.end / CLUSTER;
                if run.stored || top.punch(clusters).is_err() {
                    copy(layer, top, run.bytes, &mut buffer, preempted)?;
                }
            }
        }
    }
    Ok(())
}

fn copy(
    layer: &Layer,
    top: &mut TopLayer,
    bytes: Range<u64>,
    buffer: &mut [u8],
    preempted: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut at = bytes.start;
    while at < bytes.end {
        if preempted() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = (bytes.end - at).min(buffer.len() as u64);
        let run = &mut buffer[..len as usize];
        layer.read_at(at, run)?;
        top.write_at(at, run)?;
        at += len;
    }
    Ok(())
}
