//! Signals to a VM's process, or to the pool's.

use super::owner::Task;
use crate::sys::signals::Signals;
use rustix::process::{Signal, WaitOptions, wait};
use std::io::{self, Write};
use std::sync::mpsc::Sender;
use std::thread;

/// Those that a VM's process waits for.
const OF_A_VM: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::CHILD];

/// Holds the signals to a VM's process until it [watches](watch) for them. To be called
/// before there are threads, which would get them otherwise.
pub(super) fn hold() -> io::Result<()> {
    Signals::block(&OF_A_VM).map(drop)
}

/// Ends in order when told to, and reaps children that ended before us.
pub(super) fn watch(tasks: Sender<Task>) -> io::Result<()> {
    on_each(&OF_A_VM, move |signal| match signal {
        Signal::CHILD => reap(),
        _ => drop(tasks.send(Task::Terminate)),
    })
}

/// Reaps children whenever one ends. To be called before there are threads.
pub(super) fn reap_children() -> io::Result<()> {
    on_each(&[Signal::CHILD], |_| reap())
}

fn reap() {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        // Its confinement left it no time to say so itself.
        if status.terminating_signal() == Some(Signal::SYS.as_raw()) {
            let _ = writeln!(
                io::stderr(),
                "process {pid} was ended: a thread that handles what a guest writes made a system call that it may not"
            );
        }
    }
}

fn on_each(signals: &[Signal], mut then: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    let signals = Signals::block(signals)?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while let Ok(signal) = signals.wait() {
                then(signal);
            }
        })
        .map(drop)
}
