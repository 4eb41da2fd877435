//! UDP: a socket towards the guest for each who sends, so that answers find back.

use super::is_a_vm;
use hyperfork_net::GuestConnector;
use hyperfork_net::exchange::{Exchange, Ready};
use std::io;
use std::net::{SocketAddr, UdpSocket};

/// Most senders of one port that are remembered at a time.
const MOST: usize = 256;
/// Datagrams of one socket before the others get their turn.
const TURN: usize = 32;

/// A published port.
#[derive(Debug)]
pub(super) struct Datagrams {
    outside: UdpSocket,
    reach: GuestConnector,
    port: u16,
    exchange: Exchange<SocketAddr, UdpSocket>,
    buffer: Vec<u8>,
}

impl Datagrams {
    pub(super) fn new(outside: UdpSocket, reach: GuestConnector, port: u16) -> io::Result<Self> {
        outside.set_nonblocking(true)?;
        Ok(Self {
            exchange: Exchange::new(&outside, MOST)?,
            outside,
            reach,
            port,
            buffer: vec![0; 1 << 16],
        })
    }

    /// Passes datagrams on, both ways. Those that cannot be are lost, as on any wire. Gives
    /// what ended it.
    pub(super) fn serve(mut self) -> io::Error {
        loop {
            if let Err(error) = self.pass() {
                return error;
            }
        }
    }

    /// What there is now, or comes next.
    fn pass(&mut self) -> io::Result<()> {
        for ready in self.exchange.wait()? {
            match ready {
                Ready::One => self.ask(),
                Ready::Session(number) => self.answer(number),
            }
        }
        Ok(())
    }

    /// To the guest.
    fn ask(&mut self) {
        for _ in 0..TURN {
            let (len, client) = match self.outside.recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // About an answer that somebody did not take.
                Err(_) => continue,
            };
            let (reach, port) = (&self.reach, self.port);
            let session = self.exchange.of(client, || {
                if is_a_vm(client) {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                let inside = reach.datagrams(port)?;
                inside.set_nonblocking(true)?;
                Ok(inside)
            });
            if let Ok(inside) = session {
                let _ = inside.send(&self.buffer[..len]);
            }
        }
    }

    /// From the guest. A session that is no more has no socket either.
    fn answer(&mut self, number: u64) {
        let Some((client, inside)) = self.exchange.get(number) else {
            return;
        };
        for _ in 0..TURN {
            match inside.recv(&mut self.buffer) {
                Ok(len) => {
                    let _ = self.outside.send_to(&self.buffer[..len], client);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody listens there, or not yet.
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn each_sender_gets_the_answers_to_what_it_sent() {
        let local = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (guest, published) = (local(), local());
        let (guest_at, published_at) =
            (guest.local_addr().unwrap(), published.local_addr().unwrap());
        let reach = GuestConnector::direct(Ipv4Addr::LOCALHOST);
        thread::spawn(move || {
            Datagrams::new(published, reach, guest_at.port())
                .unwrap()
                .serve()
        });
        thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((len, from)) = guest.recv_from(&mut buffer) {
                guest.send_to(&buffer[..len], from).unwrap();
            }
        });
        let clients: Vec<_> = (0..MOST as u32 + 10)
            .map(|number| (number, local()))
            .collect();
        for round in 0..2 {
            for (number, client) in &clients {
                client
                    .set_read_timeout(Some(Duration::from_secs(30)))
                    .unwrap();
                let said = [number.to_ne_bytes(), [round; 4]].concat();
                client.send_to(&said, published_at).unwrap();
                let mut heard = [0; 100];
                let (len, from) = client.recv_from(&mut heard).unwrap();
                assert_eq!((&heard[..len], from), (&said[..], published_at));
            }
        }
    }
}
