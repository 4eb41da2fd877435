//! Waiting for the processes of VMs to end.

use super::VmDir;
use hyperfork_api::VmInfo;
use hyperfork_sys::process;
use std::thread;
use std::time::{Duration, Instant};

/// How often to check whether they have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// How long to wait for a process that is ending: the kernel frees the VM's memory first, which
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
            if !self.is_ending() {
                // It may have ended just now.
                return self.is_alive();
            }
            thread::sleep(POLL_INTERVAL);
        }
        false
    }

    /// Whether the VM's process has recorded the VM's end, or the kernel is ending the process.
    fn is_ending(&self) -> bool {
        self.has_recorded_end() || self.pid().is_some_and(process::is_ending)
    }

    /// The VM is listed as ended from then on, but its process still has answers to write.
    fn has_recorded_end(&self) -> bool {
        let info = self.read_info().ok();
        let info = info.and_then(|text| serde_json::from_slice::<VmInfo>(&text).ok());
        info.is_some_and(|info| !info.status.state.is_alive())
    }
}
