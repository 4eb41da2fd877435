//! The machine's I/O ports. Those defined here have no state to save: by two of them the guest
//! resets or powers off its machine, by one it reads the host's clock.

use super::signal_port::GuestFork;
use super::vcpus::XstatePort;
use crate::boot::acpi;
use crate::bus::{Bus, BusDevice, SharedBusDevice};
use crate::devices::serial::{COM1, COM1_LEN, Serial};
use crate::sys::clock::realtime_ns;
use hyperfork_api::clock::{CLOCK_PORT, CLOCK_PORT_LEN};
use hyperfork_api::signal::{PORT, PORT_LEN};
use hyperfork_api::xstate::{PORT_LEN as XSTATE_LEN, SAVE_PORT};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// The bus of all I/O ports, but for what is written to that of the
/// [vector registers](super::vcpus::XstatePort).
pub(super) fn bus(
    serial: Arc<Mutex<Serial>>,
    guest_fork: &GuestFork,
    xstate: Arc<XstatePort>,
    power: &Power,
) -> Bus {
    let reset = ResetPort {
        power: power.clone(),
    };
    let control = PowerPort {
        power: power.clone(),
    };
    let ports: [(u16, u16, Arc<dyn SharedBusDevice>); 6] = [
        (COM1, COM1_LEN, serial),
        (PORT, PORT_LEN, guest_fork.device()),
        (SAVE_PORT, XSTATE_LEN, xstate),
        (ResetPort::PORT, 1, Arc::new(Mutex::new(reset))),
        (
            acpi::POWER_PORT,
            acpi::POWER_LEN,
            Arc::new(Mutex::new(control)),
        ),
        (
            CLOCK_PORT,
            CLOCK_PORT_LEN,
            Arc::new(Mutex::new(ClockPort::default())),
        ),
    ];
    let mut bus = Bus::default();
    for (port, len, device) in ports {
        bus.insert(port.into(), len.into(), device);
    }
    bus
}

/// Whether the guest has turned its machine off. A vCPU checks this after each write to a port,
/// so the guest executes nothing after the write that did it, and can do it only once.
#[derive(Debug, Clone, Default)]
pub(super) struct Power(Arc<AtomicBool>);

impl Power {
    fn turn_off(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_off(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The keyboard controller's command port, with the reset line only: kernels pulse it to reboot
/// (`reboot=k`).
pub(super) struct ResetPort {
    pub(super) power: Power,
}

impl ResetPort {
    /// Port 0x64 of the 8042.
    pub(super) const PORT: u16 = 0x64;
    const PULSE_RESET: u8 = 0xfe;
}

impl BusDevice for ResetPort {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        // Nothing to read, ready for commands.
        data.fill(0);
    }

    fn write(&mut self, _: u64, data: &[u8]) {
        if data == [Self::PULSE_RESET] {
            self.power.turn_off();
        }
    }
}

/// ACPI's power management registers (specification 6.5, 4.8.3): there are no events, and the
/// control register can only turn the machine off. They hold nothing, so there is nothing to save.
pub(super) struct PowerPort {
    pub(super) power: Power,
}

impl PowerPort {
    /// What a read returns: no status; the global lock event enabled, which kernels insist on
    /// (GBL_EN); ACPI in charge, not legacy firmware (SCI_EN).
    const REGISTERS: [u8; acpi::POWER_LEN as usize] = [0, 0, 1 << 5, 0, 1, 0];
    /// PM1_CNT: enter the sleeping state; there is only "off". Bit 13, here in the
    /// second byte.
    const SLP_EN: u8 = 1 << 5;
}

impl BusDevice for PowerPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (place, byte) in data.iter_mut().enumerate() {
            let register = Self::REGISTERS.get(offset as usize + place);
            *byte = register.copied().unwrap_or(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let second_byte = u64::from(acpi::POWER_CONTROL) + 1;
        let written = second_byte.checked_sub(offset);
        let written = written.and_then(|place| data.get(place as usize));
        if written.is_some_and(|byte| byte & Self::SLP_EN != 0) {
            self.power.turn_off();
        }
    }
}

/// The host's clock ([`hyperfork_api::clock`]).
#[derive(Default)]
pub(super) struct ClockPort {
    /// The value latched by a read of the first bytes, for reads of the rest. It is not saved: a
    /// clone reads its own time.
    held: Option<u64>,
}

impl BusDevice for ClockPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let held = self.held.take().filter(|_| offset != 0);
        let held = held.unwrap_or_else(realtime_ns);
        self.held = Some(held);
        let bytes = held.to_le_bytes();
        for (place, byte) in data.iter_mut().enumerate() {
            *byte = bytes.get(offset as usize + place).copied().unwrap_or(0);
        }
    }

    fn write(&mut self, _: u64, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_turned_off_by_the_control_register_alone() {
        let power = Power::default();
        let mut port = PowerPort {
            power: power.clone(),
        };
        let mut control = [0xff; 2];
        port.read(acpi::POWER_CONTROL.into(), &mut control);
        assert_eq!(control, [1, 0]);
        port.write(0, &[0xff, 0xff]);
        port.write(4, &[0xff, 0xdf]);
        port.write(4, &[0xff]);
        assert!(!power.is_off());
        port.write(4, &[0, 0x20]);
        assert!(power.is_off());

        let power = Power::default();
        let mut port = PowerPort {
            power: power.clone(),
        };
        port.write(5, &[0x20]);
        assert!(power.is_off());
    }

    #[test]
    fn a_clock_that_is_read_in_pieces_shows_one_time() {
        let mut port = ClockPort::default();
        let before = realtime_ns();
        let mut bytes = [0; 8];
        for (offset, byte) in bytes.iter_mut().enumerate() {
            port.read(offset as u64, std::slice::from_mut(byte));
            port.write(offset as u64, &[0xff]);
        }
        let after = realtime_ns();
        assert!((before..=after).contains(&u64::from_le_bytes(bytes)));
        let mut held = [0; 4];
        port.read(4, &mut held);
        assert_eq!(held, bytes[4..]);
        // A clone that was made between the reads continues with its own time.
        let mut rest = [0; 4];
        ClockPort::default().read(4, &mut rest);
        assert!(u32::from_le_bytes(rest).abs_diff((after >> 32) as u32) <= 1);
        // What is beyond the end, and a new time.
        let mut wide = [0xff; 16];
        port.read(0, &mut wide);
        let (time, beyond) = wide.split_at(8);
        assert!(time != bytes && beyond == [0; 8], "{wide:?}");
    }
}
