//! Sets the clock.

use super::check;
use std::io;

/// Puts `CLOCK_REALTIME` forward by so many nanoseconds, or back. In one step of the
/// kernel's, so that nothing that comes in between makes it wrong; timers of that clock
/// which are due by it expire.
///
/// # Errors
/// The kernel's: without `CAP_SYS_TIME`.
pub(crate) fn put_forward(ns: i64) -> io::Result<()> {
    const ADJ_SETOFFSET: libc::c_uint = 0x0100;
    const ADJ_NANO: libc::c_uint = 0x2000;
    // SAFETY: all-zero bytes are a valid `timex`.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = ADJ_SETOFFSET | ADJ_NANO;
    change.time.tv_sec = ns.div_euclid(1_000_000_000);
    // With ADJ_NANO these are nanoseconds, and never negative (adjtimex(2)).
    change.time.tv_usec = ns.rem_euclid(1_000_000_000);
    // SAFETY: the kernel reads and writes one `timex`, which outlives the call.
    check(unsafe { libc::adjtimex(&raw mut change) })?;
    Ok(())
}
