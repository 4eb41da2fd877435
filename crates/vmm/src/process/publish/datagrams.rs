//! UDP: a socket towards the guest for each who sends, so that answers find back.

use crate::net::Reach;
use crate::net::sessions::{LOOK, Sessions};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Most senders of one port that are remembered at a time; then the one is forgotten that
/// has been silent for longest.
const MOST: usize = 256;
/// Datagrams of one socket before the others get their turn.
const TURN: usize = 32;
/// The event of the published port's own socket; those of sessions are their numbers.
const OUTSIDE: u64 = u64::MAX;

/// A published port.
#[derive(Debug)]
pub(super) struct Datagrams {
    outside: UdpSocket,
    reach: Reach,
    port: u16,
    sessions: Sessions<SocketAddr, UdpSocket>,
    events: Epoll,
    begun: Instant,
    buffer: Vec<u8>,
}

impl Datagrams {
    pub(super) fn new(outside: UdpSocket, reach: Reach, port: u16) -> io::Result<Self> {
        outside.set_nonblocking(true)?;
        let events = Epoll::new()?;
        watch(&events, &outside, OUTSIDE)?;
        Ok(Self {
            outside,
            reach,
            port,
            sessions: Sessions::new(MOST),
            events,
            begun: Instant::now(),
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
        let mut ready = [EpollEvent::default(); 64];
        let timeout = match self.sessions.is_empty() {
            true => -1,
            false => LOOK.as_millis() as i32,
        };
        let count = match self.events.wait(timeout, &mut ready) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            count => count?,
        };
        self.sessions.expire(self.begun.elapsed());
        for event in &ready[..count] {
            match event.data() {
                OUTSIDE => self.ask(),
                session => self.answer(session),
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
            let (reach, port, events) = (&self.reach, self.port, &self.events);
            let session = self.sessions.of(client, self.begun.elapsed(), |number| {
                let inside = reach.datagrams(port)?;
                inside.set_nonblocking(true)?;
                watch(events, &inside, number)?;
                Ok(inside)
            });
            if let Ok(inside) = session {
                let _ = inside.send(&self.buffer[..len]);
            }
        }
    }

    /// From the guest. A session that is no more has no socket either.
    fn answer(&mut self, session: u64) {
        let Some((client, inside)) = self.sessions.get(session, self.begun.elapsed()) else {
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

fn watch(events: &Epoll, socket: &UdpSocket, number: u64) -> io::Result<()> {
    let event = EpollEvent::new(EventSet::IN, number);
    events.ctl(ControlOperation::Add, socket.as_raw_fd(), event)
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
        let reach = Reach::direct(Ipv4Addr::LOCALHOST);
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
