//! What a guest's clocks show after a time in which it did not run (docs/clock.md).
//!
//! The guest's kernel takes the time from kvm-clock and the TSC. Neither stops with the vCPUs, so
//! time that must not pass for the guest has to be taken back from both.
//!
//! | time between | for the guest |
//! |---|---|
//! | a capture and the clone's first instruction | it passes: a fork takes milliseconds |
//! | the same, but longer than [`LONGEST_FORK`] | it does not pass: the state was at rest |
//! | a capture and a restore after a reboot of the host, or on another host | not supported yet |
//! | `pause` and `resume`, or `pause` and a fork | it does not pass |

use super::KvmError;
use crate::sys::clock::{Monotonic, host_tsc};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A longer time between capture and restore does not pass for the guest: its timers, watchdogs
/// and leases would notice that it had slept.
pub const LONGEST_FORK: Duration = Duration::from_secs(10);

/// What a guest's clocks showed at a moment when it was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// kvm-clock, nanoseconds.
    pub kvm_clock_ns: u64,
    /// The host's TSC. The guest's are that and each vCPU's offset.
    pub host_tsc: u64,
    /// The host's time of that moment.
    pub at: Monotonic,
}

/// What to set a guest's clocks to when it continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockPlan {
    /// What kvm-clock has to be set to, nanoseconds.
    pub kvm_clock_ns: u64,
    /// By how much the TSCs have to be turned back: cycles.
    pub tsc_back: u64,
}

impl Clocks {
    /// The plan for a machine that was captured with these clocks and is restored now. The host
    /// must be the same and must not have been rebooted, or the clocks could not be compared;
    /// [`HostFingerprint::check`](hyperfork_state::HostFingerprint::check) compares the boot ID.
    ///
    /// # Errors
    /// [`KvmError::Clock`].
    pub fn plan_restore(&self, now: Monotonic, host_tsc: u64) -> Result<ClockPlan, KvmError> {
        match now.since(self.at) {
            Some(gap) if gap <= LONGEST_FORK => {
                let passed = gap.as_nanos() as u64;
                let then = self.kvm_clock_ns;
                Ok(ClockPlan {
                    kvm_clock_ns: then.checked_add(passed).ok_or(KvmError::Clock(then))?,
                    tsc_back: 0,
                })
            }
            // A longer time, or a clock that went backwards.
            _ => Ok(self.plan_hold(host_tsc)),
        }
    }

    /// The plan for a machine for which no time has passed since.
    pub fn plan_hold(&self, host_tsc: u64) -> ClockPlan {
        ClockPlan {
            kvm_clock_ns: self.kvm_clock_ns,
            tsc_back: host_tsc.wrapping_sub(self.host_tsc),
        }
    }

    /// Clocks that still show the same now, and the cycles by which the TSCs have to be turned
    /// back for that.
    pub fn hold_until_now(&self) -> (Self, u64) {
        let now = Self {
            kvm_clock_ns: self.kvm_clock_ns,
            host_tsc: host_tsc(),
            at: Monotonic::now(),
        };
        (now, now.host_tsc.wrapping_sub(self.host_tsc))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCKS: Clocks = Clocks {
        kvm_clock_ns: 5_000,
        host_tsc: 1_000,
        at: Monotonic::from_ns(1 << 60),
    };

    fn after(gap: Duration) -> ClockPlan {
        let now = Monotonic::from_ns((1 << 60) + gap.as_nanos() as u64);
        CLOCKS.plan_restore(now, 3_000).unwrap()
    }

    #[test]
    fn what_a_fork_takes_passes_for_the_clone() {
        let passes = ClockPlan {
            kvm_clock_ns: 5_000 + 2_000_000,
            tsc_back: 0,
        };
        assert_eq!(after(Duration::from_millis(2)), passes);
        assert_eq!(after(LONGEST_FORK).tsc_back, 0);
    }

    #[test]
    fn what_a_state_was_at_rest_has_not_been_for_the_machine_made_of_it() {
        let stands = ClockPlan {
            kvm_clock_ns: 5_000,
            tsc_back: 2_000,
        };
        assert_eq!(after(LONGEST_FORK + Duration::from_nanos(1)), stands);
        assert_eq!(after(Duration::from_secs(3600)), stands);
        // Taken later than it is now.
        let earlier = Monotonic::from_ns(77);
        assert_eq!(CLOCKS.plan_restore(earlier, 3_000).unwrap(), stands);
        let (held, _) = CLOCKS.hold_until_now();
        assert_eq!(held.kvm_clock_ns, CLOCKS.kvm_clock_ns);
    }

    #[test]
    fn a_clock_at_its_end_is_an_error() {
        let clocks = Clocks {
            kvm_clock_ns: u64::MAX,
            ..CLOCKS
        };
        let now = Monotonic::from_ns((1 << 60) + 1);
        let refused = clocks.plan_restore(now, 3_000);
        assert!(matches!(refused, Err(KvmError::Clock(u64::MAX))));
    }
}
