//! Port I/O: the signal port and the serial port.

use crate::signal::{FORK_PORT, ForkStatus, Message, PORT};
use core::arch::asm;
use core::fmt::{self, Write};

/// Transmit register of the first 8250.
const COM1: u16 = 0x3f8;

/// Tells the monitor something.
pub(crate) fn signal(message: Message) {
    write(PORT, message.encode());
}

/// Writes a word to one of the signal port's registers.
pub(crate) fn write(port: u16, word: u32) {
    // SAFETY: the write leaves memory and flags alone; start.s allows the port.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") word,
             options(nostack, preserves_flags));
    }
}

/// Which clone this is: 0 for the parent, or before any fork.
pub(crate) fn index() -> u32 {
    read(PORT)
}

/// What became of the fork that was asked for; `None` if the monitor does not know
/// what that is.
pub(crate) fn fork_status() -> Option<ForkStatus> {
    ForkStatus::decode(read(FORK_PORT))
}

fn read(port: u16) -> u32 {
    let word;
    // SAFETY: as in `write`. It may well change memory, by being a fork; so no `nomem`.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") word,
             options(nostack, preserves_flags));
    }
    word
}

/// Writes text to the serial port.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    // `Serial` never fails.
    let _ = Serial.write_fmt(text);
}

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: as in `write`. The monitor's transmitter is always empty.
            unsafe {
                asm!("out dx, al", in("dx") COM1, in("al") byte,
                     options(nomem, nostack, preserves_flags));
            }
        }
        Ok(())
    }
}
