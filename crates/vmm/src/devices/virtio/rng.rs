//! The entropy device (virtio 1.2, section 5.4).
//!
//! Nothing is kept between requests, so what a clone asks for after a fork is
//! its own from the first byte. (What its kernel had already taken before the
//! fork is not: mixing in something new is the agent's job.)

use super::{Context, DeviceError, Notify, VirtioDevice, ring};
use crate::blobs::BlobWriter;
use crate::memory::GuestMemoryMmap;
use hyperfork_state::{Record, RecordType, devices};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

/// Bytes given for one request at most. The device may give fewer than asked
/// for (5.4.6.2), and a driver that wants more asks again.
const REQUEST_MAX: usize = 64 << 10;

/// The largest size of each ring.
pub(crate) const QUEUE_SIZES: [u16; 1] = [64];

/// An entropy source.
#[derive(Debug, Default)]
pub struct Rng;

/// The state of an entropy source: none.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct RngState;

impl RecordType for RngState {
    const KIND: &'static str = devices::RNG.name;
    const VERSION: u16 = 1;
}

impl Rng {
    /// A source as it was when the state was saved.
    pub fn restore(_: &RngState) -> Self {
        Self
    }
}

impl VirtioDevice for Rng {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    fn activate(&mut self, _: u64) {}

    fn reset(&mut self) {}

    fn process_queue(&mut self, index: usize, context: Context<'_>) -> Result<Notify, DeviceError> {
        let memory = context.memory;
        ring::serve(context, index, |chain| fill(chain, memory))
    }

    fn save(&mut self, _: &mut BlobWriter) -> io::Result<Record> {
        Ok(Record::of(&RngState))
    }
}

fn fill(chain: ring::Chain<'_>, memory: &GuestMemoryMmap) -> Result<u32, DeviceError> {
    let mut writer = chain.writer(memory)?;
    let mut left = writer.available_bytes().min(REQUEST_MAX);
    let mut entropy = [0; 256];
    while left > 0 {
        let len = left.min(entropy.len());
        let part = &mut entropy[..len];
        getrandom::fill(part).map_err(io::Error::from)?;
        writer.write_all(part)?;
        left -= len;
    }
    Ok(writer.bytes_written() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::hostile;
    use crate::devices::virtio::testing::Driver;
    use proptest::prelude::*;

    #[test]
    fn all_buffers_of_a_request_are_filled() {
        let mut driver = Driver::start(Rng);
        let (len, contents) = driver.request(0, &[], &[300, 1, 64]);
        assert_eq!(len, 365);
        assert_ne!(contents[0], [0; 300]);
        assert_ne!(contents[2], [0; 64]);
    }

    #[test]
    fn a_huge_request_gets_a_part() {
        let mut driver = Driver::start(Rng);
        let (len, contents) = driver.request(0, &[], &[1 << 20]);
        assert_eq!(len as usize, REQUEST_MAX);
        assert!(contents[0][REQUEST_MAX..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_request_without_writable_buffers_gets_nothing() {
        assert_eq!(Driver::start(Rng).request(0, &[b"abc"], &[]).0, 0);
    }

    proptest! {
        #[test]
        fn a_hostile_driver_gets_nowhere(script in prop::collection::vec(any::<u8>(), 0..2000)) {
            hostile::drive(Box::new(Rng), &script);
        }
    }
}
