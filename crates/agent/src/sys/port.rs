//! Accesses I/O ports of 32 bits from user space.

use super::check;
use std::arch::asm;
use std::io;
use std::ops::RangeInclusive;

/// Ports that this process may use.
#[derive(Debug)]
pub(crate) struct Ports(RangeInclusive<u16>);

/// Asks the kernel for `len` ports from `first` on.
///
/// # Errors
/// The kernel's: without `CAP_SYS_RAWIO`, or built without `X86_IOPL_IOPERM`.
pub(crate) fn open(first: u16, len: u16) -> io::Result<Ports> {
    // SAFETY: ioperm takes plain numbers and touches no memory of ours.
    check(unsafe { libc::ioperm(first.into(), len.into(), 1) })?;
    Ok(Ports(first..=first + (len - 1)))
}

impl Ports {
    /// `outl`.
    pub(crate) fn write(&mut self, port: u16, word: u32) {
        self.check(port);
        // SAFETY: this process may use the port, so this does not fault; the device
        // behind it touches no memory of this process.
        unsafe {
            asm!("out dx, eax", in("dx") port, in("eax") word,
                 options(nomem, nostack, preserves_flags));
        }
    }

    /// `inl`.
    pub(crate) fn read(&mut self, port: u16) -> u32 {
        self.check(port);
        let word: u32;
        // SAFETY: as `write`.
        unsafe {
            asm!("in eax, dx", in("dx") port, out("eax") word,
                 options(nomem, nostack, preserves_flags));
        }
        word
    }

    fn check(&self, port: u16) {
        assert!(self.0.contains(&port) && self.0.contains(&(port + 3)));
    }
}
