//! Tests of how connections are made or refused, from either side.

use super::super::muxer::MAX_CONNECTIONS;
use super::guest::RX;
use super::*;
use crate::devices::virtio::VirtioDevice;
use std::os::unix::net::UnixListener;

#[test]
fn a_connection_asked_for_before_the_driver_is_there_waits_for_it() {
    let mut guest = Guest::power_on(3);
    let stream = guest.handle.connect(AGENT).unwrap();
    guest.settle();
    // Linux resets every device before it starts one.
    VirtioDevice::reset(&mut guest.device);
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
    for _ in 0..TIMEOUT_TICKS {
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
fn a_handle_outlives_its_device_without_hanging_its_callers() {
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
    for _ in 0..TIMEOUT_TICKS {
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
fn the_guest_is_refused_where_no_program_listens() {
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
fn no_listener_is_reached_before_the_socket_is_public() {
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
