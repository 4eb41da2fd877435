//! The protocol between a launcher and the process that it has started for a VM.
//!
//! The launcher is the party that wants the VM: the command line (boot), another VM's process
//! (fork), or the pool (a shell in stock, whose connection it hands on). It has the
//! [`LauncherEnd`] of a socket, the VM's process the [`VmEnd`], its standard input.
//!
//! ```text
//!  launcher                                    VM's process
//!     BuildShell, the directory's lock  ─────>
//!                                      <─────  Progress::Shell
//!     Order::Preload (any number)       ─────>
//!     Order::Boot | Order::Clone, state ─────>
//!                                      <─────  Progress::Running, Progress::Ready
//!     (empty): released                 ─────>  the VM no longer depends on the launcher
//!                                      <─────  Touched, when there is time
//! ```
//!
//! If the launcher closes its end before the release, it has abandoned the VM: the process ends
//! and leaves nothing.

mod launcher_end;
#[cfg(test)]
mod tests;
mod vm_end;

pub use launcher_end::LauncherEnd;
pub use vm_end::{OrderError, VmEnd};

use crate::config::Settings;
use crate::run_dir::VmDir;
use hyperfork_api::frame;
use hyperfork_api::guest::Failure;
use hyperfork_api::{Error, Identity, Secrets, VmInfo, VmName, VmSpec};
use hyperfork_state::Shape;
use hyperfork_sys::clock::Monotonic;
use hyperfork_sys::scm;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// The first message to the process: build a shell. The lock of its directory comes with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct BuildShell {
    /// The run directory.
    pub run_dir: PathBuf,
    /// The process's directory, which may be renamed once it has reported [`Progress::Shell`].
    pub dir: VmDir,
    /// What to build.
    pub shape: Shape,
    /// Whether the shell waits for a clone, and there is time to run its vCPUs once. Such
    /// a shell cannot boot.
    pub warm: bool,
    /// The settings that the VM passes on to its clones and its pool.
    pub settings: Settings,
}

/// The further messages to the process: what to do with the shell.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Preload the memory that the clones of one parent have in common: the shell will probably
    /// be one of them. Only the monitor can read the hint; its descriptors come with it.
    Preload(Vec<u8>),
    /// Boot a VM.
    Boot(Box<NewVm>),
    /// Restore a clone. The captured state and its descriptors follow in a message of their
    /// own, which is the same for all clones of a fork.
    Clone(Box<NewVm>),
}

impl Order {
    /// The name of the VM that the order makes of the shell, if it makes one.
    pub fn name(&self) -> Option<&VmName> {
        match self {
            Self::Boot(vm) | Self::Clone(vm) => Some(&vm.identity.name),
            Self::Preload(_) => None,
        }
    }
}

/// A new VM.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewVm {
    /// When it was requested.
    pub requested: Monotonic,
    /// Its specification.
    pub spec: VmSpec,
    /// Its identity.
    pub identity: Identity,
    /// Its description as it starts.
    pub info: VmInfo,
    /// How many bytes of its main program's output are in its parent's log; its own log
    /// continues after them.
    pub logged: u64,
    /// The secrets of its guest.
    pub secrets: Secrets,
}

/// The process's reports to its launcher.
#[derive(Debug, Serialize, Deserialize)]
pub enum Progress {
    /// The shell is built.
    Shell,
    /// The guest has executed; with the times of the steps until then.
    Running(Steps),
    /// The guest is ready.
    Ready {
        /// When it became ready.
        at: Monotonic,
        /// Its description.
        info: Box<VmInfo>,
    },
    /// The VM will not become ready, for this reason.
    Failed(Error),
    /// The guest is ready, but its main program cannot be started.
    NoCommand(Failure),
}

/// The launcher's last word on a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchOutcome {
    /// The VM is ready, and no longer depends on the launcher.
    Released,
    /// The launcher has ended, or no longer wants the VM.
    Abandoned,
}

/// The process's last message, sent after the release when there is time: the pages that a clone
/// has written, as ranges of bytes, up to a limit.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Touched(pub(crate) Vec<Range<usize>>);

/// When each step on the way to the first instruction was done.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Steps {
    /// A finished shell has received the order and the state.
    pub received: Monotonic,
    /// Memory is in place.
    pub memory: Monotonic,
    /// All state is set.
    pub state: Monotonic,
    /// The first vCPU entered `KVM_RUN`.
    pub entered: Monotonic,
    /// A vCPU had its first exit.
    pub exited: Monotonic,
}

/// Sends one message, with descriptors.
///
/// # Errors
/// The socket's.
pub(crate) fn send<T: Serialize>(
    socket: &UnixStream,
    message: &T,
    fds: &[OwnedFd],
) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    scm::send(socket, &bytes, fds)
}

/// Receives one message, with descriptors; `None` when the peer has closed.
///
/// # Errors
/// The socket's; `InvalidData` for bytes that are not exactly one such message.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: &UnixStream,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    scm::receive(socket)?
        .map(|(bytes, fds)| Ok((decode(&bytes)?, fds)))
        .transpose()
}

/// As [`receive`], but the message has to begin within this time.
///
/// # Errors
/// As [`receive`]; `TimedOut`.
pub(crate) fn receive_within<T: DeserializeOwned>(
    socket: &UnixStream,
    within: Duration,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    scm::receive_within(socket, within)?
        .map(|(bytes, fds)| Ok((decode(&bytes)?, fds)))
        .transpose()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    frame::from_bytes(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
