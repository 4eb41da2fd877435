//! `pause`, `resume`, `stop`, `rm`: one action on several VMs. Prints the name of each VM for
//! which it succeeds and the error of each for which it fails; one failure does not stop the rest.

use crate::args::{Rm, Stop, Vms};
use crate::config;
use crate::exit;
use crate::ui::{self, Progress};
use hyperfork_api::VmName;
use hyperfork_api::control::{Ask, Pause, Resume};
use hyperfork_host::{Client, VmDir, lifecycle};
use std::time::Duration;

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
    each(&args.vms.vms, |dir| match args.force {
        true => Ok(lifecycle::remove_by_force(dir)?),
        false => Ok(lifecycle::remove(dir)?),
    })
}

fn ask(dir: &VmDir, request: impl Ask) -> anyhow::Result<()> {
    Client::connect(dir)?.ask(request)?;
    Ok(())
}

fn each(vms: &[VmName], act: impl Fn(&VmDir) -> anyhow::Result<()>) -> anyhow::Result<u8> {
    let run_dir = config::run_dir()?;
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
