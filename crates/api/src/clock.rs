//! The host's clock, as any guest program can read it: by nothing that has to wait for
//! anybody, so that what is read is right to the millisecond, however busy the host is.
//!
//! | register, 32 bits | read |
//! |---|---|
//! | [`CLOCK_PORT`] | milliseconds of the host's `CLOCK_REALTIME` since 1970, the low half |
//! | [`CLOCK_PORT`] + 4 | the high half, which changes every 49.7 days |
//!
//! What is written is ignored.

use crate::signal;

/// The I/O port of the first register: behind the signal port.
pub const CLOCK_PORT: u16 = signal::PORT + signal::PORT_LEN;

/// How many ports there are, from [`CLOCK_PORT`] on.
pub const CLOCK_PORT_LEN: u16 = 8;
