//! Connects this process to ports of a guest.

use super::user::Sockets;
use hyperfork_api::port::Protocol;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Makes connections to a guest: its address, and the namespace in which that address is routed.
#[derive(Debug, Clone)]
pub struct GuestConnector {
    ip: Ipv4Addr,
    /// Makes sockets in that namespace; `None` if the host itself has a route to the address.
    sockets: Option<Arc<Sockets>>,
}

impl GuestConnector {
    /// For an address to which the host has a route.
    pub fn direct(ip: Ipv4Addr) -> Self {
        Self { ip, sockets: None }
    }

    /// For an address to which only a namespace has a route, by sockets made there.
    pub(super) fn inside(ip: Ipv4Addr, sockets: Arc<Sockets>) -> Self {
        Self {
            ip,
            sockets: Some(sockets),
        }
    }

    /// Connects to a TCP port of the guest within `timeout`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stream(&self, port: u16, timeout: Duration) -> io::Result<TcpStream> {
        let to = SocketAddrV4::new(self.ip, port);
        match &self.sockets {
            None => TcpStream::connect_timeout(&to.into(), timeout),
            Some(sockets) => connect(sockets.make(Protocol::Tcp)?, to, timeout),
        }
    }

    /// Makes a UDP socket that sends to a port of the guest and receives only from it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn datagrams(&self, port: u16) -> io::Result<UdpSocket> {
        let to = SocketAddrV4::new(self.ip, port);
        let socket = match &self.sockets {
            None => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
            Some(sockets) => sockets.make(Protocol::Udp)?.into(),
        };
        socket.connect(to)?;
        Ok(socket)
    }
}

/// Connects a new socket within `timeout`.
fn connect(socket: OwnedFd, to: SocketAddrV4, timeout: Duration) -> io::Result<TcpStream> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            let timeout = Timespec {
                tv_sec: timeout.as_secs() as i64,
                tv_nsec: timeout.subsec_nanos().into(),
            };
            if poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&timeout))? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            rustix::net::sockopt::socket_error(&socket)??;
        }
        Err(error) => return Err(error.into()),
    }
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket.into())
}
