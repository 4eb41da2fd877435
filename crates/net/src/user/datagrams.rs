//! Forwards a guest's UDP: one socket of this process for each guest port and peer.

use super::super::exchange::{Exchange, Ready};
use super::packet::Datagram;
use super::streams::is_elsewhere;
use rustix::io::{Errno, read, write};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;

/// Most conversations at a time.
const MOST: usize = 256;
/// Datagrams that are read from one socket before the other sockets are served.
const BATCH: usize = 32;

/// A source and a destination.
type Pair = (SocketAddrV4, SocketAddrV4);

#[derive(Debug)]
struct Datagrams {
    tun: OwnedFd,
    exchange: Exchange<Pair, UdpSocket>,
    buffer: Vec<u8>,
}

/// Starts the thread that forwards datagrams.
pub(super) fn serve(tun: OwnedFd) -> io::Result<()> {
    let mut datagrams = Datagrams {
        exchange: Exchange::new(&tun, MOST)?,
        tun,
        buffer: vec![0; 1 << 16],
    };
    let forwarder = thread::Builder::new().name("datagrams".into());
    let forwarder = forwarder.spawn(move || {
        while datagrams.forward().is_ok() {}
        hyperfork_sys::note!("the guest's datagrams are no longer forwarded");
    });
    forwarder.map(drop)
}

impl Datagrams {
    /// Waits for datagrams and forwards them.
    fn forward(&mut self) -> io::Result<()> {
        for ready in self.exchange.wait()? {
            match ready {
                Ready::One => self.forward_from_guest()?,
                Ready::Session(number) => self.forward_to_guest(number),
            }
        }
        Ok(())
    }

    /// Forwards what the guest sends. Packets that are no datagrams to another host are dropped.
    fn forward_from_guest(&mut self) -> io::Result<()> {
        for _ in 0..BATCH {
            let len = match read(&self.tun, &mut self.buffer[..]) {
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                len => len?,
            };
            let datagram = Datagram::read(&self.buffer[..len]);
            let Some(Datagram { from, to, text }) = datagram.filter(|one| is_elsewhere(one.to))
            else {
                continue;
            };
            let session = self.exchange.of((from, to), || {
                let outside = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                outside.connect(to)?;
                outside.set_nonblocking(true)?;
                Ok(outside)
            });
            if let Ok(outside) = session {
                let _ = outside.send(text);
            }
        }
        Ok(())
    }

    /// Forwards what a peer sends to the guest.
    fn forward_to_guest(&mut self, number: u64) {
        let Some(((guest, other), outside)) = self.exchange.get(number) else {
            return;
        };
        for _ in 0..BATCH {
            match outside.recv(&mut self.buffer) {
                Ok(len) => {
                    let text = &self.buffer[..len];
                    let (from, to) = (*other, *guest);
                    let packet = Datagram { from, to, text }.write();
                    let _ = packet.map(|packet| write(&self.tun, &packet));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // ICMP errors: no program listens there.
                Err(_) => {}
            }
        }
    }
}
