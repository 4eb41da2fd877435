//! The device against a model of a guest ([`guest`]), with real host sockets.

mod guest;
mod hostile;
mod sockets;

use super::connection::PATIENCE;
use super::credit::BUFFER;
use super::muxer::MAX_CONNECTIONS;
use super::packet::{HOST_CID, Header, TYPE_STREAM, op, shutdown};
use guest::{EVENT, Guest, RX};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use tempfile::TempDir;

const AGENT: u32 = 1024;

/// The guest's side of one connection, packet by packet.
#[derive(Debug, Clone, Copy)]
struct Peer {
    cid: u32,
    guest_port: u32,
    host_port: u32,
}

impl Peer {
    fn header(self, op: u16) -> Header {
        Header {
            src_cid: u64::from(self.cid),
            dst_cid: HOST_CID,
            src_port: self.guest_port,
            dst_port: self.host_port,
            kind: TYPE_STREAM,
            op,
            buf_alloc: BUFFER,
            ..Header::default()
        }
    }

    fn data(self, guest: &mut Guest, payload: &[u8]) {
        let header = Header {
            len: payload.len() as u32,
            ..self.header(op::RW)
        };
        guest.send(header, payload);
        guest.settle();
    }

    fn say(self, guest: &mut Guest, op: u16) {
        guest.send(self.header(op), &[]);
        guest.settle();
    }

    fn shut(self, guest: &mut Guest, flags: u32) {
        guest.send(
            Header {
                flags,
                ..self.header(op::SHUTDOWN)
            },
            &[],
        );
        guest.settle();
    }
}

fn next(guest: &mut Guest) -> (Header, Vec<u8>) {
    guest.settle();
    guest.inbox.pop_front().expect("a packet for the guest")
}

fn nothing(guest: &mut Guest) {
    guest.settle();
    assert_eq!(guest.inbox.pop_front(), None);
}

/// Takes the REQUEST that must come next.
fn asked(guest: &mut Guest) -> Peer {
    let (request, _) = next(guest);
    assert_eq!(request.op, op::REQUEST);
    assert_eq!(
        (request.src_cid, request.dst_cid),
        (HOST_CID, u64::from(guest.cid))
    );
    assert_eq!((request.kind, request.buf_alloc), (TYPE_STREAM, BUFFER));
    Peer {
        cid: guest.cid,
        guest_port: request.dst_port,
        host_port: request.src_port,
    }
}

/// An open connection that the host asked for.
fn connected(guest: &mut Guest) -> (UnixStream, Peer) {
    let stream = guest.handle.connect(AGENT).unwrap();
    let peer = asked(guest);
    assert_eq!(peer.guest_port, AGENT);
    peer.say(guest, op::RESPONSE);
    stream.set_nonblocking(true).unwrap();
    (stream, peer)
}

fn read_some(mut stream: &UnixStream) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 20];
    let n = stream.read(&mut buffer).unwrap();
    buffer.truncate(n);
    buffer
}

fn would_block(mut stream: &UnixStream) {
    assert_eq!(
        stream.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
}

fn ended(stream: &UnixStream) {
    assert_eq!(read_some(stream), b"");
}

fn public(guest: &mut Guest) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let path = dir.path().join("vsock.sock");
    guest.handle.publish(&path).unwrap();
    guest.settle();
    (dir, path)
}

/// Both ends of every connection are in this process.
fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )
    .unwrap();
}

#[test]
fn bytes_go_both_ways() {
    let mut guest = Guest::boot(3);
    let (mut stream, peer) = connected(&mut guest);
    stream.write_all(b"to guest").unwrap();
    let (header, payload) = next(&mut guest);
    assert_eq!((header.op, payload.as_slice()), (op::RW, &b"to guest"[..]));
    assert_eq!((header.src_port, header.dst_port), (peer.host_port, AGENT));
    peer.data(&mut guest, b"to host");
    assert_eq!(read_some(&stream), b"to host");
}

#[test]
fn a_connection_asked_for_before_the_driver_is_there_waits_for_it() {
    let mut guest = Guest::power_on(3);
    let stream = guest.handle.connect(AGENT).unwrap();
    guest.settle();
    // Linux resets every device before it starts one.
    crate::devices::virtio::VirtioDevice::reset(&mut guest.device);
    guest.start_driver();
    let peer = asked(&mut guest);
    peer.say(&mut guest, op::RESPONSE);
    peer.data(&mut guest, b"hello");
    assert_eq!(read_some(&stream), b"hello");
}

#[test]
fn a_stream_ends_when_the_guest_refuses() {
    let mut guest = Guest::boot(3);
    let stream = guest.handle.connect(AGENT).unwrap();
    (&stream).write_all(b"early").unwrap();
    let peer = asked(&mut guest);
    peer.say(&mut guest, op::RST);
    ended(&stream);
    nothing(&mut guest);
}

#[test]
fn a_guest_that_never_answers_is_given_up() {
    let mut guest = Guest::boot(3);
    let stream = guest.handle.connect(AGENT).unwrap();
    asked(&mut guest);
    for _ in 0..PATIENCE {
        stream.set_nonblocking(true).unwrap();
        would_block(&stream);
        guest.device.muxer.tick();
    }
    ended(&stream);
    guest.call(RX);
    assert_eq!(next(&mut guest).0.op, op::RST);
}

#[test]
fn a_withdrawn_connection_never_reaches_a_guest_that_was_not_told() {
    let mut guest = Guest::power_on(3);
    drop(guest.handle.connect(AGENT).unwrap());
    guest.settle();
    guest.start_driver();
    nothing(&mut guest);
}

#[test]
fn a_handle_outlives_its_device_without_hanging_anybody() {
    let guest = Guest::boot(3);
    let handle = guest.handle.clone();
    let stream = handle.connect(AGENT).unwrap();
    drop(guest);
    ended(&stream);
    assert_eq!(
        handle.connect(AGENT).unwrap_err().kind(),
        ErrorKind::NotConnected
    );
}

#[test]
fn a_client_of_the_public_socket_is_told_when_it_is_through() {
    let mut guest = Guest::boot(3);
    let (_dir, path) = public(&mut guest);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"CONN").unwrap();
    nothing(&mut guest);
    client.write_all(b"ECT 1024\nand more").unwrap();
    let peer = asked(&mut guest);
    peer.say(&mut guest, op::RESPONSE);
    assert_eq!(
        read_some(&client),
        format!("OK {}\n", peer.host_port).into_bytes()
    );
    assert_eq!(next(&mut guest).1, b"and more");
}

#[test]
fn a_client_that_speaks_something_else_is_shown_out() {
    let mut guest = Guest::boot(3);
    let (_dir, path) = public(&mut guest);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    nothing(&mut guest);
    assert_ne!(client.read(&mut [0]).ok(), Some(1));
}

#[test]
fn a_client_that_says_nothing_is_shown_out() {
    let mut guest = Guest::boot(3);
    let (_dir, path) = public(&mut guest);
    let client = UnixStream::connect(&path).unwrap();
    guest.settle();
    for _ in 0..PATIENCE {
        guest.device.muxer.tick();
    }
    ended(&client);
}

#[test]
fn the_guest_reaches_a_listener_of_the_host() {
    let mut guest = Guest::boot(3);
    let (_dir, path) = public(&mut guest);
    let listener = UnixListener::bind(format!("{}_8080", path.display())).unwrap();
    let peer = Peer {
        cid: 3,
        guest_port: 5,
        host_port: 8080,
    };
    peer.say(&mut guest, op::REQUEST);
    assert_eq!(next(&mut guest).0.op, op::RESPONSE);
    let (server, _) = listener.accept().unwrap();
    peer.data(&mut guest, b"GET /");
    assert_eq!(read_some(&server), b"GET /");
    (&server).write_all(b"200").unwrap();
    assert_eq!(next(&mut guest).1, b"200");
}

#[test]
fn the_guest_is_refused_where_nobody_listens() {
    let mut guest = Guest::boot(3);
    let peer = Peer {
        cid: 3,
        guest_port: 5,
        host_port: 8080,
    };
    peer.say(&mut guest, op::REQUEST);
    let (refusal, _) = next(&mut guest);
    assert_eq!(
        (refusal.op, refusal.src_port, refusal.dst_port),
        (op::RST, 8080, 5)
    );
    let (_dir, _path) = public(&mut guest);
    peer.say(&mut guest, op::REQUEST);
    assert_eq!(next(&mut guest).0.op, op::RST);
}

#[test]
fn nobody_outside_is_reached_before_the_socket_is_public() {
    let mut guest = Guest::boot(3);
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let path = dir.path().join("vsock.sock");
    let listener = UnixListener::bind(format!("{}_8080", path.display())).unwrap();
    listener.set_nonblocking(true).unwrap();
    Peer {
        cid: 3,
        guest_port: 5,
        host_port: 8080,
    }
    .say(&mut guest, op::REQUEST);
    assert_eq!(next(&mut guest).0.op, op::RST);
    assert!(listener.accept().is_err());
    assert!(UnixStream::connect(&path).is_err());
}

#[test]
fn packets_of_unknown_connections_are_answered_with_rst_and_rst_with_nothing() {
    let mut guest = Guest::boot(3);
    let peer = Peer {
        cid: 3,
        guest_port: 5,
        host_port: 1 << 30,
    };
    for op in [
        op::RESPONSE,
        op::SHUTDOWN,
        op::RW,
        op::CREDIT_UPDATE,
        op::CREDIT_REQUEST,
        0,
        99,
    ] {
        peer.say(&mut guest, op);
        let (refusal, _) = next(&mut guest);
        assert_eq!(
            (refusal.op, refusal.src_port, refusal.dst_port),
            (op::RST, 1 << 30, 5)
        );
    }
    peer.say(&mut guest, op::RST);
    nothing(&mut guest);
}

#[test]
fn packets_under_a_wrong_cid_or_type_are_refused_in_kind() {
    let mut guest = Guest::boot(3);
    let peer = Peer {
        cid: 3,
        guest_port: 5,
        host_port: 6,
    };
    guest.send(
        Header {
            src_cid: 4,
            ..peer.header(op::REQUEST)
        },
        &[],
    );
    let refusal = next(&mut guest).0;
    assert_eq!((refusal.op, refusal.dst_cid), (op::RST, 4));
    guest.send(
        Header {
            dst_cid: 9,
            ..peer.header(op::REQUEST)
        },
        &[],
    );
    let refusal = next(&mut guest).0;
    assert_eq!((refusal.op, refusal.src_cid), (op::RST, 9));
    guest.send(
        Header {
            kind: 2,
            ..peer.header(op::REQUEST)
        },
        &[],
    );
    let refusal = next(&mut guest).0;
    assert_eq!((refusal.op, refusal.kind), (op::RST, 2));
}

#[test]
fn either_side_can_finish_sending_and_still_receive() {
    let mut guest = Guest::boot(3);
    let (mut stream, peer) = connected(&mut guest);
    stream.write_all(b"question").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(next(&mut guest).1, b"question");
    let (header, _) = next(&mut guest);
    assert_eq!((header.op, header.flags), (op::SHUTDOWN, shutdown::SEND));
    peer.data(&mut guest, b"answer");
    assert_eq!(read_some(&stream), b"answer");
    peer.shut(&mut guest, shutdown::SEND);
    ended(&stream);
    let (header, _) = next(&mut guest);
    assert_eq!((header.op, header.flags), (op::SHUTDOWN, shutdown::BOTH));
}

#[test]
fn a_guest_that_will_not_receive_breaks_the_hosts_pipe() {
    let mut guest = Guest::boot(3);
    let (mut stream, peer) = connected(&mut guest);
    peer.shut(&mut guest, shutdown::RECEIVE);
    assert_eq!(
        stream.write(b"x").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    peer.data(&mut guest, b"still sending");
    assert_eq!(read_some(&stream), b"still sending");
}

#[test]
fn a_guest_that_closes_is_answered_with_rst_and_the_host_sees_all_it_sent() {
    let mut guest = Guest::boot(3);
    let (mut stream, peer) = connected(&mut guest);
    stream.write_all(b"never read").unwrap();
    guest.receiving = false;
    peer.data(&mut guest, b"last words");
    peer.shut(&mut guest, shutdown::BOTH);
    assert_eq!(read_some(&stream), b"last words");
    ended(&stream);
    guest.receiving = true;
    guest.take_packets();
    assert_eq!(guest.inbox.pop_back().unwrap().0.op, op::RST);
}

#[test]
fn a_slow_reader_gets_everything_after_the_guest_has_closed() {
    let mut guest = Guest::boot(3);
    let (stream, peer) = connected(&mut guest);
    let sent: Vec<u8> = (0..BUFFER).map(|i| (i % 251) as u8).collect();
    // More than the host's socket takes at once, so that some waits in the device.
    for chunk in sent.chunks(60_000) {
        peer.data(&mut guest, chunk);
    }
    peer.shut(&mut guest, shutdown::BOTH);
    let mut got = Vec::new();
    loop {
        let mut buffer = [0; 10_000];
        match (&stream).read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                guest.settle();
            }
        }
    }
    assert!(got == sent);
}

#[test]
fn a_host_that_closes_lets_the_guest_read_to_the_end() {
    let mut guest = Guest::boot(3);
    let (mut stream, peer) = connected(&mut guest);
    stream.write_all(b"the end").unwrap();
    drop(stream);
    let mut flags = 0;
    let mut data = Vec::new();
    while flags != shutdown::BOTH {
        let (header, payload) = next(&mut guest);
        data.extend(payload);
        if header.op == op::SHUTDOWN {
            flags = header.flags;
        }
    }
    assert_eq!(data, b"the end");
    // Linux answers so.
    peer.say(&mut guest, op::RST);
    nothing(&mut guest);
    assert_eq!(guest.device.muxer.connections(), 0);
}

#[test]
fn a_guest_that_does_not_answer_a_closed_connection_is_reset() {
    let mut guest = Guest::boot(3);
    let (stream, _) = connected(&mut guest);
    drop(stream);
    assert_eq!(next(&mut guest).0.op, op::SHUTDOWN);
    for _ in 0..PATIENCE {
        guest.device.muxer.tick();
    }
    guest.call(RX);
    while let Some((header, _)) = guest.inbox.pop_front() {
        assert_eq!(header.op, op::SHUTDOWN);
    }
    assert_eq!(next(&mut guest).0.op, op::RST);
    assert_eq!(guest.device.muxer.connections(), 0);
}

#[test]
fn a_guest_that_exceeds_its_credit_is_reset() {
    let mut guest = Guest::boot(3);
    let (stream, peer) = connected(&mut guest);
    // The host reads nothing: the socket's own buffer and ours fill up.
    let chunk = vec![0; 60_000];
    for _ in 0..40 {
        peer.data(&mut guest, &chunk);
    }
    let reset = guest.inbox.iter().any(|(header, _)| header.op == op::RST);
    assert!(reset);
    drop(stream);
}

#[test]
fn a_guest_that_asks_is_told_its_credit() {
    let mut guest = Guest::boot(3);
    let (stream, peer) = connected(&mut guest);
    peer.data(&mut guest, &[7; 1000]);
    nothing(&mut guest);
    peer.say(&mut guest, op::CREDIT_REQUEST);
    let (header, _) = next(&mut guest);
    assert_eq!(
        (header.op, header.buf_alloc, header.fwd_cnt),
        (op::CREDIT_UPDATE, BUFFER, 1000)
    );
    assert_eq!(read_some(&stream).len(), 1000);
}

#[test]
fn a_guest_never_gets_more_than_its_buffer_holds() {
    let mut guest = Guest::boot(3);
    let mut stream = guest.handle.connect(AGENT).unwrap();
    let peer = asked(&mut guest);
    guest.send(
        Header {
            buf_alloc: 10,
            ..peer.header(op::RESPONSE)
        },
        &[],
    );
    stream.write_all(b"0123456789abcdef").unwrap();
    assert_eq!(next(&mut guest).1, b"0123456789");
    nothing(&mut guest);
    guest.send(
        Header {
            buf_alloc: 10,
            fwd_cnt: 4,
            ..peer.header(op::CREDIT_UPDATE)
        },
        &[],
    );
    assert_eq!(next(&mut guest).1, b"abcd");
    guest.send(
        Header {
            buf_alloc: 10,
            fwd_cnt: 14,
            ..peer.header(op::CREDIT_UPDATE)
        },
        &[],
    );
    assert_eq!(next(&mut guest).1, b"ef");
}

#[test]
fn connections_beyond_the_limit_are_turned_away_and_slots_are_used_again() {
    allow_many_descriptors();
    let mut guest = Guest::boot(3);
    let mut streams = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        streams.push(guest.handle.connect(AGENT).unwrap());
        guest.settle();
    }
    let one_too_many = guest.handle.connect(AGENT).unwrap();
    guest.settle();
    ended(&one_too_many);
    let peer = asked(&mut guest);
    peer.say(&mut guest, op::RST);
    ended(&streams[0]);
    let stream = guest.handle.connect(AGENT).unwrap();
    guest.settle();
    stream.set_nonblocking(true).unwrap();
    would_block(&stream);
}

#[test]
fn a_guest_that_reuses_a_port_gets_a_new_connection() {
    let mut guest = Guest::boot(3);
    let (_dir, path) = public(&mut guest);
    let listener = UnixListener::bind(format!("{}_80", path.display())).unwrap();
    let peer = Peer {
        cid: 3,
        guest_port: 5,
        host_port: 80,
    };
    peer.say(&mut guest, op::REQUEST);
    let (old, _) = listener.accept().unwrap();
    peer.say(&mut guest, op::REQUEST);
    let (new, _) = listener.accept().unwrap();
    ended(&old);
    peer.data(&mut guest, b"new");
    assert_eq!(read_some(&new), b"new");
}

#[test]
fn a_driver_that_resets_the_device_ends_its_connections() {
    let mut guest = Guest::boot(3);
    let (stream, _) = connected(&mut guest);
    crate::devices::virtio::VirtioDevice::reset(&mut guest.device);
    ended(&stream);
}

#[test]
fn the_configuration_space_is_the_cid_and_zeros() {
    let guest = Guest::boot(0xabcd);
    let read = |offset, len| {
        let mut data = vec![0xff; len];
        crate::devices::virtio::VirtioDevice::read_config(&guest.device, offset, &mut data);
        data
    };
    assert_eq!(read(0, 8), [0xcd, 0xab, 0, 0, 0, 0, 0, 0]);
    assert_eq!(read(1, 1), [0xab]);
    assert_eq!(read(6, 4), [0, 0, 0, 0]);
    assert_eq!(read(u64::MAX, 4), [0, 0, 0, 0]);
}

#[test]
fn a_clone_learns_its_cid_and_its_parent_never_notices() {
    let mut parent = Guest::boot(3);
    let (stream, peer) = connected(&mut parent);
    let mut clone = parent.fork(4);
    clone.resume();
    parent.resume();
    clone.settle();
    parent.settle();
    assert_eq!((clone.resets, clone.cid), (1, 4));
    assert_eq!((parent.resets, parent.cid), (0, 3));
    peer.data(&mut parent, b"unharmed");
    assert_eq!(read_some(&stream), b"unharmed");
    // The clone's copy of that connection leads nowhere.
    Peer { cid: 4, ..peer }.data(&mut clone, b"ghost");
    assert_eq!(next(&mut clone).0.op, op::RST);
    would_block(&stream);
}

#[test]
fn a_clone_is_reached_only_after_it_has_handled_the_reset() {
    let mut parent = Guest::boot(3);
    let mut clone = parent.fork(4);
    clone.handling_events = false;
    let stream = clone.handle.connect(AGENT).unwrap();
    clone.resume();
    nothing(&mut clone);
    assert_eq!(clone.resets, 0);
    clone.handling_events = true;
    clone.handle_events();
    assert_eq!(clone.resets, 1);
    let peer = asked(&mut clone);
    assert_eq!(peer.cid, 4);
    peer.say(&mut clone, op::RESPONSE);
    peer.data(&mut clone, b"clone here");
    assert_eq!(read_some(&stream), b"clone here");
}

#[test]
fn a_clone_of_a_clone_that_has_not_run_yet_handles_both_resets_first() {
    let mut parent = Guest::boot(3);
    let mut clone = parent.fork(4);
    clone.handling_events = false;
    clone.resume();
    clone.settle();
    let mut grandchild = clone.fork(5);
    let _stream = grandchild.handle.connect(AGENT).unwrap();
    grandchild.resume();
    nothing(&mut grandchild);
    grandchild.handling_events = true;
    grandchild.handle_events();
    assert_eq!((grandchild.resets, grandchild.cid), (2, 5));
    assert_eq!(asked(&mut grandchild).cid, 5);
}

#[test]
fn a_clone_whose_driver_starts_later_is_told_as_well() {
    let mut parent = Guest::power_on(3);
    let mut clone = parent.fork(4);
    let _stream = clone.handle.connect(AGENT).unwrap();
    clone.resume();
    clone.start_driver();
    clone.settle();
    assert_eq!(clone.resets, 1);
    assert_eq!(asked(&mut clone).cid, 4);
}

#[test]
fn packets_in_the_ring_at_the_fork_reach_the_parents_host_only() {
    let mut parent = Guest::boot(3);
    let (stream, peer) = connected(&mut parent);
    let header = Header {
        len: 4,
        ..peer.header(op::RW)
    };
    parent.place(header, b"once");
    let mut clone = parent.fork(4);
    clone.resume();
    clone.settle();
    would_block(&stream);
    assert_eq!(next(&mut clone).0.op, op::RST);
    parent.resume();
    parent.settle();
    assert_eq!(read_some(&stream), b"once");
    would_block(&stream);
}

#[test]
fn host_ports_of_a_clone_are_not_those_of_its_parents_connections() {
    let mut parent = Guest::boot(3);
    let (_stream, peer) = connected(&mut parent);
    let mut clone = parent.fork(4);
    clone.resume();
    clone.settle();
    let (_other, new) = connected(&mut clone);
    assert_ne!(new.host_port, peer.host_port);
}

#[test]
fn a_pause_without_a_fork_changes_nothing() {
    let mut guest = Guest::boot(3);
    let (stream, peer) = connected(&mut guest);
    guest.resume();
    guest.settle();
    assert_eq!(guest.resets, 0);
    peer.data(&mut guest, b"on we go");
    assert_eq!(read_some(&stream), b"on we go");
}

#[test]
fn a_guest_that_ignores_answers_is_not_listened_to_and_recovers() {
    let mut guest = Guest::boot(3);
    guest.receiving = false;
    let peer = Peer {
        cid: 3,
        guest_port: 5,
        host_port: 6,
    };
    for guest_port in 0..3000 {
        guest.send(Peer { guest_port, ..peer }.header(op::RW), &[]);
        guest.settle();
    }
    guest.receiving = true;
    guest.take_packets();
    guest.settle();
    let ports: Vec<u32> = guest
        .inbox
        .iter()
        .map(|(header, _)| header.dst_port)
        .collect();
    assert_eq!(ports, (0..3000).collect::<Vec<_>>());
    assert!(guest.inbox.iter().all(|(header, _)| header.op == op::RST));
    guest.call(EVENT);
}
