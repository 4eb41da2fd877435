//! Forwards datagrams between one socket and many peers, with one socket per peer (as UDP NAT
//! does).

use super::sessions::{LOOK, Sessions};
use hyperfork_sys::epoll::{Epoll, EventFlags};
use std::hash::Hash;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

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

impl<K: Hash + Eq + Clone, S: AsFd> Exchange<K, S> {
    /// Between `one`, which the caller keeps, and at most `most` conversations at a time; a further
    /// one replaces the conversation that has been silent for longest.
    ///
    /// # Errors
    /// No epoll.
    pub fn new(one: &impl AsFd, most: usize) -> io::Result<Self> {
        let events = Epoll::new()?;
        events.add(one, ONE, EventFlags::IN)?;
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
        let most = (!self.sessions.is_empty()).then_some(LOOK);
        let events = self.events.wait::<64>(most)?;
        self.sessions.expire(self.begun.elapsed());
        let ready = events.map(|(number, _)| match number {
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
            events.add(&socket, number, EventFlags::IN)?;
            Ok(socket)
        })
    }

    /// The peer of the conversation with this number, and its socket. `None` if the conversation
    /// was forgotten meanwhile.
    pub fn get(&mut self, number: u64) -> Option<(&K, &S)> {
        self.sessions.get(number, self.begun.elapsed())
    }
}
