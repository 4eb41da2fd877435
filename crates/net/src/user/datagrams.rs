//! UDP of a guest: a socket of this process for each of the guest's ports and each of its peers.

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
/// Datagrams of one socket before the others get their turn.
const TURN: usize = 32;

/// A source and a destination.
type Pair = (SocketAddrV4, SocketAddrV4);

#[derive(Debug)]
struct Datagrams {
    tun: OwnedFd,
    exchange: Exchange<Pair, UdpSocket>,
    buffer: Vec<u8>,
}

/// Passes datagrams on from now on.
pub(super) fn serve(tun: OwnedFd) -> io::Result<()> {
    let mut datagrams = Datagrams {
        exchange: Exchange::new(&tun, MOST)?,
        tun,
        buffer: vec![0; 1 << 16],
    };
    let passing = thread::Builder::new().name("datagrams".into());
    let passing = passing.spawn(move || {
        while datagrams.pass().is_ok() {}
        hyperfork_sys::note!("the guest's datagrams are passed on no more");
    });
    passing.map(drop)
}

impl Datagrams {
    /// What there is now, or comes next.
    fn pass(&mut self) -> io::Result<()> {
        for ready in self.exchange.wait()? {
            match ready {
                Ready::One => self.ask()?,
                Ready::Session(number) => self.answer(number),
            }
        }
        Ok(())
    }

    /// To the world. What is no datagram for it is lost.
    fn ask(&mut self) -> io::Result<()> {
        for _ in 0..TURN {
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

    /// To the guest.
    fn answer(&mut self, number: u64) {
        let Some(((guest, other), outside)) = self.exchange.get(number) else {
            return;
        };
        for _ in 0..TURN {
            match outside.recv(&mut self.buffer) {
                Ok(len) => {
                    let text = &self.buffer[..len];
                    let (from, to) = (*other, *guest);
                    let packet = Datagram { from, to, text }.write();
                    let _ = packet.map(|packet| write(&self.tun, &packet));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // No program listens there.
                Err(_) => {}
            }
        }
    }
}
