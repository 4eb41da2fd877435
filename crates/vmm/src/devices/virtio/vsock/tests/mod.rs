//! The device against a model of a guest ([`guest`]), with real host sockets.

mod clones;
mod closing;
mod connecting;
mod guest;
mod hostile;
mod packets;
mod sockets;

use super::connection::TIMEOUT_TICKS;
use super::credit::BUFFER;
use super::packet::{HOST_CID, Header, TYPE_STREAM, op, shutdown};
use guest::Guest;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
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
