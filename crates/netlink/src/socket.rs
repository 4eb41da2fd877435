//! Requests to the kernel.

use super::{Batch, Content, messages, refusals};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use std::io;
use std::os::fd::OwnedFd;

/// Bytes that hold any message of a listing: the kernel puts no more into one.
const LISTED: usize = 32 << 10;

/// Which subsystem of the kernel to speak to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subsystem {
    /// Interfaces, addresses and routes (rtnetlink(7)).
    Route,
    /// The packet filter (nfnetlink).
    Filter,
    /// Sockets (sock_diag(7)).
    SockDiag,
}

/// A connection to the kernel, to the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// A connection to one subsystem, in the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel's: it was built without the subsystem.
    pub fn open(subsystem: Subsystem) -> io::Result<Self> {
        let protocol = match subsystem {
            Subsystem::Route => None,
            Subsystem::Filter => Some(netlink::NETFILTER),
            Subsystem::SockDiag => Some(netlink::SOCK_DIAG),
        };
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        Ok(Self(socket))
    }

    /// Sends all messages of a batch, which the kernel carries out in order.
    ///
    /// # Errors
    /// The first that the kernel answers; what comes after it may have been done.
    pub fn request(&self, batch: &Batch) -> io::Result<()> {
        send(&self.0, batch.as_bytes(), SendFlags::empty())?;
        refusals(|buffer| Ok(recv(&self.0, buffer, RecvFlags::DONTWAIT)?.0))
    }

    /// Requests a listing, and calls `each` with every entry, by kind and payload.
    ///
    /// # Errors
    /// The kernel's.
    pub fn list(&self, batch: &Batch, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        send(&self.0, batch.as_bytes(), SendFlags::empty())?;
        let mut buffer = vec![0; LISTED];
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

    /// The number of a network interface.
    ///
    /// # Errors
    /// The kernel's: there is none of that name.
    pub fn index_of(&self, name: &str) -> io::Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(&self.0, name)?)
    }
}
