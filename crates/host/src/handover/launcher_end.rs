//! The launcher's end of the hand-over socket.

use super::{BuildShell, NewVm, Order, Progress, Touched, receive, receive_within, send};
use crate::config::Config;
use crate::run_dir::{Claim, RunDir, RunDirError, VmDir, await_end};
use hyperfork_api::{Code, Error, VmName};
use hyperfork_state::Shape;
use hyperfork_sys::fds::FdTable;
use hyperfork_sys::{fault, note, scm};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

/// The launcher's end of a VM's process. Dropping it before the VM is
/// [released](Self::release) ends the VM.
#[derive(Debug)]
pub struct LauncherEnd {
    socket: UnixStream,
    dir: VmDir,
    /// The process's number, if this process has started it.
    pid: Option<u32>,
}

impl LauncherEnd {
    /// The end of a process that another process has started.
    pub fn taken(socket: UnixStream, dir: VmDir) -> Self {
        Self {
            socket,
            dir,
            pid: None,
        }
    }

    /// Starts a process with the directory of `claim` and has it build its shell.
    ///
    /// # Errors
    /// When the process cannot be started. Its directory is then removed.
    pub fn spawn(config: &Config, claim: Claim, shape: &Shape, warm: bool) -> io::Result<Self> {
        match Self::try_spawn(config, &claim, shape, warm) {
            Ok(launcher) => Ok(launcher),
            Err(error) => {
                claim.abandon();
                Err(error)
            }
        }
    }

    fn try_spawn(config: &Config, claim: &Claim, shape: &Shape, warm: bool) -> io::Result<Self> {
        fault::point("shells.spawn")?;
        let (ours, theirs) = UnixStream::pair()?;
        let log = claim
            .dir
            .create(&claim.dir.monitor_log())
            .map_err(io::Error::other)?;
        let process = config
            .program
            .vm(claim.dir.name())?
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let order = BuildShell {
            run_dir: config.run_dir.path().to_owned(),
            dir: claim.dir.clone(),
            shape: shape.clone(),
            warm,
            settings: config.settings,
        };
        fault::point("shells.order")?;
        send(&ours, &order, &[claim.lock.try_clone()?.into()])?;
        Ok(Self {
            pid: Some(process.id()),
            ..Self::taken(ours, claim.dir.clone())
        })
    }

    /// The process's number, if it is a child of this process.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The VM's directory.
    pub fn dir(&self) -> &VmDir {
        &self.dir
    }

    /// Gives the process's directory the name of a VM.
    ///
    /// # Errors
    /// [`RunDirError::InUse`], and others.
    pub fn name(&mut self, run_dir: &RunDir, name: &VmName) -> Result<(), RunDirError> {
        self.dir = self.dir.rename(&run_dir.vm(name))?;
        Ok(())
    }

    /// Socket and directory, to pass them to another process.
    pub fn into_parts(self) -> (OwnedFd, VmDir) {
        (self.socket.into(), self.dir)
    }

    /// Orders the process to boot a VM.
    ///
    /// # Errors
    /// The socket's.
    pub fn boot(&self, vm: NewVm) -> io::Result<()> {
        send(&self.socket, &Order::Boot(Box::new(vm)), &[])
    }

    /// Orders the process to preload memory for clones of one parent.
    ///
    /// # Errors
    /// The socket's.
    pub fn preload(&self, hint: Vec<u8>, fds: &FdTable) -> io::Result<()> {
        fault::point("pool.preload")?;
        send(&self.socket, &Order::Preload(hint), fds.as_slice())
    }

    /// Orders the process to restore a clone from an encoded state and its descriptors.
    ///
    /// # Errors
    /// The socket's.
    pub fn clone_from(&self, vm: NewVm, state: &[u8], fds: &FdTable) -> io::Result<()> {
        fault::point("handover.order")?;
        let sent = send(&self.socket, &Order::Clone(Box::new(vm)), &[]);
        sent.map_err(|error| self.explained(error))?;
        fault::point("handover.state")?;
        scm::send(&self.socket, state, fds.as_slice()).map_err(|error| self.explained(error))
    }

    /// Releases the VM, which no longer depends on the launcher from now on. Every request that
    /// is made after this has returned finds the VM released.
    ///
    /// # Errors
    /// The socket's.
    pub fn release(&self) -> io::Result<()> {
        fault::point("fork.release")?;
        scm::send(&self.socket, &[], &[]).map_err(|error| self.explained(error))
    }

    /// The pages that the VM has written, as ranges of bytes: its last message. Empty if it
    /// reports none in time.
    pub fn touched(&self, within: Duration) -> Vec<Range<usize>> {
        let allowed = fault::point("fork.touched");
        match allowed.and_then(|()| receive_within(&self.socket, within)) {
            Ok(Some((Touched(touched), _))) => touched,
            _ => Vec::new(),
        }
    }

    /// The next report. A process that ends without one has failed.
    pub fn progress(&self) -> Progress {
        match receive::<Progress>(&self.socket) {
            Ok(Some((progress, _))) => progress,
            Ok(None) => Progress::Failed(self.error_from_log()),
            Err(error) if has_ended(&error) => Progress::Failed(self.error_from_log()),
            Err(error) => Progress::Failed(Error::because(
                Code::Internal,
                "its process sends what makes no sense",
                &error,
            )),
        }
    }

    /// The last report of a process that has ended, or is about to.
    pub fn last_report(&self) -> Option<Progress> {
        let mut last = None;
        while let Ok(Some((progress, _))) = receive_within(&self.socket, REPORT_TIMEOUT) {
            last = Some(progress);
        }
        last
    }

    /// Waits for a report, at most this long; returns whether one has come.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        Ok(Self::wait_for_any(&[self], timeout)?.contains(&true))
    }

    /// Waits for the first report of several processes, at most this long; returns which of them
    /// have sent one.
    ///
    /// # Errors
    /// The system's.
    pub fn wait_for_any(launchers: &[&Self], timeout: Duration) -> io::Result<Vec<bool>> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let sockets = launchers.iter().map(|launcher| &launcher.socket);
        let mut fds: Vec<_> = sockets
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }

    /// Ends the VM, ready or not, and waits until its process and its directory are gone.
    pub fn end(self) {
        Self::end_all([self]);
    }

    /// Ends VMs, ready or not, and waits until their processes and directories are gone.
    /// Processes that do not end by themselves, since they are stopped (SIGSTOP), are killed.
    pub fn end_all(launchers: impl IntoIterator<Item = Self>) {
        // Closing the socket of a VM that is not released ends it.
        let dirs: Vec<_> = launchers.into_iter().map(|launcher| launcher.dir).collect();
        let mut left = await_end(dirs.clone(), SHUTDOWN_TIMEOUT);
        for dir in &left {
            let _ = dir.kill();
        }
        left = await_end(left, KILL_TIMEOUT);
        for dir in dirs {
            if left.contains(&dir) {
                note!("{} does not end, even when it is killed", dir.name());
            } else {
                // Usually the process has removed its directory itself.
                let _ = dir.remove();
            }
        }
    }

    /// The socket's error, with what it means if the process has ended.
    fn explained(&self, error: io::Error) -> io::Error {
        match has_ended(&error) {
            true => io::Error::new(error.kind(), self.error_from_log()),
            false => error,
        }
    }

    fn error_from_log(&self) -> Error {
        let log = std::fs::read_to_string(self.dir.monitor_log()).unwrap_or_default();
        let message = match log.lines().rfind(|line| !line.is_empty()) {
            Some(line) => format!("its process ended: {line}"),
            None => "its process ended unexpectedly".to_owned(),
        };
        Error::new(Code::Internal, message)
    }
}

/// Whether the socket's error means that the process has ended: before it had read what it was
/// sent, within a message, or before it was sent one.
fn has_ended(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe
    )
}

/// How long a process may take to end by itself.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the kernel may take to end a process that was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a process that has closed its socket may take to report why.
const REPORT_TIMEOUT: Duration = Duration::from_millis(100);
