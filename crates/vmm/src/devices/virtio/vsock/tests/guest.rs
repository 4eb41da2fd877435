//! A model of the guest: rings in guest memory, and a driver that keeps to
//! `VIRTIO_F_RING_EVENT_IDX`: it calls the device only when the device asked for
//! it, and looks at used buffers only when it was interrupted. So whatever works
//! here does not depend on a call too many. The transport's part, asking for
//! notifications where a ring has moved, is done as the transport does it.

use super::super::packet::{HEADER_LEN, Header};
use super::super::{QUEUE_SIZES, Vsock, VsockHandle, VsockState};
use crate::devices::turns::Preemption;
use crate::devices::virtio::{Context, DeviceState, Notify, VirtioDevice};
use crate::memory::GuestMemoryMmap;
use crate::sys::fds::FdTable;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

pub(super) const RX: usize = 0;
pub(super) const TX: usize = 1;
pub(super) const EVENT: usize = 2;

const WRITE: u16 = 2;
const NEXT: u16 = 1;
const RX_BUFFER: u32 = 3776;
/// Longest fragment of a packet sent, in bytes.
const FRAGMENT: usize = 24 << 10;
const MEMORY: usize = 8 << 20;
const EVENTS_POSTED: u16 = 8;

/// The driver's half of one ring.
#[derive(Clone)]
struct Ring {
    base: u64,
    buffers: u64,
    buffer_len: u64,
    size: u16,
    free: Vec<u16>,
    avail: u16,
    kicked: u16,
    used: u16,
}

impl Ring {
    fn new(index: u64, size: u16, buffer_len: u64, buffers: u64) -> Self {
        Self {
            base: 0x1_0000 * (index + 1),
            buffers,
            buffer_len,
            size,
            free: (0..size).rev().collect(),
            avail: 0,
            kicked: 0,
            used: 0,
        }
    }

    fn avail_addr(&self) -> u64 {
        self.base + 0x4000
    }

    fn used_addr(&self) -> u64 {
        self.base + 0x8000
    }

    fn queue(&self) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.set_desc_table_address(Some(self.base as u32), Some(0));
        queue.set_avail_ring_address(Some(self.avail_addr() as u32), Some(0));
        queue.set_used_ring_address(Some(self.used_addr() as u32), Some(0));
        queue.set_event_idx(true);
        queue.set_ready(true);
        queue
    }

    fn buffer(&self, slot: u16) -> u64 {
        self.buffers + u64::from(slot) * self.buffer_len
    }

    fn describe(
        &self,
        memory: &GuestMemoryMmap,
        slot: u16,
        addr: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let at = self.base + u64::from(slot) * 16;
        memory.write_obj(addr, GuestAddress(at)).unwrap();
        memory.write_obj(len, GuestAddress(at + 8)).unwrap();
        memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    fn offer(&mut self, memory: &GuestMemoryMmap, head: u16) {
        let slot = u64::from(self.avail % self.size);
        memory
            .write_obj(head, GuestAddress(self.avail_addr() + 4 + slot * 2))
            .unwrap();
        self.avail = self.avail.wrapping_add(1);
        memory
            .write_obj(self.avail, GuestAddress(self.avail_addr() + 2))
            .unwrap();
    }

    /// Whether the device asked to be told of what was offered since last time.
    fn must_kick(&mut self, memory: &GuestMemoryMmap) -> bool {
        let event: u16 = memory
            .read_obj(GuestAddress(
                self.used_addr() + 4 + u64::from(self.size) * 8,
            ))
            .unwrap();
        let old = std::mem::replace(&mut self.kicked, self.avail);
        self.avail.wrapping_sub(event).wrapping_sub(1) < self.avail.wrapping_sub(old)
    }

    fn next_used(&mut self, memory: &GuestMemoryMmap) -> Option<(u16, u32)> {
        let index: u16 = memory.read_obj(GuestAddress(self.used_addr() + 2)).unwrap();
        if index == self.used {
            // Interrupt at the next one.
            let event = GuestAddress(self.avail_addr() + 4 + u64::from(self.size) * 2);
            memory.write_obj(self.used, event).unwrap();
            return None;
        }
        let at = self.used_addr() + 4 + u64::from(self.used % self.size) * 8;
        self.used = self.used.wrapping_add(1);
        let head: u32 = memory.read_obj(GuestAddress(at)).unwrap();
        Some((head as u16, memory.read_obj(GuestAddress(at + 4)).unwrap()))
    }
}

/// A guest and its device.
pub(super) struct Guest {
    pub(super) cid: u32,
    pub(super) memory: GuestMemoryMmap,
    pub(super) device: Vsock,
    pub(super) handle: VsockHandle,
    pub(super) queues: Vec<Queue>,
    rings: [Ring; 3],
    /// Packets received and not yet looked at.
    pub(super) inbox: VecDeque<(Header, Vec<u8>)>,
    /// `TRANSPORT_RESET` events received.
    pub(super) resets: usize,
    /// Whether the driver takes packets and gives their buffers back.
    pub(super) receiving: bool,
    /// Whether the driver handles events.
    pub(super) handling_events: bool,
    /// Packets that wait for room in the ring.
    unsent: VecDeque<(Header, Vec<u8>)>,
    interrupted: bool,
    /// Where each ring asked for a notification last, and whether one is due.
    armed_at: [u16; 3],
    signalled: [bool; 3],
}

impl Guest {
    /// A guest whose driver is ready.
    pub(super) fn boot(cid: u32) -> Self {
        let mut guest = Self::power_on(cid);
        guest.start_driver();
        guest
    }

    /// A guest whose driver has yet to come.
    pub(super) fn power_on(cid: u32) -> Self {
        let (device, handle) = Vsock::new(cid).unwrap();
        let rings = [
            Ring::new(0, 128, 4096, 0x10_0000),
            Ring::new(1, 128, FRAGMENT as u64, 0x20_0000),
            Ring::new(2, 16, 64, 0x70_0000),
        ];
        Self {
            cid,
            memory: crate::memory::region::zeroed(&[(GuestAddress(0), MEMORY)]),
            device,
            handle,
            queues: QUEUE_SIZES.map(|size| Queue::new(size).unwrap()).into(),
            rings,
            inbox: VecDeque::new(),
            resets: 0,
            receiving: true,
            handling_events: true,
            unsent: VecDeque::new(),
            interrupted: false,
            armed_at: [0; 3],
            signalled: [false; 3],
        }
    }

    pub(super) fn start_driver(&mut self) {
        self.queues = self.rings.iter().map(Ring::queue).collect();
        self.device.activate(0);
        for _ in 0..128 {
            self.post(RX, RX_BUFFER);
        }
        for _ in 0..EVENTS_POSTED {
            self.post(EVENT, 4);
        }
        self.kick(RX);
        self.kick(EVENT);
    }

    /// A clone of this guest as it is now, with memory of its own.
    pub(super) fn fork(&mut self, cid: u32) -> Self {
        let DeviceState::Vsock(state) = self.device.save(&mut FdTable::default()).unwrap() else {
            panic!("not a vsock state")
        };
        let bytes = postcard::to_stdvec(&state).unwrap();
        let state: VsockState = postcard::from_bytes(&bytes).unwrap();
        let (device, handle) = Vsock::restore(cid, &state).unwrap();
        let memory = crate::memory::region::zeroed(&[(GuestAddress(0), MEMORY)]);
        let mut all = vec![0; MEMORY];
        self.memory.read_slice(&mut all, GuestAddress(0)).unwrap();
        memory.write_slice(&all, GuestAddress(0)).unwrap();
        let queues = self
            .queues
            .iter()
            .map(|q| Queue::try_from(q.state()).unwrap())
            .collect();
        Self {
            cid,
            memory,
            device,
            handle,
            queues,
            rings: self.rings.clone(),
            inbox: self.inbox.clone(),
            unsent: self.unsent.clone(),
            ..*self
        }
    }

    /// The machine goes on after a pause, or begins as a clone.
    pub(super) fn resume(&mut self) {
        for index in 0..3 {
            self.call(index);
        }
        self.host_events();
    }

    fn post(&mut self, ring: usize, len: u32) {
        let memory = &self.memory;
        let ring = &mut self.rings[ring];
        let slot = ring.free.pop().unwrap();
        ring.describe(memory, slot, ring.buffer(slot), len, WRITE, 0);
        ring.offer(memory, slot);
    }

    /// Sends a packet as Linux does: header and each of the payload's fragments
    /// in a descriptor of its own.
    pub(super) fn send(&mut self, header: Header, payload: &[u8]) {
        self.place(header, payload);
        self.kick(TX);
    }

    /// Puts a packet into the ring without telling the device.
    pub(super) fn place(&mut self, header: Header, payload: &[u8]) {
        self.unsent.push_back((header, payload.to_vec()));
        self.push();
    }

    fn push(&mut self) {
        while let Some((header, payload)) = self.unsent.front() {
            let ring = &mut self.rings[TX];
            let fragments: Vec<&[u8]> = payload.chunks(FRAGMENT).collect();
            if ring.free.len() < fragments.len() + 1 {
                return;
            }
            let slots: Vec<u16> = (0..=fragments.len())
                .filter_map(|_| ring.free.pop())
                .collect();
            let parts = std::iter::once(header.to_bytes().to_vec())
                .chain(fragments.iter().map(|f| f.to_vec()));
            for (i, part) in parts.enumerate() {
                let addr = ring.buffer(slots[i]);
                self.memory.write_slice(&part, GuestAddress(addr)).unwrap();
                let next = slots.get(i + 1).copied();
                let flags = if next.is_some() { NEXT } else { 0 };
                ring.describe(
                    &self.memory,
                    slots[i],
                    addr,
                    part.len() as u32,
                    flags,
                    next.unwrap_or(0),
                );
            }
            ring.offer(&self.memory, slots[0]);
            self.unsent.pop_front();
        }
    }

    fn kick(&mut self, ring: usize) {
        if self.rings[ring].must_kick(&self.memory) {
            self.call(ring);
        }
    }

    pub(super) fn call(&mut self, ring: usize) {
        let context = Context {
            queues: &mut self.queues,
            memory: &self.memory,
            preemption: &Preemption::default(),
        };
        let notify = self.device.process_queue(ring, context).unwrap();
        self.after_call(notify);
    }

    fn after_call(&mut self, notify: Notify) {
        self.interrupted |= notify.used;
        for (index, queue) in self.queues.iter_mut().enumerate() {
            if queue.ready() && queue.next_avail() != self.armed_at[index] {
                self.armed_at[index] = queue.next_avail();
                self.signalled[index] |= queue.enable_notification(&self.memory).unwrap();
            }
        }
    }

    /// Calls for rings in which there was something when they were armed.
    fn signals(&mut self) -> bool {
        let due = std::mem::take(&mut self.signalled);
        for index in (0..3).filter(|&index| due[index]) {
            self.call(index);
        }
        due.contains(&true)
    }

    /// Lets the device work on what the host has; waits for it up to `wait`.
    pub(super) fn host_events_within(&mut self, wait: Timespec) -> bool {
        let fd = self.device.host_events().unwrap();
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
        if poll(&mut fds, Some(&wait)).unwrap() == 0 {
            return false;
        }
        self.host_events();
        true
    }

    fn host_events(&mut self) {
        let context = Context {
            queues: &mut self.queues,
            memory: &self.memory,
            preemption: &Preemption::default(),
        };
        let notify = self.device.process_host_events(context).unwrap();
        self.after_call(notify);
    }

    /// The interrupt handler, if there is an interrupt.
    fn interrupt(&mut self) -> bool {
        if !std::mem::take(&mut self.interrupted) {
            return false;
        }
        while let Some((head, _)) = self.rings[TX].next_used(&self.memory) {
            let ring = &mut self.rings[TX];
            let mut slot = head;
            loop {
                ring.free.push(slot);
                let at = ring.base + u64::from(slot) * 16;
                let flags: u16 = self.memory.read_obj(GuestAddress(at + 12)).unwrap();
                if flags & NEXT == 0 {
                    break;
                }
                slot = self.memory.read_obj(GuestAddress(at + 14)).unwrap();
            }
        }
        self.push();
        self.kick(TX);
        if self.receiving {
            self.take_packets();
        }
        if self.handling_events {
            self.handle_events();
        }
        true
    }

    pub(super) fn take_packets(&mut self) {
        while let Some((head, len)) = self.rings[RX].next_used(&self.memory) {
            let at = self.rings[RX].buffer(head);
            let mut bytes = vec![0; len as usize];
            self.memory
                .read_slice(&mut bytes, GuestAddress(at))
                .unwrap();
            let header = Header::from_bytes(bytes.first_chunk::<HEADER_LEN>().unwrap());
            let payload = bytes.split_off(HEADER_LEN);
            assert_eq!(payload.len(), header.len as usize);
            self.inbox.push_back((header, payload));
            self.rings[RX].free.push(head);
            self.post(RX, RX_BUFFER);
        }
        self.kick(RX);
    }

    pub(super) fn handle_events(&mut self) {
        while let Some((head, len)) = self.rings[EVENT].next_used(&self.memory) {
            assert_eq!(len, 4);
            let at = self.rings[EVENT].buffer(head);
            let id: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
            assert_eq!(id, 0);
            let mut cid = [0; 8];
            self.device.read_config(0, &mut cid);
            self.cid = u64::from_le_bytes(cid) as u32;
            self.resets += 1;
            self.rings[EVENT].free.push(head);
            self.post(EVENT, 4);
        }
        self.kick(EVENT);
    }

    /// Runs guest and device until neither has anything to do.
    pub(super) fn settle(&mut self) {
        while self.interrupt() | self.signals() | self.host_events_within(Timespec::default()) {}
    }
}
