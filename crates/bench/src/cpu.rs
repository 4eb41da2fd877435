//! Reads the processor time that a process has used.

use crate::stats::tenths;
use std::fs;
use std::path::Path;

/// That of all threads a process has now (proc(5), `schedstat`), guest code included,
/// microseconds; `None` where the host does not tell, or the process is gone.
pub(crate) fn used_us(pid: u32) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let used = threads.filter_map(|thread| used_ns(&thread.path()));
    let ns = used.reduce(|sum, ns| sum + ns)?;
    Some(tenths(ns as f64 / 1000.0))
}

fn used_ns(thread: &Path) -> Option<u64> {
    let text = fs::read_to_string(thread.join("schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_time_of_a_process_only_grows_and_no_process_has_none() {
        let before = used_us(std::process::id()).unwrap();
        while used_us(std::process::id()).unwrap() <= before {}
        assert_eq!(used_us(0), None);
    }
}
