//! The host's clocks, in a form that processes can compare.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A reading of `CLOCK_MONOTONIC`, nanoseconds. The same clock for every process
/// of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Monotonic(u64);

impl Monotonic {
    /// Reads the clock.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    /// So many nanoseconds after the clock's beginning.
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// As long before this; not before the clock's beginning.
    pub const fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by.as_nanos() as u64))
    }

    /// From `earlier` to this; `None` if it was not earlier.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_nanos)
    }

    /// Nanoseconds from `earlier` to this; 0 if it was not earlier.
    pub fn ns_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Microseconds from `earlier` to this; 0 if it was not earlier.
    pub fn us_since(self, earlier: Self) -> u64 {
        self.ns_since(earlier) / 1000
    }

    /// From the clock's zero to this.
    pub fn as_duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

/// `CLOCK_REALTIME`, nanoseconds since 1970.
pub fn realtime_ns() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// `CLOCK_REALTIME`, milliseconds since 1970.
pub fn unix_ms() -> u64 {
    realtime_ns() / 1_000_000
}

/// The time-stamp counter, cycles.
pub fn host_tsc() -> u64 {
    // SAFETY: RDTSC reads a counter, and every x86-64 processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
