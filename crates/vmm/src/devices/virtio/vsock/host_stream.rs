//! The host's end of a connection: a Unix stream, and its readiness.
//!
//! The stream is non-blocking and watched edge-triggered: readiness is remembered here until
//! a call says `EAGAIN`. So a stream that cannot be served now (no credit, no buffers in the
//! ring) costs nothing while it waits.

use crate::sys::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct HostStream {
    stream: UnixStream,
    readable: bool,
    writable: bool,
    /// The host will not send any more.
    at_end: bool,
    /// The stream is closed entirely: nothing reads there.
    gone: bool,
    /// The host was told that nothing more comes.
    finished: bool,
}

impl HostStream {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            readable: false,
            writable: true,
            at_end: false,
            gone: false,
            finished: false,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Records the readiness that epoll reported.
    pub(super) fn notice(&mut self, events: EventFlags) {
        let gone = events.intersects(EventFlags::HUP | EventFlags::ERR);
        self.readable |= gone || events.intersects(EventFlags::IN | EventFlags::RDHUP);
        self.writable |= gone || events.contains(EventFlags::OUT);
        self.gone |= gone;
    }

    /// Whether a read may give something, or tell of the end.
    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether a write may take something.
    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether the host will not send any more.
    pub(super) fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// Whether the stream is closed entirely.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Writes `line` before anything else; false when the host does not take it. It has room
    /// for a line, since nothing was written before.
    #[must_use]
    pub(super) fn greet(&self, line: &str) -> bool {
        send(&self.stream, line.as_bytes(), SEND_FLAGS) == Ok(line.len())
    }

    /// Writes as much of `data` as the host takes; returns its length.
    pub(super) fn write(&mut self, data: &[u8]) -> usize {
        let mut written = 0;
        while self.writable && written < data.len() {
            match send(&self.stream, &data[written..], SEND_FLAGS) {
                Ok(n) => written += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.writable = false,
                Err(_) => {
                    self.gone = true;
                    self.writable = false;
                }
            }
        }
        written
    }

    /// Reads into `buffer` once; returns how many bytes there were.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let len = loop {
            match recv(&self.stream, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.at_end = true,
                Ok((n, _)) => break n,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(_) => {
                    self.at_end = true;
                    self.gone = true;
                }
            }
            break 0;
        };
        self.readable = len > 0;
        len
    }

    /// Makes writes of the host fail with `EPIPE`, as a local peer would.
    pub(super) fn refuse_input(&self) {
        // It fails only when they are gone.
        let _ = shutdown(&self.stream, Shutdown::Read);
    }

    /// Tells the host, once, that nothing more comes.
    pub(super) fn finish(&mut self) {
        if !self.finished {
            self.finished = true;
            // It fails only when the host is gone.
            let _ = shutdown(&self.stream, Shutdown::Write);
        }
    }

    /// Ends the stream so that its reader sees an end of file: a Unix stream closed with
    /// unread input would give it `ECONNRESET`.
    pub(super) fn close(&mut self) {
        // It fails only when the host is gone.
        let _ = shutdown(&self.stream, Shutdown::Both);
        let mut discard = [0; 4096];
        while matches!(recv(&self.stream, &mut discard[..], RecvFlags::DONTWAIT), Ok((n, _)) if n > 0)
        {
        }
    }
}
