//! The events that wake a network device: new frames in the TAP, and a timer.

use crate::sys::epoll::{Epoll, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Readable when a frame has come to an empty TAP, or the timer has expired. Both are
/// edge-triggered, so a device that cannot take a frame now is not woken again and again.
#[derive(Debug)]
pub(super) struct Wake {
    all: Epoll,
    timer: OwnedFd,
}

const FRAMES: u64 = 0;
const TIMER: u64 = 1;

impl Wake {
    pub(super) fn new(tap: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let all = Epoll::new()?;
        for (fd, number) in [(tap, FRAMES), (timer.as_fd(), TIMER)] {
            all.add(fd, number, EventFlags::IN | EventFlags::ET)?;
        }
        Ok(Self { all, timer })
    }

    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.all.as_fd()
    }

    /// Clears the events; returns whether frames have come.
    pub(super) fn take(&self) -> io::Result<bool> {
        let mut events = self.all.wait::<2>(Some(Duration::ZERO))?;
        Ok(events.any(|(number, _)| number == FRAMES))
    }

    /// Sets the timer.
    pub(super) fn after(&self, wait: Duration) -> io::Result<()> {
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                // 0 would switch it off.
                tv_nsec: i64::from(wait.subsec_nanos().max(1)),
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}
