//! The register file (virtio 1.2, section 4.2.2) and the driver's handshake
//! (section 3.1.1).

use super::{MmioTransport, QueueState, signal};
use crate::bus::BusDevice;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU32, Ordering};
use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// "virt", little-endian.
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The version of the register layout that is not legacy.
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"HYFK");

/// InterruptStatus: the device has used a buffer.
pub(super) const INTERRUPT_USED: u32 = VIRTIO_MMIO_INT_VRING;
/// InterruptStatus: the configuration or the status has changed.
pub(super) const INTERRUPT_CONFIG: u32 = VIRTIO_MMIO_INT_CONFIG;

/// Features of the transport and its rings, offered for every device.
pub(super) const FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Device status (2.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status(u32);

impl Status {
    pub(super) const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
    pub(super) const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
    pub(super) const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
    pub(super) const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
    /// The bits a driver may set.
    const OF_DRIVER: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
        | Self::DRIVER
        | Self::FEATURES_OK
        | Self::DRIVER_OK
        | VIRTIO_CONFIG_S_FAILED;

    pub(super) fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }

    /// Whether the device may use its rings and interrupt.
    pub(super) fn is_live(self) -> bool {
        self.has(Self::DRIVER_OK) && !self.has(Self::NEEDS_RESET)
    }
}

/// The registers that are one per device, at rest.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct RegistersState {
    device_features_sel: u32,
    driver_features_sel: u32,
    pub(super) driver_features: u64,
    queue_sel: u32,
    pub(super) status: Status,
    pub(super) interrupt_status: u32,
    config_generation: u32,
}

#[cfg(test)]
impl RegistersState {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            device_features_sel: 1,
            driver_features_sel: 2,
            driver_features: 1 << 32 | 3,
            queue_sel: 4,
            status: Status(15),
            interrupt_status: 1,
            config_generation: 300,
        }
    }
}

/// The registers that only the holder of the transport's lock uses.
#[derive(Debug, Clone, Default)]
pub(super) struct Registers {
    device_features_sel: u32,
    driver_features_sel: u32,
    pub(super) driver_features: u64,
    queue_sel: u32,
}

impl Registers {
    pub(super) fn save(&self, live: &Live) -> RegistersState {
        RegistersState {
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            driver_features: self.driver_features,
            queue_sel: self.queue_sel,
            status: live.status(),
            interrupt_status: live.interrupt_status(),
            config_generation: live.config_generation.load(Ordering::SeqCst),
        }
    }

    pub(super) fn restore(state: &RegistersState) -> (Self, Live) {
        let registers = Self {
            device_features_sel: state.device_features_sel,
            driver_features_sel: state.driver_features_sel,
            driver_features: state.driver_features,
            queue_sel: state.queue_sel,
        };
        let live = Live {
            status: state.status.0.into(),
            interrupt_status: state.interrupt_status.into(),
            config_generation: state.config_generation.into(),
        };
        (registers, live)
    }
}

/// The registers that a vCPU reads and acknowledges while its device works, without the transport's
/// lock. Apart from acknowledgements, only the holder of the lock changes them.
#[derive(Debug, Default)]
pub(super) struct Live {
    status: AtomicU32,
    interrupt_status: AtomicU32,
    config_generation: AtomicU32,
}

impl Live {
    /// The register at `offset`, if it is one of these.
    pub(super) fn read(&self, offset: u64) -> Option<u32> {
        let register = match u32::try_from(offset).ok()? {
            VIRTIO_MMIO_STATUS => &self.status,
            VIRTIO_MMIO_INTERRUPT_STATUS => &self.interrupt_status,
            VIRTIO_MMIO_CONFIG_GENERATION => &self.config_generation,
            _ => return None,
        };
        Some(register.load(Ordering::SeqCst))
    }

    /// Writes the register at `offset`, if it is one of these. Returns whether it is.
    pub(super) fn write(&self, offset: u64, value: u32) -> bool {
        let acknowledges = offset == u64::from(VIRTIO_MMIO_INTERRUPT_ACK);
        if acknowledges {
            self.interrupt_status.fetch_and(!value, Ordering::SeqCst);
        }
        acknowledges
    }

    pub(super) fn status(&self) -> Status {
        Status(self.status.load(Ordering::SeqCst))
    }

    pub(super) fn add_status(&self, bits: u32) {
        self.status.fetch_or(bits, Ordering::SeqCst);
    }

    pub(super) fn interrupt_status(&self) -> u32 {
        self.interrupt_status.load(Ordering::SeqCst)
    }

    pub(super) fn add_interrupt(&self, cause: u32) {
        self.interrupt_status.fetch_or(cause, Ordering::SeqCst);
    }

    pub(super) fn next_config_generation(&self) {
        self.config_generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Resets them, but ConfigGeneration continues: a driver that reads it before and
    /// after a reset must not find it unchanged.
    pub(super) fn reset(&self) {
        self.status.store(0, Ordering::SeqCst);
        self.interrupt_status.store(0, Ordering::SeqCst);
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match (u32::try_from(offset), data.len()) {
            (Ok(offset @ ..VIRTIO_MMIO_CONFIG), 4) => {
                data.copy_from_slice(&self.read_register(offset).to_le_bytes());
            }
            // 4.2.2.2: control registers are 4 bytes wide and nothing else.
            (Ok(..VIRTIO_MMIO_CONFIG), _) => {}
            _ => self
                .device
                .read_config(offset - u64::from(VIRTIO_MMIO_CONFIG), data),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (u32::try_from(offset), <[u8; 4]>::try_from(data)) {
            (Ok(offset @ ..VIRTIO_MMIO_CONFIG), Ok(value)) => {
                self.write_register(offset, u32::from_le_bytes(value));
            }
            (Ok(..VIRTIO_MMIO_CONFIG), Err(_)) => {}
            _ => self
                .device
                .write_config(offset - u64::from(VIRTIO_MMIO_CONFIG), data),
        }
    }
}

impl MmioTransport {
    fn read_register(&self, offset: u32) -> u32 {
        let registers = &self.registers;
        if let Some(value) = self.live.read(offset.into()) {
            return value;
        }
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device.device_id(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered(), registers.device_features_sel),
            VIRTIO_MMIO_QUEUE_NUM_MAX => {
                let sizes = self.device.queue_sizes();
                sizes
                    .get(registers.queue_sel as usize)
                    .map_or(0, |&size| size.into())
            }
            VIRTIO_MMIO_QUEUE_READY => self.selected().map_or(0, |setup| setup.ready.into()),
            // No shared memory regions: length and base read as all ones.
            VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        if self.live.write(offset.into(), value) {
            return;
        }
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.registers.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.registers.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.write_driver_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.registers.queue_sel = value,
            VIRTIO_MMIO_QUEUE_NUM => self.set_up_ring(|ring| ring.size = value),
            VIRTIO_MMIO_QUEUE_READY => self.write_queue_ready(value),
            VIRTIO_MMIO_QUEUE_NOTIFY => {
                // Signals the device thread, as the ioeventfd does.
                if let Some(ring) = self.rings.get(value as usize) {
                    signal(&ring.event);
                }
            }
            VIRTIO_MMIO_STATUS => self.write_status(value),
            VIRTIO_MMIO_QUEUE_DESC_LOW => self.set_up_ring(|ring| set_low(&mut ring.desc, value)),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => self.set_up_ring(|ring| set_high(&mut ring.desc, value)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => {
                self.set_up_ring(|ring| set_low(&mut ring.driver, value))
            }
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => {
                self.set_up_ring(|ring| set_high(&mut ring.driver, value));
            }
            VIRTIO_MMIO_QUEUE_USED_LOW => self.set_up_ring(|ring| set_low(&mut ring.device, value)),
            VIRTIO_MMIO_QUEUE_USED_HIGH => {
                self.set_up_ring(|ring| set_high(&mut ring.device, value));
            }
            _ => {}
        }
    }

    fn selected(&self) -> Option<&QueueState> {
        self.rings
            .get(self.registers.queue_sel as usize)
            .map(|ring| &ring.setup)
    }

    /// Changes the selected ring's registers: after the features are agreed
    /// (3.1.1), and not while the ring is ready (4.2.2.2).
    fn set_up_ring(&mut self, change: impl FnOnce(&mut QueueState)) {
        let agreed = self.live.status().has(Status::FEATURES_OK);
        let ring = self.rings.get_mut(self.registers.queue_sel as usize);
        if let Some(ring) = ring.filter(|ring| agreed && !ring.setup.ready) {
            change(&mut ring.setup);
        }
    }

    /// A ring that the specification forbids does not become ready: the driver
    /// reads 0 back.
    fn write_queue_ready(&mut self, value: u32) {
        let index = self.registers.queue_sel as usize;
        let agreed = self.live.status().has(Status::FEATURES_OK);
        let Some(setup) = self.selected().copied().filter(|_| agreed) else {
            return;
        };
        let ready = match value {
            0 => false,
            1 => setup.ready || self.place_ring(index, &setup),
            _ => return,
        };
        self.rings[index].setup.ready = ready;
        self.update_readiness();
    }

    fn write_driver_features(&mut self, value: u32) {
        let status = self.live.status();
        if !status.has(Status::DRIVER) || status.has(Status::FEATURES_OK) {
            return;
        }
        match self.registers.driver_features_sel {
            0 => set_low(&mut self.registers.driver_features, value),
            1 => set_high(&mut self.registers.driver_features, value),
            _ => {}
        }
    }

    /// The steps come in order, and only a reset undoes one (2.1.1).
    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let old = self.live.status();
        let mut new = value & Status::OF_DRIVER & !old.0;
        if new & Status::FEATURES_OK != 0 && !(old.has(Status::DRIVER) && self.features_agree()) {
            new &= !Status::FEATURES_OK;
        }
        if !Status(old.0 | new).has(Status::FEATURES_OK) {
            new &= !Status::DRIVER_OK;
        }
        self.live.add_status(new);
        if new & Status::DRIVER_OK != 0 {
            self.device.activate(self.registers.driver_features);
            self.update_readiness();
            self.kick_all();
        }
    }

    /// Whether the driver accepts only features that were offered, and is not legacy.
    fn features_agree(&self) -> bool {
        let wanted = self.registers.driver_features;
        wanted & !self.offered() == 0 && wanted & (1 << VIRTIO_F_VERSION_1) != 0
    }
}

/// The half of a 64-bit register that `selector` chooses; 0 beyond.
fn half(value: u64, selector: u32) -> u32 {
    match selector {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_low(register: &mut u64, value: u32) {
    *register = (*register & !0xffff_ffff) | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = (*register & 0xffff_ffff) | u64::from(value) << 32;
}
