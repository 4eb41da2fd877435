//! Waiting for the processes of VMs to end.

use super::VmDir;
use procfs::process::{Process, StatFlags};
use rustix::process::Signal;
use std::thread;
use std::time::{Duration, Instant};

/// How often to check whether they have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// How long to wait for a process that the kernel is ending: it frees the VM's memory first, which
/// takes seconds for a large VM on a busy host.
const ENDING_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits until the processes of all these directories have ended, but not longer than `most`.
/// Returns the directories whose process still lives.
pub(crate) fn await_end(mut dirs: Vec<VmDir>, most: Duration) -> Vec<VmDir> {
    let begun = Instant::now();
    loop {
        dirs.retain(VmDir::is_alive);
        if dirs.is_empty() || begun.elapsed() >= most {
            return dirs;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

impl VmDir {
    /// Whether the VM's process has ended, at the latest when `most` has passed.
    pub(crate) fn ends_within(&self, most: Duration) -> bool {
        await_end(vec![self.clone()], most).is_empty()
    }

    /// Whether the VM's process lives and goes on living: waits a moment for one that is ending.
    pub(super) fn lives_on(&self) -> bool {
        let begun = Instant::now();
        while self.is_alive() {
            if begun.elapsed() >= ENDING_TIMEOUT {
                return true;
            }
            if !self.pid().is_some_and(is_ending) {
                // It may have ended just now.
                return self.is_alive();
            }
            thread::sleep(POLL_INTERVAL);
        }
        false
    }
}

/// Whether the kernel is ending this process, or will as soon as the process notices that it was
/// killed.
fn is_ending(pid: u32) -> bool {
    const KILLED: u64 = 1 << (Signal::KILL.as_raw() - 1);
    let Some(process) = i32::try_from(pid)
        .ok()
        .and_then(|pid| Process::new(pid).ok())
    else {
        return false;
    };
    let is_killed = || {
        let status = process.status();
        status.is_ok_and(|status| (status.sigpnd | status.shdpnd) & KILLED != 0)
    };
    let is_exiting = || {
        let flags = process.stat().map(|stat| stat.flags);
        flags.is_ok_and(|flags| flags & StatFlags::PF_EXITING.bits() != 0)
    };
    // In this order: the signal is no longer pending when the process exits.
    is_killed() || is_exiting()
}
