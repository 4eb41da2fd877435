//! The fork path, from request to report (HyperFork paper, section 4.1).
//!
//! 1. [`fork`] asks the pool for [shells];
//! 2. meanwhile the parent [prepares](crate::machine::Machine::prepare_capture) what it
//!    can, pauses, is [captured](crate::machine::Paused::capture) and goes on;
//! 3. each shell gets a name and the capture, of which it
//!    [restores](crate::machine::Machine::restore) a clone;
//! 4. a thread waits for the [births].
//!
//! All clones come to life or none does.

mod births;
mod process_fork;
mod shells;

use super::handover::{Birth, Encoded};
use super::owner::{Owner, Task};
use super::record;
use super::rundir::RunDirError;
use crate::identity;
use crate::machine::{Capture, MachineError};
use crate::memory::DeferredCleanup;
use crate::one_line;
use crate::snapshot::{MachineState, Primer};
use crate::sys::clock::Monotonic;
use crate::sys::fds::FdTable;
use crate::sys::sched::Urgent;
use births::Births;
use hyperfork_api::control::{Fork, Reply};
use hyperfork_api::name::InvalidName;
use hyperfork_api::secret::BadSecret;
use hyperfork_api::spec::Guest;
use hyperfork_api::{Strategy, VmName, VmState};
use shells::{Names, Shell, Shells};
use std::io;
use std::ops::Range;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

/// Why a VM could not be forked. The parent is unharmed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForkError {
    #[error("a fork makes 1 to {MAX_CLONES} clones, not {0}")]
    Count(u32),
    #[error("{0} is not ready yet: wait until it is running")]
    NotReady(VmName),
    #[error(
        "{name} may be forked {limit} times in its life and has been {done} times: start a new \
         one, with a higher --max-forks if so many clones may have its past in common"
    )]
    Spent { name: VmName, limit: u32, done: u32 },
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    #[error("cannot start a process for a clone: {0}")]
    Process(#[source] io::Error),
    #[error("cannot capture {name}: {words}")]
    Capture { name: VmName, words: String },
    #[error(
        "{0} has no agent that could give its clones randomness and an identity of their own: \
         start it with --identical-clones to have it forked all the same"
    )]
    NoAgent(VmName),
    #[error("{0} has no agent that could take secrets")]
    NoSecrets(VmName),
    #[error(transparent)]
    Secret(#[from] BadSecret),
    #[error("{name} did not come to life: {words}")]
    Clone { name: VmName, words: String },
}

/// Most clones of one request.
const MAX_CLONES: u32 = 1024;

/// Most bytes of changes that every waiting shell holds; more are copied by each clone.
const MOST_PRIMED: usize = 32 << 20;

/// When things happened to the parent.
struct Times {
    arrival: Monotonic,
    /// The parent stood still.
    paused: Monotonic,
    /// It was captured and went on.
    captured: Monotonic,
    /// How long it stood still.
    pause_us: u64,
    /// How long freezing its memory took.
    image_us: u64,
}

/// Forks the owner's VM. The report goes to `reply` when all clones are ready.
///
/// # Errors
/// [`ForkError`] when it did not come as far as handing over.
pub(super) fn fork(
    owner: &mut Owner,
    request: &Fork,
    arrival: Monotonic,
    reply: Sender<Reply>,
) -> Result<(), ForkError> {
    check(owner, request)?;
    if request.strategy == Strategy::ProcessFork {
        return process_fork::fork(owner, request, arrival, reply);
    }
    let count = request.count as usize;
    let mut names = Names::new(request.prefix.clone().unwrap_or(owner.info.name.clone()));
    let pool = owner.pool.take();
    let shells = Shells::order(owner, pool.as_ref(), &mut names, count)?;

    let (capture, logged, times) = match capture(owner, arrival) {
        Ok(captured) => captured,
        Err(error) => {
            shells.end();
            owner.pool = pool;
            return Err(error);
        }
    };
    let Capture {
        state,
        fds,
        cleanup,
        ..
    } = capture;

    let urgent = Urgent::now();
    let received = shells.receive(owner, &mut names, count);
    let begun = received.and_then(|(shells, pool_answers)| {
        owner.pool = pool.filter(|_| pool_answers);
        begin(owner, request, shells, logged, &state, &fds)
    });
    drop(urgent);
    let clones = match begun {
        Ok(clones) => clones,
        Err(error) => {
            clean_up(cleanup);
            return Err(error);
        }
    };

    let ready_timeout_ms = ready_timeout_ms(owner, request);
    let primer = move |touched| {
        let image = state.ram.bounded(MOST_PRIMED);
        Some((Primer { image, touched }, fds))
    };
    await_births(
        owner,
        clones,
        times,
        cleanup,
        reply,
        ready_timeout_ms,
        primer,
    )
}

/// Has a thread wait for all clones and reply, for from here on they need the processors
/// more than this one does. What is left to do follows then, and `primer` makes, of the
/// pages that clones touch first, what the next ones are made ready with.
fn await_births(
    owner: &mut Owner,
    clones: Births,
    times: Times,
    cleanup: DeferredCleanup,
    reply: Sender<Reply>,
    ready_timeout_ms: u64,
    primer: impl FnOnce(Vec<Range<usize>>) -> Option<(Primer, FdTable)> + Send + 'static,
) -> Result<(), ForkError> {
    owner.info.forks += clones.count();
    let tasks = owner.tasks.clone();
    // A clone that gives up says so itself.
    let timeout = Duration::from_millis(ready_timeout_ms) + Duration::from_secs(1);
    let waiting = thread::Builder::new().name("births".into()).spawn(move || {
        let (answer, touched) = match clones.wait(&times, timeout) {
            Ok(report) => (Reply::Forked(report), Some(clones.release())),
            Err(error) => {
                clones.end();
                (Reply::Error(error.to_string()), None)
            }
        };
        let _ = reply.send(answer);
        clean_up(cleanup);
        let _ = tasks.send(Task::Forked(touched.and_then(primer)));
    });
    waiting.map(drop).map_err(ForkError::Process)
}

/// Stops the VM, captures it, and lets it go on as it was. With the capture comes how much
/// of the main program's output is in the log at that moment.
fn capture(owner: &mut Owner, arrival: Monotonic) -> Result<(Capture, u64, Times), ForkError> {
    prepared(owner.machine.prepare_capture());
    let mut paused = owner.machine.pause();
    let since = paused.since();
    let stands_still = Monotonic::now();
    let capture = paused.capture();
    // Before it goes on: what it writes from then on is none of its clones'.
    let logged = owner.output.logged();
    match owner.info.state {
        VmState::Paused => paused.stay(),
        _ => drop(paused),
    }
    let captured = Monotonic::now();
    let capture = capture.map_err(|error| capture_failed(&owner.info.name, &error))?;
    let times = Times {
        arrival,
        paused: stands_still,
        captured,
        pause_us: captured.us_since(since),
        image_us: capture.image_us,
    };
    Ok((capture, logged, times))
}

/// A machine that could not prepare its capture stands still longer for it.
fn prepared(result: Result<(), MachineError>) {
    if let Err(error) = result {
        eprintln!("{}", one_line(&error));
    }
}

fn capture_failed(parent: &VmName, error: &MachineError) -> ForkError {
    ForkError::Capture {
        name: parent.clone(),
        words: one_line(error),
    }
}

/// Gives each shell its birth and the state.
fn begin(
    owner: &Owner,
    request: &Fork,
    shells: Vec<Shell>,
    logged: u64,
    state: &MachineState,
    fds: &FdTable,
) -> Result<Births, ForkError> {
    let births = births_of(owner, request, &shells, logged);
    let clones = Births::new(owner.info.name.clone(), Strategy::Image, shells);
    let handed_over = births.and_then(|births| {
        let state = Encoded::new(state, fds).map_err(ForkError::Process)?;
        clones.hand_over(births.into_iter(), &state)
    });
    match handed_over {
        Ok(()) => Ok(clones),
        Err(error) => {
            clones.end();
            Err(error)
        }
    }
}

/// What each process is to become.
fn births_of(
    owner: &Owner,
    request: &Fork,
    shells: &[Shell],
    logged: u64,
) -> Result<Vec<Birth>, ForkError> {
    let names = shells.iter().map(|shell| shell.starter.dir.name());
    names
        .zip(1..)
        .map(|(name, index)| birth_of(owner, request, name, index, logged))
        .collect()
}

/// What clone number `index` of the owner's VM is to become; `logged` as in [`Birth`].
fn birth_of(
    owner: &Owner,
    request: &Fork,
    name: &VmName,
    index: u32,
    logged: u64,
) -> Result<Birth, ForkError> {
    let mut spec = owner.spec.clone();
    spec.name = name.clone();
    spec.ready_timeout_ms = ready_timeout_ms(owner, request);
    let identity =
        identity::cloned(&owner.identity, name.clone(), index).map_err(ForkError::Process)?;
    let mut info = record::born(&spec, &identity, Some(owner.info.name.clone()));
    info.exit_status = owner.info.exit_status;
    Ok(Birth {
        spec,
        identity,
        info,
        logged,
        secrets: request.secrets.clone(),
    })
}

/// How long clones may take to be ready.
fn ready_timeout_ms(owner: &Owner, request: &Fork) -> u64 {
    let usual = owner.spec.ready_timeout_ms;
    request.ready_timeout_ms.unwrap_or(usual)
}

fn check(owner: &Owner, request: &Fork) -> Result<(), ForkError> {
    let info = &owner.info;
    if !(1..=MAX_CLONES).contains(&request.count) {
        return Err(ForkError::Count(request.count));
    }
    if info.state == VmState::Starting {
        return Err(ForkError::NotReady(info.name.clone()));
    }
    let (has_agent, can_tell) = match &owner.spec.guest {
        Guest::Linux(guest) => (guest.agent, guest.agent),
        // It reads from its port who it is, and has no use for randomness.
        Guest::Nano { .. } => (false, true),
    };
    if !can_tell && !owner.spec.identical_clones {
        return Err(ForkError::NoAgent(info.name.clone()));
    }
    if !has_agent && !request.secrets.is_empty() {
        return Err(ForkError::NoSecrets(info.name.clone()));
    }
    request.secrets.check()?;
    match info.max_forks {
        Some(limit) if info.forks.saturating_add(request.count) > limit => Err(ForkError::Spent {
            name: info.name.clone(),
            limit,
            done: info.forks,
        }),
        _ => Ok(()),
    }
}

/// What a freeze leaves to be done takes milliseconds per GiB, so it is done when the
/// clones are there.
fn clean_up(cleanup: DeferredCleanup) {
    if let Err(error) = cleanup.run() {
        eprintln!("after a fork: {}", one_line(&error));
    }
}
