//! Asking the host kernel over netlink.

use hyperfork_api::netlink::{Batch, refusals};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What of the kernel to speak to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Interfaces, addresses and routes.
    Route,
    /// The packet filter.
    Filter,
}

/// A connection to the kernel, to the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// A connection to one part of the kernel, in the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open(part: Part) -> io::Result<Self> {
        let protocol = match part {
            Part::Route => None,
            Part::Filter => Some(netlink::NETFILTER),
        };
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        Ok(Self(socket))
    }

    /// Has all of it done, in order.
    ///
    /// # Errors
    /// The first that the kernel answers; what comes after it may have been done.
    pub(super) fn request(&self, batch: &Batch) -> io::Result<()> {
        send(&self.0, batch.as_bytes(), SendFlags::empty())?;
        refusals(|buffer| Ok(recv(&self.0, buffer, RecvFlags::DONTWAIT)?.0))
    }

    /// The number of a network interface.
    ///
    /// # Errors
    /// The kernel's: there is none of that name.
    pub(super) fn index_of(&self, name: &str) -> io::Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(&self.0, name)?)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
