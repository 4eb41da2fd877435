//! `pause`, `resume`, `stop`, `rm`: one action on several VMs. Prints the name of each VM for
//! which it succeeds and the error of each for which it fails; one failure does not stop the rest.

use crate::args::{Rm, Stop, Vms};
use crate::config;
use crate::exit;
use crate::ui::{self, Progress};
use hyperfork_api::VmName;
use hyperfork_api::control::{Ask, Pause, Resume};
use hyperfork_host::{Client, VmDir, lifecycle, pool};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many VMs to act on at the same time.
const MOST_AT_ONCE: usize = 64;

/// `pause`.
///
/// # Errors
/// Standard output's, or the run directory's.
pub(crate) fn pause(args: &Vms) -> anyhow::Result<u8> {
    each(&args.vms, |dir| ask(dir, Pause {}))
}

/// `resume`.
///
/// # Errors
/// As [`pause`].
pub(crate) fn resume(args: &Vms) -> anyhow::Result<u8> {
    each(&args.vms, |dir| ask(dir, Resume {}))
}

/// `stop`.
///
/// # Errors
/// As [`pause`].
pub(crate) fn stop(args: &Stop) -> anyhow::Result<u8> {
    let grace = Duration::from_secs(args.time.into());
    each(&args.vms.vms, |dir| {
        let _step = Progress::unless(false).step(&format!("stopping {}", dir.name()));
        Ok(lifecycle::stop(dir, grace)?)
    })
}

/// `rm`.
///
/// # Errors
/// As [`pause`].
pub(crate) fn rm(args: &Rm) -> anyhow::Result<u8> {
    let status = match args.force {
        // Those that do not answer take seconds, so they are ended at the same time.
        true => each_at_once(&args.vms.vms, |dir| Ok(lifecycle::remove_by_force(dir)?)),
        false => each(&args.vms.vms, |dir| Ok(lifecycle::remove(dir)?)),
    };
    pool::clear_up(&config::run_dir()?);
    status
}

fn ask(dir: &VmDir, request: impl Ask) -> anyhow::Result<()> {
    Client::connect(dir)?.ask(request)?;
    Ok(())
}

fn each(vms: &[VmName], act: impl Fn(&VmDir) -> anyhow::Result<()>) -> anyhow::Result<u8> {
    let run_dir = config::run_dir()?;
    let mut status = exit::OK;
    for name in vms {
        status = status.max(tell(name, act(&run_dir.vm(name)))?);
    }
    Ok(status)
}

/// As [`each`], for several VMs at the same time. Prints in the order of `vms` all the same.
fn each_at_once(
    vms: &[VmName],
    act: impl Fn(&VmDir) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<u8> {
    let run_dir = config::run_dir()?;
    let names: BTreeSet<&VmName> = vms.iter().collect();
    let work = Mutex::new(names.into_iter());
    let done = Mutex::new(BTreeMap::new());
    let worker = || {
        // Ends the guard's life before the work begins.
        let next = || lock(&work).next();
        while let Some(name) = next() {
            let result = act(&run_dir.vm(name));
            lock(&done).insert(name, result);
        }
    };
    thread::scope(|scope| {
        // This thread works, too, so those that cannot be started only take time.
        for _ in 1..vms.len().min(MOST_AT_ONCE) {
            let _ = thread::Builder::new().spawn_scoped(scope, worker);
        }
        worker();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut status = exit::OK;
    for name in vms {
        // A VM that is named twice has been acted on once.
        if let Some(result) = done.remove(name) {
            status = status.max(tell(name, result)?);
        }
    }
    Ok(status)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints what came of a VM; returns the exit status for it.
///
/// # Errors
/// Standard output's.
fn tell(name: &VmName, result: anyhow::Result<()>) -> anyhow::Result<u8> {
    match result {
        Ok(()) => {
            ui::line(name)?;
            Ok(exit::OK)
        }
        Err(error) => {
            ui::error(&error);
            Ok(exit::FAILED)
        }
    }
}
