//! Sending without blocking.

use rustix::net::SendFlags;
use std::io;
use std::os::unix::net::UnixStream;

/// Sends all of a line at once, without waiting for the peer to read.
///
/// # Errors
/// The socket's; `WouldBlock` where the peer has not read what it was sent before.
pub(crate) fn send_now(stream: &UnixStream, line: &[u8]) -> io::Result<()> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::send(stream, line, flags)? {
        sent if sent == line.len() => Ok(()),
        _ => Err(io::ErrorKind::WouldBlock.into()),
    }
}
