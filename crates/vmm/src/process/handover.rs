//! What is said over the socket a VM's process is started with.

use super::client::Client;
use super::rundir::{Claim, RunDir, RunDirError, VmDir};
use crate::machine::FirstRun;
use crate::snapshot::{MachineState, Primer, Shape};
use crate::sys::clock::Monotonic;
use crate::sys::fds::FdTable;
use crate::sys::scm;
use hyperfork_api::control::Request;
use hyperfork_api::frame;
use hyperfork_api::guest::Failure;
use hyperfork_api::{Identity, Secrets, VmInfo, VmName, VmSpec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// First to the process: build a shell. The lock of its directory comes with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ShellOrder {
    pub(super) run_dir: PathBuf,
    /// Where it is until it says [`Progress::Shell`]; it may be renamed afterwards.
    pub(super) dir: VmDir,
    pub(super) shape: Shape,
    /// Whether there is time to make it a [warm](crate::machine::Shell::warm) one.
    pub(super) warm: bool,
}

/// Second to the process: what to become.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Nothing yet, but probably a clone of this line; the descriptors come with it.
    Prime(Primer),
    /// Boot.
    Boot(Box<Birth>),
    /// Go on where somebody else was captured; the [`MachineState`] and its
    /// descriptors follow as a message of their own, the same for all clones.
    Clone(Box<Birth>),
}

impl Order {
    /// What the VM is called, if it is to be one.
    pub(super) fn name(&self) -> Option<&VmName> {
        match self {
            Self::Boot(birth) | Self::Clone(birth) => Some(&birth.identity.name),
            Self::Prime(_) => None,
        }
    }
}

/// What a new VM is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Birth {
    pub(super) spec: VmSpec,
    pub(super) identity: Identity,
    /// What the VM tells of itself at first.
    pub(super) info: VmInfo,
    /// How much of its main program's output is in another's log already: its own log
    /// goes on there.
    pub(super) logged: u64,
    /// What its guest may know.
    pub(super) secrets: Secrets,
}

/// From the process: how far it is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Progress {
    /// The shell is built.
    Shell,
    /// The guest has executed; the times of the steps until then.
    Running(Steps),
    /// The guest is ready.
    Ready { at: Monotonic, info: Box<VmInfo> },
    /// It will not become ready; one line that says why.
    Failed(String),
    /// The guest is ready, but its main program cannot be started.
    NoCommand(Failure),
}

/// From the process: it has been released.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Confirmation {
    /// For a clone: the pages it has written, as ranges of bytes, up to a limit.
    pub(super) touched: Vec<Range<usize>>,
}

/// When each step on the way to the first instruction was done.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Steps {
    /// The order and the state have arrived at a finished shell.
    pub(super) received: Monotonic,
    /// Memory is in place.
    pub(super) memory: Monotonic,
    /// All state is set.
    pub(super) state: Monotonic,
    /// The guest's first run.
    pub(super) first_run: FirstRun,
}

/// The starter's end. Dropping it before the VM is [released](Self::release) ends
/// the VM.
#[derive(Debug)]
pub(super) struct Starter {
    socket: UnixStream,
    pub(super) dir: VmDir,
}

/// The VM's end.
#[derive(Debug)]
pub(super) struct Started {
    socket: UnixStream,
}

/// A captured state, encoded once for any number of clones.
#[derive(Debug)]
pub(super) struct Encoded<'a> {
    bytes: Vec<u8>,
    fds: &'a FdTable,
}

impl<'a> Encoded<'a> {
    pub(super) fn new(state: &MachineState, fds: &'a FdTable) -> io::Result<Self> {
        let bytes = postcard::to_stdvec(state).map_err(io::Error::other)?;
        Ok(Self { bytes, fds })
    }
}

impl Starter {
    /// The starter of a process that somebody else has started.
    pub(super) fn taken(socket: UnixStream, dir: VmDir) -> Self {
        Self { socket, dir }
    }

    /// Starts a process with the directory of `claim` and has it build its shell.
    ///
    /// # Errors
    /// When the process cannot be started. The directory is then gone again.
    pub(super) fn spawn(
        run_dir: &RunDir,
        claim: Claim,
        shape: &Shape,
        warm: bool,
    ) -> io::Result<Self> {
        match Self::try_spawn(run_dir, &claim, shape, warm) {
            Ok(starter) => Ok(starter),
            Err(error) => {
                claim.abandon();
                Err(error)
            }
        }
    }

    fn try_spawn(run_dir: &RunDir, claim: &Claim, shape: &Shape, warm: bool) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let log = claim
            .dir
            .create(&claim.dir.monitor_log())
            .map_err(io::Error::other)?;
        Command::new("/proc/self/exe")
            .arg0("hyperfork")
            .arg(super::VM_ARGUMENT)
            .arg(claim.dir.name().as_str())
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(log)
            .current_dir("/")
            .spawn()?;
        let order = ShellOrder {
            run_dir: run_dir.path().to_owned(),
            dir: claim.dir.clone(),
            shape: shape.clone(),
            warm,
        };
        send(&ours, &order, &[claim.lock.try_clone()?.into()])?;
        Ok(Self {
            socket: ours,
            dir: claim.dir.clone(),
        })
    }

    /// Gives the process's directory its name.
    ///
    /// # Errors
    /// [`RunDirError::InUse`], and others.
    pub(super) fn name(&mut self, run_dir: &RunDir, name: &VmName) -> Result<(), RunDirError> {
        self.dir = self.dir.rename(&run_dir.vm(name))?;
        Ok(())
    }

    /// The hand-over itself, to give it to another process.
    pub(super) fn into_parts(self) -> (OwnedFd, VmDir) {
        (self.socket.into(), self.dir)
    }

    /// Has the process boot.
    pub(super) fn boot(&self, birth: Birth) -> io::Result<()> {
        send(&self.socket, &Order::Boot(Box::new(birth)), &[])
    }

    /// Has the process make its shell ready for clones of one line.
    pub(super) fn prime(&self, primer: Primer, fds: &FdTable) -> io::Result<()> {
        send(&self.socket, &Order::Prime(primer), fds.as_slice())
    }

    /// Has the process go on as a clone.
    pub(super) fn clone_from(&self, birth: Birth, state: &Encoded<'_>) -> io::Result<()> {
        send(&self.socket, &Order::Clone(Box::new(birth)), &[])?;
        scm::send(&self.socket, &state.bytes, state.fds.as_slice())
    }

    /// Lets the VM live by itself from now on; [`released`](Self::released) is its answer.
    pub(super) fn release(&self) -> io::Result<()> {
        scm::send(&self.socket, &[], &[])
    }

    /// Waits for its word that it has been released: whatever is asked of it from now on
    /// comes after that. With it come the pages it has written so far.
    pub(super) fn released(&self) -> Vec<Range<usize>> {
        match receive(&self.socket) {
            Ok(Some((Confirmation { touched }, _))) => touched,
            // It has ended by itself.
            _ => Vec::new(),
        }
    }

    /// The next report. A process that ends without one has failed.
    pub(super) fn progress(&self) -> Progress {
        match receive::<Progress>(&self.socket) {
            Ok(Some((progress, _))) => progress,
            Ok(None) => Progress::Failed(self.last_words()),
            Err(error) => Progress::Failed(error.to_string()),
        }
    }

    /// Whether a report has come, waiting at most this long.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<bool> {
        Ok(Self::wait_for_any(&[self], timeout)?.contains(&true))
    }

    /// From which of them a report has come, waiting at most this long for the first.
    pub(super) fn wait_for_any(starters: &[&Self], timeout: Duration) -> io::Result<Vec<bool>> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let sockets = starters.iter().map(|starter| &starter.socket);
        let mut fds: Vec<_> = sockets
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }

    /// Ends the VM, ready or not, and waits until it is gone with all it had.
    pub(super) fn end(self) {
        const LONGEST: Duration = Duration::from_secs(60);
        let Self { socket, dir } = self;
        // One that was not released takes this for its end; one that was, does not mind.
        drop(socket);
        if let Ok(mut client) = Client::connect(&dir) {
            let _ = client.request(&Request::Stop { grace_ms: 0 });
        }
        let begun = Instant::now();
        while dir.is_alive() && begun.elapsed() < LONGEST {
            thread::sleep(Duration::from_millis(5));
        }
        // Usually it has removed its directory itself; one that was killed could not.
        let _ = dir.remove();
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.dir.monitor_log()).unwrap_or_default();
        match log.lines().rfind(|line| !line.is_empty()) {
            Some(line) => format!("its process ended: {line}"),
            None => "its process ended unexpectedly".to_owned(),
        }
    }
}

impl Started {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket }
    }

    pub(super) fn shell_order(&self) -> io::Result<(ShellOrder, Claim)> {
        let (order, fds): (ShellOrder, _) =
            receive(&self.socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let lock = fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
        let claim = Claim::received(order.dir.clone(), lock.into());
        Ok((order, claim))
    }

    /// `None` when the starter wants no VM after all.
    pub(super) fn order(&self) -> io::Result<Option<(Order, FdTable)>> {
        Ok(receive(&self.socket)?.map(|(order, fds)| (order, FdTable::new(fds))))
    }

    pub(super) fn state(&self) -> io::Result<(MachineState, FdTable)> {
        let (state, fds) = receive(&self.socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((state, FdTable::new(fds)))
    }

    pub(super) fn report(&self, progress: &Progress) {
        // A starter that is gone is noticed by `released`.
        let _ = send(&self.socket, progress, &[]);
    }

    /// Waits until the starter lets go of the VM (true), or is gone (false).
    pub(super) fn released(&self) -> bool {
        matches!(scm::receive(&self.socket), Ok(Some(_)))
    }

    /// Says that the release has been noted.
    pub(super) fn confirm_release(&self, touched: Vec<Range<usize>>) {
        // A starter that does not wait for it is gone.
        let _ = send(&self.socket, &Confirmation { touched }, &[]);
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
        })
    }
}

pub(super) fn send<T: Serialize>(
    socket: &UnixStream,
    message: &T,
    fds: &[OwnedFd],
) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    scm::send(socket, &bytes, fds)
}

pub(super) fn receive<T: DeserializeOwned>(
    socket: &UnixStream,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    match scm::receive(socket)? {
        None => Ok(None),
        Some((bytes, fds)) => {
            let message = frame::from_bytes(&bytes)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            Ok(Some((message, fds)))
        }
    }
}

impl From<RunDirError> for io::Error {
    fn from(error: RunDirError) -> Self {
        io::Error::other(error)
    }
}
