//! A well-behaved driver, for the devices' tests.

use super::VirtioDevice;
use super::transport::{Lines, MmioTransport, Slot, TransportState};
use crate::bus::SharedBusDevice;
use crate::memory::GuestMemoryMmap;
use std::sync::{Arc, MutexGuard};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

/// Entries of each ring.
pub(crate) const RING_SIZE: u16 = 16;
const MEMORY: usize = 8 << 20;
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
/// Where buffers are taken from, one after the other.
const DATA: u64 = 0x10_0000;

pub(crate) const STATUS: u64 = 0x70;
pub(crate) const ACKNOWLEDGE: u32 = 1;
pub(crate) const DRIVER: u32 = 2;
pub(crate) const DRIVER_OK: u32 = 4;
pub(crate) const FEATURES_OK: u32 = 8;
pub(crate) const NEEDS_RESET: u32 = 0x40;
const VERSION_1: u64 = 1 << 32;
pub(crate) const EVENT_IDX: u64 = 1 << 29;

/// A machine with one device and nothing else, and the driver in it.
pub(crate) struct Driver {
    pub(crate) transport: Arc<Slot>,
    pub(crate) memory: Arc<GuestMemoryMmap>,
    /// Per ring: chains offered, used entries seen.
    rings: Vec<(u16, u16)>,
    next_descriptor: u16,
    next_data: u64,
}

/// A chain the driver has offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offered {
    pub(crate) head: u16,
    /// Address and length of each writable buffer.
    writable: Vec<(u64, u32)>,
}

impl Driver {
    /// Starts `device` with all it offers.
    pub(crate) fn start(device: impl VirtioDevice + 'static) -> Self {
        Self::start_without(device, 0)
    }

    /// Starts `device` with all it offers but the features in `without`.
    pub(crate) fn start_without(device: impl VirtioDevice + 'static, without: u64) -> Self {
        let memory = crate::memory::region::zeroed(&[(GuestAddress(0), MEMORY)]);
        Self::start_in_without(Arc::new(memory), device, without)
    }

    /// Starts `device` with all it offers, in this memory.
    pub(crate) fn start_in(
        memory: Arc<GuestMemoryMmap>,
        device: impl VirtioDevice + 'static,
    ) -> Self {
        Self::start_in_without(memory, device, 0)
    }

    fn start_in_without(
        memory: Arc<GuestMemoryMmap>,
        device: impl VirtioDevice + 'static,
        without: u64,
    ) -> Self {
        let lines = Lines::new(device.queue_sizes().len()).unwrap();
        let transport = MmioTransport::new(Box::new(device), lines, memory.clone()).unwrap();
        let driver = Self::with(transport, memory);
        driver.shake_hands(without);
        driver
    }

    /// After a reset.
    pub(crate) fn start_again(&mut self) {
        self.rings.fill((0, 0));
        self.next_descriptor = 0;
        for index in 0..self.rings.len() {
            for ring in [AVAILABLE, USED] {
                let start = GuestAddress(ring_base(index) + ring);
                self.memory.write_obj(0u32, start).unwrap();
            }
        }
        self.shake_hands(0);
    }

    fn shake_hands(&self, without: u64) {
        let driver = self;
        driver.write(STATUS, ACKNOWLEDGE);
        driver.write(STATUS, ACKNOWLEDGE | DRIVER);
        let features = driver.offered_features() & !without | VERSION_1;
        driver.accept_features(features);
        driver.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        for index in 0..driver.rings.len() {
            driver.set_up_ring(index as u32, RING_SIZE.into(), ring_base(index));
            driver.write(0x44, 1);
            assert_eq!(driver.read(0x44), 1);
        }
        driver.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        assert_eq!(
            driver.read(STATUS),
            ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
        );
    }

    pub(crate) fn with(mut transport: MmioTransport, memory: Arc<GuestMemoryMmap>) -> Self {
        transport.mute();
        let rings = vec![(0, 0); transport.queue_count()];
        let transport = Arc::new(Slot::new(transport));
        Self {
            transport,
            memory,
            rings,
            next_descriptor: 0,
            next_data: DATA,
        }
    }

    /// The same driver in a clone of the machine: the memory is copied, the
    /// device is restored from `state`.
    pub(crate) fn clone_into(
        &self,
        device: impl VirtioDevice + 'static,
        state: &TransportState,
    ) -> Self {
        let memory = crate::memory::region::zeroed(&[(GuestAddress(0), MEMORY)]);
        let mut all = vec![0; MEMORY];
        self.memory.read_slice(&mut all, GuestAddress(0)).unwrap();
        memory.write_slice(&all, GuestAddress(0)).unwrap();
        let memory = Arc::new(memory);
        let lines = Lines::new(device.queue_sizes().len()).unwrap();
        let transport =
            MmioTransport::restore(Box::new(device), lines, state, memory.clone()).unwrap();
        let mut clone = Self::with(transport, memory);
        clone.rings = self.rings.clone();
        clone.next_descriptor = self.next_descriptor;
        clone.next_data = self.next_data;
        clone
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, MmioTransport> {
        self.transport.lock()
    }

    pub(crate) fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    pub(crate) fn offered_features(&self) -> u64 {
        self.write(0x14, 0);
        let low = self.read(0x10);
        self.write(0x14, 1);
        u64::from(low) | u64::from(self.read(0x10)) << 32
    }

    pub(crate) fn accept_features(&self, features: u64) {
        for (half, value) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(0x24, half);
            self.write(0x20, value);
        }
    }

    pub(crate) fn set_up_ring(&self, index: u32, size: u32, base: u64) {
        self.write(0x30, index);
        self.write(0x38, size);
        for (register, offset) in [(0x80, 0), (0x90, AVAILABLE), (0xa0, USED)] {
            let address = base.wrapping_add(offset);
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
    }

    /// Offers a chain without telling the device.
    pub(crate) fn offer(&mut self, ring: usize, readable: &[&[u8]], writable: &[u32]) -> Offered {
        let count = (readable.len() + writable.len()) as u16;
        let head = self.next_descriptor;
        let mut buffers = Vec::new();
        for bytes in readable {
            let address = self.allocate(bytes.len() as u32);
            self.memory
                .write_slice(bytes, GuestAddress(address))
                .unwrap();
            buffers.push((address, bytes.len() as u32, 0));
        }
        let writable: Vec<_> = writable
            .iter()
            .map(|&len| (self.allocate(len), len))
            .collect();
        buffers.extend(writable.iter().map(|&(address, len)| (address, len, 2)));
        for (position, (address, len, write)) in buffers.into_iter().enumerate() {
            let slot = (head + position as u16) % RING_SIZE;
            let more = u16::from((position as u16) + 1 < count);
            self.write_descriptor(
                ring,
                slot,
                address,
                len,
                write | more,
                (slot + 1) % RING_SIZE,
            );
        }
        self.next_descriptor = (head + count) % RING_SIZE;
        self.offer_head(ring, head);
        Offered { head, writable }
    }

    pub(crate) fn write_descriptor(
        &self,
        ring: usize,
        slot: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&address.to_le_bytes());
        descriptor[8..12].copy_from_slice(&len.to_le_bytes());
        descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
        descriptor[14..].copy_from_slice(&next.to_le_bytes());
        let address = GuestAddress(ring_base(ring) + 16 * u64::from(slot));
        self.memory.write_slice(&descriptor, address).unwrap();
    }

    pub(crate) fn offer_head(&mut self, ring: usize, head: u16) {
        let base = ring_base(ring) + AVAILABLE;
        let (offered, _) = &mut self.rings[ring];
        let entry = base + 4 + 2 * u64::from(*offered % RING_SIZE);
        *offered = offered.wrapping_add(1);
        self.memory.write_obj(head, GuestAddress(entry)).unwrap();
        self.memory
            .write_obj(*offered, GuestAddress(base + 2))
            .unwrap();
    }

    /// Makes the first writable buffer of a chain in ring 0 shorter, behind the device's back.
    pub(crate) fn shorten(&self, offered: &Offered, readable: u16, len: u32) {
        let slot = (offered.head + readable) % RING_SIZE;
        let at = ring_base(0) + 16 * u64::from(slot) + 8;
        self.memory.write_obj(len, GuestAddress(at)).unwrap();
    }

    /// Whether the driver has to notify the device, having offered `count`
    /// chains since it last did (2.7.10).
    pub(crate) fn must_notify(&self, ring: usize, count: u16) -> bool {
        let event = ring_base(ring) + USED + 4 + 8 * u64::from(RING_SIZE);
        let event: u16 = self.memory.read_obj(GuestAddress(event)).unwrap();
        let offered = self.rings[ring].0;
        offered.wrapping_sub(event).wrapping_sub(1) < count
    }

    /// Sets the driver's `used_event` (2.7.8): interrupt after that entry.
    pub(crate) fn set_used_event(&self, ring: usize, entry: u16) {
        let address = ring_base(ring) + AVAILABLE + 4 + 2 * u64::from(RING_SIZE);
        self.memory.write_obj(entry, GuestAddress(address)).unwrap();
    }

    /// The next used entry, if there is one: head and bytes written.
    pub(crate) fn take_used(&mut self, ring: usize) -> Option<(u16, u32)> {
        let base = ring_base(ring) + USED;
        let index: u16 = self.memory.read_obj(GuestAddress(base + 2)).unwrap();
        let (_, seen) = &mut self.rings[ring];
        if index == *seen {
            return None;
        }
        let entry = base + 4 + 8 * u64::from(*seen % RING_SIZE);
        *seen = seen.wrapping_add(1);
        let head: u32 = self.memory.read_obj(GuestAddress(entry)).unwrap();
        let len: u32 = self.memory.read_obj(GuestAddress(entry + 4)).unwrap();
        Some((head as u16, len))
    }

    /// Offers a chain, has it served, and returns the used length and the
    /// contents of the writable buffers.
    pub(crate) fn request(
        &mut self,
        ring: usize,
        readable: &[&[u8]],
        writable: &[u32],
    ) -> (u32, Vec<Vec<u8>>) {
        let offered = self.offer(ring, readable, writable);
        self.lock().process_queue(ring);
        let (head, len) = self.take_used(ring).expect("an answer");
        assert_eq!(head, offered.head);
        (len, self.contents(&offered))
    }

    /// What is in the writable buffers of a chain.
    pub(crate) fn contents(&self, offered: &Offered) -> Vec<Vec<u8>> {
        let read = |&(address, len): &(u64, u32)| {
            let mut bytes = vec![0; len as usize];
            self.memory
                .read_slice(&mut bytes, GuestAddress(address))
                .unwrap();
            bytes
        };
        offered.writable.iter().map(read).collect()
    }

    /// How often the device has interrupted since last asked, and the causes not
    /// acknowledged yet.
    pub(crate) fn interrupts(&self) -> (u64, u32) {
        let count = self.lock().irq_event().read().unwrap_or(0);
        (count, self.read(0x60))
    }

    fn allocate(&mut self, len: u32) -> u64 {
        let end = GuestAddress(self.next_data);
        if !self
            .memory
            .check_range(end, len as usize, Permissions::ReadWrite)
        {
            self.next_data = DATA;
        }
        let address = self.next_data;
        self.next_data += u64::from(len.max(1)).next_multiple_of(16);
        address
    }
}

pub(crate) fn ring_base(index: usize) -> u64 {
    0x1000 * (index as u64 + 1)
}
