//! A driver that does anything, for property tests and fuzzing.
//!
//! [`drive`] reads a script of bytes as what a hostile guest does: register
//! accesses, memory writes, descriptors that point anywhere. Any bytes are a
//! script, and most keep enough of the protocol to get deep into a device. What
//! must hold is checked on the way:
//!
//! * nothing panics;
//! * a device writes only into buffers that it was given, and what it says of the length it
//!   used is true ([`watch`]);
//! * a device never uses more buffers than it was given (2.7.8.2);
//! * a device that needs a reset leaves guest memory alone until it gets one, and a device
//!   that is only looked at or saved does so too.
//!
//! In some calls a [second vCPU](meddler) changes descriptors, available rings and buffers
//! while the device reads them.

mod driver;
mod given;
mod meddler;
mod script;
#[cfg(test)]
mod tests;
mod watch;

use super::VirtioDevice;
use super::transport::{DeviceState, Lines, MmioTransport, TransportState};
use crate::blobs::BlobWriter;
use crate::memory::GuestMemoryMmap;
use driver::Driver;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

/// Guest memory: two regions, so that buffers can also reach from one into the
/// other and into nothing.
const REGIONS: [(GuestAddress, usize); 2] = [
    (GuestAddress(0), 0x1_0000),
    (GuestAddress(0x1_0000), 0x1_0000),
];
const END: u64 = 0x2_0000;
/// Bytes of guest memory.
pub const MEMORY: u64 = END;

/// Entries of each ring the driver sets up at first.
const RING_SIZE: u16 = 16;
/// Where the ring of queue i lies: descriptors, available and used ring.
const fn ring_base(index: usize) -> u64 {
    0x1000 * (index as u64 + 1)
}
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
/// Where the buffers are.
const DATA: u64 = 0x8000;
const BUFFERS: usize = (END - DATA) as usize;

/// Runs `script` against `device`. Ends with a reset and a second, orderly
/// start, which must always work.
///
/// # Panics
/// When the device misbehaves.
pub fn drive(device: Box<dyn VirtioDevice>, script: &[u8]) {
    drive_with_buffers(device, &[], script);
}

/// The same, where buffers hold `content`, again and again, before the script writes
/// into them: requests that make sense, or nearly.
///
/// # Panics
/// When the device misbehaves.
pub fn drive_with_buffers(device: Box<dyn VirtioDevice>, content: &[u8], script: &[u8]) {
    let memory = crate::memory::region::zeroed(&REGIONS);
    drive_in(Arc::new(memory), device, content, script);
}

/// The same in guest memory that is there already: [`MEMORY`] bytes from 0 on.
///
/// # Panics
/// When the device misbehaves.
pub fn drive_in(
    memory: Arc<GuestMemoryMmap>,
    device: Box<dyn VirtioDevice>,
    content: &[u8],
    script: &[u8],
) {
    // Copied as a whole: byte by byte, in a build that watches its comparisons, this took most of
    // a run's time.
    let mut buffers = content.repeat(BUFFERS.div_ceil(content.len().max(1)));
    buffers.truncate(BUFFERS);
    memory
        .write_slice(&buffers, GuestAddress(DATA))
        .expect("the buffers are in memory");
    let lines = Lines::new(device.queue_sizes().len()).expect("descriptors");
    let mut transport =
        MmioTransport::new(device, lines, memory.clone()).expect("the device's lines");
    transport.mute();
    Driver::new(transport, memory, script).run();
}

/// The state of `device` with a driver that has started it.
///
/// # Panics
/// When the device misbehaves.
pub fn at_work(device: Box<dyn VirtioDevice>, blobs: &mut BlobWriter) -> DeviceState {
    let memory = Arc::new(crate::memory::region::zeroed(&REGIONS));
    let lines = Lines::new(device.queue_sizes().len()).expect("descriptors");
    let transport = MmioTransport::new(device, lines, memory.clone()).expect("the device's lines");
    Driver::new(transport, memory, &[]).at_work(blobs)
}

/// Resumes `device`, which was restored, with the transport's `state`. The state may be arbitrary;
/// an impossible one is refused.
///
/// # Panics
/// When the device misbehaves.
pub fn resume(device: Box<dyn VirtioDevice>, state: &TransportState) {
    let memory = Arc::new(crate::memory::region::zeroed(&REGIONS));
    let lines = Lines::new(device.queue_sizes().len()).expect("descriptors");
    if let Ok(mut transport) = MmioTransport::restore(device, lines, state, memory.clone()) {
        transport.mute();
        Driver::new(transport, memory, &[]).resume();
    }
}

/// All of guest memory.
fn image_of(memory: &GuestMemoryMmap) -> Vec<u8> {
    let mut image = Vec::new();
    read_image(memory, &mut image);
    image
}

/// The same, into a vector that was used before: memory of its own for each would be as large
/// that the kernel had to clear it first.
fn read_image(memory: &GuestMemoryMmap, image: &mut Vec<u8>) {
    image.resize(END as usize, 0);
    let read = memory.read_slice(image, GuestAddress(0));
    read.expect("the driver's memory is all there");
}
