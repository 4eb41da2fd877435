//! From a machine that is ready to run to the end of its VM.

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

/// How long a clone is left alone to come out for the first time. Idle guests may take
/// longer: a tick of their clock.
const FIRST_EXIT: Duration = Duration::from_millis(5);

/// How long a clone's vCPUs take the processor from others at most, when nothing keeps them
/// from entering. Entering a guest takes 60 µs on a PVM host.
const URGENT_RUN: Duration = Duration::from_micros(200);

/// Lets the machine run and owns it until its end.
///
/// # Errors
/// When it cannot even begin, in one line.
pub(crate) fn live(
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
    // First of all: the caller of a fork waits for its first instruction, and what is to be done here
    // takes the processor it could run on.
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
    if let Err(error) = watched.and_then(|()| watch_launcher(&launcher, vm.around.tasks.0.clone()))
    {
        drop(vm);
        return Err(launcher.give_up(claim, &error));
    }
    Owner::run(vm, launcher, config, claim);
    Ok(())
}

/// Tells the owner when the launcher lets go of the VM.
fn watch_launcher(launcher: &VmEnd, tasks: Sender<Task>) -> io::Result<()> {
    let launcher = launcher.try_clone()?;
    thread::Builder::new()
        .name("launcher".into())
        .spawn(move || {
            launcher.await_release();
            if tasks.send(Task::LetGo).is_err() {
                note!("the VM has ended before its launcher let go of it");
            }
        })?;
    Ok(())
}
