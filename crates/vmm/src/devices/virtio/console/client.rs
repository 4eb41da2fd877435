//! The host's side of a console: a listener and at most one client.
//!
//! Everything is level-triggered, so a descriptor is waited for only while
//! something can be done about it: the client's input while there is room for
//! it, the client's output while there is some.

use crate::sys::epoll::{Epoll, EventFlags};
use crate::sys::peer::Peers;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// Bytes typed that wait for the guest.
const INPUT_MAX: usize = 4096;
/// Bytes printed that wait for the client. A client that falls further behind is
/// detached: the guest never waits for a terminal, and the log has everything.
const OUTPUT_MAX: usize = 1 << 20;

/// The events of the listener and of the client. Which it was makes no difference.
const LISTENER: u64 = 0;
const CLIENT: u64 = 1;

#[derive(Debug)]
pub(super) struct Clients {
    epoll: Epoll,
    listener: UnixListener,
    peers: Peers,
    client: Option<Client>,
    input: VecDeque<u8>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    output: VecDeque<u8>,
    /// The client's events in the epoll set. If empty, it is not in the set: epoll would report a
    /// hang-up again and again even without interest in other events.
    interest: EventFlags,
}

impl Clients {
    pub(super) fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new()?;
        epoll.add(&listener, LISTENER, EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            peers: Peers::of_this_process(),
            client: None,
            input: VecDeque::new(),
        })
    }

    /// Readable when [`process`](Self::process) has something to do.
    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Whether the guest could be given something.
    pub(super) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Takes up to `max` bytes typed.
    pub(super) fn take_input(&mut self, max: usize) -> Vec<u8> {
        let count = self.input.len().min(max);
        self.input.drain(..count).collect()
    }

    /// Gives the client what the guest has printed.
    pub(super) fn send(&mut self, output: &[u8]) {
        if let Some(client) = &mut self.client {
            client.output.extend(output);
            let result = client.flush();
            if result.is_err() || client.output.len() > OUTPUT_MAX {
                self.detach();
            }
        }
    }

    /// Takes in new clients and what the client has typed, and gives it what
    /// waits for it.
    pub(super) fn process(&mut self) {
        if let Some(client) = &mut self.client {
            let result = client
                .flush()
                .and_then(|()| client.receive(&mut self.input));
            if result.is_err() {
                self.detach();
            }
        }
        // After the check whether the client is gone. An error is either that of the accepted
        // connection, or temporary.
        while let Ok((stream, _)) = self.listener.accept() {
            let may_attach = self.client.is_none() && self.peers.include(&stream);
            if may_attach && stream.set_nonblocking(true).is_ok() {
                let output = VecDeque::new();
                self.client = Some(Client {
                    stream,
                    output,
                    interest: EventFlags::empty(),
                });
            }
        }
    }

    /// Waits for what can be done now. Call after everything else.
    pub(super) fn update_interest(&mut self) -> io::Result<()> {
        let Some(client) = &mut self.client else {
            return Ok(());
        };
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, self.input.len() < INPUT_MAX);
        interest.set(EventFlags::OUT, !client.output.is_empty());
        if interest != client.interest {
            let (epoll, stream) = (&self.epoll, &client.stream);
            match (client.interest.is_empty(), interest.is_empty()) {
                (true, _) => epoll.add(stream, CLIENT, interest)?,
                (_, true) => epoll.delete(stream)?,
                _ => epoll.modify(stream, CLIENT, interest)?,
            }
            client.interest = interest;
        }
        Ok(())
    }

    /// Closing the stream takes it out of the epoll set, because no duplicate of
    /// it exists.
    fn detach(&mut self) {
        self.client = None;
    }
}

impl Client {
    /// Sends what waits, as much as the client takes now.
    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(self.output.as_slices().0) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what was typed, as much as there is room for. The end of it
    /// detaches the client.
    fn receive(&mut self, input: &mut VecDeque<u8>) -> io::Result<()> {
        let mut buffer = [0; INPUT_MAX];
        while input.len() < INPUT_MAX {
            let room = INPUT_MAX - input.len();
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => input.extend(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
