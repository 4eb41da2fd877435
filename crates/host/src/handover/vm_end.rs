//! The VM process's end of the hand-over socket.

use super::{BuildShell, LaunchOutcome, Order, Progress, Touched, receive, send};
use crate::program;
use crate::run_dir::Claim;
use hyperfork_api::spec::SpecError;
use hyperfork_api::{self as api, Code};
use hyperfork_sys::fds::FdTable;
use hyperfork_sys::{fault, scm};
use rustix::io::Errno;
use std::error::Error;
use std::io;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Why a process has no shell to build.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// It has no socket to a launcher.
    #[error("{} is started by hyperfork: see `hyperfork --help`", program::NAME)]
    NoLauncher,
    /// The launcher has ended, or sends something else.
    #[error("there is no order")]
    Socket(#[source] io::Error),
    /// The process cannot write its number into its lock.
    #[error("cannot write the lock in {directory}")]
    Lock {
        /// The process's directory.
        directory: PathBuf,
        /// The file system's.
        source: io::Error,
    },
}

impl From<io::Error> for OrderError {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::NOTSOCK) => Self::NoLauncher,
            _ => Self::Socket(error),
        }
    }
}

/// The VM process's end of the hand-over socket.
#[derive(Debug)]
pub struct VmEnd {
    socket: UnixStream,
}

impl VmEnd {
    /// The end of the socket that the process was started with.
    pub fn new(socket: UnixStream) -> Self {
        Self { socket }
    }

    /// Receives the first order, with the claim of the process's directory.
    ///
    /// # Errors
    /// All of [`OrderError`].
    pub fn build_shell(&self) -> Result<(BuildShell, Claim), OrderError> {
        let eof = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (order, fds): (BuildShell, _) = receive(&self.socket)?.ok_or_else(eof)?;
        let no_lock = || io::Error::from(io::ErrorKind::InvalidData);
        let lock = fds.into_iter().next().ok_or_else(no_lock)?;
        let claim = Claim::received(order.dir.clone(), lock.into());
        let claim = claim.map_err(|source| OrderError::Lock {
            directory: order.dir.path().to_owned(),
            source,
        })?;
        Ok((order, claim))
    }

    /// Receives the next order; `None` when the launcher has abandoned the process.
    ///
    /// # Errors
    /// The socket's, or `InvalidData`.
    pub fn order(&self) -> io::Result<Option<(Order, FdTable)>> {
        let received = receive(&self.socket)?;
        fault::point("clone.order")?;
        Ok(received.map(|(order, fds)| (order, FdTable::new(fds))))
    }

    /// Receives the encoded state that follows [`Order::Clone`], and its descriptors.
    ///
    /// # Errors
    /// The socket's.
    pub fn state(&self) -> io::Result<(Vec<u8>, FdTable)> {
        fault::point("clone.state")?;
        let (state, fds) = scm::receive(&self.socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((state, FdTable::new(fds)))
    }

    /// Reports the VM's progress. A launcher that has ended is noticed by
    /// [`poll_outcome`](Self::poll_outcome).
    pub fn report(&self, progress: &Progress) {
        let _ = fault::point("clone.report").and_then(|()| send(&self.socket, progress, &[]));
    }

    /// Gives up: removes the directory and reports the error to the launcher. Returns its message.
    pub fn give_up(&self, claim: Claim, error: &(dyn Error + 'static)) -> String {
        let report = match error.is::<SpecError>() {
            true => api::Error::of(Code::Invalid, error),
            false => api::Error::of_any(error),
        };
        let message = report.to_string();
        claim.abandon();
        self.report(&Progress::Failed(report));
        message
    }

    /// Waits until the launcher has released or abandoned the VM.
    pub fn await_outcome(&self) {
        // An error of the socket is found by the next receive.
        let _ = scm::await_message(&self.socket);
    }

    /// Whether the launcher has released or abandoned the VM by now.
    pub fn poll_outcome(&self) -> Option<LaunchOutcome> {
        match scm::receive_within(&self.socket, Duration::ZERO) {
            Ok(Some(_)) => Some(LaunchOutcome::Released),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => None,
            Ok(None) | Err(_) => Some(LaunchOutcome::Abandoned),
        }
    }

    /// Reports the pages that the VM has written so far.
    pub fn report_touched(&self, touched: Vec<Range<usize>>) {
        let allowed = fault::point("clone.touched");
        let _ = allowed.and_then(|()| send(&self.socket, &Touched(touched), &[]));
    }

    /// Another handle to the same end.
    ///
    /// # Errors
    /// The system's.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
        })
    }
}
