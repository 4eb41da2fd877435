//! A driver that does anything, for property tests and fuzzing.
//!
//! [`drive`] reads a script of bytes as what a hostile guest does: register
//! accesses, memory writes, descriptors that point anywhere. Any bytes are a
//! script, and most keep enough of the protocol to get deep into a device. What
//! must hold is checked on the way:
//!
//! * nothing panics;
//! * a device never uses more buffers than it was given (2.7.8.2);
//! * a device that needs a reset leaves its rings alone until it gets one.

use super::VirtioDevice;
use super::transport::{Lines, MmioTransport};
use crate::bus::BusDevice;
use crate::memory::GuestMemoryMmap;
use crate::sys::fds::FdTable;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

const STATUS: u64 = 0x70;
const NEEDS_RESET: u32 = 0x40;

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
    let buffers: Vec<u8> = content.iter().copied().cycle().take(BUFFERS).collect();
    memory
        .write_slice(&buffers, GuestAddress(DATA))
        .expect("the buffers are in memory");
    let lines = Lines::new(device.queue_sizes().len()).expect("descriptors");
    let mut transport =
        MmioTransport::new(device, lines, memory.clone()).expect("the device's lines");
    transport.mute();
    let preempt = Arc::new(AtomicBool::new(false));
    transport.pause_by(preempt.clone());
    let mut driver = Driver {
        transport,
        memory,
        preempt,
        script: Script(script),
    };
    driver.start();
    while !driver.script.is_empty() {
        driver.step();
        driver.check();
    }
    driver.write_register(STATUS, 0);
    driver.start();
    assert_eq!(
        driver.read_register(STATUS),
        0xf,
        "a reset device can be started"
    );
}

struct Driver<'a> {
    transport: MmioTransport,
    memory: Arc<GuestMemoryMmap>,
    /// Whether devices are called away from their work after each piece.
    preempt: Arc<AtomicBool>,
    script: Script<'a>,
}

/// The bytes that have not been interpreted yet. Zeroes follow the last one.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// Mostly an address of a buffer, sometimes one at an edge, or any.
    fn address(&mut self) -> u64 {
        match self.u8() {
            0..200 => DATA + u64::from(self.u16()) % (END - DATA),
            200..220 => END - u64::from(self.u8()),
            220..235 => ring_base(usize::from(self.u8() % 4)) + u64::from(self.u16() % 0x1000),
            235..245 => u64::MAX - u64::from(self.u8()),
            245.. => self.u64(),
        }
    }

    /// Mostly a length of a buffer, sometimes 0 or any.
    fn length(&mut self) -> u32 {
        match self.u8() {
            0..60 => 16,
            60..90 => 1,
            90..150 => u32::from(self.u8()),
            150..200 => 512 * (1 + u32::from(self.u8() % 32)),
            200..230 => u32::from(self.u16()),
            230..245 => 0,
            245.. => self.u32(),
        }
    }
}

impl Driver<'_> {
    /// The handshake of 3.1.1, with every ring where it should be.
    fn start(&mut self) {
        self.write_register(STATUS, 1);
        self.write_register(STATUS, 3);
        for half in 0..2 {
            self.write_register(0x14, half);
            let features = self.read_register(0x10);
            self.write_register(0x24, half);
            self.write_register(0x20, features);
        }
        self.write_register(STATUS, 0xb);
        for index in 0..self.transport.queue_count() {
            let base = ring_base(index);
            // As a new driver finds them.
            self.write_memory(base + AVAILABLE, &[0; 4]);
            self.write_memory(base + USED, &[0; 4]);
            self.write_register(0x30, index as u32);
            self.write_register(0x38, RING_SIZE.into());
            for (register, address) in [(0x80, base), (0x90, base + AVAILABLE), (0xa0, base + USED)]
            {
                self.write_register(register, address as u32);
                self.write_register(register + 4, 0);
            }
            self.write_register(0x44, 1);
            assert_eq!(self.read_register(0x44), 1, "a good ring becomes ready");
        }
        self.write_register(STATUS, 0xf);
    }

    fn step(&mut self) {
        let queue = usize::from(self.script.u8()) % self.transport.queue_count();
        match self.script.u8() {
            0..70 => self.offer_chain(queue),
            70..140 => {
                self.transport.take_queue_event(queue);
                self.transport.process_queue(queue);
            }
            140..160 => self.transport.process_host_events(),
            160..185 => {
                let (address, value) = (self.script.address(), self.script.u32());
                self.write_memory(address, &value.to_le_bytes());
            }
            185..200 => {
                let index = self.script.u16();
                self.write_memory(ring_base(queue) + AVAILABLE + 2, &index.to_le_bytes());
            }
            200..210 => {
                let entry = self.script.u16();
                let slot = u64::from(self.script.u8() % RING_SIZE as u8);
                let address = ring_base(queue) + AVAILABLE + 4 + 2 * slot;
                self.write_memory(address, &entry.to_le_bytes());
            }
            210..225 => {
                let (offset, value) = (self.script.u16() % 0x110, self.script.u32());
                self.write_register(u64::from(offset & !3), value);
            }
            225..235 => {
                let (offset, width) = (self.script.u64(), usize::from(self.script.u8() % 9));
                let mut data = [0; 8];
                self.transport.read(offset % 0x300, &mut data[..width]);
                self.transport.write(offset, &data[..width]);
                self.transport.read(offset, &mut data[..width]);
            }
            235..240 => {
                self.write_register(STATUS, 0);
                self.start();
            }
            240..242 => {
                let preempted = self.script.u8().is_multiple_of(2);
                self.preempt.store(preempted, Ordering::SeqCst);
            }
            242..245 => {
                let mut fds = FdTable::default();
                self.transport
                    .save(&mut fds)
                    .expect("a device can be saved at any time");
            }
            245.. => self.transport.resume(),
        }
    }

    /// Puts a chain of descriptors into the table and its head into the
    /// available ring.
    fn offer_chain(&mut self, queue: usize) {
        let base = ring_base(queue);
        let first = self.script.u8() % RING_SIZE as u8;
        let count = 1 + self.script.u8() % 5;
        let readable = self.script.u8() % (count + 1);
        for position in 0..count {
            let slot = (first + position) % RING_SIZE as u8;
            let address = self.script.address();
            let length = self.script.length();
            let more = u16::from(position + 1 < count);
            let write = u16::from(position >= readable) << 1;
            let (flags, next) = match self.script.u8() {
                0..240 => (more | write, (slot + 1) % RING_SIZE as u8),
                240.. => (self.script.u16() & 7, self.script.u8()),
            };
            if position < readable {
                self.fill(address);
            }
            let mut descriptor = [0; 16];
            descriptor[..8].copy_from_slice(&address.to_le_bytes());
            descriptor[8..12].copy_from_slice(&length.to_le_bytes());
            descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
            descriptor[14..].copy_from_slice(&u16::from(next).to_le_bytes());
            self.write_memory(base + 16 * u64::from(slot), &descriptor);
        }
        let index = self.read_memory_u16(base + AVAILABLE + 2);
        let slot = u64::from(index % RING_SIZE);
        self.write_memory(
            base + AVAILABLE + 4 + 2 * slot,
            &u16::from(first).to_le_bytes(),
        );
        self.write_memory(base + AVAILABLE + 2, &index.wrapping_add(1).to_le_bytes());
    }

    /// What a readable buffer begins with: small numbers mostly, as in headers.
    fn fill(&mut self, address: u64) {
        let count = self.script.u8() % 64;
        for offset in 0..u64::from(count) {
            let byte = self.script.u8();
            if let Some(address) = address.checked_add(offset) {
                self.write_memory(address, &[byte]);
            }
        }
    }

    fn check(&mut self) {
        if self.read_register(STATUS) & NEEDS_RESET != 0 {
            let before = self.used_indices();
            self.transport.resume();
            let after = self.used_indices();
            assert_eq!(after, before, "a device that needs a reset goes on");
        }
        for ring in self
            .transport
            .ring_states()
            .iter()
            .filter(|ring| ring.ready)
        {
            let outstanding = ring.next_avail.wrapping_sub(ring.next_used);
            assert!(
                u32::from(outstanding) <= ring.size,
                "more used than was given"
            );
        }
    }

    fn used_indices(&self) -> Vec<u16> {
        (0..self.transport.queue_count())
            .map(|index| self.read_memory_u16(ring_base(index) + USED + 2))
            .collect()
    }

    fn read_register(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Lost where there is no memory.
    fn write_memory(&self, address: u64, bytes: &[u8]) {
        let _ = self.memory.write_slice(bytes, GuestAddress(address));
    }

    fn read_memory_u16(&self, address: u64) -> u16 {
        self.memory
            .read_obj(GuestAddress(address))
            .unwrap_or_default()
    }
}
