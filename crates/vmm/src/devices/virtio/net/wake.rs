//! The events that wake a network device: new frames in the TAP, and a timer.

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

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
        for (fd, token) in [(tap, FRAMES), (timer.as_fd(), TIMER)] {
            let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, token);
            all.ctl(ControlOperation::Add, fd.as_raw_fd(), event)?;
        }
        Ok(Self { all, timer })
    }

    pub(super) fn events(&self) -> BorrowedFd<'_> {
        // SAFETY: `all` lives as long as the result, and closes its descriptor only when
        // it goes.
        unsafe { BorrowedFd::borrow_raw(self.all.as_raw_fd()) }
    }

    /// Clears the events; returns whether frames have come.
    pub(super) fn take(&self) -> io::Result<bool> {
        let mut events = [EpollEvent::default(); 2];
        let count = match self.all.wait(0, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            result => result?,
        };
        Ok(events[..count].iter().any(|event| event.data() == FRAMES))
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
