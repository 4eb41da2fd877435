//! `pause`, `resume`, `stop`, `rm`: one thing for several VMs. Each that it is done
//! for is printed; each for which it fails is told, and the others go on.

use crate::args::{Rm, Stop, Vms};
use crate::exit;
use crate::ui::{self, Progress};
use hyperfork_api::VmName;
use hyperfork_api::control::Request;
use hyperfork_vmm::process::{Client, ClientError, RunDir, VmDir};
use std::thread;
use std::time::{Duration, Instant};

/// `pause`.
///
/// # Errors
/// Standard output's, or the run directory's.
pub(crate) fn pause(args: &Vms) -> anyhow::Result<u8> {
    each(&args.vms, |dir| ask(dir, &Request::Pause))
}

/// `resume`.
///
/// # Errors
/// As [`pause`].
pub(crate) fn resume(args: &Vms) -> anyhow::Result<u8> {
    each(&args.vms, |dir| ask(dir, &Request::Resume))
}

/// `stop`.
///
/// # Errors
/// As [`pause`].
pub(crate) fn stop(args: &Stop) -> anyhow::Result<u8> {
    let grace = Duration::from_secs(args.time.into());
    each(&args.vms.vms, |dir| {
        let _step = Progress::unless(false).step(&format!("stopping {}", dir.name()));
        Ok(end(dir, grace)?)
    })
}

/// `rm`.
///
/// # Errors
/// As [`pause`].
pub(crate) fn rm(args: &Rm) -> anyhow::Result<u8> {
    each(&args.vms.vms, |dir| match args.force {
        true => remove_by_force(dir),
        false => Ok(known(dir)?.remove()?),
    })
}

/// Ends a VM if it has not ended, and waits until nothing runs for it any more.
///
/// # Errors
/// There is no such VM, or it cannot be asked.
pub(crate) fn end(dir: &VmDir, grace: Duration) -> Result<(), ClientError> {
    let grace_ms = grace.as_millis().try_into().unwrap_or(u64::MAX);
    let begun = Instant::now();
    let goes_on = || dir.is_alive() && begun.elapsed() < LAST_MOMENTS + grace;
    loop {
        let asked = Client::connect(dir).and_then(|mut vm| vm.request(&Request::Stop { grace_ms }));
        match asked {
            Ok(_) | Err(ClientError::NotRunning { .. }) => break,
            // Its process is there and its socket not yet, or no more.
            Err(ClientError::Connection { .. }) if goes_on() => thread::sleep(MOMENT),
            Err(ClientError::Connection { .. }) if !dir.is_alive() => break,
            Err(error) => return Err(error),
        }
    }
    // The answer comes just before the process's end.
    while goes_on() {
        thread::sleep(MOMENT);
    }
    Ok(())
}

/// How long a VM's process may take to come and to go, on a busy machine.
const LAST_MOMENTS: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(10);

/// Ends a VM at once and removes it.
///
/// # Errors
/// There is no such VM, or it does not end.
pub(crate) fn remove_by_force(dir: &VmDir) -> anyhow::Result<()> {
    end(known(dir)?, Duration::ZERO)?;
    match dir.remove() {
        // Somebody else was as quick.
        Err(_) if !dir.exists() => Ok(()),
        removed => Ok(removed?),
    }
}

fn ask(dir: &VmDir, request: &Request) -> anyhow::Result<()> {
    Client::connect(dir)?.request(request)?;
    Ok(())
}

fn known(dir: &VmDir) -> Result<&VmDir, ClientError> {
    match dir.exists() {
        true => Ok(dir),
        false => Err(ClientError::Unknown {
            name: dir.name().clone(),
        }),
    }
}

fn each(vms: &[VmName], act: impl Fn(&VmDir) -> anyhow::Result<()>) -> anyhow::Result<u8> {
    let run_dir = RunDir::for_user()?;
    let mut status = exit::OK;
    for name in vms {
        match act(&run_dir.vm(name)) {
            Ok(()) => ui::line(name)?,
            Err(error) => {
                ui::error(&error);
                status = exit::FAILED;
            }
        }
    }
    Ok(status)
}
