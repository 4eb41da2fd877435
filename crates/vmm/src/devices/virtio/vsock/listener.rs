//! The public Unix sockets on the host: `<path>` for connections to the guest, and
//! `<path>_<port>` for connections from it (the convention of Firecracker).

use crate::sys::peer::Peers;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Longest greeting: `CONNECT ` and a 32-bit number, with some room for spaces.
const MAX_GREETING: usize = 32;

/// A public socket.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: UnixListener,
    pub(super) path: PathBuf,
    peers: Peers,
}

impl Listener {
    /// Binds `path`, non-blocking.
    pub(super) fn bind(path: &Path) -> std::io::Result<Self> {
        let socket = UnixListener::bind(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            peers: Peers::of_this_process(),
        })
    }

    /// The next client, if one waits and the process can take it. Those of other users are
    /// closed.
    pub(super) fn accept(&self) -> Option<UnixStream> {
        loop {
            let (stream, _) = self.socket.accept().ok()?;
            if self.peers.include(&stream) {
                stream.set_nonblocking(true).ok()?;
                return Some(stream);
            }
        }
    }

    /// Connects to the host's listener for `port`; `None` if there is none.
    pub(super) fn dial(&self, port: u32) -> Option<UnixStream> {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{port}"));
        let address = SocketAddrUnix::new(PathBuf::from(path)).ok()?;
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )
        .ok()?;
        // A Unix stream connects at once, or (backlog full) not at all.
        connect(&socket, &address).ok()?;
        Some(UnixStream::from(socket))
    }
}

/// How much of a client's greeting has been read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// The line is not complete.
    Partial,
    /// It asks for this guest port; these bytes came after the line.
    Connect(u32, Vec<u8>),
    /// It is not a greeting, or the client has gone.
    Refused,
}

/// A client that has not yet said which port it wants.
#[derive(Debug)]
pub(super) struct Greeter {
    pub(super) stream: UnixStream,
    line: Vec<u8>,
    /// Ticks it has left to say it.
    ticks_left: u32,
}

impl Greeter {
    pub(super) fn new(stream: UnixStream, ticks_left: u32) -> Self {
        Self {
            stream,
            line: Vec::new(),
            ticks_left,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// A second has passed; true when the client's time is up.
    pub(super) fn tick(&mut self) -> bool {
        self.ticks_left = self.ticks_left.saturating_sub(1);
        self.ticks_left == 0
    }

    /// Reads what is there.
    pub(super) fn read(&mut self) -> Greeting {
        loop {
            let mut buffer = [0; MAX_GREETING];
            match recv(&self.stream, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Greeting::Refused,
                Ok((n, _)) => self.line.extend(&buffer[..n]),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Greeting::Partial,
                Err(_) => return Greeting::Refused,
            }
            match parse(&self.line) {
                Greeting::Partial => {}
                done => return done,
            }
        }
    }
}

fn parse(input: &[u8]) -> Greeting {
    let Some(end) = input.iter().position(|&b| b == b'\n') else {
        return if input.len() < MAX_GREETING {
            Greeting::Partial
        } else {
            Greeting::Refused
        };
    };
    let port = std::str::from_utf8(&input[..end]).ok().and_then(|line| {
        let (verb, port) = line.trim_end().split_once(' ')?;
        verb.eq_ignore_ascii_case("connect")
            .then(|| port.trim_start().parse().ok())?
    });
    match port {
        Some(port) => Greeting::Connect(port, input[end + 1..].to_vec()),
        None => Greeting::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_greeting_names_the_port_and_keeps_what_follows() {
        assert_eq!(
            parse(b"CONNECT 52\nhello"),
            Greeting::Connect(52, b"hello".to_vec())
        );
        assert_eq!(
            parse(b"connect 4294967295\r\n"),
            Greeting::Connect(u32::MAX, vec![])
        );
    }

    #[test]
    fn half_a_greeting_waits_for_the_rest() {
        assert_eq!(parse(b""), Greeting::Partial);
        assert_eq!(parse(b"CONNECT 5"), Greeting::Partial);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "\n",
            "CONNECT\n",
            "CONNECT x\n",
            "CONNECT -1\n",
            "CONNECT 4294967296\n",
            "GET / HTTP/1.1\r\n",
        ] {
            assert_eq!(parse(bad.as_bytes()), Greeting::Refused, "{bad:?}");
        }
        assert_eq!(parse(&[b'x'; MAX_GREETING]), Greeting::Refused);
    }

    proptest! {
        #[test]
        fn no_greeting_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }
    }
}
