//! A set of descriptors to wait for at once (epoll).
//!
//! Each descriptor has a number, which its events carry: what it means is the caller's business.

use rustix::event::Timespec;
pub use rustix::event::epoll::EventFlags;
use rustix::event::epoll::{self, CreateFlags, Event, EventData};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use vmm_sys_util::eventfd::EventFd;

/// The set. It is a descriptor itself, readable while the set has events.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Waits for `flags` of `fd` from now on. Closing the last duplicate of `fd` takes it out
    /// of the set.
    ///
    /// # Errors
    /// When it is in the set already, or the host has no memory for it.
    pub fn add(&self, fd: impl AsFd, number: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(number), flags)?)
    }

    /// As [`add`](Self::add), for an event of KVM's: to be waited for until it is read.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_event(&self, event: &EventFd, number: u64) -> io::Result<()> {
        // SAFETY: `event` is borrowed for longer, and has its descriptor open for as long as it is.
        let fd = unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) };
        self.add(fd, number, EventFlags::IN)
    }

    /// Waits for other `flags` of an `fd` in the set, under another number.
    ///
    /// # Errors
    /// When it is not in the set.
    pub fn modify(&self, fd: impl AsFd, number: u64, flags: EventFlags) -> io::Result<()> {
        let number = EventData::new_u64(number);
        Ok(epoll::modify(&self.0, fd, number, flags)?)
    }

    /// Takes `fd` out of the set.
    ///
    /// # Errors
    /// When it is not in the set.
    pub fn delete(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, fd)?)
    }

    /// Waits for events, for no longer than `most` where that is given, and takes `N` at a time:
    /// the number of each descriptor, and what it has. A signal ends the wait without any.
    ///
    /// # Errors
    /// Those of `epoll_wait(2)`.
    pub fn wait<const N: usize>(
        &self,
        most: Option<Duration>,
    ) -> io::Result<impl Iterator<Item = (u64, EventFlags)> + use<N>> {
        let none = Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = [none; N];
        let most = most.map(|most| Timespec {
            tv_sec: most.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: most.subsec_nanos().into(),
        });
        let count = match epoll::wait(&self.0, &mut events, most.as_ref()) {
            Err(Errno::INTR) => 0,
            count => count?,
        };
        let events = events.into_iter().take(count);
        Ok(events.map(|event| (event.data.u64(), event.flags)))
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    const NOW: Option<Duration> = Some(Duration::ZERO);

    #[test]
    fn what_is_ready_is_told_by_its_number_until_it_is_taken_out() {
        let set = Epoll::new().unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (_quiet, other) = UnixStream::pair().unwrap();
        set.add(&theirs, 7, EventFlags::IN).unwrap();
        set.add(&other, 8, EventFlags::IN).unwrap();
        let ready = || set.wait::<4>(NOW).unwrap().collect::<Vec<_>>();
        assert_eq!(ready(), []);
        ours.write_all(b"!").unwrap();
        assert_eq!(set.wait::<4>(None).unwrap().count(), 1);
        assert_eq!(ready(), [(7, EventFlags::IN)]);
        set.modify(&theirs, u64::MAX, EventFlags::OUT).unwrap();
        assert_eq!(ready(), [(u64::MAX, EventFlags::OUT)]);
        set.delete(&theirs).unwrap();
        assert_eq!(ready(), []);
    }

    #[test]
    fn no_more_are_taken_than_there_is_room_for_and_the_others_stay() {
        let set = Epoll::new().unwrap();
        let pairs = [(); 3].map(|()| UnixStream::pair().unwrap());
        for ((one, _), number) in pairs.iter().zip(0..) {
            set.add(one, number, EventFlags::OUT).unwrap();
        }
        assert_eq!(set.wait::<2>(NOW).unwrap().count(), 2);
        assert_eq!(set.wait::<4>(NOW).unwrap().count(), 3);
    }
}
