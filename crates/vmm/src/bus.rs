//! A bus: finds the device behind an address, for port I/O and for MMIO.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A device that answers register accesses of a vCPU. Offsets are relative to
/// the device's base; widths are the guest's choice (1, 2, 4 or 8 bytes).
pub trait BusDevice: Send {
    /// The guest reads; the device fills all of `data`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// The same for a device that several vCPUs access at a time.
pub trait SharedBusDevice: Send + Sync {
    /// The guest reads; the device fills all of `data`.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// The guest writes.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A lock lets in one vCPU after the other. A device that panicked stays usable: its registers are
/// plain data.
impl<D: BusDevice> SharedBusDevice for Mutex<D> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut device = self.lock().unwrap_or_else(PoisonError::into_inner);
        device.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut device = self.lock().unwrap_or_else(PoisonError::into_inner);
        device.write(offset, data);
    }
}

/// Where devices sit in one address space. Filled while a machine is assembled,
/// read-only afterwards.
#[derive(Default)]
pub struct Bus {
    /// By base address: length, device. Ranges never overlap.
    ranges: BTreeMap<u64, (u64, Arc<dyn SharedBusDevice>)>,
}

impl Bus {
    /// Puts a device at `base..base + len`.
    ///
    /// # Panics
    /// When the range is taken: the machine's own layout is wrong.
    pub fn insert(&mut self, base: u64, len: u64, device: Arc<dyn SharedBusDevice>) {
        let taken = self
            .ranges
            .range(..base + len)
            .next_back()
            .is_some_and(|(other, (other_len, _))| other + other_len > base);
        assert!(!taken, "bus range {base:#x}+{len:#x} is taken");
        self.ranges.insert(base, (len, device));
    }

    /// The guest reads `data.len()` bytes at `address`; all ones where nothing
    /// answers, as on real hardware.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((offset, device)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes; lost where nothing listens.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(address) {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(u64, &dyn SharedBusDevice)> {
        let (base, (len, device)) = self.ranges.range(..=address).next_back()?;
        let offset = address - base;
        (offset < *len).then_some((offset, device.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;
    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, _: u64, _: &[u8]) {}
    }

    fn read(bus: &Bus, address: u64) -> u8 {
        let mut data = [0];
        bus.read(address, &mut data);
        data[0]
    }

    #[test]
    fn accesses_reach_the_device_at_its_own_offset_and_nothing_else() {
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x10, Arc::new(Mutex::new(Echo)));
        assert_eq!(read(&bus, 0x1000), 0);
        assert_eq!(read(&bus, 0x100f), 0xf);
        assert_eq!(read(&bus, 0x1010), 0xff);
        assert_eq!(read(&bus, 0xfff), 0xff);
        assert_eq!(read(&bus, u64::MAX), 0xff);
    }

    #[test]
    #[should_panic(expected = "is taken")]
    fn devices_cannot_overlap() {
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x10, Arc::new(Mutex::new(Echo)));
        bus.insert(0x100f, 0x10, Arc::new(Mutex::new(Echo)));
    }
}
