//! Waiting for the processes of VMs to end.

use super::VmDir;
use std::thread;
use std::time::{Duration, Instant};

/// How often to check whether they have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

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
