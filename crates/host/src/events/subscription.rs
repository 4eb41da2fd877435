//! One VM's events: from its process while it runs, from its directory when it has ended.

use crate::client::ClientError;
use crate::lines::{self, line_of};
use crate::run_dir::VmDir;
use hyperfork_api::control::{Answer, Request, Subscribe};
use hyperfork_api::event::EventKind;
use hyperfork_api::{Event, VmInfo};
use hyperfork_sys::clock::unix_ms;
use hyperfork_sys::connect;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// News of a VM.
#[derive(Debug)]
pub(super) enum Update {
    /// An event that its process has sent.
    Event(Event),
    /// An event observed from outside, now.
    Observed(EventKind),
    /// The VM cannot be followed, for this reason.
    Unavailable(ClientError),
}

/// A VM and the connection to it, if there is one.
#[derive(Debug)]
pub(super) struct Subscription {
    dir: VmDir,
    /// Since when events are followed, and the earliest time of the next event.
    began_unix_ms: u64,
    since_unix_ms: u64,
    state: State,
    /// Whether the VM ran since then, and whether it ever was a VM.
    was_subscribed: bool,
    is_known: bool,
    /// Whether its name was removed.
    is_removed: bool,
}

#[derive(Debug)]
enum State {
    /// Its socket does not exist yet, or it has closed the connection.
    Connecting,
    /// It sends its events.
    Subscribed(EventStream),
    /// It has ended, or cannot be followed.
    Ended,
    /// All its events have been passed on.
    Over,
}

/// How long a process may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(50);

impl Subscription {
    pub(super) fn new(dir: VmDir, began_unix_ms: u64) -> Self {
        Self {
            dir,
            began_unix_ms,
            since_unix_ms: began_unix_ms,
            state: State::Connecting,
            was_subscribed: false,
            is_known: false,
            is_removed: false,
        }
    }

    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting)
    }

    pub(super) fn is_removed(&self) -> bool {
        self.is_removed
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    pub(super) fn stream(&self) -> Option<&UnixStream> {
        match &self.state {
            State::Subscribed(lines) => Some(&lines.stream),
            _ => None,
        }
    }

    /// Its name was removed; events that it has sent before are passed on first.
    pub(super) fn removed(&mut self) {
        self.is_removed = true;
    }

    /// The last updates, now that another VM has the name.
    pub(super) fn give_up(&mut self) -> Vec<Update> {
        let mut updates = self.read();
        if self.is_known {
            updates.push(Update::Observed(EventKind::Removed));
        }
        self.state = State::Over;
        updates
    }

    /// Connects, or passes the end on, without waiting.
    pub(super) fn connect(&mut self) -> Vec<Update> {
        let mut updates = Vec::new();
        if let State::Connecting = self.state {
            match EventStream::subscribe(&self.dir, self.since_unix_ms) {
                Ok(lines) => self.state = State::Subscribed(lines),
                // It has no socket yet, or its process is stopped. (It may have been removed since.)
                Err(_) if self.dir.is_alive() && !self.is_removed => {}
                Err(_) => updates.extend(self.end_event()),
            }
        }
        if let (State::Ended, true) = (&self.state, self.is_removed) {
            if self.is_known {
                updates.push(Update::Observed(EventKind::Removed));
            }
            self.state = State::Over;
        }
        updates
    }

    /// The VM has no process. Its directory says how it ended, if it did so since `began_unix_ms`.
    fn end_event(&mut self) -> Option<Update> {
        self.state = State::Ended;
        let left = match self.is_removed {
            true => None,
            false => self.dir.recorded_info().ok(),
        };
        self.is_known |= left.is_some();
        let lived = |info: &VmInfo| info.about.created_unix_ms >= self.began_unix_ms;
        let is_news = self.was_subscribed || left.as_ref().is_some_and(lived);
        is_news.then(|| Update::Observed(left.as_ref().map_or_else(killed, end_of)))
    }

    /// The events that it has sent since the last call.
    pub(super) fn read(&mut self) -> Vec<Update> {
        let State::Subscribed(lines) = &mut self.state else {
            return Vec::new();
        };
        let is_open = lines.receive();
        let mut updates = Vec::new();
        while let Some(next) = lines.next(&self.dir) {
            match next {
                Ok(event) => {
                    // If the VM drops this subscriber, the next subscription starts after this event.
                    self.since_unix_ms = event.time_unix_ms + 1;
                    let is_end = event.kind.is_end();
                    updates.push(Update::Event(event));
                    if is_end {
                        self.is_known = true;
                        self.state = State::Ended;
                        return updates;
                    }
                }
                Err(error) => {
                    updates.push(Update::Unavailable(error));
                    self.is_known = true;
                    self.state = State::Ended;
                    return updates;
                }
            }
        }
        self.was_subscribed |= lines.answer_received;
        self.is_known |= lines.answer_received;
        if !is_open {
            self.state = State::Connecting;
            self.since_unix_ms = self.since_unix_ms.max(unix_ms());
        }
        updates
    }
}

/// How a VM ended, according to its directory.
fn end_of(info: &VmInfo) -> EventKind {
    match &info.status.error {
        Some(error) => EventKind::Failed {
            error: error.clone(),
        },
        None => EventKind::Stopped,
    }
}

/// How a VM ended that has left no directory and sent no last event.
fn killed() -> EventKind {
    EventKind::Failed {
        error: "its process was killed".to_owned(),
    }
}

/// A connection over which a VM sends its events.
#[derive(Debug)]
struct EventStream {
    stream: UnixStream,
    received: VecDeque<u8>,
    /// Whether the VM's greeting, and its answer to the subscription, have been received.
    greeting_received: bool,
    answer_received: bool,
}

impl EventStream {
    fn subscribe(dir: &VmDir, since_unix_ms: u64) -> io::Result<Self> {
        let mut stream = connect::within(&dir.control_socket(), CONNECT_TIMEOUT)?;
        let mut request = lines::greeting();
        request.extend(line_of(&Request::from(Subscribe { since_unix_ms })));
        stream.set_nonblocking(true)?;
        stream.write_all(&request)?;
        Ok(Self {
            stream,
            received: VecDeque::new(),
            greeting_received: false,
            answer_received: false,
        })
    }

    /// Receives what has arrived; returns whether the connection is open.
    fn receive(&mut self) -> bool {
        let mut chunk = [0; 16 << 10];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(len) => self.received.extend(&chunk[..len]),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    kind => return kind == io::ErrorKind::WouldBlock,
                },
            }
        }
    }

    /// The next event that has arrived whole, or why there will be none.
    fn next(&mut self, dir: &VmDir) -> Option<Result<Event, ClientError>> {
        let name = dir.name();
        loop {
            let end = self.received.iter().position(|byte| *byte == b'\n')?;
            let line: Vec<u8> = self.received.drain(..=end).collect();
            if !self.greeting_received {
                match lines::peer_in(&line) {
                    vm if vm.is_understood() => self.greeting_received = true,
                    vm => {
                        let name = name.clone();
                        return Some(Err(ClientError::OtherVersion { name, vm }));
                    }
                }
                continue;
            }
            let damaged = |error: serde_json::Error| ClientError::Connection {
                name: name.clone(),
                source: error.into(),
            };
            if !self.answer_received {
                self.answer_received = true;
                match serde_json::from_slice(&line) {
                    Ok(Answer::Ok(())) => continue,
                    Ok(Answer::Error(error)) => return Some(Err(ClientError::Refused(error))),
                    Err(error) => return Some(Err(damaged(error))),
                }
            }
            return Some(serde_json::from_slice(&line).map_err(damaged));
        }
    }
}
