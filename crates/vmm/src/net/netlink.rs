//! Asking the host kernel over netlink.

use hyperfork_api::netlink::{Batch, Content, messages};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

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

/// The kernel answers at once, unless it is in trouble.
const PATIENCE: Duration = Duration::from_secs(30);

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
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Has all of it done, in order, and waits for the answers.
    ///
    /// # Errors
    /// The first that the kernel answers; what comes after it may have been done.
    pub(super) fn request(&self, batch: &Batch) -> io::Result<()> {
        send(&self.0, batch.as_bytes(), SendFlags::empty())?;
        let mut left = batch.acks();
        let mut first = None;
        let mut buffer = vec![0; 32 << 10];
        while left > 0 {
            let (len, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            for message in messages(&buffer[..len]) {
                if let Content::Answer(number) = message.content {
                    left = left.saturating_sub(1);
                    if number != 0 {
                        first.get_or_insert(io::Error::from_raw_os_error(number));
                    }
                }
            }
            // Of what was refused as a whole, not every part is answered.
            if let Some(error) = first {
                return Err(error);
            }
        }
        Ok(())
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
