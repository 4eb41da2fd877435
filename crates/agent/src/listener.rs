//! Listening sockets on which the agent accepts connections.

use crate::connection::Connection;
use crate::sys::vsock;
use hyperfork_api::guest::AGENT_PORT;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// A non-blocking listening socket that can tell by which CID a connection was
/// addressed.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    /// `None` for vsock, where each connection has its own.
    cid: Option<u32>,
}

impl Listener {
    /// The agent's vsock port, any CID.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn vsock() -> io::Result<Self> {
        let socket = vsock::listen(AGENT_PORT)?;
        Ok(Self { socket, cid: None })
    }

    /// A Unix socket that stands for being addressed by one CID.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn unix(path: &Path, cid: u32) -> io::Result<Self> {
        let socket = UnixListener::bind(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: socket.into(),
            cid: Some(cid),
        })
    }

    /// The next connection, if one waits and is the host's.
    ///
    /// # Errors
    /// The kernel's, for instance out of descriptors.
    pub(crate) fn accept(&self) -> io::Result<Option<Connection>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match accept_with(&self.socket, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED | Errno::CONNRESET) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let cid = match self.cid {
            Some(cid) => cid,
            None if vsock::is_the_hosts(socket.as_fd()).unwrap_or(false) => {
                vsock::local_cid(socket.as_fd())?
            }
            None => return Ok(None),
        };
        Ok(Some(Connection::new(socket, cid)))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
