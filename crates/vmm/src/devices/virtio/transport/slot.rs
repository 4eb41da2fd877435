//! A device in its MMIO slot, shared by the vCPUs, the device thread and a capture.

use super::MmioTransport;
use super::registers::Live;
use crate::bus::{BusDevice, SharedBusDevice};
use crate::devices::turns::Turns;
use std::sync::{Arc, MutexGuard};

/// A device in its slot.
///
/// The device thread holds the transport's lock for as long as a piece of work takes. Registers
/// that a driver reads while its device works, above all the interrupt status, are answered
/// without that lock.
pub struct Slot {
    live: Arc<Live>,
    transport: Turns<MmioTransport>,
}

impl Slot {
    /// Puts a device into its slot.
    pub fn new(transport: MmioTransport) -> Self {
        let slot = Self {
            live: transport.live.clone(),
            transport: Turns::new(transport),
        };
        slot.lock().preemption = slot.transport.preemption();
        slot
    }

    /// Locks the device, after the current piece of the device thread's work.
    pub fn lock(&self) -> MutexGuard<'_, MmioTransport> {
        self.transport.lock()
    }

    #[cfg(test)]
    pub(crate) fn is_wanted(&self) -> bool {
        self.transport.is_wanted()
    }

    /// The same for the device thread, which lets other threads go first.
    pub fn lock_last(&self) -> MutexGuard<'_, MmioTransport> {
        self.transport.lock_last()
    }
}

impl SharedBusDevice for Slot {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (self.live.read(offset), data.len()) {
            (Some(value), 4) => data.copy_from_slice(&value.to_le_bytes()),
            _ => self.lock().read(offset, data),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let value = <[u8; 4]>::try_from(data).map(u32::from_le_bytes);
        if !value.is_ok_and(|value| self.live.write(offset, value)) {
            self.lock().write(offset, data);
        }
    }
}
