//! Tests of unexpected packets, and of credit.

use super::guest::EVENT;
use super::*;

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
