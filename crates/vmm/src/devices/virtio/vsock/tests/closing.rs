//! Tests of how connections end, from either side.

use super::guest::RX;
use super::*;
use crate::devices::virtio::VirtioDevice;

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
    for _ in 0..TIMEOUT_TICKS {
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
fn a_driver_that_resets_the_device_ends_its_connections() {
    let mut guest = Guest::boot(3);
    let (stream, _) = connected(&mut guest);
    VirtioDevice::reset(&mut guest.device);
    ended(&stream);
}
