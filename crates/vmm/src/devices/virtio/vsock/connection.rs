//! One connection between a guest port and a host stream.
//!
//! ```text
//!   host asks                              guest asks
//!      │ REQUEST ─▶ guest                     │ Unix socket accepts
//!      ▼                                      ▼
//!  Connecting ──────── RESPONSE ──────────▶ Open ── RST, or SHUTDOWN of both
//!      │                                      │     directions by the guest
//!      └── RST, timeout, host gone ─▶ over    ▼
//!                                          Draining ── all written ─▶ over
//! ```
//! A draining connection is no longer known to the guest, which may use its ports
//! again; only what the guest had sent before still goes to a slow host reader.

use super::credit::{self, Incoming, Outgoing};
use super::host_stream::HostStream;
use super::packet::{HOST_CID, Header, TYPE_STREAM, op, shutdown};
use crate::sys::epoll::EventFlags;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

/// Seconds the guest has to answer a REQUEST, or a SHUTDOWN of both directions.
pub(super) const TIMEOUT_TICKS: u32 = 10;

/// The ports that identify a connection of one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) guest: u32,
    pub(super) host: u32,
}

/// What a packet of the guest does to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Verdict {
    /// It continues.
    Live,
    /// The guest has forgotten it.
    Ended,
    /// It has to be ended with RST: the guest closed it, or broke the protocol.
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The host wants a connection; `asked` is set once the REQUEST is in the ring.
    Connecting {
        asked: bool,
    },
    Open,
    Draining,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) ports: Ports,
    /// On the muxer's list of those that may have something to say.
    pub(super) queued: bool,
    host: HostStream,
    phase: Phase,
    /// Tell the host stream `OK <port>` once the guest has agreed.
    announce: bool,

    /// Read from the host, not yet in the ring. Never more than one read.
    to_guest: VecDeque<u8>,
    outgoing: Outgoing,

    /// Taken from the ring, not yet written to the host. At most [`credit::BUFFER`].
    to_host: VecDeque<u8>,
    incoming: Incoming,

    /// [`shutdown`] flags the guest has sent.
    guest_shutdown: u32,
    /// [`shutdown`] flags the guest was sent.
    told_shutdown: u32,
    owe_response: bool,
    owe_credit: bool,
    /// Ticks left to wait for the guest's answer.
    ticks_left: Option<u32>,
}

impl Connection {
    fn new(ports: Ports, stream: UnixStream, phase: Phase) -> Self {
        Self {
            ports,
            queued: false,
            host: HostStream::new(stream),
            phase,
            announce: false,
            to_guest: VecDeque::new(),
            outgoing: Outgoing::default(),
            to_host: VecDeque::new(),
            incoming: Incoming::default(),
            guest_shutdown: 0,
            told_shutdown: 0,
            owe_response: false,
            owe_credit: false,
            ticks_left: None,
        }
    }

    /// A connection that `stream` asks for. `early` are bytes that were already
    /// read from it; with `announce` it is told `OK <host port>` on success.
    pub(super) fn to_guest(ports: Ports, stream: UnixStream, announce: bool, early: &[u8]) -> Self {
        let mut connection = Self::new(ports, stream, Phase::Connecting { asked: false });
        connection.announce = announce;
        connection.to_guest.extend(early);
        connection
    }

    /// A connection that the guest asked for with `request` and `stream` accepts.
    pub(super) fn to_host(ports: Ports, stream: UnixStream, request: &Header) -> Self {
        let mut connection = Self::new(ports, stream, Phase::Open);
        connection
            .outgoing
            .update(request.buf_alloc, request.fwd_cnt);
        connection.owe_response = true;
        connection
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.host.fd()
    }

    /// Whether the guest's driver has never heard of it.
    pub(super) fn is_unsent(&self) -> bool {
        self.phase == Phase::Connecting { asked: false }
    }

    /// Whether it waits for an answer with a time limit.
    pub(super) fn is_timed(&self) -> bool {
        self.ticks_left.is_some()
    }

    /// A second has passed; true when the guest's time is up.
    pub(super) fn tick(&mut self) -> bool {
        if let Some(left) = &mut self.ticks_left {
            *left = left.saturating_sub(1);
        }
        self.ticks_left == Some(0)
    }

    /// Records the readiness that epoll reported. False when the connection is over.
    #[must_use]
    pub(super) fn host_ready(&mut self, events: EventFlags) -> bool {
        self.host.notice(events);
        match self.phase {
            Phase::Connecting { .. } => !self.host.is_gone(),
            Phase::Open => {
                self.flush();
                true
            }
            Phase::Draining => self.drain(),
        }
    }

    /// Takes a packet of the guest, its payload still in `payload`; `scratch` is
    /// where payload is gathered.
    ///
    /// # Errors
    /// When there is less payload than the header says.
    pub(super) fn receive(
        &mut self,
        header: &Header,
        payload: &mut impl Read,
        scratch: &mut [u8],
    ) -> io::Result<Verdict> {
        self.outgoing.update(header.buf_alloc, header.fwd_cnt);
        match (self.phase, header.op) {
            (_, op::RST) => Ok(Verdict::Ended),
            (Phase::Connecting { asked: true }, op::RESPONSE) => Ok(self.open()),
            (Phase::Open, op::RW) => self.receive_data(header.len, payload, scratch),
            (Phase::Open, op::SHUTDOWN) => Ok(self.receive_shutdown(header.flags)),
            (Phase::Open, op::CREDIT_UPDATE) => Ok(Verdict::Live),
            (Phase::Open, op::CREDIT_REQUEST) => {
                self.owe_credit = true;
                Ok(Verdict::Live)
            }
            _ => Ok(Verdict::Reset),
        }
    }

    fn open(&mut self) -> Verdict {
        self.phase = Phase::Open;
        self.ticks_left = None;
        if self.announce && !self.host.greet(&format!("OK {}\n", self.ports.host)) {
            return Verdict::Reset;
        }
        Verdict::Live
    }

    fn receive_data(
        &mut self,
        len: u32,
        payload: &mut impl Read,
        scratch: &mut [u8],
    ) -> io::Result<Verdict> {
        if self.guest_shutdown & shutdown::SEND != 0 || !self.incoming.receive(len) {
            return Ok(Verdict::Reset);
        }
        let mut left = len as usize;
        while left > 0 {
            let n = left.min(scratch.len());
            payload.read_exact(&mut scratch[..n])?;
            self.write_host(&scratch[..n]);
            left -= n;
        }
        Ok(Verdict::Live)
    }

    fn receive_shutdown(&mut self, flags: u32) -> Verdict {
        self.guest_shutdown |= flags & shutdown::BOTH;
        if self.guest_shutdown == shutdown::BOTH {
            return Verdict::Reset;
        }
        if self.guest_shutdown & shutdown::RECEIVE != 0 {
            self.to_guest = VecDeque::new();
            self.host.refuse_input();
        }
        self.flush();
        Verdict::Live
    }

    /// Passes `data` on, as far as the host takes it; keeps the rest.
    fn write_host(&mut self, data: &[u8]) {
        let mut data = data;
        if self.to_host.is_empty() {
            let written = self.host.write(data);
            self.incoming.take(written);
            data = &data[written..];
        }
        if self.host.is_gone() {
            self.incoming.take(data.len());
        } else {
            self.to_host.extend(data);
        }
    }

    /// Writes what was kept, as far as the host takes it.
    fn flush(&mut self) {
        let mut kept = std::mem::take(&mut self.to_host);
        while self.host.is_writable() && !kept.is_empty() {
            let written = self.host.write(kept.as_slices().0);
            self.incoming.take(written);
            kept.drain(..written);
        }
        if self.host.is_gone() {
            self.incoming.take(kept.len());
            kept.clear();
        }
        if !kept.is_empty() {
            self.to_host = kept;
        } else if self.guest_shutdown & shutdown::SEND != 0 {
            self.host.finish();
        }
    }

    /// Whether there is something to say to the guest now. Reads from the host
    /// if that is what decides it.
    pub(super) fn prepare(&mut self, scratch: &mut [u8]) -> bool {
        match self.phase {
            Phase::Connecting { asked } => return !asked,
            Phase::Draining => return false,
            Phase::Open => {}
        }
        if self.may_send_data() && self.to_guest.is_empty() && self.host.is_readable() {
            self.read_host(scratch);
        }
        self.owe_response
            || self.owe_credit
            || self.incoming.is_due()
            || (self.may_send_data() && !self.to_guest.is_empty())
            || self.new_shutdown() != 0
    }

    fn may_send_data(&self) -> bool {
        self.guest_shutdown & shutdown::RECEIVE == 0 && self.outgoing.available() > 0
    }

    fn read_host(&mut self, scratch: &mut [u8]) {
        let want = scratch.len().min(self.outgoing.available());
        let len = self.host.read(&mut scratch[..want]);
        self.to_guest.extend(&scratch[..len]);
    }

    /// [`shutdown`] flags that the guest should get and has not.
    fn new_shutdown(&self) -> u32 {
        let mut flags = 0;
        if self.host.is_gone() {
            flags |= shutdown::RECEIVE;
        }
        let deaf = self.guest_shutdown & shutdown::RECEIVE != 0;
        if self.to_guest.is_empty() && (self.host.is_at_end() || (deaf && self.host.is_gone())) {
            flags |= shutdown::SEND;
        }
        flags & !self.told_shutdown
    }

    /// Writes the next packet, of at most `space` payload bytes, to `out`;
    /// returns its length. Called only after [`prepare`](Self::prepare) was true.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub(super) fn emit(
        &mut self,
        cid: u32,
        space: usize,
        out: &mut impl Write,
    ) -> io::Result<usize> {
        let (op, flags, len) = self.next_packet(space);
        let header = Header {
            src_cid: HOST_CID,
            dst_cid: u64::from(cid),
            src_port: self.ports.host,
            dst_port: self.ports.guest,
            len: len as u32,
            kind: TYPE_STREAM,
            op,
            flags,
            buf_alloc: credit::BUFFER,
            fwd_cnt: self.incoming.tell(),
        }
        .to_bytes();
        self.owe_credit = false;
        out.write_all(&header)?;
        let (front, back) = self.to_guest.as_slices();
        let in_front = len.min(front.len());
        out.write_all(&front[..in_front])?;
        out.write_all(&back[..len - in_front])?;
        self.to_guest.drain(..len);
        if self.to_guest.is_empty() {
            self.to_guest = VecDeque::new();
        }
        self.outgoing.spend(len);
        Ok(header.len() + len)
    }

    fn next_packet(&mut self, space: usize) -> (u16, u32, usize) {
        if let Phase::Connecting { asked } = &mut self.phase {
            *asked = true;
            self.ticks_left = Some(TIMEOUT_TICKS);
            return (op::REQUEST, 0, 0);
        }
        if std::mem::take(&mut self.owe_response) {
            return (op::RESPONSE, 0, 0);
        }
        if self.may_send_data() && !self.to_guest.is_empty() && space > 0 {
            let len = self
                .to_guest
                .len()
                .min(space)
                .min(self.outgoing.available());
            return (op::RW, 0, len);
        }
        let new = self.new_shutdown();
        if new != 0 {
            self.told_shutdown |= new;
            if self.told_shutdown == shutdown::BOTH {
                self.ticks_left = Some(TIMEOUT_TICKS);
            }
            return (op::SHUTDOWN, self.told_shutdown, 0);
        }
        (op::CREDIT_UPDATE, 0, 0)
    }

    /// The guest does not know this connection any more. False when it is over,
    /// true when the host still has to take data.
    #[must_use]
    pub(super) fn retire(&mut self) -> bool {
        self.phase = Phase::Draining;
        self.ticks_left = None;
        self.drain()
    }

    fn drain(&mut self) -> bool {
        self.flush();
        if !self.to_host.is_empty() {
            return true;
        }
        self.host.close();
        false
    }
}
