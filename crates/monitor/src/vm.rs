//! The life of a VM's process: order, shell, machine, owner.

use crate::owner;
use crate::prepared::{Prepared, ReadyVm};
use crate::signals;
use hyperfork_api::{self as api, Code, one_line};
use hyperfork_host::handover::{BuildShell, Order, Progress, VmEnd};
use hyperfork_host::run_dir::Claim;
use hyperfork_host::{Config, Program, RunDir};
use hyperfork_sys::fds::FdTable;
use hyperfork_sys::sched::{self, RealtimeBoost};
use hyperfork_sys::{descriptors, fault, secrecy};
use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// A VM's process, from its first order to its end. The hand-over socket is its standard
/// input.
///
/// # Errors
/// Why there is no VM, in one line that the launcher has been told, too.
pub(crate) fn main() -> Result<(), String> {
    secrecy::withhold_memory().map_err(|error| error.to_string())?;
    // Out of the launcher's terminal and process group: its Ctrl-C is not ours.
    let _ = rustix::process::setsid();
    descriptors::expect_many();
    // A caller of fork waits for this process; its guest's CPUs compute.
    sched::use_short_time_slice();
    signals::hold().map_err(|error| one_line(&error))?;
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let launcher = VmEnd::new(UnixStream::from(socket.map_err(|error| one_line(&error))?));
    let (order, mut claim) = launcher.build_shell().map_err(|error| {
        // Its log may be what there is no room for.
        let told = api::Error::because(Code::Host, "there is no order", &error);
        launcher.report(&Progress::Failed(told.clone()));
        told.to_string()
    })?;
    fault::arm_from(&order.run_dir);
    let config = Config {
        run_dir: RunDir::at(order.run_dir.clone()),
        program: Program::of_this_process(),
        settings: order.settings,
    };
    match make(&launcher, &config, &order, &mut claim) {
        Ok(Some((vm, urgent))) => owner::live(vm, urgent, launcher, config, claim),
        // The launcher wants no VM after all.
        Ok(None) => {
            claim.abandon();
            Ok(())
        }
        Err(error) => Err(launcher.give_up(claim, &*error)),
    }
}

/// A machine to run, and for a clone the right to do so at once.
type Made = (ReadyVm, Option<RealtimeBoost>);

/// Builds a shell, and makes of it what is ordered; nothing, if there is no order.
fn make(
    launcher: &VmEnd,
    config: &Config,
    order: &BuildShell,
    claim: &mut Claim,
) -> Result<Option<Made>, Box<dyn Error>> {
    let mut prepared = Prepared::build(config, order)?;
    launcher.report(&Progress::Shell);
    loop {
        let (next, urgent) = next_order(launcher)?;
        let Some((next, fds)) = next else {
            return Ok(None);
        };
        if let Some(name) = next.name() {
            claim.take_place(config.run_dir.vm(name))?;
        }
        match next {
            Order::Preload(hint) => {
                drop(urgent);
                prepared.preload(&hint, &fds)?;
            }
            Order::Boot(_) if order.warm => {
                return Err("a shell whose vCPUs have run cannot boot".into());
            }
            Order::Boot(new) => {
                drop(urgent);
                return Ok(Some((prepared.boot(*new)?, None)));
            }
            Order::Clone(new) => {
                let (state, fds) = launcher.state()?;
                let vm = prepared.restore(*new, &state, &fds)?;
                return Ok(Some((vm, Some(urgent))));
            }
        }
    }
}

/// Waits for what to do next, urgently: a launcher that wants a clone goes on with other
/// things, and would keep the processor.
fn next_order(launcher: &VmEnd) -> io::Result<(Option<(Order, FdTable)>, RealtimeBoost)> {
    let urgent = RealtimeBoost::for_monitor();
    Ok((launcher.order()?, urgent))
}
