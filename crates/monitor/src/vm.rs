//! The process of a VM, in a straight line: order, shell, machine, owner.

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

/// Runs a VM's process, from its first order to its end. The hand-over socket is its standard
/// input.
///
/// # Errors
/// Why there is no VM, in one line, which has been reported to the launcher, too.
pub(crate) fn main() -> Result<(), String> {
    secrecy::withhold_memory().map_err(|error| error.to_string())?;
    // Leaves the launcher's terminal and process group, so that its Ctrl-C does not end the VM.
    let _ = rustix::process::setsid();
    descriptors::expect_many();
    // A caller of fork waits for this process, which must get the processor quickly.
    sched::use_short_time_slice();
    signals::hold().map_err(|error| one_line(&error))?;
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let launcher = VmEnd::new(UnixStream::from(socket.map_err(|error| one_line(&error))?));
    let (order, mut claim) = launcher.build_shell().map_err(|error| {
        // Reported, not only logged: there may be no space for the log.
        let error = api::Error::of(Code::Host, &error);
        launcher.report(&Progress::Failed(error.clone()));
        error.to_string()
    })?;
    fault::arm_from(&order.run_dir);
    let config = Config {
        run_dir: RunDir::at(order.run_dir.clone()),
        program: Program::of_this_process(),
        settings: order.settings,
    };
    match build(&launcher, &config, &order, &mut claim) {
        Ok(Some((vm, urgent))) => owner::run_vm(vm, urgent, launcher, config, claim),
        // The launcher wants no VM after all.
        Ok(None) => {
            claim.abandon();
            Ok(())
        }
        Err(error) => Err(launcher.give_up(claim, &*error)),
    }
}

/// A machine to run, and for a clone the urgent scheduling with which it starts.
type VmToRun = (ReadyVm, Option<RealtimeBoost>);

/// Builds a shell and boots or restores the ordered VM in it; `None` if the launcher wants none.
fn build(
    launcher: &VmEnd,
    config: &Config,
    order: &BuildShell,
    claim: &mut Claim,
) -> Result<Option<VmToRun>, Box<dyn Error>> {
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

/// Waits for the next order with urgent scheduling: a launcher that has ordered a clone goes
/// on with other work, which would keep this process from the processor.
fn next_order(launcher: &VmEnd) -> io::Result<(Option<(Order, FdTable)>, RealtimeBoost)> {
    let urgent = RealtimeBoost::for_monitor();
    Ok((launcher.order()?, urgent))
}
