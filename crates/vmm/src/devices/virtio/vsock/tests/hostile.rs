//! A guest that writes whatever it likes: any descriptors through the transport,
//! and any packets in orderly rings.

use super::super::Vsock;
use super::super::credit::BUFFER;
use super::super::fuzzing::drive_packets;
use super::super::packet::{HOST_CID, Header, TYPE_STREAM};
use super::guest::{EVENT, Guest, RX, TX};
use super::{asked, nothing, public};
use crate::devices::virtio::{DeviceState, VirtioDevice, hostile};
use crate::sys::fds::FdTable;
use crate::sys::peer::stranger_at;
use proptest::prelude::*;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

/// Packets that often belong to a connection: one of few ports, a known
/// operation, sensible counters.
fn packet() -> impl Strategy<Value = (Header, usize)> {
    let cid = prop_oneof![8 => Just(3u64), 1 => any::<u64>()];
    let dst_cid = prop_oneof![8 => Just(HOST_CID), 1 => any::<u64>()];
    let guest_port = prop_oneof![Just(1024u32), 0u32..4, any::<u32>()];
    let host_port =
        prop_oneof![8 => (1u32 << 30)..(1 << 30) + 4, 4 => 80u32..82, 1 => any::<u32>()];
    let kind = prop_oneof![8 => Just(TYPE_STREAM), 1 => any::<u16>()];
    let op = prop_oneof![8 => 0u16..9, 1 => any::<u16>()];
    let counter = || prop_oneof![Just(0u32), Just(BUFFER), 0u32..300_000, any::<u32>()];
    let len = prop_oneof![4 => Just(0usize), 2 => 1usize..200, 1 => 1usize..70_000];
    (
        cid,
        dst_cid,
        guest_port,
        host_port,
        kind,
        op,
        any::<u32>(),
        counter(),
        counter(),
        len,
    )
        .prop_map(
            |(src_cid, dst_cid, src_port, dst_port, kind, op, flags, buf_alloc, fwd_cnt, len)| {
                let header = Header {
                    src_cid,
                    dst_cid,
                    src_port,
                    dst_port,
                    len: len as u32,
                    kind,
                    op,
                    flags,
                    buf_alloc,
                    fwd_cnt,
                };
                (header, len)
            },
        )
}

#[derive(Debug, Clone)]
enum Step {
    Packet(Header, usize),
    Connect,
    HostWrite(usize, usize),
    HostRead(usize),
    HostClose(usize),
    Receive(bool),
    Tick,
    Fork,
    Call(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let host = 0usize..8;
    prop_oneof![
        20 => packet().prop_map(|(header, len)| Step::Packet(header, len)),
        3 => Just(Step::Connect),
        3 => (host.clone(), 1usize..100_000).prop_map(|(i, n)| Step::HostWrite(i, n)),
        3 => host.clone().prop_map(Step::HostRead),
        1 => host.prop_map(Step::HostClose),
        2 => any::<bool>().prop_map(Step::Receive),
        1 => Just(Step::Tick),
        1 => Just(Step::Fork),
        1 => prop_oneof![Just(RX), Just(TX), Just(EVENT)].prop_map(Step::Call),
    ]
}

fn take_clients(listener: &UnixListener, hosts: &mut Vec<UnixStream>) {
    while let Ok((stream, _)) = listener.accept() {
        hosts.push(stream);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_packets_make_the_device_panic_or_fail_and_it_stays_usable(
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let path = dir.path().join("v");
        let listener = UnixListener::bind(dir.path().join("v_80")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut guest = Guest::boot(3);
        guest.handle.publish(&path).unwrap();
        let mut hosts: Vec<UnixStream> = Vec::new();
        for step in steps {
            match step {
                Step::Packet(header, len) => guest.send(header, &vec![0xaa; len]),
                Step::Connect => hosts.push(guest.handle.connect(1024).unwrap()),
                Step::HostWrite(i, n) => if let Some(mut stream) = hosts.get(i) {
                    stream.set_nonblocking(true).unwrap();
                    let _ = stream.write(&vec![0x55; n]);
                },
                Step::HostRead(i) => if let Some(mut stream) = hosts.get(i) {
                    stream.set_nonblocking(true).unwrap();
                    let _ = stream.read(&mut [0; 100_000]);
                },
                Step::HostClose(i) => if i < hosts.len() {
                    hosts.remove(i);
                },
                Step::Receive(on) => guest.receiving = on,
                Step::Tick => guest.device.muxer.tick(),
                Step::Fork => {
                    let mut clone = guest.fork(4);
                    clone.resume();
                    clone.settle();
                }
                Step::Call(ring) => guest.call(ring),
            }
            guest.settle();
            take_clients(&listener, &mut hosts);
        }
        // A guest that behaves again is served again.
        guest.receiving = true;
        guest.take_packets();
        guest.settle();
        guest.inbox.clear();
        let _stream = guest.handle.connect(4321).unwrap();
        guest.settle();
        prop_assert!(guest.inbox.iter().any(|(header, _)| header.dst_port == 4321));
    }

    #[test]
    fn no_packets_overrun_a_buffer_or_a_credit(
        script in proptest::collection::vec(any::<u8>(), 0..3000),
    ) {
        drive_packets(&script);
    }

    #[test]
    fn no_driver_makes_the_device_panic(script in proptest::collection::vec(any::<u8>(), 0..600)) {
        let (device, handle) = Vsock::new(3).unwrap();
        let _stream = handle.connect(1024).unwrap();
        hostile::drive(Box::new(device), &script);
    }

    #[test]
    fn no_driver_of_a_clone_makes_the_device_panic(
        script in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let (mut parent, _) = Vsock::new(3).unwrap();
        let DeviceState::Vsock(state) = parent.save(&mut FdTable::default()).unwrap() else {
            panic!("the state of another device")
        };
        let (clone, handle) = Vsock::restore(4, &state).unwrap();
        let _stream = handle.connect(1024).unwrap();
        hostile::drive(Box::new(clone), &script);
    }
}

#[test]
fn another_user_reaches_no_guest() {
    let mut guest = Guest::boot(3);
    let (_dir, path) = public(&mut guest);
    let stranger = stranger_at(&path);
    // It may have been closed by now.
    let _ = (&stranger).write_all(b"CONNECT 1024\n");
    guest.settle();
    match (&stranger).read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
    nothing(&mut guest);
    let own = UnixStream::connect(&path).unwrap();
    (&own).write_all(b"CONNECT 1024\n").unwrap();
    guest.settle();
    asked(&mut guest);
}
