//! The fork path, from request to report (HyperFork paper, section 4.1).
//!
//! 1. [`begin`] asks the pool for [shells];
//! 2. meanwhile the parent [prepares](Machine::prepare_capture) what it can, pauses, is
//!    [captured](hyperfork_vmm::machine::Paused::capture) and resumes;
//! 3. each shell gets a name and the capture, of which it
//!    [restores](Machine::restore) a clone;
//! 4. [`StartedFork::finish`] waits for the [clones], on a thread of its own.
//!
//! Nothing here knows the parent's owner: values come in, an outcome goes out. Each wait has
//! a limit. All clones come to life or none does, unless the request wants as many as can be.

mod clones;
mod error;
mod process_fork;
mod shells;

pub(crate) use error::ForkError;

use crate::prepared::ReadyVm;
use clones::{Clones, Times};
use hyperfork_api::control::Fork;
use hyperfork_api::spec::Guest;
use hyperfork_api::{ForkReport, Identity, Strategy, VmInfo, VmName, VmSpec, VmState, one_line};
use hyperfork_host::handover::{LauncherEnd, NewVm, VmEnd};
use hyperfork_host::pool::Pool;
use hyperfork_host::run_dir::Claim;
use hyperfork_host::{Config, identity, record};
use hyperfork_sys::clock::Monotonic;
use hyperfork_sys::fds::FdTable;
use hyperfork_sys::sched::RealtimeBoost;
use hyperfork_sys::{fault, note};
use hyperfork_vmm::machine::{Capture, Machine, MachineError};
use hyperfork_vmm::memory::DeferredCleanup;
use hyperfork_vmm::memory::RamImage;
use hyperfork_vmm::snapshot::Preload;
use shells::{CloneNames, Shell, Shells};
use std::time::Duration;

/// Most clones of one request.
pub(crate) const MAX_CLONES: u32 = 1024;

/// Most bytes of changes that every waiting shell preloads; more are copied by each clone.
const MOST_PRELOADED: usize = 32 << 20;

/// The parent of a fork.
pub(crate) struct Parent<'a> {
    pub(crate) config: &'a Config,
    pub(crate) spec: &'a VmSpec,
    pub(crate) identity: &'a Identity,
    pub(crate) info: &'a VmInfo,
    /// When the fork was requested.
    pub(crate) requested: Monotonic,
    /// Clones of forks that are not complete yet.
    pub(crate) pending_clones: u32,
    /// Runs a clone's machine in a child made by `fork(2)`.
    pub(crate) run_vm: RunVm,
}

/// Runs a machine that is ready, until the VM's end.
pub(crate) type RunVm =
    fn(ReadyVm, Option<RealtimeBoost>, VmEnd, Config, Claim) -> Result<(), String>;

/// A fork whose clones have received their orders.
pub(crate) struct StartedFork {
    clones: Clones,
    /// Shells that no clone was made of.
    unused: Vec<LauncherEnd>,
    /// Why the fork fails, if it does.
    failure: Option<ForkError>,
    times: Option<Times>,
    cleanup: Option<DeferredCleanup>,
    /// The parent's memory, which is also most of the next clones'.
    image: Option<RamImage>,
    best_effort: bool,
    timeout: Duration,
}

/// A fork whose outcome is known.
pub(crate) struct FinishedFork {
    pub(crate) report: Result<ForkReport, ForkError>,
    clones: Clones,
    cleanup: Option<DeferredCleanup>,
    image: Option<RamImage>,
}

/// Forks the parent, whose machine this is. `logged` returns how many bytes of its main program's
/// output are in its log. Takes the pool away if it does not answer.
///
/// # Errors
/// [`ForkError`] when nothing was started.
pub(crate) fn begin(
    parent: &Parent<'_>,
    machine: &mut Machine,
    logged: &dyn Fn() -> u64,
    pool: &mut Option<Pool>,
    request: &Fork,
) -> Result<StartedFork, ForkError> {
    parent.check(request)?;
    if request.strategy == Strategy::ProcessFork {
        return process_fork::begin(parent, machine, logged, request);
    }
    let count = request.count as usize;
    let mut names = CloneNames::new(parent, request);
    let mut started = StartedFork::new(parent, request);
    let shape = machine.shape().clone();
    let mut shells = Shells::order(parent.config, shape, pool.take(), &mut names, request);

    let captured = match shells.failure() {
        Some(error) => Err(error),
        None => capture(parent, machine, logged),
    };
    let urgent = RealtimeBoost::for_monitor();
    *pool = shells.receive(&mut names, count, captured.is_ok());
    let failure = shells.failure();
    let (named, unused, missing) = shells.into_parts();
    started.clones = Clones::new(
        parent.info.about.name.clone(),
        Strategy::Image,
        named,
        missing,
    );
    started.unused = unused;
    match captured {
        Err(error) => started.failure = Some(error),
        Ok((capture, logged, times)) => {
            let failed = match failure {
                Some(error) => Err(error),
                None => started.hand_over(parent, request, logged, &capture),
            };
            started.failure = failed.err();
            started.times = Some(times);
            started.cleanup = Some(capture.cleanup);
            started.image = Some(capture.ram);
        }
    }
    drop(urgent);
    Ok(started)
}

/// Pauses the parent, captures it, and resumes it unless it was paused before. The result has
/// the length of the main program's logged output at that moment, too.
fn capture(
    parent: &Parent<'_>,
    machine: &mut Machine,
    logged: &dyn Fn() -> u64,
) -> Result<(Capture, u64, Times), ForkError> {
    let prepared = fault::point("capture.prepare")
        .map_err(MachineError::host("preparing the capture"))
        .and_then(|()| machine.prepare_capture());
    if let Err(error) = prepared {
        // The pause takes longer then, but the fork goes on.
        note!("{}", one_line(&error));
    }
    let mut paused = machine.pause();
    let since = paused.since();
    let stands_still = Monotonic::now();
    let capture = fault::point("capture.pause")
        .map_err(MachineError::host("pausing"))
        .and_then(|()| paused.capture());
    // Read before the parent resumes: what it prints from then on is not in the clones.
    let logged = logged();
    match parent.info.status.state {
        VmState::Paused => paused.stay(),
        _ => drop(paused),
    }
    let captured = Monotonic::now();
    let capture = capture.map_err(|source| parent.capture_failed(source))?;
    let times = Times {
        arrival: parent.requested,
        paused: stands_still,
        captured,
        pause_us: captured.us_since(since),
        image_us: capture.image_us,
    };
    Ok((capture, logged, times))
}

impl StartedFork {
    fn new(parent: &Parent<'_>, request: &Fork) -> Self {
        // A clone that does not become ready in time reports that itself, before this timeout.
        let timeout = Duration::from_millis(parent.ready_timeout_ms(request));
        Self {
            clones: Clones::none(parent.info.about.name.clone(), request.strategy),
            unused: Vec::new(),
            failure: None,
            times: None,
            cleanup: None,
            image: None,
            best_effort: request.best_effort,
            timeout: timeout + Duration::from_secs(1),
        }
    }

    /// Sends each shell its order and the captured state.
    fn hand_over(
        &mut self,
        parent: &Parent<'_>,
        request: &Fork,
        logged: u64,
        capture: &Capture,
    ) -> Result<(), ForkError> {
        let names = self.clones.names().zip(1..);
        let new = names.map(|(name, index)| parent.clone_of(request, name, index, logged));
        let new: Vec<_> = new.collect::<Result<_, _>>()?;
        fault::point("capture.encode").map_err(ForkError::Process)?;
        let state = capture.state.encode();
        self.clones
            .hand_over(new, &state, &capture.fds, self.best_effort)
    }

    /// Waits for the outcome of every clone, then releases or ends the clones. They are ended,
    /// too, if nothing awaits the report any more.
    pub(crate) fn finish(mut self, is_awaited: impl FnOnce() -> bool) -> FinishedFork {
        let report =
            match (self.failure, &self.times) {
                (None, Some(times)) => self.clones.wait(self.timeout, self.best_effort).and_then(
                    |()| match is_awaited() {
                        true => self.clones.release(times, self.best_effort),
                        false => Err(ForkError::NotAwaited),
                    },
                ),
                (failure, _) => Err(failure.unwrap_or(ForkError::GivenUp)),
            };
        if report.is_err() {
            self.clones.end();
        }
        LauncherEnd::end_all(self.unused);
        FinishedFork {
            report,
            clones: self.clones,
            cleanup: self.cleanup,
            image: self.image,
        }
    }
}

impl FinishedFork {
    /// Cleans up after the freeze, once the report is out: that takes milliseconds per GiB.
    /// Returns what the next clones' shells may preload.
    pub(crate) fn clean_up(self) -> Option<(Vec<u8>, FdTable)> {
        let touched = self.report.is_ok().then(|| self.clones.touched());
        let cleaned = self.cleanup.map_or(Ok(()), |cleanup| {
            fault::point("fork.clean_up").map_err(|error| one_line(&error))?;
            cleanup.run().map_err(|error| one_line(&error))
        });
        if let Err(error) = cleaned {
            note!("after a fork: {error}");
        }
        match Preload::of(self.image?, MOST_PRELOADED, touched?) {
            Ok((preload, fds)) => Some((preload.encode(), fds)),
            Err(error) => {
                note!("shells cannot preload memory: {error}");
                None
            }
        }
    }
}

impl Parent<'_> {
    fn check(&self, request: &Fork) -> Result<(), ForkError> {
        let info = self.info;
        if !(1..=MAX_CLONES).contains(&request.count) {
            return Err(ForkError::Count(request.count));
        }
        if info.status.state == VmState::Starting {
            return Err(ForkError::NotReady(info.about.name.clone()));
        }
        let (has_agent, can_tell) = match &self.spec.guest {
            Guest::Linux(guest) => (guest.agent, guest.agent),
            // The embedded guest reads its index from the signal port, and needs no randomness.
            Guest::Nano { .. } => (false, true),
        };
        if !can_tell && !self.spec.identical_clones {
            return Err(ForkError::NoAgent(info.about.name.clone()));
        }
        if !has_agent && !request.secrets.is_empty() {
            return Err(ForkError::NoSecrets(info.about.name.clone()));
        }
        request.secrets.check()?;
        let done = info.status.forks.saturating_add(self.pending_clones);
        match info.about.max_forks {
            Some(limit) if done.saturating_add(request.count) > limit => Err(ForkError::Spent {
                name: info.about.name.clone(),
                limit,
                done,
            }),
            _ => Ok(()),
        }
    }

    /// What clone number `index` is to become; `logged` as in [`NewVm`].
    fn clone_of(
        &self,
        request: &Fork,
        name: &VmName,
        index: u32,
        logged: u64,
    ) -> Result<NewVm, ForkError> {
        let mut spec = self.spec.clone();
        spec.name = name.clone();
        spec.ready_timeout_ms = self.ready_timeout_ms(request);
        let identity =
            identity::cloned(self.identity, name.clone(), index).map_err(ForkError::Process)?;
        let mut info = record::initial_info(&spec, &identity, Some(self.info.about.name.clone()));
        info.status.exit_status = self.info.status.exit_status;
        Ok(NewVm {
            requested: self.requested,
            spec,
            identity,
            info,
            logged,
            secrets: request.secrets.clone(),
        })
    }

    /// How long clones may take to be ready.
    fn ready_timeout_ms(&self, request: &Fork) -> u64 {
        let usual = self.spec.ready_timeout_ms;
        request.ready_timeout_ms.unwrap_or(usual)
    }

    fn capture_failed(&self, source: MachineError) -> ForkError {
        ForkError::Capture {
            name: self.info.about.name.clone(),
            source,
        }
    }
}

/// A child made by `fork(2)` as a [`Shell`]; for [`process_fork`] only.
fn shell_of(launcher: LauncherEnd, wanted: Monotonic) -> Shell {
    Shell {
        launcher,
        source: hyperfork_api::ShellSource::Process,
        wanted,
    }
}
