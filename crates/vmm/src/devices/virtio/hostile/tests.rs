//! Tests that the hostile driver notices what a device must not do.

use super::drive;
use crate::blobs::BlobWriter;
use crate::devices::virtio::rng::RngState;
use crate::devices::virtio::{Context, DeviceError, Notify, VirtioDevice, ring};
use hyperfork_state::Record;
use std::io::{self, Write};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

/// Offers a chain of one writable buffer of 16 bytes at 0x8000, and has it served.
const ONE_BUFFER: [u8; 14] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 0, 100];
/// The same, and its length is 1 or 16 while it is served.
const A_BUFFER_THAT_SHRINKS: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 125, 0, 0, 8, 1];
/// The same in a chain that goes on, with a buffer of 4 GiB.
const A_CHAIN_TOO_LONG: [u8; 23] = [
    0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 245, 255, 255, 255, 255, 0, 0, 100, 0, 100,
];

/// What a device does with a buffer.
#[derive(Clone, Copy)]
enum Deed {
    Fill,
    WriteElsewhere,
    SayMore,
    SayLess,
    UseAnother,
}

struct Culprit(Deed);

impl VirtioDevice for Culprit {
    fn device_id(&self) -> u32 {
        4
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[16]
    }

    fn features(&self) -> u64 {
        0
    }

    fn activate(&mut self, _: u64) {}

    fn reset(&mut self) {}

    fn process_queue(&mut self, index: usize, context: Context<'_>) -> Result<Notify, DeviceError> {
        let Context { queues, memory, .. } = context;
        while let Some(chain) = ring::pop(&mut queues[index], memory)? {
            let head = chain.head_index();
            let mut writer = chain.writer(memory)?;
            let room = writer.available_bytes();
            writer.write_all(&vec![0x55; room])?;
            let (head, said) = match self.0 {
                Deed::Fill => (head, room),
                Deed::WriteElsewhere => {
                    let elsewhere = GuestAddress(0x1_7000);
                    memory.write_obj(7u8, elsewhere).map_err(io::Error::other)?;
                    (head, room)
                }
                Deed::SayMore => (head, room + 1),
                Deed::SayLess => (head, room - 1),
                Deed::UseAnother => ((head + 1) % 16, 0),
            };
            queues[index].add_used(memory, head, said as u32)?;
        }
        Ok(Notify::default())
    }

    fn save(&mut self, _: &mut BlobWriter) -> io::Result<Record> {
        Ok(Record::of(&RngState))
    }
}

#[test]
fn a_device_that_does_as_it_should_passes() {
    drive(Box::new(Culprit(Deed::Fill)), &ONE_BUFFER);
    for _ in 0..50 {
        drive(Box::new(Culprit(Deed::Fill)), &A_BUFFER_THAT_SHRINKS);
    }
}

#[test]
#[should_panic(expected = "which it was not given")]
fn a_write_beside_the_buffers_is_noticed() {
    drive(Box::new(Culprit(Deed::WriteElsewhere)), &ONE_BUFFER);
}

#[test]
#[should_panic(expected = "which it was not given")]
fn a_write_beside_buffers_that_change_is_noticed() {
    drive(
        Box::new(Culprit(Deed::WriteElsewhere)),
        &A_BUFFER_THAT_SHRINKS,
    );
}

#[test]
#[should_panic(expected = "17 bytes used of 16")]
fn a_used_length_beyond_the_buffer_is_noticed() {
    drive(Box::new(Culprit(Deed::SayMore)), &ONE_BUFFER);
}

#[test]
#[should_panic(expected = "byte 15 of a buffer was written, and 15 are said to be")]
fn a_used_length_that_leaves_out_what_was_written_is_noticed() {
    drive(Box::new(Culprit(Deed::SayLess)), &ONE_BUFFER);
}

#[test]
fn of_a_chain_that_is_longer_than_any_may_be_no_used_length_is_wrong() {
    drive(Box::new(Culprit(Deed::SayLess)), &A_CHAIN_TOO_LONG);
}

#[test]
#[should_panic(expected = "used what it was not given")]
fn a_buffer_used_that_was_not_given_is_noticed() {
    drive(Box::new(Culprit(Deed::UseAnother)), &ONE_BUFFER);
}
