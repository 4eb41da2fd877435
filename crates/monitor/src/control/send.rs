//! Sending without blocking.

use rustix::net::SendFlags;
use std::io;
use std::os::unix::net::UnixStream;

/// Sends all of a line at once, without waiting for the peer to read.
///
/// # Errors
/// The socket's; `WouldBlock` where the peer has not read what it was sent before.
pub(crate) fn send_now(stream: &UnixStream, line: &[u8]) -> io::Result<()> {
    match send_what_fits(stream, line)? {
        sent if sent == line.len() => Ok(()),
        _ => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Sends as much as there is room for. Returns how many bytes that were.
///
/// # Errors
/// The socket's; `WouldBlock` where there is no room.
pub(super) fn send_what_fits(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(rustix::net::send(stream, bytes, flags)?)
}
