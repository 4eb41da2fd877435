//! The table of all connections of one guest, and which of them sends next.
//!
//! It knows nothing of rings: packets of the guest come in through
//! [`Muxer::receive`], packets for it are fetched with [`Muxer::prepare`] and
//! [`Muxer::emit`]. Every connection with something to say is on one list and
//! gets one packet a turn, so that no stream starves another.

use super::connection::{Connection, Ports, TIMEOUT_TICKS, Verdict};
use super::handle::Command;
use super::listener::{Greeter, Greeting, Listener};
use super::packet::{HEADER_LEN, HOST_CID, Header, TYPE_STREAM, op};
use super::poller::{Poller, Source};
use crate::sys::epoll::EventFlags;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// Most connections at a time, greeting and draining ones included.
pub(super) const MAX_CONNECTIONS: usize = 1023;

/// Most RSTs that wait for room in the ring. With more, no packet is taken from the guest until it
/// makes room.
const MAX_RESETS: usize = 1024;

/// Host ports of connections that the host asks for begin here; the guest asks
/// for those below.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// Most a host stream is read, or a guest packet gathered, at once, in bytes.
const SCRATCH: usize = 64 << 10;

/// See the module's documentation.
pub(super) struct Muxer {
    cid: u32,
    poller: Poller,
    commands: Receiver<Command>,
    listener: Option<Listener>,
    greeters: HashMap<u64, Greeter>,
    connections: HashMap<u64, Connection>,
    /// Every connection that the guest may know.
    by_ports: HashMap<Ports, u64>,
    next_id: u64,
    next_port: u32,
    /// Connections that may have something to say: exactly those with `queued`
    /// set, each once.
    ready: VecDeque<u64>,
    resets: VecDeque<Header>,
    scratch: Box<[u8]>,
}

impl Muxer {
    /// A muxer without connections for the guest `cid`. `next_port` is where its
    /// host ports continue in a clone: packets of its parent's connections must not match new
    /// connections.
    pub(super) fn new(
        cid: u32,
        next_port: Option<u32>,
        commands: Receiver<Command>,
    ) -> io::Result<Self> {
        Ok(Self {
            cid,
            poller: Poller::new()?,
            commands,
            listener: None,
            greeters: HashMap::new(),
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            next_id: Source::FIRST_STREAM,
            next_port: next_port.unwrap_or(FIRST_HOST_PORT).max(FIRST_HOST_PORT),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            scratch: vec![0; SCRATCH].into(),
        })
    }

    pub(super) fn cid(&self) -> u32 {
        self.cid
    }

    pub(super) fn next_port(&self) -> u32 {
        self.next_port
    }

    /// Readable when [`process_host_events`](Self::process_host_events) has work.
    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.poller.fd()
    }

    pub(super) fn wake(&self) -> &Arc<OwnedFd> {
        self.poller.wake()
    }

    /// Whether so many answers wait that the guest has to take some first.
    pub(super) fn is_congested(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    /// Resets the device: the guest's driver knows no connection any more. Connections whose
    /// REQUEST it has not got yet stay.
    pub(super) fn reset(&mut self) {
        self.resets.clear();
        let known: Vec<u64> = self.by_ports.values().copied().collect();
        for id in known {
            if self.connections.get(&id).is_some_and(|c| !c.is_unsent()) {
                self.retire(id);
            }
        }
    }

    // ---- from the host ------------------------------------------------------

    /// Handles the host's events: commands, clients, readiness, time.
    ///
    /// # Errors
    /// When epoll fails.
    pub(super) fn process_host_events(&mut self) -> io::Result<()> {
        for (source, flags) in self.poller.events()? {
            match source {
                Source::Wake => self.run_commands(),
                Source::Timer => self.tick(),
                Source::Listener => self.accept_clients(),
                Source::Stream(id) if self.greeters.contains_key(&id) => self.greet(id),
                Source::Stream(id) => self.host_ready(id, flags),
            }
        }
        Ok(())
    }

    fn run_commands(&mut self) {
        self.poller.clear_wake();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Connect { port, stream } => self.connect_guest(port, stream, false, &[]),
                Command::Publish(listener) => {
                    let watched = self.poller.watch_listener(&listener.socket);
                    // Closing one that cannot be watched tells its clients.
                    self.listener = watched.then_some(listener);
                }
            }
        }
    }

    fn accept_clients(&mut self) {
        while let Some(stream) = self.listener.as_ref().and_then(Listener::accept) {
            if self.is_full() {
                continue;
            }
            let id = self.take_id();
            if self.poller.watch_stream(id, stream.as_fd()) {
                self.greeters
                    .insert(id, Greeter::new(stream, TIMEOUT_TICKS));
                self.poller.start_ticking();
            }
        }
    }

    fn greet(&mut self, id: u64) {
        let Some(greeter) = self.greeters.get_mut(&id) else {
            return;
        };
        let greeting = greeter.read();
        if greeting == Greeting::Partial {
            return;
        }
        let Some(greeter) = self.greeters.remove(&id) else {
            return;
        };
        if let Greeting::Connect(port, early) = greeting {
            // It is watched under its old number; connections have their own.
            self.poller.forget_stream(greeter.fd());
            self.connect_guest(port, greeter.stream, true, &early);
        }
    }

    fn connect_guest(&mut self, port: u32, stream: UnixStream, announce: bool, early: &[u8]) {
        let ports = Ports {
            guest: port,
            host: self.take_port(port),
        };
        self.insert(Connection::to_guest(ports, stream, announce, early));
    }

    fn host_ready(&mut self, id: u64, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.host_ready(flags) {
            self.enqueue(id);
        } else {
            self.abandon(id);
        }
    }

    /// Ends a connection that the host has given up. The guest gets a RST if it knows of it.
    fn abandon(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let ports = connection.ports;
        if self.by_ports.get(&ports) == Some(&id) && !connection.is_unsent() {
            self.resets.push_back(self.reset_packet(ports));
        }
        self.retire(id);
    }

    /// Called once a second. Timeouts count these calls and not the clock, so that a pause of the
    /// machine does not end connections.
    pub(super) fn tick(&mut self) {
        self.poller.clear_timer();
        self.greeters.retain(|_, greeter| !greeter.tick());
        let late: Vec<u64> = self
            .connections
            .iter_mut()
            .filter_map(|(&id, c)| c.tick().then_some(id))
            .collect();
        for id in late {
            self.abandon(id);
        }
        if self.greeters.is_empty() && !self.connections.values().any(Connection::is_timed) {
            self.poller.stop_ticking();
        }
    }

    // ---- from the guest -----------------------------------------------------

    /// Takes a packet of the guest, its payload still in `payload`.
    ///
    /// # Errors
    /// When there is less payload than the header says.
    pub(super) fn receive(&mut self, header: &Header, payload: &mut impl Read) -> io::Result<()> {
        let ours = header.src_cid == u64::from(self.cid)
            && header.dst_cid == HOST_CID
            && header.kind == TYPE_STREAM;
        if !ours {
            self.refuse(header);
            return Ok(());
        }
        let ports = Ports {
            guest: header.src_port,
            host: header.dst_port,
        };
        let known = self.by_ports.get(&ports).copied();
        match (known, header.op) {
            (old, op::REQUEST) => {
                // A guest that asks again has forgotten what was there.
                if let Some(id) = old {
                    self.retire(id);
                }
                self.connect_host(ports, header);
            }
            (None, _) => self.refuse(header),
            (Some(id), _) => {
                let Some(connection) = self.connections.get_mut(&id) else {
                    return Ok(());
                };
                match connection.receive(header, payload, &mut self.scratch)? {
                    Verdict::Live => self.enqueue(id),
                    Verdict::Ended => self.retire(id),
                    Verdict::Reset => {
                        self.refuse(header);
                        self.retire(id);
                    }
                }
            }
        }
        Ok(())
    }

    fn connect_host(&mut self, ports: Ports, request: &Header) {
        let stream = match &self.listener {
            Some(listener) if !self.is_full() => listener.dial(ports.host),
            _ => None,
        };
        let connected =
            stream.is_some_and(|stream| self.insert(Connection::to_host(ports, stream, request)));
        if !connected {
            self.refuse(request);
        }
    }

    /// Answers with RST; a RST is never answered.
    fn refuse(&mut self, header: &Header) {
        if header.op != op::RST {
            self.resets.push_back(header.refusal());
        }
    }

    // ---- to the guest -------------------------------------------------------

    /// Whether there is a packet for the guest. Unless `connections` are allowed
    /// to speak, only RSTs count.
    pub(super) fn prepare(&mut self, connections: bool) -> bool {
        if !self.resets.is_empty() {
            return true;
        }
        while connections && let Some(&id) = self.ready.front() {
            if let Some(connection) = self.connections.get_mut(&id) {
                if connection.prepare(&mut self.scratch) {
                    return true;
                }
                connection.queued = false;
            }
            self.ready.pop_front();
        }
        false
    }

    /// Writes the packet that [`prepare`](Self::prepare) has found, with at most
    /// `space` bytes of payload, to `out`; returns its length.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub(super) fn emit(&mut self, space: usize, out: &mut impl Write) -> io::Result<usize> {
        if let Some(reset) = self.resets.pop_front() {
            out.write_all(&reset.to_bytes())?;
            return Ok(HEADER_LEN);
        }
        let Some(id) = self.ready.pop_front() else {
            return Ok(0);
        };
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(0);
        };
        let len = connection.emit(self.cid, space, out)?;
        self.ready.push_back(id);
        if connection.is_timed() {
            self.poller.start_ticking();
        }
        Ok(len)
    }

    // ---- the table ----------------------------------------------------------

    #[cfg(test)]
    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    fn is_full(&self) -> bool {
        self.connections.len() + self.greeters.len() >= MAX_CONNECTIONS
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// A host port that no connection to `guest` port uses.
    fn take_port(&mut self, guest: u32) -> u32 {
        // There are far fewer connections than ports, so this ends soon.
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_HOST_PORT);
            if !self.by_ports.contains_key(&Ports { guest, host: port }) {
                return port;
            }
        }
    }

    /// Takes a connection into the table; drops it when there is no room.
    fn insert(&mut self, connection: Connection) -> bool {
        let id = self.take_id();
        if self.is_full() || !self.poller.watch_stream(id, connection.fd()) {
            return false;
        }
        self.by_ports.insert(connection.ports, id);
        self.connections.insert(id, connection);
        self.enqueue(id);
        true
    }

    fn enqueue(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !connection.queued
        {
            connection.queued = true;
            self.ready.push_back(id);
        }
    }

    /// The guest does not know the connection any more: frees its ports, and the
    /// rest of it once the host has taken everything.
    fn retire(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let ports = connection.ports;
        let draining = connection.retire();
        if self.by_ports.get(&ports) == Some(&id) {
            self.by_ports.remove(&ports);
        }
        if connection.queued {
            connection.queued = false;
            self.ready.retain(|&other| other != id);
        }
        if !draining {
            self.connections.remove(&id);
        }
    }

    fn reset_packet(&self, ports: Ports) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: u64::from(self.cid),
            src_port: ports.host,
            dst_port: ports.guest,
            kind: TYPE_STREAM,
            op: op::RST,
            ..Header::default()
        }
    }
}
