//! The host's side of a conversation with the agent ([`hyperfork_api::guest`]).

use crate::run_dir::VmDir;
use hyperfork_api::frame::{self, FrameError};
use hyperfork_api::guest::{AGENT_PORT, Failure, Reply, Request};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// One conversation: a request, its reply, and what streams after it.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
}

/// Why a conversation failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The guest's sockets are not there: not ready, ended, or no agent in it.
    #[error("the guest cannot be reached")]
    Unreachable(#[source] io::Error),
    /// The guest took the connection and closed it.
    #[error("the guest closed the connection")]
    Closed,
    /// It did not answer in time.
    #[error("the guest does not answer")]
    Timeout,
    /// The agent's message is not one of the protocol.
    #[error("the guest's agent does not speak our protocol")]
    Protocol(#[source] FrameError),
    /// The agent refused, or failed.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl Agent {
    /// Connects through the VM's public socket, as any client can: `CONNECT
    /// <port>`, answered by `OK <port>`.
    ///
    /// # Errors
    /// [`AgentError::Unreachable`], [`AgentError::Closed`].
    pub fn connect(dir: &VmDir) -> Result<Self, AgentError> {
        let mut stream =
            UnixStream::connect(dir.vsock_socket()).map_err(AgentError::Unreachable)?;
        writeln!(stream, "CONNECT {AGENT_PORT}").map_err(AgentError::Unreachable)?;
        // By the byte: what follows the line belongs to the conversation.
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') && line.len() < 32 {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) => line.push(byte[0]),
                Ok(_) => return Err(AgentError::Closed),
                Err(error) => return Err(AgentError::Unreachable(error)),
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(AgentError::Closed);
        }
        Ok(Self { stream })
    }

    /// A conversation over a connection that is already made.
    pub fn over(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// Sets how long to wait for a reply; `None`, as at first, for no limit.
    ///
    /// # Errors
    /// The socket's.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    /// Sends a request and waits for the reply.
    ///
    /// # Errors
    /// [`AgentError`]; a [`Reply::Failed`] is [`AgentError::Failed`].
    pub fn request(&mut self, request: &Request) -> Result<Reply, AgentError> {
        frame::write(&mut self.stream, request).map_err(broken)?;
        match frame::read(&mut self.stream).map_err(broken)? {
            Some(Reply::Failed(failure)) => Err(failure.into()),
            Some(reply) => Ok(reply),
            None => Err(AgentError::Closed),
        }
    }

    /// The connection, for what streams after the reply.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }
}

fn broken(error: FrameError) -> AgentError {
    match error {
        FrameError::Io(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AgentError::Timeout,
            _ => AgentError::Closed,
        },
        error => AgentError::Protocol(error),
    }
}
