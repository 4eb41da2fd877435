//! Whether the client of a connection is still there.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::unix::net::UnixStream;

/// Whether the client has closed the connection, or has ended. A client that has only shut down
/// its own direction (as `nc -N` does) still reads, and is there: poll(2) reports `POLLHUP` for a
/// Unix stream socket only when both directions are shut down, and `POLLRDHUP` for one.
pub(super) fn is_gone(connection: &UnixStream) -> bool {
    let mut polled = [PollFd::new(connection, PollFlags::empty())];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let ready = poll(&mut polled, Some(&at_once));
    ready.is_ok() && polled[0].revents().contains(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::Shutdown;

    #[test]
    fn a_client_that_shuts_down_one_direction_is_there_until_it_closes_both() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        assert!(!is_gone(&ours));
        theirs.write_all(b"{}\n").unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        assert!(!is_gone(&ours));
        drop(theirs);
        assert!(is_gone(&ours));
    }

    #[test]
    fn a_client_that_closes_without_reading_is_gone() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"{}\n").unwrap();
        drop(theirs);
        assert!(is_gone(&ours));
    }
}
