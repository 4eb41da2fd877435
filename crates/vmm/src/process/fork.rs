//! The fork path, from request to report (HyperFork paper, section 4.1).
//!
//! 1. [`fork`] claims names and starts processes, which build their shells;
//! 2. meanwhile the parent pauses, is [captured](crate::machine::Paused::capture)
//!    and goes on;
//! 3. [`hand_over`] gives every process the capture, of which it
//!    [restores](crate::machine::Machine::restore) a clone, and waits for all to
//!    be ready.
//!
//! The first two are done by the parent's owner; the third, which takes long and
//! needs the parent no more, by a thread of its own. All clones come to life or
//! none does.

use super::handover::{Birth, Encoded, Progress, Starter, Steps};
use super::owner::Owner;
use super::record;
use super::rundir::{Claim, RunDirError};
use crate::identity;
use crate::machine::Capture;
use crate::memory::ram::Aside;
use crate::one_line;
use crate::sys::clock::Monotonic;
use hyperfork_api::control::{Fork, Reply};
use hyperfork_api::name::InvalidName;
use hyperfork_api::{CloneReport, ForkReport, Phases, Strategy, VmName, VmState};
use std::io;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

/// Why a VM could not be forked. The parent is unharmed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForkError {
    #[error("a fork makes 1 to {MAX_CLONES} clones, not {0}")]
    Count(u32),
    #[error("{0} is not ready yet: wait until it is running")]
    NotReady(VmName),
    #[error("{name} may be forked {limit} times in its life and has been {done} times")]
    Spent { name: VmName, limit: u32, done: u32 },
    #[error("the strategy process-fork is not there yet: use image")]
    Strategy,
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    #[error("cannot start a process for a clone: {0}")]
    Process(#[source] io::Error),
    #[error("cannot capture {name}: {words}")]
    Capture { name: VmName, words: String },
    #[error("{name} did not come to life: {words}")]
    Clone { name: VmName, words: String },
}

/// Most clones of one request.
const MAX_CLONES: u32 = 1024;

/// A clone under way.
struct Unborn {
    starter: Starter,
    birth: Birth,
    /// When its shell was wanted.
    wanted: Monotonic,
}

/// Forks the owner's VM. The report goes to `reply` when all clones are ready.
///
/// # Errors
/// [`ForkError`] when it did not come as far as capturing.
pub(super) fn fork(
    owner: &mut Owner,
    request: &Fork,
    arrival: Monotonic,
    reply: Sender<Reply>,
) -> Result<(), ForkError> {
    check(owner, request)?;
    let unborn = start_processes(owner, request)?;

    let mut paused = owner.machine.pause();
    let since = paused.since();
    let captured = paused.capture();
    match owner.info.state {
        VmState::Paused => paused.stay(),
        _ => drop(paused),
    }
    let captured_at = Monotonic::now();

    let Capture {
        state, fds, aside, ..
    } = match captured {
        Ok(capture) => capture,
        Err(error) => {
            unborn.into_iter().for_each(|clone| clone.starter.end());
            return Err(ForkError::Capture {
                name: owner.info.name.clone(),
                words: one_line(&error),
            });
        }
    };
    owner.count_forks(request.count);
    let times = Times {
        arrival,
        pause_us: captured_at.us_since(since),
        capture: captured_at.us_since(arrival),
    };
    let parent = owner.info.name.clone();
    let timeout = Duration::from_millis(owner.spec.ready_timeout_ms) + Duration::from_secs(1);
    let handing_over = thread::Builder::new()
        .name("hand-over".into())
        .spawn(move || {
            let retired = retire(aside);
            let answer = Encoded::new(&state, fds)
                .map_err(ForkError::Process)
                .and_then(|state| hand_over(parent, unborn, &state, times, timeout))
                .map_or_else(|error| Reply::Error(error.to_string()), Reply::Forked);
            let _ = reply.send(answer);
            let _ = retired.map(thread::JoinHandle::join);
        });
    handing_over.map(drop).map_err(ForkError::Process)
}

fn check(owner: &Owner, request: &Fork) -> Result<(), ForkError> {
    let info = &owner.info;
    if request.strategy != Strategy::Image {
        return Err(ForkError::Strategy);
    }
    if !(1..=MAX_CLONES).contains(&request.count) {
        return Err(ForkError::Count(request.count));
    }
    if info.state == VmState::Starting {
        return Err(ForkError::NotReady(info.name.clone()));
    }
    match info.max_forks {
        Some(limit) if info.forks.saturating_add(request.count) > limit => Err(ForkError::Spent {
            name: info.name.clone(),
            limit,
            done: info.forks,
        }),
        _ => Ok(()),
    }
}

/// Claims the first free names and starts a process for each. When one fails, all
/// are gone again.
fn start_processes(owner: &Owner, request: &Fork) -> Result<Vec<Unborn>, ForkError> {
    let prefix = request.prefix.as_ref().unwrap_or(&owner.info.name);
    let mut unborn = Vec::new();
    let mut number = 0;
    let result = (1..=request.count).try_for_each(|index| {
        let claim = claim_next(owner, prefix, &mut number)?;
        let name = claim.dir.name().clone();
        let wanted = Monotonic::now();
        let starter = Starter::spawn(&owner.run_dir, claim, owner.machine.shape().clone())
            .map_err(ForkError::Process)?;
        let mut spec = owner.spec.clone();
        spec.name = name.clone();
        let identity =
            identity::cloned(&owner.identity, name, index).map_err(ForkError::Process)?;
        let mut info = record::born(&spec, &identity, Some(owner.info.name.clone()));
        info.exit_status = owner.info.exit_status;
        unborn.push(Unborn {
            starter,
            birth: Birth {
                spec,
                identity,
                info,
            },
            wanted,
        });
        Ok(())
    });
    match result {
        Ok(()) => Ok(unborn),
        Err(error) => {
            unborn.into_iter().for_each(|clone| clone.starter.end());
            Err(error)
        }
    }
}

/// Claims `<prefix>-<k>` for the first free k after `number`.
fn claim_next(owner: &Owner, prefix: &VmName, number: &mut u32) -> Result<Claim, ForkError> {
    loop {
        *number += 1;
        match owner.run_dir.claim(&prefix.clone_name(*number)?) {
            Err(RunDirError::InUse { .. }) => {}
            other => return Ok(other?),
        }
    }
}

/// Unmapping what a first freeze moved aside takes milliseconds per GiB, so it is
/// done beside everything else.
fn retire(aside: Option<Aside>) -> Option<thread::JoinHandle<()>> {
    let aside = aside?;
    let work = || {
        if let Err(error) = aside.retire() {
            eprintln!("the memory image could not be sealed: {error}");
        }
    };
    thread::Builder::new()
        .name("retire".into())
        .spawn(work)
        .ok()
}

struct Times {
    arrival: Monotonic,
    pause_us: u64,
    capture: u64,
}

/// Gives each process the state and waits for all of them.
fn hand_over(
    parent: VmName,
    unborn: Vec<Unborn>,
    state: &Encoded,
    times: Times,
    timeout: Duration,
) -> Result<ForkReport, ForkError> {
    let mut clones = Vec::new();
    let mut failure = None;
    let mut starters = Vec::new();
    for Unborn {
        starter,
        birth,
        wanted,
    } in unborn
    {
        let name = birth.identity.name.clone();
        if let Err(error) = starter.clone_from(birth, state) {
            // Its process has ended; its own words are better than ours.
            failure.get_or_insert(match starter.progress() {
                Progress::Failed(words) => ForkError::Clone {
                    name: name.clone(),
                    words,
                },
                _ => ForkError::Clone {
                    name: name.clone(),
                    words: error.to_string(),
                },
            });
        }
        starters.push((starter, name, wanted));
    }
    let deadline = Instant::now() + timeout;
    if failure.is_none() {
        for (starter, name, wanted) in &starters {
            match wait_ready(starter, deadline) {
                Ok((steps, ready)) => {
                    clones.push(report(name, &times, *wanted, steps, ready));
                }
                Err(words) => {
                    failure = Some(ForkError::Clone {
                        name: name.clone(),
                        words,
                    });
                    break;
                }
            }
        }
    }
    match failure {
        None => {
            for (starter, ..) in &starters {
                // One that ended since it was ready is no failure of the fork.
                let _ = starter.release();
            }
            let strategy = Strategy::Image;
            Ok(ForkReport {
                parent,
                pause_us: times.pause_us,
                strategy,
                clones,
            })
        }
        Some(error) => {
            starters.into_iter().for_each(|(starter, ..)| starter.end());
            Err(error)
        }
    }
}

fn wait_ready(starter: &Starter, deadline: Instant) -> Result<(Steps, Monotonic), String> {
    let mut steps = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match starter.wait(left) {
            Ok(true) => {}
            Ok(false) if !left.is_zero() => continue,
            Ok(false) => return Err("it did not become ready in time".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
        match starter.progress() {
            Progress::Running(running) => steps = Some(running),
            Progress::Ready { at, .. } => {
                return steps
                    .map(|steps| (steps, at))
                    .ok_or_else(|| "it never ran".to_owned());
            }
            Progress::Failed(words) => return Err(words),
            Progress::NoCommand(failure) => return Err(failure.to_string()),
        }
    }
}

fn report(
    name: &VmName,
    times: &Times,
    wanted: Monotonic,
    steps: Steps,
    ready: Monotonic,
) -> CloneReport {
    CloneReport {
        name: name.clone(),
        ip: None,
        ports: Vec::new(),
        total_us: steps.first_exit.us_since(times.arrival),
        ready_us: ready.us_since(times.arrival),
        phases_us: Phases {
            capture: times.capture,
            shell: steps.received.us_since(wanted),
            memory: steps.memory.us_since(steps.received),
            state: steps.state.us_since(steps.memory),
            first_run: steps.first_exit.us_since(steps.state),
        },
    }
}
