//! Sends and receives messages with descriptors over a Unix stream socket (`SCM_RIGHTS`).

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Most descriptors in one message (the kernel's `SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// Longest message in bytes: a guard against a peer that speaks another protocol.
const MAX_LEN: u64 = 1 << 30;

/// Sends one message with descriptors.
///
/// # Errors
/// The socket's; `InvalidInput` over [`MAX_FDS`].
pub fn send(mut socket: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors",
        ));
    }
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    // The descriptors go with the header, so the receiver has them before the body. Header
    // and body at once, so that it wakes once.
    let header = (bytes.len() as u64).to_le_bytes();
    let whole = [IoSlice::new(&header), IoSlice::new(bytes)];
    let sent = sendmsg(socket, &whole, &mut control, SendFlags::NOSIGNAL)?;
    socket.write_all(&header[sent.min(header.len())..])?;
    socket.write_all(&bytes[sent.saturating_sub(header.len())..])
}

/// Receives one message; `None` when the peer has closed.
///
/// It waits in poll(2): a thread that waits in recvmsg(2) is woken without need whenever its peer
/// reads from the socket, and may preempt the peer.
///
/// # Errors
/// The socket's, also when it closes inside a message; when the process may not have as many
/// descriptors as came.
pub fn receive(socket: &UnixStream) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    receive_by(socket, None)
}

/// As [`receive`], but the message has to begin within this time.
///
/// # Errors
/// As [`receive`]; `TimedOut`.
pub fn receive_within(
    socket: &UnixStream,
    within: Duration,
) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    receive_by(socket, Some(Instant::now() + within))
}

/// Waits until there is something to receive, or the peer has closed.
///
/// # Errors
/// The system's.
pub fn await_message(socket: &UnixStream) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], None) {
            Err(Errno::INTR) => {}
            polled => return Ok(polled.map(drop)?),
        }
    }
}

fn receive_by(
    mut socket: &UnixStream,
    deadline: Option<Instant>,
) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut header = [0; 8];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        match recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut header)],
            &mut control,
            flags,
        ) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(socket, deadline)?,
            other => break other?,
        }
    };
    let (got, flags) = (message.bytes, message.flags);
    if got == 0 {
        return Ok(None);
    }
    // Those that did arrive are open, and closed again on the way out if some did not.
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other(format!(
            "a message came with more descriptors than this process may have: {} arrived, raise \
             its limit (ulimit -n)",
            fds.len()
        )));
    }
    socket.read_exact(&mut header[got..])?;
    let len = u64::from_le_bytes(header);
    if len > MAX_LEN {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message too long",
        ));
    }
    let mut bytes = vec![0; len as usize];
    socket.read_exact(&mut bytes)?;
    Ok(Some((bytes, fds)))
}

/// The process at the other end: the one that connected, or bound the socket connected to.
///
/// # Errors
/// The socket's.
pub fn peer(socket: &UnixStream) -> io::Result<u32> {
    let pid = socket_peercred(socket)?.pid;
    Ok(pid.as_raw_nonzero().get().unsigned_abs())
}

/// Until there is something to receive.
fn wait(socket: &UnixStream, deadline: Option<Instant>) -> io::Result<()> {
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = left.map(|left| Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: left.subsec_nanos().into(),
    });
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], timeout.as_ref()) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memfd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (here, there) = UnixStream::pair().unwrap();
        let file = memfd::create("test", 0).unwrap();
        file.write_all_at(b"through the socket", 0).unwrap();
        let bytes = vec![7; 1 << 20];
        let sender = std::thread::spawn({
            let (bytes, fds) = (bytes.clone(), [OwnedFd::from(file)]);
            move || {
                send(&here, &bytes, &fds).unwrap();
                send(&here, b"", &[]).unwrap();
            }
        });
        let (received, mut fds) = receive(&there).unwrap().unwrap();
        assert_eq!(received, bytes);
        let mut content = [0; 18];
        std::fs::File::from(fds.remove(0))
            .read_exact_at(&mut content, 0)
            .unwrap();
        assert_eq!(&content, b"through the socket");
        assert_eq!(receive(&there).unwrap().unwrap().0, b"");
        sender.join().unwrap();
        assert!(receive(&there).unwrap().is_none());
    }
}
