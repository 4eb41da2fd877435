//! Stopping and removing VMs, for the command line, the benchmarks and other callers.

use crate::client::{Client, ClientError};
use crate::run_dir::{RunDirError, VmDir};
use hyperfork_api::VmName;
use hyperfork_api::control::Stop;
use hyperfork_sys::process::Process;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// Why a VM was not stopped or removed.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// There is no such VM, or it refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Its directory cannot be removed.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Its process cannot be told to end.
    #[error("the process of {name} cannot be told to end")]
    Signal {
        /// The VM.
        name: VmName,
        /// The system's reason.
        source: io::Error,
    },
    /// Its process was told to end and has not.
    #[error("{name} does not end: `hyperfork rm -f {name}` ends it at once")]
    StillRunning {
        /// The VM.
        name: VmName,
    },
    /// Its process was killed and is still there.
    #[error("the process of {name} was killed and is still there: it waits for the host's kernel")]
    Unkillable {
        /// The VM.
        name: VmName,
    },
}

/// How long a process may take to end after its guest's time to power off is over.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(20);
/// How long a process that is to end at once may take before it is killed.
const FORCE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the kernel may take to end a process that was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to check whether a process has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Stops a VM, whose guest has `grace` to power off, and waits until its process has ended.
/// Succeeds for a VM that has ended already.
///
/// # Errors
/// [`EndError`]; the VM may still run.
pub fn stop(dir: &VmDir, grace: Duration) -> Result<(), EndError> {
    known(dir)?;
    let most = grace + SHUTDOWN_MARGIN;
    ask_to_stop(dir, grace, most)?;
    match dir.ends_within(most) {
        true => Ok(()),
        false => Err(EndError::StillRunning {
            name: dir.name().clone(),
        }),
    }
}

/// Removes the directory of an ended VM.
///
/// # Errors
/// [`EndError::Client`] when there is no such VM, [`EndError::RunDir`] also while it runs.
pub fn remove(dir: &VmDir) -> Result<(), EndError> {
    Ok(known(dir)?.remove()?)
}

/// Ends a VM at once, whatever state it is in, and removes it.
///
/// # Errors
/// [`EndError`].
pub fn remove_by_force(dir: &VmDir) -> Result<(), EndError> {
    known(dir)?;
    // A process that is stopped (SIGSTOP), or refuses, is killed.
    let asked = ask_to_stop(dir, Duration::ZERO, FORCE_TIMEOUT);
    if asked.is_err() || !dir.ends_within(FORCE_TIMEOUT) {
        let name = dir.name().clone();
        let killed = process(dir).map_or(Ok(()), |process| process.kill());
        killed.map_err(|source| EndError::Signal {
            name: name.clone(),
            source,
        })?;
        if !dir.ends_within(KILL_TIMEOUT) {
            return Err(EndError::Unkillable { name });
        }
    }
    match dir.remove() {
        // Another command has removed it meanwhile.
        Err(_) if !dir.exists() => Ok(()),
        removed => Ok(removed?),
    }
}

/// Ends and removes VMs at once and in parallel; for callers that have made them and want no
/// trace of them.
pub fn discard(dirs: &[VmDir]) {
    thread::scope(|scope| {
        for dir in dirs {
            let ended = move || drop(remove_by_force(dir));
            if thread::Builder::new().spawn_scoped(scope, ended).is_err() {
                drop(remove_by_force(dir));
            }
        }
    });
}

/// Asks the VM's process to stop: over its socket, or by a signal when the socket is gone or
/// the process closes each connection or speaks another protocol. Does nothing if the process has ended.
fn ask_to_stop(dir: &VmDir, grace: Duration, most: Duration) -> Result<(), EndError> {
    let grace_ms = grace.as_millis().try_into().unwrap_or(u64::MAX);
    let begun = Instant::now();
    loop {
        let left = most.saturating_sub(begun.elapsed());
        let asked = Client::connect(dir).and_then(|mut vm| vm.ask_within(Stop { grace_ms }, left));
        match asked {
            Ok(()) | Err(ClientError::NotRunning { .. }) => return Ok(()),
            Err(ClientError::Connection { .. }) if !dir.is_alive() => return Ok(()),
            // Its socket does not exist yet, or no longer.
            Err(ClientError::Connection { .. }) if begun.elapsed() < FORCE_TIMEOUT.min(most) => {
                thread::sleep(POLL_INTERVAL);
            }
            Err(
                error @ (ClientError::Connection { .. }
                | ClientError::Closed { .. }
                | ClientError::OtherVersion { .. }),
            ) => {
                let Some(process) = process(dir) else {
                    return Err(error.into());
                };
                return process.terminate().map_err(|source| EndError::Signal {
                    name: dir.name().clone(),
                    source,
                });
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The VM's process, found by the number in its lock file or by its socket: the first versions
/// wrote no number.
fn process(dir: &VmDir) -> Option<Process> {
    dir.process().or_else(|| {
        let process = Client::connect(dir).ok()?.process().ok()?;
        // The number is the VM's if the VM still runs: it cannot have been reused.
        dir.is_alive().then_some(process)
    })
}

fn known(dir: &VmDir) -> Result<&VmDir, ClientError> {
    match dir.exists() {
        true => Ok(dir),
        false => Err(ClientError::Unknown {
            name: dir.name().clone(),
        }),
    }
}
