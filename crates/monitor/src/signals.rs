//! Signals to a VM's process.

use hyperfork_sys::signals::{self, Signals};
use rustix::process::Signal;
use std::io;

/// Those that a VM's process waits for.
const OF_A_VM: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::CHILD];

/// Holds the signals to a VM's process until it [watches](watch) for them. To be called
/// before there are threads, which would get them otherwise.
pub(super) fn hold() -> io::Result<()> {
    Signals::block(&OF_A_VM).map(drop)
}

/// Calls `terminate` when the process is told to end, and reaps children that have ended.
pub(super) fn watch(terminate: impl Fn() + Send + 'static) -> io::Result<()> {
    signals::on_each(&OF_A_VM, move |signal| match signal {
        Signal::CHILD => signals::reap(),
        _ => terminate(),
    })
}
