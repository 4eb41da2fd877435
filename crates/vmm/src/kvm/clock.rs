//! A guest's clocks over a time in which it does not run (docs/clock.md).
//!
//! Those that its kernel takes the time from are kvm-clock and the TSC. Neither stops with
//! the vCPUs: what a guest has not lived through must be taken back from them.
//!
//! | time between | for the guest it |
//! |---|---|
//! | a capture and the clone's first instruction | passes: it is a fork, of milliseconds |
//! | the same, but longer than [`LONGEST_FORK`] | has not been: the state was at rest |
//! | `pause` and `resume`, or `pause` and a fork | has not been |

use super::KvmError;
use crate::sys::clock::{Monotonic, host_tsc};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What takes longer is no fork any more. What a guest is told to have slept through is
/// noticed by all that watches over it: timers, watchdogs, leases.
pub const LONGEST_FORK: Duration = Duration::from_secs(10);

/// What a guest's clocks showed at a moment when it stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// kvm-clock, nanoseconds.
    pub kvm_clock_ns: u64,
    /// The host's TSC. The guest's are that and each vCPU's offset.
    pub host_tsc: u64,
    /// When.
    pub at: Monotonic,
}

/// How clocks go on from where they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoingOn {
    /// What kvm-clock has to be set to, nanoseconds.
    pub kvm_clock_ns: u64,
    /// By how much the TSCs have to be turned back: cycles.
    pub tsc_back: u64,
}

impl Clocks {
    /// How a machine that was captured with these clocks goes on now.
    ///
    /// # Errors
    /// [`KvmError::Clock`].
    pub fn go_on(&self, now: Monotonic, host_tsc: u64) -> Result<GoingOn, KvmError> {
        match now.since(self.at) {
            Some(gap) if gap <= LONGEST_FORK => {
                let passed = gap.as_nanos() as u64;
                let then = self.kvm_clock_ns;
                Ok(GoingOn {
                    kvm_clock_ns: then.checked_add(passed).ok_or(KvmError::Clock(then))?,
                    tsc_back: 0,
                })
            }
            // Too long, or not even of this host's life.
            _ => Ok(self.stand_still(host_tsc)),
        }
    }

    /// How a machine goes on now that has not noticed any time.
    pub fn stand_still(&self, host_tsc: u64) -> GoingOn {
        GoingOn {
            kvm_clock_ns: self.kvm_clock_ns,
            tsc_back: host_tsc.wrapping_sub(self.host_tsc),
        }
    }

    /// The same clocks, still showing the same, now. By so many cycles the TSCs have to be
    /// turned back for that.
    pub fn held_until_now(&self) -> (Self, u64) {
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

    fn after(gap: Duration) -> GoingOn {
        let now = Monotonic::from_ns((1 << 60) + gap.as_nanos() as u64);
        CLOCKS.go_on(now, 3_000).unwrap()
    }

    #[test]
    fn what_a_fork_takes_passes_for_the_clone() {
        let passes = GoingOn {
            kvm_clock_ns: 5_000 + 2_000_000,
            tsc_back: 0,
        };
        assert_eq!(after(Duration::from_millis(2)), passes);
        assert_eq!(after(LONGEST_FORK).tsc_back, 0);
    }

    #[test]
    fn what_a_state_was_at_rest_has_not_been_for_the_machine_made_of_it() {
        let stands = GoingOn {
            kvm_clock_ns: 5_000,
            tsc_back: 2_000,
        };
        assert_eq!(after(LONGEST_FORK + Duration::from_nanos(1)), stands);
        assert_eq!(after(Duration::from_secs(3600)), stands);
        // Of a host that has been started anew since.
        let earlier = Monotonic::from_ns(77);
        assert_eq!(CLOCKS.go_on(earlier, 3_000).unwrap(), stands);
        let (held, _) = CLOCKS.held_until_now();
        assert_eq!(held.kvm_clock_ns, CLOCKS.kvm_clock_ns);
    }

    #[test]
    fn a_clock_at_its_end_is_an_error() {
        let clocks = Clocks {
            kvm_clock_ns: u64::MAX,
            ..CLOCKS
        };
        let now = Monotonic::from_ns((1 << 60) + 1);
        let refused = clocks.go_on(now, 3_000);
        assert!(matches!(refused, Err(KvmError::Clock(u64::MAX))));
    }
}
