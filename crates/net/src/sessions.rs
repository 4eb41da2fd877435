//! The table of datagram conversations. They have no explicit end, so each is forgotten some time
//! after its last datagram, or when there are too many. Time is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::time::Duration;

/// Conversations, each identified by its peer, `K`, and by a number, with a socket, `S`.
#[derive(Debug)]
pub(super) struct Sessions<K, S> {
    most: usize,
    numbers: HashMap<K, u64>,
    all: HashMap<u64, Session<K, S>>,
    next: u64,
}

#[derive(Debug)]
struct Session<K, S> {
    key: K,
    socket: S,
    /// When the last datagram came.
    at: Duration,
}

/// How long after its last datagram a conversation is remembered.
const IDLE: Duration = Duration::from_secs(90);

/// How often to call [`Sessions::expire`].
pub(super) const LOOK: Duration = Duration::from_secs(15);

impl<K: Hash + Eq + Clone, S> Sessions<K, S> {
    /// A table of at most `most` conversations.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            numbers: HashMap::new(),
            all: HashMap::new(),
            next: 0,
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The conversation with the peer `key`, which sends something now. If there is none, `open`
    /// makes its socket, given its number; if the table is full, the conversation that has been
    /// silent for longest is forgotten.
    ///
    /// # Errors
    /// Those of `open`.
    pub(super) fn of(
        &mut self,
        key: K,
        now: Duration,
        open: impl FnOnce(u64) -> io::Result<S>,
    ) -> io::Result<&S> {
        let number = match self.numbers.get(&key) {
            Some(number) => *number,
            None => {
                let (number, at) = (self.next, now);
                let socket = open(number)?;
                self.next += 1;
                if self.all.len() >= self.most {
                    self.forget_one();
                }
                self.numbers.insert(key.clone(), number);
                self.all.insert(number, Session { key, socket, at });
                number
            }
        };
        let session = self.all.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        session.at = now;
        Ok(&session.socket)
    }

    /// The conversation of this number, in which a datagram comes now.
    pub(super) fn get(&mut self, number: u64, now: Duration) -> Option<(&K, &S)> {
        let session = self.all.get_mut(&number)?;
        session.at = now;
        Some((&session.key, &session.socket))
    }

    /// Forgets conversations that have been silent for [`IDLE`].
    pub(super) fn expire(&mut self, now: Duration) {
        let numbers = &mut self.numbers;
        self.all.retain(|_, session| {
            let stays = now.saturating_sub(session.at) < IDLE;
            if !stays {
                numbers.remove(&session.key);
            }
            stays
        });
    }

    fn forget_one(&mut self) {
        let oldest = self.all.iter().min_by_key(|(_, session)| session.at);
        if let Some(session) = oldest
            .map(|(number, _)| *number)
            .and_then(|number| self.all.remove(&number))
        {
            self.numbers.remove(&session.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn said(sessions: &mut Sessions<u8, u64>, key: u8, now: Duration) -> u64 {
        *sessions.of(key, now, Ok).unwrap()
    }

    #[test]
    fn who_was_silent_for_longest_is_forgotten_first() {
        let mut sessions = Sessions::new(2);
        let (a, b) = (
            said(&mut sessions, b'a', SECOND),
            said(&mut sessions, b'b', 2 * SECOND),
        );
        // An answer counts as a datagram, too.
        assert_eq!(sessions.get(a, 3 * SECOND), Some((&b'a', &a)));
        said(&mut sessions, b'c', 4 * SECOND);
        assert_eq!(sessions.get(b, 4 * SECOND), None);
        assert_eq!(said(&mut sessions, b'a', 5 * SECOND), a);
        assert_ne!(said(&mut sessions, b'b', 6 * SECOND), b);
    }

    #[test]
    fn a_conversation_ends_some_time_after_its_last_word() {
        let mut sessions = Sessions::new(10);
        said(&mut sessions, b'a', SECOND);
        sessions.expire(IDLE);
        assert!(!sessions.is_empty());
        sessions.expire(IDLE + SECOND);
        assert!(sessions.is_empty());
        // A socket that cannot be had leaves nothing.
        assert!(
            sessions
                .of(b'a', SECOND, |_| Err(io::ErrorKind::OutOfMemory.into()))
                .is_err()
        );
        assert!(sessions.is_empty());
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_allowed_and_both_ways_to_find_one_agree(
            most in 1usize..8,
            words in prop::collection::vec((any::<u8>(), 0u64..60), 1..200),
        ) {
            let mut sessions = Sessions::new(most);
            let mut now = Duration::ZERO;
            for (key, pause) in words {
                now += Duration::from_secs(pause);
                sessions.expire(now);
                let number = said(&mut sessions, key % 16, now);
                prop_assert_eq!(sessions.get(number, now), Some((&(key % 16), &number)));
                prop_assert!(sessions.all.len() <= most);
                prop_assert_eq!(sessions.all.len(), sessions.numbers.len());
            }
        }
    }
}
