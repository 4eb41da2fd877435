//! Virtio sockets (vsock(7)), which neither `std` nor rustix knows.

use super::check;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Connections that may wait to be accepted.
const BACKLOG: libc::c_int = 128;

const ADDRESS_LEN: libc::socklen_t = mem::size_of::<libc::sockaddr_vm>() as libc::socklen_t;

/// A non-blocking listener on `port`, whatever CID the host addresses: a clone
/// has another one than the machine in which the listener was made.
///
/// # Errors
/// The kernel's, for instance where it has no vsock.
pub(crate) fn listen(port: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes plain numbers.
    let raw = check(unsafe { libc::socket(libc::AF_VSOCK, kind, 0) })?;
    // SAFETY: the kernel just made this descriptor for us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let mut address = empty_address();
    address.svm_port = port;
    address.svm_cid = libc::VMADDR_CID_ANY;
    // SAFETY: the pointer and length describe `address`, which outlives the call.
    check(unsafe { libc::bind(raw, (&raw const address).cast(), ADDRESS_LEN) })?;
    // SAFETY: listen takes plain numbers.
    check(unsafe { libc::listen(raw, BACKLOG) })?;
    Ok(socket)
}

/// The CID by which the host addressed this connection.
///
/// # Errors
/// The kernel's.
pub(crate) fn local_cid(connection: BorrowedFd<'_>) -> io::Result<u32> {
    let mut address = empty_address();
    let mut len = ADDRESS_LEN;
    // SAFETY: `address` has room for `len` bytes, and the kernel writes no more.
    check(unsafe {
        libc::getsockname(
            connection.as_raw_fd(),
            (&raw mut address).cast(),
            &raw mut len,
        )
    })?;
    Ok(address.svm_cid)
}

/// Whether the host has made this connection. A program in the guest can make one, too, where
/// its kernel has a loopback for vsock, and would be root by it.
///
/// # Errors
/// The kernel's: the connection is over.
pub(crate) fn is_the_hosts(connection: BorrowedFd<'_>) -> io::Result<bool> {
    let mut address = empty_address();
    let mut len = ADDRESS_LEN;
    // SAFETY: `address` has room for `len` bytes, and the kernel writes no more.
    check(unsafe {
        libc::getpeername(
            connection.as_raw_fd(),
            (&raw mut address).cast(),
            &raw mut len,
        )
    })?;
    Ok(is_the_host(&address))
}

fn is_the_host(address: &libc::sockaddr_vm) -> bool {
    libc::c_int::from(address.svm_family) == libc::AF_VSOCK
        && address.svm_cid == libc::VMADDR_CID_HOST
}

fn empty_address() -> libc::sockaddr_vm {
    // SAFETY: all-zero bytes are a valid `sockaddr_vm`.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_that_can_connect_the_host_alone_is_the_host() {
        let of = |svm_cid| libc::sockaddr_vm {
            svm_cid,
            ..empty_address()
        };
        assert!(is_the_host(&of(libc::VMADDR_CID_HOST)));
        for other in [libc::VMADDR_CID_LOCAL, libc::VMADDR_CID_ANY, 0, 3, 77] {
            assert!(!is_the_host(&of(other)), "{other}");
        }
        let mut unknown = of(libc::VMADDR_CID_HOST);
        unknown.svm_family = 0;
        assert!(!is_the_host(&unknown));
    }
}
