//! The strategy `process-fork`, the method of the HyperFork paper (section 4.1): the baseline
//! that the [default strategy](super) is measured against.
//!
//! 1. The parent pauses, and KVM's and the devices' state is read. Its memory only has to
//!    be private, which it is from its first fork on.
//! 2. `fork(2)`, once for each clone: each has the parent's memory, copy-on-write, at
//!    the same addresses. The parent resumes.
//! 3. The child uses nothing else of its parent: the parent's threads do not exist in it,
//!    KVM's VM cannot be used, descriptors are closed. It builds a shell around the memory,
//!    and the machine is restored into it by the same path as any other, with devices,
//!    eventfds, threads and locks of its own.
#![allow(unsafe_code)] // For fork(2) alone.

use super::clones::{Clones, Times};
use super::shells::CloneNames;
use super::{ForkError, Parent, StartedFork, shell_of};
use crate::prepared::{Prepared, ReadyVm};
use hyperfork_api::control::Fork;
use hyperfork_api::{Strategy, VmState, one_line};
use hyperfork_host::Config;
use hyperfork_host::handover::{LauncherEnd, NewVm, VmEnd};
use hyperfork_host::run_dir::Claim;
use hyperfork_sys::clock::Monotonic;
use hyperfork_sys::{fork, note};
use hyperfork_vmm::kvm::Host;
use hyperfork_vmm::machine::{Capture, Machine, MachineError, Paused, Shell};
use rustix::stdio::{dup2_stderr, dup2_stdin};
use std::error::Error;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

/// What a clone has of its own before its process exists.
struct Child {
    new: NewVm,
    claim: Claim,
    log: File,
    /// Its end of the hand-over.
    socket: UnixStream,
}

/// Forks the parent as [`super::begin`] does, by `fork(2)`.
///
/// # Errors
/// [`ForkError`] when nothing was started.
pub(super) fn begin(
    parent: &Parent<'_>,
    machine: &mut Machine,
    logged: &dyn Fn() -> u64,
    request: &Fork,
) -> Result<StartedFork, ForkError> {
    let mut started = StartedFork::new(parent, request);
    let mut launchers = Vec::new();
    let began = children(parent, request, &mut launchers).and_then(|children| {
        if let Err(error) = machine.prepare_capture_for_children() {
            note!("{}", one_line(&error));
        }
        let mut paused = machine.pause();
        let forked = fork_each(parent, &mut paused, logged(), children);
        match parent.info.status.state {
            VmState::Paused => paused.stay(),
            _ => drop(paused),
        }
        forked
    });
    let began = match began {
        Ok((began, mut times, cleanup)) => {
            times.pause_us = Monotonic::now().us_since(times.paused);
            started.times = Some(times);
            started.cleanup = Some(cleanup);
            began
        }
        Err(error) => {
            started.failure = Some(error);
            vec![parent.requested; launchers.len()]
        }
    };
    let shells = launchers.into_iter().zip(began);
    let shells = shells.map(|(launcher, began)| shell_of(launcher, began));
    let name = parent.info.about.name.clone();
    started.clones = Clones::new(name, Strategy::ProcessFork, shells.collect(), Vec::new());
    Ok(started)
}

/// Claims the clones' names and prepares all that can be prepared before `fork(2)`.
fn children(
    parent: &Parent<'_>,
    request: &Fork,
    launchers: &mut Vec<LauncherEnd>,
) -> Result<Vec<Child>, ForkError> {
    let mut names = CloneNames::new(parent, request);
    let children = (1..=request.count).map(|index| {
        let claim = names.claim(|run_dir, name| run_dir.claim(name))?;
        let (ours, socket) = UnixStream::pair().map_err(ForkError::Process)?;
        launchers.push(LauncherEnd::taken(ours, claim.dir.clone()));
        Ok(Child {
            new: parent.clone_of(request, claim.dir.name(), index, 0)?,
            log: claim.dir.create(&claim.dir.monitor_log())?,
            claim,
            socket,
        })
    });
    children.collect()
}

type Forked = (
    Vec<Monotonic>,
    Times,
    hyperfork_vmm::memory::DeferredCleanup,
);

/// Captures the paused parent and forks its process once for each child. Returns when each
/// `fork(2)` began.
fn fork_each(
    parent: &Parent<'_>,
    paused: &mut Paused<'_>,
    logged: u64,
    children: Vec<Child>,
) -> Result<Forked, ForkError> {
    let stopped = Monotonic::now();
    let capture = paused.capture_for_children();
    let mut capture = capture.map_err(|source| parent.capture_failed(source))?;
    let captured = Monotonic::now();
    let mut began = Vec::new();
    for mut child in children {
        began.push(Monotonic::now());
        child.new.logged = logged;
        let forked = child.fork(parent, paused, &mut capture);
        forked.map_err(ForkError::Process)?;
    }
    let times = Times {
        arrival: parent.requested,
        paused: stopped,
        captured,
        // Set by the caller, when all children are forked.
        pause_us: 0,
        image_us: capture.image_us,
    };
    Ok((began, times, capture.cleanup))
}

impl Child {
    /// Forks this process into the clone's.
    fn fork(
        self,
        parent: &Parent<'_>,
        paused: &mut Paused<'_>,
        capture: &mut Capture,
    ) -> io::Result<()> {
        let own = [
            self.claim.lock.as_fd(),
            self.log.as_fd(),
            self.socket.as_fd(),
        ];
        let inherited = capture.fds.as_slice().iter().map(AsFd::as_fd);
        let keep = own.into_iter().chain(inherited);
        let keep: Vec<_> = keep.map(|fd| fd.as_raw_fd()).collect();
        let life = move || match self.run_vm(parent, paused, capture) {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                note!("{message}");
                ExitCode::FAILURE
            }
        };
        // SIGCHLD has the child reaped when it ends, as any clone's process.
        // SAFETY: the child uses the parent's machine, which is paused and borrowed
        // exclusively, only to take its memory over; everything else it makes itself. It locks
        // nothing and drops nothing of the parent's: `run_vm` owns what is in `self`, and what it
        // borrows is not dropped in the child.
        unsafe { fork::fork(&keep, life) }.map(drop)
    }

    /// What the child does, from its first instruction to its end.
    fn run_vm(
        self,
        parent: &Parent<'_>,
        paused: &mut Paused<'_>,
        capture: &mut Capture,
    ) -> Result<(), String> {
        let running = Monotonic::now();
        let Self {
            new,
            claim,
            log,
            socket,
        } = self;
        let claim = become_process(new.identity.name.as_str(), log)
            .and_then(|()| Claim::received(claim.dir, claim.lock))
            .map_err(|error| one_line(&error))?;
        let launcher = VmEnd::new(socket);
        match rebuild(new, parent.config, &claim, running, paused, capture) {
            Ok(vm) => (parent.run_vm)(vm, None, launcher, parent.config.clone(), claim),
            Err(error) => Err(launcher.give_up(claim, &*error)),
        }
    }
}

/// Gives the child what any VM's process has: a session, a log and a name of its own, and no
/// input. (`/proc/PID/cmdline` stays its parent's.)
fn become_process(name: &str, log: File) -> io::Result<()> {
    let _ = rustix::process::setsid();
    dup2_stdin(File::open("/dev/null")?)?;
    dup2_stderr(log)?;
    // Not through /proc, whose files belong to root while the process is not dumpable.
    Ok(rustix::thread::set_name(&CString::new(name)?)?)
}

/// Rebuilds what `fork(2)` does not duplicate around the inherited memory.
fn rebuild(
    new: NewVm,
    config: &Config,
    claim: &Claim,
    running: Monotonic,
    paused: &mut Paused<'_>,
    capture: &mut Capture,
) -> Result<ReadyVm, Box<dyn Error>> {
    let (state, fds) = (&mut capture.state, mem::take(&mut capture.fds));
    let ram = paused.inherit_memory(state, &fds)?;
    let host = Host::open().map_err(MachineError::from)?;
    let shell = Shell::with_ram(&host, state.shape.clone(), ram)?;
    let prepared = Prepared::with_shell(config, &claim.dir, host, shell)?;
    prepared.restore_inherited(new, state, &fds, running)
}
