//! A device in its slot of the guest's address space: what the vCPUs, the device thread and
//! a capture share.

use super::MmioTransport;
use super::registers::Live;
use crate::bus::{BusDevice, SharedBusDevice};
use crate::devices::turns::Turns;
use std::sync::{Arc, MutexGuard};

/// A device in its slot.
///
/// The device thread has the transport for as long as a piece of work takes. What a driver
/// asks while its device works, why it was interrupted above all, is answered beside that.
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

    /// The device: after the piece that the device thread is at.
    pub fn lock(&self) -> MutexGuard<'_, MmioTransport> {
        self.transport.lock()
    }

    #[cfg(test)]
    pub(crate) fn is_wanted(&self) -> bool {
        self.transport.is_wanted()
    }

    /// The same for the device thread, which lets others go first.
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
