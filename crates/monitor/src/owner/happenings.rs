//! What happens to the VM, for those who have subscribed to it.
//!
//! A subscriber's socket buffer is all the queue there is: the owner waits for none, and drops
//! one whose buffer is full. The latest events are kept for those who find the VM when it has
//! begun to live already.

use crate::control::{Answer, send_now};
use hyperfork_api::control::Subscribe;
use hyperfork_api::event::What;
use hyperfork_api::{Code, Error, Event, VmName};
use hyperfork_host::lines::line_of;
use hyperfork_sys::clock::unix_ms;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// How many events are kept.
const KEPT: usize = 256;

/// Most subscribers at a time.
const MOST_SUBSCRIBERS: usize = 64;

/// What has happened, and who wants to know of more.
#[derive(Debug)]
pub(super) struct Happenings {
    vm: VmName,
    past: VecDeque<Event>,
    subscribers: Vec<UnixStream>,
}

impl Happenings {
    pub(super) fn new(vm: VmName) -> Self {
        Self {
            vm,
            past: VecDeque::new(),
            subscribers: Vec::new(),
        }
    }

    /// Something has happened, now.
    pub(super) fn tell(&mut self, what: What) {
        let event = Event {
            time_unix_ms: unix_ms(),
            vm: self.vm.clone(),
            what,
        };
        if !self.subscribers.is_empty() {
            let line = line_of(&event);
            self.subscribers
                .retain(|subscriber| is_told(subscriber, &line));
        }
        if self.past.len() == KEPT {
            self.past.pop_front();
        }
        self.past.push_back(event);
    }

    /// Tells a subscriber what has happened in the time that it asks for, and from now on.
    pub(super) fn subscribe(
        &mut self,
        request: Subscribe,
        subscriber: UnixStream,
        answer: Answer<Subscribe>,
    ) {
        // Those that have gone without anything to be told since.
        self.subscribers.retain(is_there);
        if self.subscribers.len() >= MOST_SUBSCRIBERS {
            let words = format!(
                "{} has {MOST_SUBSCRIBERS} subscribers already, which is the most",
                self.vm
            );
            return answer.give(Err(Error::new(Code::Limit, words)));
        }
        answer.give(Ok(()));
        let since = |event: &&Event| event.time_unix_ms >= request.since_unix_ms;
        let lines = self.past.iter().filter(since).flat_map(line_of);
        let lines: Vec<u8> = lines.collect();
        if lines.is_empty() || is_told(&subscriber, &lines) {
            self.subscribers.push(subscriber);
        }
    }
}

/// Tells a subscriber, or ends its connection.
fn is_told(subscriber: &UnixStream, lines: &[u8]) -> bool {
    let told = send_now(subscriber, lines).is_ok();
    if !told {
        let _ = subscriber.shutdown(Shutdown::Both);
    }
    told
}

fn is_there(subscriber: &UnixStream) -> bool {
    let mut fds = [PollFd::new(subscriber, PollFlags::empty())];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // It tells of a hang-up unasked.
    matches!(poll(&mut fds, Some(&at_once)), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    fn subscribed(happenings: &mut Happenings, since_unix_ms: u64) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, answer) = std::sync::mpsc::channel();
        let request = Subscribe { since_unix_ms };
        let give = Answer::new(move |result| drop(sender.send(result)));
        happenings.subscribe(request, theirs, give);
        assert_eq!(answer.recv().unwrap(), Ok(()));
        ours
    }

    fn happenings() -> Happenings {
        Happenings::new(VmName::new("p").unwrap())
    }

    #[test]
    fn a_subscriber_is_told_what_it_has_missed_and_then_what_happens() {
        let mut happenings = happenings();
        for _ in 0..KEPT {
            happenings.tell(What::Paused);
        }
        happenings.tell(What::Resumed);
        let stream = subscribed(&mut happenings, 0);
        let late = subscribed(&mut happenings, u64::MAX);
        happenings.tell(What::Stopped);
        drop(happenings);
        let told = |stream: UnixStream| -> Vec<What> {
            let lines = BufReader::new(stream).lines();
            let event = |line: std::io::Result<String>| -> Event {
                serde_json::from_str(&line.unwrap()).unwrap()
            };
            lines.map(|line| event(line).what).collect()
        };
        let all = told(stream);
        assert_eq!(all.len(), KEPT + 1);
        assert_eq!(
            all[KEPT - 2..],
            [What::Paused, What::Resumed, What::Stopped]
        );
        assert_eq!(told(late), [What::Stopped]);
    }

    #[test]
    fn a_subscriber_that_does_not_read_is_dropped_and_others_are_not() {
        let mut happenings = happenings();
        let slow = subscribed(&mut happenings, u64::MAX);
        let mut told = 0;
        // Nothing here waits: the events are more than any socket holds.
        while happenings.subscribers.len() == 1 {
            happenings.tell(What::Paused);
            told += 1;
            assert!(told < 1_000_000, "it is still there");
        }
        let quick = subscribed(&mut happenings, u64::MAX);
        happenings.tell(What::Resumed);
        let mut line = String::new();
        BufReader::new(quick).read_line(&mut line).unwrap();
        assert!(line.contains("resumed"), "{line}");
        // The slow one finds the end behind what it had been told.
        let lines = BufReader::new(slow).lines().map_while(Result::ok).count();
        assert!(lines < told);
    }

    #[test]
    fn subscribers_that_have_gone_make_room_for_others() {
        let mut happenings = happenings();
        for _ in 0..MOST_SUBSCRIBERS + 1 {
            drop(subscribed(&mut happenings, u64::MAX));
        }
        let kept: Vec<_> = (1..MOST_SUBSCRIBERS + 1)
            .map(|_| subscribed(&mut happenings, u64::MAX))
            .collect();
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let (sender, answer) = std::sync::mpsc::channel();
        let give = Answer::new(move |result| drop(sender.send(result)));
        happenings.subscribe(Subscribe { since_unix_ms: 0 }, theirs, give);
        assert_eq!(answer.recv().unwrap().unwrap_err().code, Code::Limit);
        drop(kept);
    }
}
