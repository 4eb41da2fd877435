//! The VM's events and the clients that have subscribed to them.
//!
//! Events are queued in the subscribers' socket buffers alone: the owner never waits for a
//! subscriber, and drops one whose buffer is full. The latest events are kept for clients that
//! subscribe after the VM has started.

use crate::control::{Responder, send_now};
use hyperfork_api::control::Subscribe;
use hyperfork_api::event::EventKind;
use hyperfork_api::{Code, Error, Event, VmName};
use hyperfork_host::lines::line_of;
use hyperfork_sys::clock::unix_ms;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// How many past events are kept.
const KEPT: usize = 256;

/// Most subscribers at a time.
const MOST_SUBSCRIBERS: usize = 64;

/// Past events, and the subscribers to those to come.
#[derive(Debug)]
pub(super) struct EventLog {
    vm: VmName,
    past: VecDeque<Event>,
    subscribers: Vec<UnixStream>,
}

impl EventLog {
    pub(super) fn new(vm: VmName) -> Self {
        Self {
            vm,
            past: VecDeque::new(),
            subscribers: Vec::new(),
        }
    }

    /// Records an event that happens now, and sends it to all subscribers.
    pub(super) fn publish(&mut self, kind: EventKind) {
        let event = Event {
            time_unix_ms: unix_ms(),
            vm: self.vm.clone(),
            kind,
        };
        if !self.subscribers.is_empty() {
            let line = line_of(&event);
            self.subscribers
                .retain(|subscriber| deliver(subscriber, &line));
        }
        if self.past.len() == KEPT {
            self.past.pop_front();
        }
        self.past.push_back(event);
    }

    /// Sends a subscriber the past events that it asks for, and those to come.
    pub(super) fn subscribe(
        &mut self,
        request: Subscribe,
        subscriber: UnixStream,
        responder: Responder<Subscribe>,
    ) {
        // Clients that have disconnected since the last event make room.
        self.subscribers.retain(is_connected);
        if self.subscribers.len() >= MOST_SUBSCRIBERS {
            let message = format!(
                "{} has {MOST_SUBSCRIBERS} subscribers already, which is the most",
                self.vm
            );
            return responder.respond(Err(Error::new(Code::Limit, message)));
        }
        responder.respond(Ok(()));
        let since = |event: &&Event| event.time_unix_ms >= request.since_unix_ms;
        let lines = self.past.iter().filter(since).flat_map(line_of);
        let lines: Vec<u8> = lines.collect();
        if lines.is_empty() || deliver(&subscriber, &lines) {
            self.subscribers.push(subscriber);
        }
    }
}

/// Sends lines to a subscriber, or closes its connection; returns whether they were sent.
fn deliver(subscriber: &UnixStream, lines: &[u8]) -> bool {
    let sent = send_now(subscriber, lines).is_ok();
    if !sent {
        let _ = subscriber.shutdown(Shutdown::Both);
    }
    sent
}

fn is_connected(subscriber: &UnixStream) -> bool {
    let mut fds = [PollFd::new(subscriber, PollFlags::empty())];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // poll(2) reports a hang-up without being asked for it.
    matches!(poll(&mut fds, Some(&at_once)), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    fn subscribed(events: &mut EventLog, since_unix_ms: u64) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, answer) = std::sync::mpsc::channel();
        let request = Subscribe { since_unix_ms };
        let give = Responder::new(move |result| drop(sender.send(result)));
        events.subscribe(request, theirs, give);
        assert_eq!(answer.recv().unwrap(), Ok(()));
        ours
    }

    fn events() -> EventLog {
        EventLog::new(VmName::new("p").unwrap())
    }

    #[test]
    fn a_subscriber_is_told_what_it_has_missed_and_then_what_happens() {
        let mut events = events();
        for _ in 0..KEPT {
            events.publish(EventKind::Paused);
        }
        events.publish(EventKind::Resumed);
        let stream = subscribed(&mut events, 0);
        let late = subscribed(&mut events, u64::MAX);
        events.publish(EventKind::Stopped);
        drop(events);
        let received = |stream: UnixStream| -> Vec<EventKind> {
            let lines = BufReader::new(stream).lines();
            let event = |line: std::io::Result<String>| -> Event {
                serde_json::from_str(&line.unwrap()).unwrap()
            };
            lines.map(|line| event(line).kind).collect()
        };
        let all = received(stream);
        assert_eq!(all.len(), KEPT + 1);
        assert_eq!(
            all[KEPT - 2..],
            [EventKind::Paused, EventKind::Resumed, EventKind::Stopped]
        );
        assert_eq!(received(late), [EventKind::Stopped]);
    }

    #[test]
    fn a_subscriber_that_does_not_read_is_dropped_and_others_are_not() {
        let mut events = events();
        let slow = subscribed(&mut events, u64::MAX);
        let mut sent = 0;
        // Nothing here waits: the events are more than any socket holds.
        while events.subscribers.len() == 1 {
            events.publish(EventKind::Paused);
            sent += 1;
            assert!(sent < 1_000_000, "the subscriber is still connected");
        }
        let quick = subscribed(&mut events, u64::MAX);
        events.publish(EventKind::Resumed);
        let mut line = String::new();
        BufReader::new(quick).read_line(&mut line).unwrap();
        assert!(line.contains("resumed"), "{line}");
        // The slow subscriber finds the end of the stream behind what it had received.
        let lines = BufReader::new(slow).lines().map_while(Result::ok).count();
        assert!(lines < sent);
    }

    #[test]
    fn subscribers_that_have_gone_make_room_for_others() {
        let mut events = events();
        for _ in 0..MOST_SUBSCRIBERS + 1 {
            drop(subscribed(&mut events, u64::MAX));
        }
        let kept: Vec<_> = (1..MOST_SUBSCRIBERS + 1)
            .map(|_| subscribed(&mut events, u64::MAX))
            .collect();
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let (sender, answer) = std::sync::mpsc::channel();
        let give = Responder::new(move |result| drop(sender.send(result)));
        events.subscribe(Subscribe { since_unix_ms: 0 }, theirs, give);
        assert_eq!(answer.recv().unwrap().unwrap_err().code, Code::Limit);
        drop(kept);
    }
}
