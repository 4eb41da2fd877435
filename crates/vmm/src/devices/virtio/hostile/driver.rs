//! Runs the script of a hostile driver against a device.

use super::meddler::{Flip, Meddler};
use super::script::Script;
use super::watch::Watch;
use super::{AVAILABLE, DATA, END, RING_SIZE, USED, image_of, ring_base};
use crate::blobs::BlobWriter;
use crate::bus::BusDevice;
use crate::devices::virtio::transport::{DeviceState, MmioTransport};
use crate::memory::GuestMemoryMmap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vm_memory::{Bytes, GuestAddress};

const DEVICE_ID: u64 = 0x8;
const STATUS: u64 = 0x70;
const NEEDS_RESET: u32 = 0x40;

/// Calls of one script that a second vCPU meddles with: each takes as long as many others.
const MEDDLED_MAX: u32 = 3;
/// Bytes that it changes during one. All their versions are looked at.
const FLIPS_MAX: u8 = 6;

pub(super) struct Driver<'a> {
    transport: MmioTransport,
    memory: Arc<GuestMemoryMmap>,
    /// Whether devices are preempted after each piece of work.
    preempt: Arc<AtomicBool>,
    script: Script<'a>,
    watch: Watch,
    /// The second vCPU, once there is one.
    meddler: Option<Meddler>,
    meddled: u32,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        mut transport: MmioTransport,
        memory: Arc<GuestMemoryMmap>,
        script: &'a [u8],
    ) -> Self {
        let preempt = Arc::new(AtomicBool::new(false));
        transport.pause_by(preempt.clone());
        Self {
            transport,
            memory,
            preempt,
            script: Script(script),
            watch: Watch::default(),
            meddler: None,
            meddled: 0,
        }
    }

    /// The whole script; a reset and a second, orderly start, which must always work.
    pub(super) fn run(mut self) {
        self.start();
        while !self.script.is_empty() {
            self.step();
            self.check();
        }
        self.write_register(STATUS, 0);
        self.start();
        let status = self.read_register(STATUS);
        assert_eq!(status, 0xf, "a reset device can be started");
    }

    /// Started, and saved.
    pub(super) fn at_work(mut self, blobs: &mut BlobWriter) -> DeviceState {
        self.start();
        self.transport.save(blobs).expect("a device can be saved")
    }

    /// As after a restore, and with a new driver.
    pub(super) fn resume(mut self) {
        // Not watched: a state may say that the device has buffers that no driver gave it.
        self.transport.resume();
        self.transport.process_host_events();
        let saved = self.transport.save(&mut BlobWriter::default());
        saved.expect("a device can be saved at any time");
        self.run();
    }

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
            70..125 => self.process(queue, &[]),
            125..140 => {
                let flips = self.flips(queue);
                self.process(queue, &flips);
            }
            140..160 => self.watched(&[], MmioTransport::process_host_events),
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
                let before = image_of(&self.memory);
                let saved = self.transport.save(&mut BlobWriter::default());
                saved.expect("a device can be saved at any time");
                assert!(before == image_of(&self.memory), "a device is only saved");
            }
            245.. => self.watched(&[], MmioTransport::resume),
        }
    }

    fn process(&mut self, queue: usize, flips: &[Flip]) {
        self.watched(flips, |transport| {
            transport.take_queue_event(queue);
            transport.process_queue(queue);
        });
    }

    /// Calls the device, while these bytes change, and looks at what it wrote.
    fn watched(&mut self, flips: &[Flip], call: impl FnOnce(&mut MmioTransport)) {
        let device = self.read_register(DEVICE_ID);
        let rings = self.transport.ring_states();
        let allowed = self.watch.begin(&self.memory, &rings, flips);
        if flips.is_empty() {
            call(&mut self.transport);
        } else {
            let memory = &self.memory;
            let meddler = self
                .meddler
                .get_or_insert_with(|| Meddler::new(memory.clone()));
            meddler.during(flips, || call(&mut self.transport));
        }
        let rings = self.transport.ring_states();
        self.watch.end(allowed, &self.memory, &rings, device);
    }

    /// Bytes that the device is to find changing: of the descriptors, of the available ring,
    /// of a buffer.
    fn flips(&mut self, queue: usize) -> Vec<Flip> {
        if self.meddled == MEDDLED_MAX {
            return Vec::new();
        }
        self.meddled += 1;
        let count = 1 + self.script.u8() % FLIPS_MAX;
        let mut flips: Vec<Flip> = Vec::new();
        for _ in 0..count {
            let base = ring_base(queue);
            let address = match self.script.u8() {
                0..110 => base + u64::from(self.script.u8()),
                110..130 => base + AVAILABLE + u64::from(self.script.u8() % 4),
                130..150 => base + AVAILABLE + 4 + u64::from(self.script.u8() % 32),
                150.. => DATA + u64::from(self.script.u16()) % (END - DATA),
            };
            let (resting, other) = (self.read_memory_u8(address), self.script.u8());
            if flips.iter().all(|flip| flip.address != address) {
                flips.push(Flip {
                    address,
                    resting,
                    other,
                });
            }
        }
        flips
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
            let before = image_of(&self.memory);
            self.transport.resume();
            let after = image_of(&self.memory);
            assert!(after == before, "a device that needs a reset goes on");
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

    fn read_memory_u8(&self, address: u64) -> u8 {
        self.memory
            .read_obj(GuestAddress(address))
            .unwrap_or_default()
    }

    fn read_memory_u16(&self, address: u64) -> u16 {
        self.memory
            .read_obj(GuestAddress(address))
            .unwrap_or_default()
    }
}
