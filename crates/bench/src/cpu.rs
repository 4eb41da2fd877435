//! Reads the processor time that a process has used.

use crate::stats::tenths;
use procfs::process::Process;

/// That of all threads a process has now (proc(5), `schedstat`), guest code included,
/// microseconds; `None` where the host does not tell, or the process is gone.
pub(crate) fn used_us(pid: u32) -> Option<f64> {
    let threads = Process::new(pid.cast_signed())
        .ok()?
        .tasks()
        .ok()?
        .flatten();
    let used = threads.filter_map(|thread| Some(thread.schedstat().ok()?.sum_exec_runtime));
    let ns = used.reduce(|sum, ns| sum + ns)?;
    Some(tenths(ns as f64 / 1000.0))
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
