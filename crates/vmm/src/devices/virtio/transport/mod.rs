//! The virtio-mmio transport (virtio 1.2, section 4.2): the part that all devices have in common.
//!
//! ```text
//!   vCPU threads                          the device thread (worker.rs)
//!   register accesses ──────── Slot ─┐    queue event ──> process_queue
//!   (slot.rs, registers.rs)          ▼    host event  ──> process_host_events
//!                         Turns<MmioTransport>
//!   ioeventfd ──> queue event             irq event ──> irqfd ──> guest
//! ```
//!
//! A ring is [`ready`](virtio_queue::QueueT::ready) for the device only while
//! the driver has set QueueReady and DRIVER_OK, and the device has not failed. So a
//! device that checks only `ready()` follows 2.1.2 (no buffer is consumed before
//! DRIVER_OK) and never touches a ring again after DEVICE_NEEDS_RESET.
//!
//! No wake-up gets lost:
//! * The worker empties a queue event before it looks at the ring.
//! * If a device is preempted before it is done with a ring, that ring's event is
//!   signalled again.
//! * After each call into the device, every ring that has moved is re-armed
//!   (`avail_event`, 2.7.10) and, if the driver has added buffers meanwhile, its
//!   queue event is signalled again. A ring that has not moved is still armed.
//! * When a machine resumes after a pause, a fork or a restore,
//!   [`MmioTransport::resume`] looks at every ring once, because a signal may
//!   have been pending in an event descriptor that the clone does not have; and
//!   it raises the interrupt again if one was not acknowledged, because an
//!   injection may have been on its way when the interrupt controller was saved.

mod queue_state;
mod registers;
mod slot;
mod state;

pub use queue_state::QueueState;
pub use slot::Slot;
pub use state::{DeviceState, TransportState};

use super::{Context, DeviceError, Notify, VirtioDevice};
use crate::blobs::BlobWriter;
use crate::devices::turns::Preemption;
use crate::memory::GuestMemoryMmap;
use registers::{FEATURES, INTERRUPT_CONFIG, INTERRUPT_USED, Live, Registers, Status};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Most failures of a device that are logged. A hostile driver can cause any number of them.
const FAILURES_TOLD: u32 = 8;

/// The event descriptors of a device's slot. They are made and registered with KVM
/// before there is a device, for registering takes milliseconds.
#[derive(Debug)]
pub struct Lines {
    /// Signalled to interrupt the driver: an irqfd, edge-triggered.
    pub irq: EventFd,
    /// Signalled when the driver has put something into a ring: for each an ioeventfd
    /// for a write of its number (4 bytes) to QueueNotify (offset 0x50).
    pub queues: Vec<EventFd>,
}

impl Lines {
    /// Lines for a device with `queues` rings, connected to nothing yet.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(queues: usize) -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK);
        Ok(Self {
            irq: event()?,
            queues: (0..queues).map(|_| event()).collect::<Result<_, _>>()?,
        })
    }
}

/// One device behind its registers.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemoryMmap>,
    registers: Registers,
    /// The registers that vCPUs access without the transport's lock.
    live: Arc<Live>,
    /// Whether the device has to return in the middle of its work.
    preemption: Preemption,
    rings: Vec<Ring>,
    /// The rings themselves, in the form devices take them.
    queues: Vec<Queue>,
    irq: EventFd,
    failures: u32,
}

/// The transport's state of a ring, in addition to the ring itself.
struct Ring {
    /// What the driver has written into the ring's registers.
    setup: QueueState,
    /// The position up to which the driver was told to notify us.
    armed_at: u16,
    event: EventFd,
}

impl MmioTransport {
    /// A device as after power-on.
    ///
    /// # Errors
    /// `InvalidData` when `lines` are not this device's; when it wants rings of
    /// impossible sizes.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        lines: Lines,
        memory: Arc<GuestMemoryMmap>,
    ) -> io::Result<Self> {
        let sizes = device.queue_sizes();
        if sizes.len() != lines.queues.len() {
            return Err(invalid("the slot is wired for another number of rings"));
        }
        let queues = sizes.iter().map(|&size| Queue::new(size));
        let queues = queues.collect::<Result<_, _>>().map_err(io::Error::other)?;
        let rings = lines.queues.into_iter().map(|event| Ring {
            setup: QueueState::default(),
            armed_at: 0,
            event,
        });
        Ok(Self {
            device,
            memory,
            registers: Registers::default(),
            live: Arc::default(),
            preemption: Preemption::default(),
            rings: rings.collect(),
            queues,
            irq: lines.irq,
            failures: 0,
        })
    }

    /// A device as it was when `state` was saved; `device` has been restored
    /// from its own part. It rests until [`resume`](Self::resume).
    ///
    /// # Errors
    /// `InvalidData` when the state does not fit the device or the memory;
    /// otherwise as [`new`](Self::new).
    pub fn restore(
        device: Box<dyn VirtioDevice>,
        lines: Lines,
        state: &TransportState,
        memory: Arc<GuestMemoryMmap>,
    ) -> io::Result<Self> {
        let mut transport = Self::new(device, lines, memory)?;
        if state.queues.len() != transport.rings.len() {
            return Err(invalid("the saved device has another number of rings"));
        }
        if state.registers.driver_features & !transport.offered() != 0 {
            return Err(invalid(
                "the saved driver uses features this device does not have",
            ));
        }
        let (registers, live) = Registers::restore(&state.registers);
        transport.registers = registers;
        transport.live = Arc::new(live);
        // A clone may differ from its parent in configuration space (a socket
        // device's CID), so a driver that was reading it has to start again.
        transport.live.next_config_generation();
        for (index, setup) in state.queues.iter().enumerate() {
            if setup.ready && !transport.place_ring(index, setup) {
                return Err(invalid("a saved ring is not in guest memory"));
            }
            transport.rings[index].setup = *setup;
        }
        transport.update_readiness();
        Ok(transport)
    }

    /// Saves everything of the device. Call only while the worker rests and the
    /// vCPUs are paused.
    ///
    /// # Errors
    /// As [`VirtioDevice::save`].
    pub fn save(&mut self, blobs: &mut BlobWriter) -> io::Result<DeviceState> {
        Ok(DeviceState {
            own: self.device.save(blobs)?,
            transport: TransportState {
                queues: self.ring_states(),
                registers: self.registers.save(&self.live),
            },
        })
    }

    /// How far each ring has got.
    pub(super) fn ring_states(&self) -> Vec<QueueState> {
        let state = |(ring, queue): (&Ring, &Queue)| QueueState {
            next_avail: queue.next_avail(),
            next_used: queue.next_used(),
            ..ring.setup
        };
        self.rings.iter().zip(&self.queues).map(state).collect()
    }

    /// How many rings the device has.
    pub fn queue_count(&self) -> usize {
        self.rings.len()
    }

    /// Signalled when the driver has put something into ring `index`.
    ///
    /// # Panics
    /// When there is no such ring; see [`queue_count`](Self::queue_count).
    pub fn queue_event(&self, index: usize) -> &EventFd {
        &self.rings[index].event
    }

    /// Signalled to interrupt the driver.
    #[cfg(test)]
    pub(crate) fn irq_event(&self) -> &EventFd {
        &self.irq
    }

    /// The device's own descriptor to wait for, if it has one.
    pub fn host_events(&self) -> Option<BorrowedFd<'_>> {
        self.device.host_events()
    }

    /// Takes a ring's notification. Call before looking at the ring.
    pub fn take_queue_event(&self, index: usize) {
        // An empty event is fine: an earlier call has looked at the ring already.
        let _ = self.rings[index].event.read();
    }

    /// Has the device work on ring `index`, if that is ready.
    pub fn process_queue(&mut self, index: usize) {
        if !self.queues.get(index).is_some_and(|queue| queue.ready()) {
            return;
        }
        let context = Context {
            queues: &mut self.queues,
            memory: &self.memory,
            preemption: &self.preemption,
        };
        let result = self.device.process_queue(index, context);
        if matches!(
            result,
            Ok(Notify {
                unfinished: true,
                ..
            })
        ) {
            signal(&self.rings[index].event);
        }
        self.settle(result);
    }

    /// Has the device work on what the host has for it.
    pub fn process_host_events(&mut self) {
        let context = Context {
            queues: &mut self.queues,
            memory: &self.memory,
            preemption: &self.preemption,
        };
        let result = self.device.process_host_events(context);
        self.settle(result);
    }

    /// Says nothing about failures, of which tests cause many.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn mute(&mut self) {
        self.failures = FAILURES_TOLD;
    }

    /// Resumes after a pause, or for the first time after a restore: serves every
    /// ring, and raises an interrupt again that may have been lost when the state was
    /// saved. The interrupt event must be connected by now.
    pub fn resume(&mut self) {
        if self.live.interrupt_status() != 0 {
            signal(&self.irq);
        }
        for index in 0..self.rings.len() {
            match self.preemption.is_wanted() {
                // The event brings the thread back to this ring.
                true => signal(&self.rings[index].event),
                false => self.process_queue(index),
            }
        }
        self.process_host_events();
    }

    /// Makes the device return in the middle of its work while `pause` is set.
    pub fn pause_by(&mut self, pause: Arc<AtomicBool>) {
        self.preemption.pause_by(pause);
    }

    /// Gives the device up until the driver resets it (2.1.2).
    pub fn fail(&mut self, error: &dyn std::error::Error) {
        if self.failures < FAILURES_TOLD {
            self.failures += 1;
            let because = error
                .source()
                .map(|source| format!(": {source}"))
                .unwrap_or_default();
            let id = self.device.device_id();
            // `note!` and not `eprintln!`: stderr may be closed, which must not cause a panic.
            crate::sys::note!("virtio device {id} needs reset: {error}{because}");
        }
        let was_live = self.live.status().is_live();
        self.live.add_status(Status::NEEDS_RESET);
        self.update_readiness();
        if was_live {
            self.interrupt(INTERRUPT_CONFIG);
        }
    }

    fn settle(&mut self, result: Result<Notify, DeviceError>) {
        let result = result.and_then(|notify| self.rearm().map(|()| notify));
        let notify = match result {
            Ok(notify) => notify,
            Err(error) => return self.fail(&error),
        };
        if notify.config {
            self.live.next_config_generation();
        }
        if self.live.status().is_live() {
            let used = if notify.used { INTERRUPT_USED } else { 0 };
            let config = if notify.config { INTERRUPT_CONFIG } else { 0 };
            self.interrupt(used | config);
        }
    }

    /// Asks the driver for notifications from where each ring now stands.
    fn rearm(&mut self) -> Result<(), DeviceError> {
        for (queue, ring) in self.queues.iter_mut().zip(&mut self.rings) {
            if queue.ready() && queue.next_avail() != ring.armed_at {
                ring.armed_at = queue.next_avail();
                if queue.enable_notification(&*self.memory)? {
                    signal(&ring.event);
                }
            }
        }
        Ok(())
    }

    fn interrupt(&mut self, cause: u32) {
        if cause != 0 {
            self.live.add_interrupt(cause);
            signal(&self.irq);
        }
    }

    fn offered(&self) -> u64 {
        FEATURES | self.device.features()
    }

    /// Takes over the addresses and size the driver has set, if they make a
    /// ring. Returns whether they do.
    fn place_ring(&mut self, index: usize, setup: &QueueState) -> bool {
        let event_idx = self.registers.driver_features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let max_size = self.queues[index].max_size();
        let Some(queue) = setup.to_queue(max_size, event_idx, &self.memory) else {
            return false;
        };
        self.rings[index].armed_at = queue.next_avail();
        self.queues[index] = queue;
        true
    }

    /// Makes the rings the device sees ready or not.
    fn update_readiness(&mut self) {
        let live = self.live.status().is_live();
        for (queue, ring) in self.queues.iter_mut().zip(&self.rings) {
            queue.set_ready(ring.setup.ready && live);
        }
    }

    /// Makes the device thread look at every ring soon. Some drivers notify before DRIVER_OK, when
    /// the device may not look yet (2.1.2).
    fn kick_all(&self) {
        self.rings.iter().for_each(|ring| signal(&ring.event));
    }

    /// Resets the device to its state after power-on (2.4), except for the event descriptors and
    /// the count of logged failures.
    fn reset(&mut self) {
        self.device.reset();
        self.registers = Registers::default();
        self.live.reset();
        for (queue, ring) in self.queues.iter_mut().zip(&mut self.rings) {
            ring.setup = QueueState::default();
            ring.armed_at = 0;
            queue.reset();
        }
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Adds 1 to an event's count. The only way to fail is a count at its limit,
/// and then it is signalled already.
fn signal(event: &EventFd) {
    let _ = event.write(1);
}

#[cfg(test)]
mod tests;
