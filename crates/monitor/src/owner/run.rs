//! Running a machine: the first vCPU entry, the watch on the launcher, and then the owner.

use super::Owner;
use crate::prepared::ReadyVm;
use crate::task::Task;
use hyperfork_host::Config;
use hyperfork_host::handover::VmEnd;
use hyperfork_host::run_dir::Claim;
use hyperfork_sys::sched::RealtimeBoost;
use hyperfork_sys::{fault, note};
use std::io;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

/// How long this thread waits for a clone's first exit. Idle guests may take longer: a tick of
/// their clock.
const FIRST_EXIT: Duration = Duration::from_millis(5);

/// How long a clone's vCPUs may keep their urgent scheduling, when nothing keeps them from
/// entering the guest. Entering a guest takes 60 µs on a PVM host.
const URGENT_RUN: Duration = Duration::from_micros(200);

/// Starts the machine and owns it until its end.
///
/// # Errors
/// Why the machine could not be started, in one line.
pub(crate) fn run_vm(
    mut vm: ReadyVm,
    urgent: Option<RealtimeBoost>,
    launcher: VmEnd,
    config: Config,
    claim: Claim,
) -> Result<(), String> {
    if let Err(error) = fault::point("clone.run") {
        drop(vm);
        return Err(launcher.give_up(claim, &error));
    }
    // Before anything else: the caller of a fork waits for the guest's first instruction, and
    // any other work here takes the processor that the vCPUs could run on.
    let urgent = urgent.filter(RealtimeBoost::is_granted);
    match urgent {
        Some(_) => vm.machine.start(URGENT_RUN),
        None => vm.machine.resume(),
    }
    drop(urgent);
    if vm.restored.is_some() {
        vm.machine.await_first_exit(FIRST_EXIT);
    }
    let watched = fault::point("clone.watch");
    if let Err(error) =
        watched.and_then(|()| watch_launcher(&launcher, vm.resources.tasks.0.clone()))
    {
        drop(vm);
        return Err(launcher.give_up(claim, &error));
    }
    Owner::run(vm, launcher, config, claim);
    Ok(())
}

/// Starts the thread that notifies the owner when the launcher releases or abandons the VM.
fn watch_launcher(launcher: &VmEnd, tasks: Sender<Task>) -> io::Result<()> {
    let launcher = launcher.try_clone()?;
    thread::Builder::new()
        .name("launcher".into())
        .spawn(move || {
            launcher.await_outcome();
            if tasks.send(Task::LauncherFinished).is_err() {
                note!("the VM ended before its launcher released it");
            }
        })?;
    Ok(())
}
