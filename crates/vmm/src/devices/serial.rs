//! The serial port (8250), for early kernel output and panics.
//!
//! It is output only. Input comes through the virtio console, which takes one interrupt per buffer
//! and not per byte.

use super::log::Log;
use crate::bus::BusDevice;
use hyperfork_state::RecordType;
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Range;
use vm_superio::serial::{NoEvents, Serial as Uart};
use vm_superio::{SerialState as UartState, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// I/O port of the first serial port's first register; it has eight.
pub const COM1: u16 = 0x3f8;
/// Ports from [`COM1`] on.
pub const COM1_LEN: u16 = 8;
/// Interrupt of the first serial port, edge-triggered.
pub const COM1_IRQ: u32 = 4;

/// One serial port.
pub struct Serial {
    uart: Uart<Irq, NoEvents, Log>,
}

struct Irq(EventFd);

impl Trigger for Irq {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The registers of a 16550A, and what its FIFO holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

impl RecordType for SerialState {
    const KIND: &'static str = "serial-8250";
    const VERSION: u16 = 1;
}

#[cfg(test)]
impl SerialState {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            baud_divisor_low: 1,
            baud_divisor_high: 2,
            interrupt_enable: 3,
            interrupt_identification: 4,
            line_control: 5,
            line_status: 6,
            modem_control: 7,
            modem_status: 8,
            scratch: 9,
            in_buffer: vec![10, 11],
        }
    }
}

impl Serial {
    /// A port as after power-on, that writes to `log` and signals `irq`, an irqfd for
    /// [`COM1_IRQ`].
    pub fn new(irq: EventFd, log: Log) -> Self {
        Self {
            uart: Uart::new(Irq(irq), log),
        }
    }

    /// A port as it was when `state` was saved. An interrupt that was pending
    /// then is raised again.
    ///
    /// # Errors
    /// `InvalidData` when no port can be in this state.
    pub fn restore(state: &SerialState, irq: EventFd, log: Log) -> io::Result<Self> {
        let uart = Uart::from_state(&state.into(), Irq(irq), NoEvents, log)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        Ok(Self { uart })
    }

    /// The port's state, for a clone or a snapshot.
    pub fn save(&self) -> SerialState {
        (&self.uart.state()).into()
    }
}

/// Registers are one byte wide. A wider access reaches the registers one after
/// the other, as the bus of a PC splits it.
impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        for (register, byte) in registers(offset).zip(data) {
            *byte = self.uart.read(register);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (register, &byte) in registers(offset).zip(data) {
            // The log takes everything, and an event at its limit is raised.
            let _ = self.uart.write(register, byte);
        }
    }
}

/// The port's registers from `offset` on.
fn registers(offset: u64) -> Range<u8> {
    offset.min(COM1_LEN.into()) as u8..COM1_LEN as u8
}

impl From<&SerialState> for UartState {
    fn from(state: &SerialState) -> Self {
        Self {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer.clone(),
        }
    }
}

impl From<&UartState> for SerialState {
    fn from(state: &UartState) -> Self {
        Self {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    const DATA: u64 = 0;
    const INTERRUPT_ENABLE: u64 = 1;
    const LINE_STATUS: u64 = 5;
    const SCRATCH: u64 = 7;

    fn log() -> Log {
        Log::new(tempfile::tempfile().unwrap()).unwrap()
    }

    fn irq() -> EventFd {
        EventFd::new(EFD_NONBLOCK).unwrap()
    }

    fn read(serial: &mut Serial, register: u64) -> u8 {
        let mut data = [0];
        serial.read(register, &mut data);
        data[0]
    }

    #[test]
    fn what_the_guest_prints_is_in_the_log() {
        let log = log();
        let mut serial = Serial::new(irq(), log.clone());
        for byte in b"Kernel panic" {
            assert_ne!(
                read(&mut serial, LINE_STATUS) & 0x20,
                0,
                "ready to take a byte"
            );
            serial.write(DATA, &[*byte]);
        }
        assert_eq!(log.tail(), b"Kernel panic");
    }

    #[test]
    fn a_restored_port_has_the_same_registers_and_raises_its_pending_interrupt_again() {
        let line = irq();
        let mut serial = Serial::new(line.try_clone().unwrap(), log());
        serial.write(SCRATCH, &[0x5a]);
        serial.write(INTERRUPT_ENABLE, &[2]);
        assert_eq!(line.read().unwrap(), 1, "the transmitter is empty");

        let state = serial.save();
        let line = irq();
        let mut restored = Serial::restore(&state, line.try_clone().unwrap(), log()).unwrap();
        assert_eq!(restored.save(), state);
        assert_eq!(read(&mut restored, SCRATCH), 0x5a);
        assert_eq!(line.read().unwrap(), 1);
    }

    #[test]
    fn accesses_of_any_width_and_offset_are_harmless() {
        let mut serial = Serial::new(irq(), log());
        for offset in [0, 1, 7, 8, 0xff, 0x100, u64::MAX] {
            for width in [0, 1, 2, 4, 8] {
                let mut data = vec![0; width];
                serial.write(offset, &data);
                serial.read(offset, &mut data);
            }
        }
    }

    #[test]
    fn a_state_no_port_can_have_is_refused() {
        let mut state = Serial::new(irq(), log()).save();
        state.in_buffer = vec![0; 65];
        assert!(Serial::restore(&state, irq(), log()).is_err());
    }
}
