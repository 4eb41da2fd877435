//! The protocol between a launcher and the process that it has started for a VM.
//!
//! The launcher is whatever wants the VM: the command line (boot), another VM's process
//! (fork), the pool (a shell in stock, whose connection it hands on). It has the
//! [`LauncherEnd`] of a socket, the VM's process the [`VmEnd`], its standard input.
//!
//! ```text
//!  launcher                                    VM's process
//!     BuildShell, the directory's lock  ─────>
//!                                      <─────  Progress::Shell
//!     Order::Preload (any number)       ─────>
//!     Order::Boot | Order::Clone, state ─────>
//!                                      <─────  Progress::Running, Progress::Ready
//!     (empty): released                 ─────>  the VM lives by itself from here on
//!                                      <─────  Touched, when there is time
//! ```
//!
//! When the launcher's end closes before the release, the process ends and leaves nothing.

mod launcher_end;
mod vm_end;

pub use launcher_end::LauncherEnd;
pub use vm_end::VmEnd;

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

/// First to the process: build a shell. The lock of its directory comes with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct BuildShell {
    /// The run directory.
    pub run_dir: PathBuf,
    /// Where the process is until it says [`Progress::Shell`]; it may be renamed afterwards.
    pub dir: VmDir,
    /// What to build.
    pub shape: Shape,
    /// Whether the shell waits for a clone, and there is time to run its vCPUs once. Such
    /// a shell cannot boot.
    pub warm: bool,
    /// What the VM passes on.
    pub settings: Settings,
}

/// Second to the process: what to become.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Nothing yet, but probably a clone of one family: get the memory ready that its
    /// clones have in common. The hint is the monitor's own; its descriptors come with it.
    Preload(Vec<u8>),
    /// Boot.
    Boot(Box<NewVm>),
    /// Go on where another VM was captured; the captured state and its descriptors follow
    /// as a message of their own, the same for all clones.
    Clone(Box<NewVm>),
}

impl Order {
    /// What the VM is called, if it is to be one.
    pub fn name(&self) -> Option<&VmName> {
        match self {
            Self::Boot(vm) | Self::Clone(vm) => Some(&vm.identity.name),
            Self::Preload(_) => None,
        }
    }
}

/// What a new VM is.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewVm {
    /// What was asked for.
    pub spec: VmSpec,
    /// What sets it apart.
    pub identity: Identity,
    /// What the VM tells of itself at first.
    pub info: VmInfo,
    /// How much of its main program's output is in its parent's log already: its own log
    /// goes on there.
    pub logged: u64,
    /// What its guest may know.
    pub secrets: Secrets,
}

/// From the process: how far it is.
#[derive(Debug, Serialize, Deserialize)]
pub enum Progress {
    /// The shell is built.
    Shell,
    /// The guest has executed; the times of the steps until then.
    Running(Steps),
    /// The guest is ready.
    Ready {
        /// When it was.
        at: Monotonic,
        /// What there is to know about it.
        info: Box<VmInfo>,
    },
    /// It will not become ready, for this reason.
    Failed(Error),
    /// The guest is ready, but its main program cannot be started.
    NoCommand(Failure),
}

/// How a launcher lets go of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchOutcome {
    /// It has seen the VM ready, which lives by itself from now on.
    Released,
    /// It is gone, or wants no VM after all.
    Abandoned,
}

/// From the process, when it has been released and there is time: the pages that a clone has
/// written, as ranges of bytes, up to a limit.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Touched(pub(crate) Vec<Range<usize>>);

/// When each step on the way to the first instruction was done.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Steps {
    /// The order and the state have arrived at a finished shell.
    pub received: Monotonic,
    /// Memory is in place.
    pub memory: Monotonic,
    /// All state is set.
    pub state: Monotonic,
    /// The first vCPU entered `KVM_RUN`.
    pub entered: Monotonic,
    /// One came out of it.
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
/// The socket's; `InvalidData` for what is no such message, or has something behind it.
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
