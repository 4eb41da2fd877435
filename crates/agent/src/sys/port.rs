//! One 32-bit I/O port, from user space.

use super::check;
use std::arch::asm;
use std::io;

/// A port that this process may use.
#[derive(Debug)]
pub(crate) struct Port(u16);

/// Asks the kernel for the four bytes from `port` on.
///
/// # Errors
/// The kernel's: without `CAP_SYS_RAWIO`, or built without `X86_IOPL_IOPERM`.
pub(crate) fn open(port: u16) -> io::Result<Port> {
    // SAFETY: ioperm takes plain numbers and touches no memory of ours.
    check(unsafe { libc::ioperm(port.into(), 4, 1) })?;
    Ok(Port(port))
}

impl Port {
    /// `outl`.
    pub(crate) fn write(&mut self, word: u32) {
        // SAFETY: `open` got permission for this port, so this does not fault;
        // the device behind it touches no memory of this process.
        unsafe {
            asm!("out dx, eax", in("dx") self.0, in("eax") word,
                 options(nomem, nostack, preserves_flags));
        }
    }

    /// `inl`.
    pub(crate) fn read(&mut self) -> u32 {
        let word: u32;
        // SAFETY: as `write`.
        unsafe {
            asm!("in eax, dx", in("dx") self.0, out("eax") word,
                 options(nomem, nostack, preserves_flags));
        }
        word
    }
}
