//! The epoll set of a guest's connections: commands, clients, streams and a timer.

use crate::sys::epoll::{Epoll, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Most events taken from epoll by one call.
const EVENTS: usize = 256;

/// The source of an event, as a number in the epoll set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A handle has left commands.
    Wake,
    /// A second has passed.
    Timer,
    /// Clients wait at the public socket.
    Listener,
    /// The stream of this number, [`Source::FIRST_STREAM`] or more.
    Stream(u64),
}

impl Source {
    pub(super) const FIRST_STREAM: u64 = 3;

    fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Wake,
            1 => Self::Timer,
            2 => Self::Listener,
            stream => Self::Stream(stream),
        }
    }

    fn number(self) -> u64 {
        match self {
            Self::Wake => 0,
            Self::Timer => 1,
            Self::Listener => 2,
            Self::Stream(stream) => stream,
        }
    }
}

/// See the module's documentation.
pub(super) struct Poller {
    epoll: Epoll,
    /// Written by handles.
    wake: Arc<OwnedFd>,
    /// Ticks once a second while something waits with a time limit.
    timer: OwnedFd,
    ticking: bool,
}

impl Poller {
    /// A set with the handles' eventfd and the timer only.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        epoll.add(&wake, Source::Wake.number(), EventFlags::IN)?;
        epoll.add(&timer, Source::Timer.number(), EventFlags::IN)?;
        Ok(Self {
            epoll,
            wake: Arc::new(wake),
            timer,
            ticking: false,
        })
    }

    /// Readable when [`events`](Self::events) has some.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(super) fn wake(&self) -> &Arc<OwnedFd> {
        &self.wake
    }

    /// What has happened; waits for nothing.
    ///
    /// # Errors
    /// When epoll fails.
    pub(super) fn events(&self) -> io::Result<impl Iterator<Item = (Source, EventFlags)> + use<>> {
        let events = self.epoll.wait::<EVENTS>(Some(Duration::ZERO))?;
        Ok(events.map(|(number, flags)| (Source::from_number(number), flags)))
    }

    /// Takes notice of a [`Source::Wake`].
    pub(super) fn clear_wake(&self) {
        clear(&self.wake);
    }

    /// Takes notice of a [`Source::Timer`].
    pub(super) fn clear_timer(&self) {
        clear(&self.timer);
    }

    /// Watches for clients of `listener`; false when the host has no memory for it.
    #[must_use]
    pub(super) fn watch_listener(&self, listener: impl AsFd) -> bool {
        let number = Source::Listener.number();
        self.epoll.add(listener, number, EventFlags::IN).is_ok()
    }

    /// Watches a stream, edge-triggered; false when the host has no memory for it.
    #[must_use]
    pub(super) fn watch_stream(&self, id: u64, stream: BorrowedFd<'_>) -> bool {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let number = Source::Stream(id).number();
        self.epoll.add(stream, number, flags).is_ok()
    }

    /// Stops watching a stream.
    pub(super) fn forget_stream(&self, stream: BorrowedFd<'_>) {
        // It fails only when the stream is not watched.
        let _ = self.epoll.delete(stream);
    }

    pub(super) fn start_ticking(&mut self) {
        if !self.ticking {
            self.set_timer(true);
        }
    }

    pub(super) fn stop_ticking(&mut self) {
        self.set_timer(false);
    }

    fn set_timer(&mut self, on: bool) {
        let second = Timespec {
            tv_sec: i64::from(on),
            tv_nsec: 0,
        };
        let every = Itimerspec {
            it_interval: second,
            it_value: second,
        };
        let set = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &every);
        self.ticking = on && set.is_ok();
    }
}

/// Takes the count out of an eventfd or timerfd; there may be none.
fn clear(fd: &OwnedFd) {
    let _ = rustix::io::read(fd, &mut [0; 8]);
}
