//! Whole streams: a guest with sockets that keep to flow control as Linux's do,
//! host streams, and any interleaving of readers and writers.

use super::super::credit::BUFFER;
use super::super::packet::{HOST_CID, Header, TYPE_STREAM, op, shutdown};
use super::allow_many_descriptors;
use super::guest::Guest;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// Linux's largest packet.
const MAX_PACKET: usize = 64 << 10;

/// A connected socket of the guest.
#[derive(Default)]
struct Socket {
    unread: VecDeque<u8>,
    taken: u32,
    told: u32,
    host_finished: bool,
    unsent: VecDeque<u8>,
    sent: u32,
    peer_buffer: u32,
    peer_taken: u32,
    finish: bool,
    finished: bool,
}

/// A guest that accepts every connection.
struct Sockets {
    guest: Guest,
    /// By host port.
    sockets: BTreeMap<u32, Socket>,
}

impl Sockets {
    fn new() -> Self {
        Self {
            guest: Guest::boot(3),
            sockets: BTreeMap::new(),
        }
    }

    /// A new connection: the host's stream, and the guest's socket.
    fn connect(&mut self) -> (UnixStream, u32) {
        let stream = self.guest.handle.connect(1024).unwrap();
        stream.set_nonblocking(true).unwrap();
        self.run();
        let (&port, _) = self.sockets.last_key_value().unwrap();
        (stream, port)
    }

    fn send(&mut self, port: u32, op: u16, flags: u32, payload: &[u8]) {
        let socket = self.sockets.get_mut(&port).unwrap();
        socket.told = socket.taken;
        let header = Header {
            src_cid: 3,
            dst_cid: HOST_CID,
            src_port: 1024,
            dst_port: port,
            len: payload.len() as u32,
            kind: TYPE_STREAM,
            op,
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: socket.taken,
        };
        self.guest.send(header, payload);
    }

    /// Runs everything until nothing moves.
    fn run(&mut self) {
        loop {
            self.guest.settle();
            let mut moved = false;
            while let Some((header, payload)) = self.guest.inbox.pop_front() {
                self.receive(&header, &payload);
                moved = true;
            }
            let ports: Vec<u32> = self.sockets.keys().copied().collect();
            for port in ports {
                moved |= self.transmit(port);
            }
            if !moved {
                return;
            }
        }
    }

    fn receive(&mut self, header: &Header, payload: &[u8]) {
        let port = header.src_port;
        let socket = self.sockets.entry(port).or_default();
        socket.peer_buffer = header.buf_alloc;
        socket.peer_taken = header.fwd_cnt;
        match header.op {
            op::REQUEST => self.send(port, op::RESPONSE, 0, &[]),
            op::RW => {
                assert!(!socket.host_finished);
                socket.unread.extend(payload);
                assert!(
                    socket.unread.len() <= BUFFER as usize,
                    "sent without credit"
                );
            }
            op::SHUTDOWN => socket.host_finished |= header.flags & shutdown::SEND != 0,
            op::CREDIT_UPDATE => {}
            other => panic!("operation {other}"),
        }
    }

    fn transmit(&mut self, port: u32) -> bool {
        let mut moved = false;
        loop {
            let socket = self.sockets.get_mut(&port).unwrap();
            let credit = socket.peer_buffer - socket.sent.wrapping_sub(socket.peer_taken);
            let n = socket.unsent.len().min(credit as usize).min(MAX_PACKET);
            if n == 0 {
                break;
            }
            let payload: Vec<u8> = socket.unsent.drain(..n).collect();
            socket.sent = socket.sent.wrapping_add(n as u32);
            self.send(port, op::RW, 0, &payload);
            moved = true;
        }
        let socket = self.sockets.get_mut(&port).unwrap();
        if socket.finish && socket.unsent.is_empty() && !socket.finished {
            socket.finished = true;
            self.send(port, op::SHUTDOWN, shutdown::SEND, &[]);
            moved = true;
        }
        moved
    }

    fn read(&mut self, port: u32, max: usize) -> Vec<u8> {
        let socket = self.sockets.get_mut(&port).unwrap();
        let n = max.min(socket.unread.len());
        let data: Vec<u8> = socket.unread.drain(..n).collect();
        socket.taken = socket.taken.wrapping_add(n as u32);
        let untold = socket.taken.wrapping_sub(socket.told);
        let low = BUFFER - untold < MAX_PACKET as u32 || socket.unread.is_empty();
        if untold > 0 && low {
            self.send(port, op::CREDIT_UPDATE, 0, &[]);
        }
        data
    }
}

/// Byte `at` of stream `seed`.
fn byte(seed: usize, at: usize) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)) as u8 ^ (seed as u8).wrapping_mul(37)
}

/// One direction of a connection as its ends see it.
#[derive(Default)]
struct Stream {
    seed: usize,
    written: usize,
    read: usize,
}

impl Stream {
    fn next(&mut self, len: usize) -> Vec<u8> {
        let data = (self.written..self.written + len)
            .map(|at| byte(self.seed, at))
            .collect();
        self.written += len;
        data
    }

    fn check(&mut self, data: &[u8]) {
        for &got in data {
            assert_eq!(
                got,
                byte(self.seed, self.read),
                "stream {} at {}",
                self.seed,
                self.read
            );
            self.read += 1;
        }
        assert!(self.read <= self.written);
    }
}

struct Pair {
    host: UnixStream,
    port: u32,
    to_guest: Stream,
    to_host: Stream,
    host_finished: bool,
    host_saw_end: bool,
}

impl Pair {
    fn new(sockets: &mut Sockets, index: usize) -> Self {
        let (host, port) = sockets.connect();
        let stream = |seed| Stream {
            seed,
            ..Stream::default()
        };
        Self {
            host,
            port,
            to_guest: stream(2 * index),
            to_host: stream(2 * index + 1),
            host_finished: false,
            host_saw_end: false,
        }
    }

    fn host_write(&mut self, len: usize) {
        if self.host_finished {
            return;
        }
        let data = self.to_guest.next(len);
        match self.host.write(&data) {
            Ok(n) => self.to_guest.written -= len - n,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                self.to_guest.written -= len;
            }
        }
    }

    fn host_read(&mut self, max: usize) {
        let mut data = vec![0; max];
        match self.host.read(&mut data) {
            Ok(0) => self.host_saw_end = true,
            Ok(n) => self.to_host.check(&data[..n]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    fn host_finish(&mut self) {
        self.host_finished = true;
        self.host.shutdown(Shutdown::Write).unwrap();
    }

    fn guest_write(&mut self, sockets: &mut Sockets, len: usize) {
        let socket = sockets.sockets.get_mut(&self.port).unwrap();
        // A writer waits when its kernel has this much of it.
        if !socket.finish && socket.unsent.len() < 1 << 20 {
            socket.unsent.extend(self.to_host.next(len));
        }
    }

    fn guest_read(&mut self, sockets: &mut Sockets, max: usize) {
        let data = sockets.read(self.port, max);
        self.to_guest.check(&data);
    }

    fn is_done(&self, sockets: &Sockets) -> bool {
        let socket = &sockets.sockets[&self.port];
        let all_read = self.to_guest.read == self.to_guest.written
            && self.to_host.read == self.to_host.written;
        all_read && socket.host_finished == self.host_finished && self.host_saw_end == socket.finish
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    HostWrite(usize),
    HostRead(usize),
    HostFinish,
    GuestWrite(usize),
    GuestRead(usize),
    GuestFinish,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1usize..100, 1usize..10_000, 1usize..400_000];
    prop_oneof![
        6 => len.clone().prop_map(Step::HostWrite),
        6 => len.clone().prop_map(Step::HostRead),
        6 => len.clone().prop_map(Step::GuestWrite),
        6 => len.prop_map(Step::GuestRead),
        1 => Just(Step::HostFinish),
        1 => Just(Step::GuestFinish),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_stream_arrives_complete_and_in_order_however_readers_and_writers_interleave(
        connections in 1usize..6,
        steps in proptest::collection::vec((any::<prop::sample::Index>(), step()), 1..120),
    ) {
        let mut sockets = Sockets::new();
        let mut pairs: Vec<Pair> = (0..connections).map(|i| Pair::new(&mut sockets, i)).collect();
        for (which, step) in steps {
            let pair = which.get(&pairs).port;
            let pair = pairs.iter_mut().find(|p| p.port == pair).unwrap();
            match step {
                Step::HostWrite(n) => pair.host_write(n),
                Step::HostRead(n) => pair.host_read(n),
                Step::HostFinish => pair.host_finish(),
                Step::GuestWrite(n) => pair.guest_write(&mut sockets, n),
                Step::GuestRead(n) => pair.guest_read(&mut sockets, n),
                Step::GuestFinish => sockets.sockets.get_mut(&pair.port).unwrap().finish = true,
            }
            sockets.run();
        }
        // All readers continue: everything that was written must arrive, and the ends.
        for _ in 0..1000 {
            if pairs.iter().all(|pair| pair.is_done(&sockets)) {
                break;
            }
            for pair in &mut pairs {
                pair.host_read(1 << 20);
                pair.guest_read(&mut sockets, 1 << 20);
            }
            sockets.run();
        }
        for pair in &pairs {
            prop_assert!(pair.is_done(&sockets), "connection {} is stuck", pair.port);
        }
    }
}

#[test]
fn a_long_stream_goes_each_way_at_once() {
    const LEN: usize = 16 << 20;
    let mut sockets = Sockets::new();
    let mut pair = Pair::new(&mut sockets, 0);
    while pair.to_guest.read < LEN || pair.to_host.read < LEN {
        pair.host_write((LEN - pair.to_guest.written).min(256 << 10));
        pair.guest_write(&mut sockets, (LEN - pair.to_host.written).min(256 << 10));
        sockets.run();
        pair.host_read(256 << 10);
        pair.guest_read(&mut sockets, 256 << 10);
        sockets.run();
    }
}

#[test]
fn a_reader_that_stands_still_stops_only_its_own_connection() {
    let mut sockets = Sockets::new();
    let mut slow = Pair::new(&mut sockets, 0);
    let mut fast = Pair::new(&mut sockets, 1);
    for _ in 0..100 {
        slow.host_write(100_000);
        slow.guest_write(&mut sockets, 100_000);
        fast.host_write(100_000);
        fast.guest_write(&mut sockets, 100_000);
        sockets.run();
        fast.host_read(1 << 20);
        fast.guest_read(&mut sockets, 1 << 20);
        sockets.run();
    }
    assert_eq!(fast.to_host.read, 10_000_000);
    assert_eq!(fast.to_guest.read, fast.to_guest.written);
    assert!(
        slow.to_guest.written < 2 << 20,
        "the host's writer is stopped"
    );
    let held = sockets.sockets[&slow.port].unsent.len();
    assert!(held > 500_000, "the guest's writer is stopped");
}

#[test]
fn a_thousand_conversations_at_once() {
    allow_many_descriptors();
    let mut sockets = Sockets::new();
    let mut pairs: Vec<Pair> = (0..1000).map(|i| Pair::new(&mut sockets, i)).collect();
    for pair in &mut pairs {
        pair.host_write(10_000);
        pair.guest_write(&mut sockets, 10_000);
    }
    sockets.run();
    for pair in &mut pairs {
        pair.host_read(1 << 20);
        pair.guest_read(&mut sockets, 1 << 20);
        assert!(pair.is_done(&sockets));
    }
}
