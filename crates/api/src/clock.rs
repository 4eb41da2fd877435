//! The host's clock, as any guest program can read it. The read waits for no other thread of the
//! host, so the value is right however busy the host is.
//!
//! | register | read |
//! |---|---|
//! | [`CLOCK_PORT`], 64 bits, little-endian | nanoseconds of the host's `CLOCK_REALTIME` since 1970 |
//!
//! It can be read in pieces, down to single bytes: reading the first byte holds the time
//! for the others. What is written is ignored.

use crate::signal;

/// The I/O port of the first register: behind the signal port.
pub const CLOCK_PORT: u16 = signal::PORT + signal::PORT_LEN;

/// How many ports there are, from [`CLOCK_PORT`] on.
pub const CLOCK_PORT_LEN: u16 = 8;
