//! Forwards datagrams between one socket and many peers, with one socket per peer (as UDP NAT
//! does).

use super::sessions::{LOOK, Sessions};
use std::hash::Hash;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// The epoll token of the one socket; the token of a conversation is its number.
const ONE: u64 = u64::MAX;

/// The conversations with all peers, and the epoll set of their sockets.
#[derive(Debug)]
pub struct Exchange<K, S> {
    sessions: Sessions<K, S>,
    events: Epoll,
    begun: Instant,
}

/// Which socket is readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// The one socket.
    One,
    /// That of the conversation with this number.
    Session(u64),
}

impl<K: Hash + Eq + Clone, S: AsRawFd> Exchange<K, S> {
    /// Between `one`, which the caller keeps, and at most `most` conversations at a time; a further
    /// one replaces the conversation that has been silent for longest.
    ///
    /// # Errors
    /// When there is no epoll.
    pub fn new(one: &impl AsRawFd, most: usize) -> io::Result<Self> {
        let events = Epoll::new()?;
        watch(&events, one, ONE)?;
        Ok(Self {
            sessions: Sessions::new(most),
            events,
            begun: Instant::now(),
        })
    }

    /// Waits until there is something to read, and forgets peers that have been silent for long.
    ///
    /// # Errors
    /// Those of epoll.
    pub fn wait(&mut self) -> io::Result<Vec<Ready>> {
        let mut events = [EpollEvent::default(); 64];
        let timeout = match self.sessions.is_empty() {
            true => -1,
            false => LOOK.as_millis() as i32,
        };
        let count = match self.events.wait(timeout, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            count => count?,
        };
        self.sessions.expire(self.begun.elapsed());
        let ready = events[..count].iter().map(|event| match event.data() {
            ONE => Ready::One,
            number => Ready::Session(number),
        });
        Ok(ready.collect())
    }

    /// The socket for the peer `key`, which sends something now; `open` makes one for a new peer.
    ///
    /// # Errors
    /// Those of `open` and of epoll.
    pub fn of(&mut self, key: K, open: impl FnOnce() -> io::Result<S>) -> io::Result<&S> {
        let events = &self.events;
        self.sessions.of(key, self.begun.elapsed(), |number| {
            let socket = open()?;
            watch(events, &socket, number)?;
            Ok(socket)
        })
    }

    /// The peer of the conversation with this number, and its socket. `None` if the conversation
    /// was forgotten meanwhile.
    pub fn get(&mut self, number: u64) -> Option<(&K, &S)> {
        self.sessions.get(number, self.begun.elapsed())
    }
}

fn watch(events: &Epoll, socket: &impl AsRawFd, number: u64) -> io::Result<()> {
    let event = EpollEvent::new(EventSet::IN, number);
    events.ctl(ControlOperation::Add, socket.as_raw_fd(), event)
}
