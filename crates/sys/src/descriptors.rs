//! How many descriptors this process may have, and has room for.

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors that a VM and its connections have as a rule, at most.
const USUAL: i32 = 512;

/// Allows as many as the user may have: a guest may have a thousand connections, each a
/// descriptor here.
///
/// And has the kernel make room for the usual number now, while the process has one thread.
/// Later, each time the table is full, a thread that opens one more waits until all processors
/// have passed through the scheduler, 5 to 20 ms: in the midst of a fork, as a VM with a
/// network needs more than the 64 there is room for at first.
pub fn expect_many() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it the VM has fewer connections, and says so when it comes to that.
    let _ = setrlimit(Resource::Nofile, limit);
    // The table grows to hold the highest number, and does not shrink. Where it cannot, it
    // grows later.
    let _ = fcntl_dupfd_cloexec(std::io::stdin(), USUAL - 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_the_usual_number_afterwards() {
        expect_many();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
        assert!(size.unwrap().trim().parse::<i32>().unwrap() >= USUAL);
    }
}
