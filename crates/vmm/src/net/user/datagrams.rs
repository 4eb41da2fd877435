//! UDP of a guest: a socket of this process for each whom it speaks to, from each port.

use super::super::sessions::{LOOK, Sessions};
use super::packet::Datagram;
use super::streams::is_elsewhere;
use rustix::io::{Errno, read, write};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Instant;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Most conversations at a time; then the one is forgotten that has been silent for longest.
const MOST: usize = 256;
/// Datagrams of one socket before the others get their turn.
const TURN: usize = 32;
/// The event of the guest; those of conversations are their numbers.
const GUEST: u64 = u64::MAX;

/// Who speaks, and to whom.
type Pair = (SocketAddrV4, SocketAddrV4);

#[derive(Debug)]
struct Datagrams {
    tun: OwnedFd,
    sessions: Sessions<Pair, UdpSocket>,
    events: Epoll,
    begun: Instant,
    buffer: Vec<u8>,
}

/// Passes datagrams on from now on.
pub(super) fn serve(tun: OwnedFd) -> io::Result<()> {
    let events = Epoll::new()?;
    watch(&events, &tun, GUEST)?;
    let mut datagrams = Datagrams {
        tun,
        sessions: Sessions::new(MOST),
        events,
        begun: Instant::now(),
        buffer: vec![0; 1 << 16],
    };
    let passing = thread::Builder::new().name("datagrams".into());
    let passing = passing.spawn(move || {
        while datagrams.pass().is_ok() {}
        eprintln!("the guest's datagrams are passed on no more");
    });
    passing.map(drop)
}

impl Datagrams {
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
                GUEST => self.ask()?,
                session => self.answer(session),
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
            let events = &self.events;
            let session = self
                .sessions
                .of((from, to), self.begun.elapsed(), |number| {
                    let outside = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                    outside.connect(to)?;
                    outside.set_nonblocking(true)?;
                    watch(events, &outside, number)?;
                    Ok(outside)
                });
            if let Ok(outside) = session {
                let _ = outside.send(text);
            }
        }
        Ok(())
    }

    /// To the guest.
    fn answer(&mut self, session: u64) {
        let now = self.begun.elapsed();
        let Some(((guest, other), outside)) = self.sessions.get(session, now) else {
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
                // Nobody listens there.
                Err(_) => {}
            }
        }
    }
}

fn watch(events: &Epoll, fd: &impl AsRawFd, number: u64) -> io::Result<()> {
    let event = EpollEvent::new(EventSet::IN, number);
    events.ctl(ControlOperation::Add, fd.as_raw_fd(), event)
}
