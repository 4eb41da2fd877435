//! The strategy `process-fork`: the HyperFork paper's own (section 4.1).
//!
//! 1. The parent pauses, and KVM's and the devices' state is read. Its memory only has to
//!    be private, which it is from its first fork on.
//! 2. `fork(2)`, once for each clone: each has the parent's memory, copy-on-write, at
//!    the same addresses. The parent goes on.
//! 3. Of all else that came with it the child uses nothing: the parent's threads are not
//!    there, KVM's VM cannot be used, descriptors are closed. It builds a shell around
//!    the memory, and the machine goes on in it by the same path as any restored one,
//!    with devices, eventfds, threads and locks of its own.

use super::super::handover::{Birth, Started, Starter};
use super::super::owner::Owner;
use super::super::rundir::{Claim, RunDir};
use super::super::vm_main::{Born, Waiting, live_as};
use super::births::Births;
use super::shells::{Names, Shell};
use super::{ForkError, Times, await_births, birth_of, capture_failed, prepared, ready_timeout_ms};
use crate::kvm::Host;
use crate::machine::{self, Capture, Machine, MachineError, Paused, Restored};
use crate::memory::ram::Aside;
use crate::sys;
use crate::sys::clock::Monotonic;
use hyperfork_api::control::{Fork, Reply};
use hyperfork_api::{ShellSource, Strategy, VmState};
use rustix::stdio::{dup2_stderr, dup2_stdin};
use std::error::Error;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::Sender;

/// A clone whose process is not there yet, and what it will have of its own.
struct Unborn {
    birth: Birth,
    claim: Claim,
    log: File,
    /// Its end of the hand-over.
    socket: UnixStream,
}

/// What has come of the forks.
struct Forked {
    /// When each `fork(2)` began.
    began: Vec<Monotonic>,
    times: Times,
    aside: Aside,
}

/// Forks the owner's VM. The report goes to `reply` when all clones are ready.
///
/// # Errors
/// [`ForkError`] when there is a clone for which there could be no process.
pub(super) fn fork(
    owner: &mut Owner,
    request: &Fork,
    arrival: Monotonic,
    reply: Sender<Reply>,
) -> Result<(), ForkError> {
    let (unborn, starters) = conceive(owner, request)?;
    let Forked {
        began,
        times,
        aside,
    } = match fork_each(owner, unborn, arrival) {
        Ok(forked) => forked,
        Err(error) => {
            starters.into_iter().for_each(Starter::end);
            return Err(error);
        }
    };
    let shells = starters.into_iter().zip(began);
    let shells = shells.map(|(starter, wanted)| Shell {
        starter,
        source: ShellSource::Process,
        wanted,
    });
    let clones = Births::new(
        owner.info.name.clone(),
        Strategy::ProcessFork,
        shells.collect(),
    );
    let ready_timeout_ms = ready_timeout_ms(owner, request);
    await_births(owner, clones, times, aside, reply, ready_timeout_ms, |_| {
        None
    })
}

/// Claims names and makes all that can be made before there is a process. When
/// something fails, all is gone again.
fn conceive(owner: &Owner, request: &Fork) -> Result<(Vec<Unborn>, Vec<Starter>), ForkError> {
    let mut names = Names::new(request.prefix.clone().unwrap_or(owner.info.name.clone()));
    let (mut unborn, mut starters) = (Vec::new(), Vec::new());
    let result = (1..=request.count).try_for_each(|index| {
        let claim = names.claim(owner, |name| owner.run_dir.claim(name))?;
        let (ours, socket) = UnixStream::pair().map_err(ForkError::Process)?;
        starters.push(Starter::taken(ours, claim.dir.clone()));
        unborn.push(Unborn {
            birth: birth_of(owner, request, claim.dir.name(), index, 0)?,
            log: claim.dir.create(&claim.dir.monitor_log())?,
            claim,
            socket,
        });
        Ok(())
    });
    match result {
        Ok(()) => Ok((unborn, starters)),
        Err(error) => {
            drop(unborn);
            starters.into_iter().for_each(Starter::end);
            Err(error)
        }
    }
}

/// Stops the VM, forks its process for each of `unborn`, and lets it go on as it was.
fn fork_each(
    owner: &mut Owner,
    unborn: Vec<Unborn>,
    arrival: Monotonic,
) -> Result<Forked, ForkError> {
    prepared(owner.machine.prepare_capture_for_children());
    let mut paused = owner.machine.pause();
    let since = paused.since();
    let stands_still = Monotonic::now();
    let logged = owner.output.logged();
    let forked = match paused.capture_for_children() {
        Err(error) => Err(capture_failed(&owner.info.name, &error)),
        Ok(mut capture) => {
            let captured = Monotonic::now();
            let clones = unborn.into_iter().map(|mut clone| {
                let began = Monotonic::now();
                clone.birth.logged = logged;
                clone.fork(&owner.run_dir, &mut paused, &mut capture)?;
                Ok(began)
            });
            let began: io::Result<_> = clones.collect();
            began
                .map(|began| (began, captured, capture))
                .map_err(ForkError::Process)
        }
    };
    match owner.info.state {
        VmState::Paused => paused.stay(),
        _ => drop(paused),
    }
    let goes_on = Monotonic::now();
    let (began, captured, capture) = forked?;
    Ok(Forked {
        began,
        times: Times {
            arrival,
            paused: stands_still,
            captured,
            pause_us: goes_on.us_since(since),
            image_us: capture.image_us,
        },
        aside: capture.aside,
    })
}

impl Unborn {
    /// Forks this process into the clone's.
    fn fork(
        self,
        run_dir: &RunDir,
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
        let life = move || match self.live(run_dir, paused, capture) {
            Ok(()) => ExitCode::SUCCESS,
            Err(words) => {
                eprintln!("{words}");
                ExitCode::FAILURE
            }
        };
        // The signal of its end has it reaped, as any clone's.
        sys::fork::fork(&keep, life).map(drop)
    }

    /// The child's life.
    fn live(
        self,
        run_dir: &RunDir,
        paused: &mut Paused<'_>,
        capture: &mut Capture,
    ) -> Result<(), String> {
        let running = Monotonic::now();
        let Self {
            birth,
            claim,
            log,
            socket,
        } = self;
        become_process(birth.identity.name.as_str(), log).map_err(|error| error.to_string())?;
        live_as(Started::new(socket), run_dir, claim, |_, claim| {
            go_on(birth, run_dir, claim, running, paused, capture).map(Some)
        })
    }
}

/// Makes the child a process as that of any VM: with a session, a log and a name of its
/// own and no input. (`/proc/PID/cmdline` goes on saying what its parent's does.)
fn become_process(name: &str, log: File) -> io::Result<()> {
    let _ = rustix::process::setsid();
    dup2_stdin(File::open("/dev/null")?)?;
    dup2_stderr(log)?;
    // Not by /proc: that is root's while memory is withheld.
    Ok(rustix::thread::set_name(&CString::new(name)?)?)
}

/// Rebuilds around the memory what `fork(2)` does not duplicate.
fn go_on(
    birth: Birth,
    run_dir: &RunDir,
    claim: &Claim,
    running: Monotonic,
    paused: &mut Paused<'_>,
    capture: &mut Capture,
) -> Result<Born, Box<dyn Error>> {
    let (state, fds) = (&mut capture.state, mem::take(&mut capture.fds));
    let ram = paused.inherit_memory(&state.ram, &fds)?;
    let host = Host::open().map_err(MachineError::from)?;
    let shell = machine::Shell::around(&host, state.shape.clone(), ram)?;
    let waiting = Waiting::new(run_dir, &claim.dir, running, host, shell)?;
    let built = Monotonic::now();
    waiting.bear(birth, |_, shell, birth, backends, events| {
        let machine = Machine::go_on(shell, state, &fds, &birth.identity, backends, events)?;
        let restored = Restored {
            memory: built,
            state: Monotonic::now(),
        };
        Ok((machine, Some((running, restored))))
    })
}
