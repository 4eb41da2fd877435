//! Requests to the host kernel over netlink.

use hyperfork_api::netlink::route::listed_address;
use hyperfork_api::netlink::{Batch, Content, messages, refusals};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use std::io;
use std::net::Ipv4Addr;
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

    /// Requests a list, and calls `each` with every entry, by kind and payload.
    ///
    /// # Errors
    /// The kernel's.
    fn list(&self, batch: &Batch, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        send(&self.0, batch.as_bytes(), SendFlags::empty())?;
        let mut buffer = vec![0; 32 << 10];
        loop {
            let (len, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            for message in messages(&buffer[..len]) {
                match message.content {
                    Content::Done | Content::Answer(0) => return Ok(()),
                    Content::Answer(number) => return Err(io::Error::from_raw_os_error(number)),
                    Content::Other(kind, payload) => each(kind, payload),
                }
            }
        }
    }

    /// All addresses of the namespace in which this was opened.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn addresses(&self) -> io::Result<Vec<Ipv4Addr>> {
        let mut batch = Batch::new();
        batch.list_addresses();
        let mut addresses = Vec::new();
        self.list(&batch, |kind, payload| {
            addresses.extend(listed_address(kind, payload))
        })?;
        Ok(addresses)
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
