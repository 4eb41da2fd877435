//! UDP: one socket towards the guest for each client, so that answers reach the right client.

use super::is_a_vm;
use hyperfork_net::GuestConnector;
use hyperfork_net::exchange::{Exchange, Ready};
use std::io;
use std::net::{SocketAddr, UdpSocket};

/// Most clients of one port with a session at a time.
const MAX_SESSIONS: usize = 256;
/// Most datagrams of one socket before the other sockets are served.
const BATCH: usize = 32;

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
            exchange: Exchange::new(&outside, MAX_SESSIONS)?,
            outside,
            reach,
            port,
            buffer: vec![0; 1 << 16],
        })
    }

    /// Forwards datagrams both ways, and drops those that cannot be delivered. Returns the error
    /// that ended it.
    pub(super) fn serve(mut self) -> io::Error {
        loop {
            if let Err(error) = self.forward() {
                return error;
            }
        }
    }

    /// Waits for datagrams and forwards them.
    fn forward(&mut self) -> io::Result<()> {
        for ready in self.exchange.wait()? {
            match ready {
                Ready::One => self.forward_in(),
                Ready::Session(number) => self.forward_out(number),
            }
        }
        Ok(())
    }

    /// Forwards datagrams from clients to the guest.
    fn forward_in(&mut self) {
        for _ in 0..BATCH {
            let (len, client) = match self.outside.recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error: a client did not take an earlier answer.
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

    /// Forwards datagrams from the guest to the client of a session, if it still exists.
    fn forward_out(&mut self, number: u64) {
        let Some((client, inside)) = self.exchange.get(number) else {
            return;
        };
        for _ in 0..BATCH {
            match inside.recv(&mut self.buffer) {
                Ok(len) => {
                    let _ = self.outside.send_to(&self.buffer[..len], client);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error: no program of the guest listens on the port.
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
        let clients: Vec<_> = (0..MAX_SESSIONS as u32 + 10)
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
