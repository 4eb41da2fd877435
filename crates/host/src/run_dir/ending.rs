//! Waiting for the processes of VMs to end.

use super::VmDir;
use std::thread;
use std::time::{Duration, Instant};

/// How often it is looked whether they live.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Waits until no process is behind any of these directories, but not longer than `most`. Gives
/// those that still have one.
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
