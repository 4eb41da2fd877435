//! Signals to a VM's process.

use hyperfork_sys::signals::{self, Signals};
use rustix::process::Signal;
use std::io;

/// The signals that a VM's process handles.
const OF_A_VM: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::CHILD];

/// Blocks the signals until the process [watches](watch) for them. Call this before starting
/// threads, which would receive them otherwise.
pub(super) fn hold() -> io::Result<()> {
    Signals::block(&OF_A_VM).map(drop)
}

/// Calls `terminate` when a signal asks the process to end, and reaps children that have ended.
pub(super) fn watch(terminate: impl Fn() + Send + 'static) -> io::Result<()> {
    signals::on_each(&OF_A_VM, move |signal| match signal {
        Signal::CHILD => signals::reap(),
        _ => terminate(),
    })
}
