//! Keeps the guest's `CLOCK_REALTIME` at the host's time.
//!
//! A machine that was cloned, or paused, has not noticed the time between: its
//! `CLOCK_MONOTONIC` has stood still, as it should, and `CLOCK_REALTIME` with it. The agent
//! computes how long that was from the host's clock, which it reads at a port, and
//! `CLOCK_MONOTONIC`, which cannot be set. So after a pause the agent puts a clock that a
//! program in the guest has set on purpose forward by the pause, and otherwise leaves it
//! alone. It sets a clone's clock to the host's.

use crate::sys::clock;
use hyperfork_api::clock::{CLOCK_PORT, CLOCK_PORT_LEN};
use rustix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MS: i64 = 1_000_000;

/// How far the clock may be wrong, nanoseconds.
const TOLERANCE: i64 = 5 * MS;

/// A reading of the clocks that takes longer than this, nanoseconds, is repeated: its
/// values do not belong together.
const QUICK: i64 = 2 * MS;

/// The most readings of one look.
const LOOKS: usize = 5;

/// No host has a clock before this, nanoseconds since 1970: 2020. It is no clock then.
const EARLIEST: i64 = 1_577_836_800_000 * MS;

/// The ports, as a file. The kernel reads them, so this process needs no right to them, and
/// no processor decides over it: QEMU's, where it emulates AMD's virtualisation, takes such
/// a right away from a program that was cloned, and the program dies.
const PORTS: &str = "/dev/port";

/// Keeps the machine's clock.
#[derive(Debug)]
pub(crate) struct Clock {
    /// `None`: this kernel has no such file, or denies access to it.
    ports: Option<File>,
    /// The host's time less `CLOCK_MONOTONIC` when the clock was right, nanoseconds.
    lead: Option<i64>,
}

/// All clocks at one moment, nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Look {
    host: i64,
    real: i64,
    monotonic: i64,
    /// How long it took.
    took: i64,
}

impl Clock {
    /// Looks for the port, and knows nothing of the host's clock yet.
    pub(crate) fn new() -> Self {
        Self {
            ports: File::open(PORTS).ok(),
            lead: None,
        }
    }

    /// Sets the clock to the host's: by the port, or where there is none to `told`,
    /// nanoseconds since 1970, which was the time a while ago.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn set(&mut self, told: u64) -> io::Result<()> {
        let look = self.look();
        self.lead = look.map(|look| look.host - look.monotonic);
        let (late, tolerated_ahead) = match look {
            Some(look) => (look.host - look.real, TOLERANCE),
            // More, for it may be right and only the message late.
            None => (told as i64 - now(ClockId::Realtime), 1000 * MS),
        };
        match (-tolerated_ahead..=TOLERANCE).contains(&late) {
            true => Ok(()),
            false => clock::put_forward(late),
        }
    }

    /// Puts the clock forward by what has passed on the host only.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn follow(&mut self) -> io::Result<()> {
        // Or nothing is known of the host's time.
        let look = self.lead.and_then(|_| self.look());
        look.and_then(|look| self.missed(look))
            .map_or(Ok(()), clock::put_forward)
    }

    /// By how much the host has gained on this machine since the clock was right, if that
    /// is worth a step: nanoseconds. From now on it is right.
    fn missed(&mut self, look: Look) -> Option<i64> {
        let lead = look.host - look.monotonic;
        let missed = lead - self.lead?;
        if missed.abs() <= TOLERANCE {
            return None;
        }
        self.lead = Some(lead);
        Some(missed)
    }

    /// The quickest of a few looks; `None` where the host's clock cannot be read.
    fn look(&self) -> Option<Look> {
        let mut best: Option<Look> = None;
        for _ in 0..LOOKS {
            let look = look_once(self.ports.as_ref()?)?;
            if best.is_none_or(|best| look.took < best.took) {
                best = Some(look);
            }
            if look.took <= QUICK {
                break;
            }
        }
        best
    }
}

fn look_once(ports: &File) -> Option<Look> {
    let mut host = [0; CLOCK_PORT_LEN as usize];
    let before = now(ClockId::Monotonic);
    let real = now(ClockId::Realtime);
    ports.read_exact_at(&mut host, CLOCK_PORT.into()).ok()?;
    let took = now(ClockId::Monotonic) - before;
    let host = i64::from_le_bytes(host);
    (host > EARLIEST).then_some(Look {
        host,
        real: real + took / 2,
        monotonic: before + took / 2,
        took,
    })
}

fn now(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000 * MS;

    fn keeper(lead: Option<i64>) -> Clock {
        Clock { ports: None, lead }
    }

    /// When the machine has run for so long, and stood still for so long.
    fn after(running: i64, standing: i64) -> Look {
        Look {
            host: EARLIEST + running + standing,
            // A value that a program in the guest has set.
            real: 77,
            monotonic: running,
            took: 0,
        }
    }

    #[test]
    fn what_was_missed_is_made_up_for_once_however_the_clock_was_set() {
        let mut clock = keeper(None);
        assert_eq!(clock.missed(after(HOUR, 0)), None);
        clock.lead = Some(EARLIEST);
        assert_eq!(clock.missed(after(HOUR, TOLERANCE)), None);
        assert_eq!(clock.missed(after(HOUR, HOUR)), Some(HOUR));
        assert_eq!(clock.missed(after(2 * HOUR, HOUR)), None);
        // What is too little each time is not forgotten.
        let little = TOLERANCE * 2 / 3;
        assert_eq!(clock.missed(after(3 * HOUR, HOUR + little)), None);
        let much = Some(2 * little);
        assert_eq!(clock.missed(after(3 * HOUR, HOUR + 2 * little)), much);
    }

    #[test]
    fn a_host_whose_clock_is_set_back_is_followed() {
        let mut clock = keeper(Some(EARLIEST + 2 * HOUR));
        assert_eq!(clock.missed(after(HOUR, HOUR)), Some(-HOUR));
    }
}
