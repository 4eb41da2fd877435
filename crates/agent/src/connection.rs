//! One connection from the host: receives and sends frames on a non-blocking socket, through two
//! bounded buffers.

use hyperfork_api::frame::{self, CHUNK};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes waiting to be sent above which nothing more should be produced.
const HIGH_WATER: usize = 2 * CHUNK;

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// The host closed it.
    #[error("the host closed the connection")]
    Closed,
    /// It broke; a fork does this to every connection of the clone.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// What came is not of the protocol.
    #[error("the host does not keep to the protocol")]
    Protocol(#[source] frame::FrameError),
}

/// A socket with its buffers.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    cid: u32,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// The socket took no more; `poll` will report when it does.
    blocked: bool,
}

impl Connection {
    /// Takes a non-blocking socket, and the CID by which the host addressed it.
    pub(crate) fn new(socket: OwnedFd, cid: u32) -> Self {
        Self {
            socket,
            cid,
            inbox: Vec::new(),
            outbox: Vec::new(),
            blocked: false,
        }
    }

    /// The CID by which the host addressed it.
    pub(crate) fn cid(&self) -> u32 {
        self.cid
    }

    /// Whether there is something to send.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether the host is keeping up, so that more may be produced.
    pub(crate) fn has_room(&self) -> bool {
        self.outbox.len() < HIGH_WATER
    }

    /// Receives once, without waiting. Call it only when [`Self::next`] has given
    /// all that there is: that bounds the buffer to little more than one frame.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) -> Result<(), Lost> {
        match recv(&self.socket, &mut *scratch, RecvFlags::empty()) {
            Ok((_, 0)) => Err(Lost::Closed),
            Ok((_, len)) => {
                self.inbox.extend_from_slice(&scratch[..len]);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(Lost::Broken(error.into())),
        }
    }

    /// The next message, if it has come in whole.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Lost> {
        frame::decode(&mut self.inbox).map_err(Lost::Protocol)
    }

    /// Puts a message into the buffer; [`Self::flush`] sends it.
    pub(crate) fn push<T: Serialize>(&mut self, message: &T) -> Result<(), Lost> {
        let bytes = frame::encode(message).map_err(Lost::Protocol)?;
        self.outbox.extend_from_slice(&bytes);
        Ok(())
    }

    /// Records that the socket takes more.
    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Sends what can be sent without waiting.
    pub(crate) fn flush(&mut self) -> Result<(), Lost> {
        let mut sent = 0;
        let result = loop {
            if self.blocked || sent == self.outbox.len() {
                break Ok(());
            }
            match send(&self.socket, &self.outbox[sent..], SendFlags::NOSIGNAL) {
                Ok(len) => sent += len,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.blocked = true,
                Err(error) => break Err(Lost::Broken(error.into())),
            }
        };
        self.outbox.drain(..sent);
        result
    }

    /// Takes it apart, for a conversation that goes on elsewhere: the socket, and
    /// what was received and not yet read.
    pub(crate) fn into_parts(self) -> (OwnedFd, Vec<u8>) {
        (self.socket, self.inbox)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
