//! The process at the other end of a Unix socket: whose it is, and whether it reads.
#![allow(unsafe_code)] // For ioctl(2).

use crate::check;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Uid, geteuid};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// The users that a socket of this process serves. Its directory keeps others out already; this
/// check holds where the directory was opened to them, or a descriptor of it was passed on.
#[derive(Debug, Clone, Copy)]
pub struct Peers {
    /// The user that runs this process.
    user: Uid,
}

impl Peers {
    /// The user that runs this process, and root. (Looked up once: a confined thread cannot ask.)
    pub fn of_this_process() -> Self {
        Self { user: geteuid() }
    }

    /// Whether one of them has made this connection.
    pub fn include(&self, connection: &UnixStream) -> bool {
        socket_peercred(connection).is_ok_and(|peer| peer.uid == self.user || peer.uid.is_root())
    }
}

/// How much of the host's memory holds what was sent over this connection and was not read by the
/// peer; 0 when the peer has read all.
///
/// # Errors
/// The system's.
pub fn unread(connection: &UnixStream) -> io::Result<u32> {
    let mut unread: libc::c_int = 0;
    // SAFETY: the request writes an int, and `unread` is one.
    check(unsafe { libc::ioctl(connection.as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) })?;
    Ok(unread.unsigned_abs())
}

/// In tests, which run as root: a connection to this socket by another user. It opens the socket
/// and its directory to that user first.
#[doc(hidden)]
pub fn stranger_at(socket: &std::path::Path) -> UnixStream {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    let other = Uid::from_raw(65534);
    let directory = socket.parent().expect("a directory");
    set_permissions(directory, Permissions::from_mode(0o711)).expect("our directory");
    set_permissions(socket, Permissions::from_mode(0o777)).expect("our socket");
    let connect = || {
        rustix::thread::set_thread_res_uid(other, other, other).expect("root's right");
        UnixStream::connect(socket)
    };
    let connected = std::thread::scope(|scope| scope.spawn(connect).join());
    connected.expect("no panic").expect("a connection")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn what_was_sent_is_unread_until_the_peer_has_accepted_and_read_it() {
        use std::io::{Read, Write};
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut ours = UnixStream::connect(&socket).unwrap();
        assert_eq!(unread(&ours).unwrap(), 0);
        ours.write_all(b"1234").unwrap();
        assert!(unread(&ours).unwrap() > 0);
        let (mut theirs, _) = listener.accept().unwrap();
        theirs.read_exact(&mut [0; 2]).unwrap();
        assert!(unread(&ours).unwrap() > 0);
        theirs.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(unread(&ours).unwrap(), 0);
    }

    #[test]
    fn of_two_users_that_connect_the_own_one_is_a_peer() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let peers = Peers::of_this_process();
        let _stranger = stranger_at(&socket);
        assert!(!peers.include(&listener.accept().unwrap().0));
        let _own = UnixStream::connect(&socket).unwrap();
        assert!(peers.include(&listener.accept().unwrap().0));
    }
}
