use super::*;
use crate::devices::virtio::hostile;
use crate::devices::virtio::testing::Driver;
use crate::sys::tap::HEADER_LEN;
use proptest::prelude::*;
use std::os::unix::net::UnixDatagram;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

/// A network device, and the other end of its wire.
fn nic(bytes_per_s: Option<u64>) -> (Net, UnixDatagram) {
    let (ours, wire) = UnixDatagram::pair().unwrap();
    wire.set_nonblocking(true).unwrap();
    let tap = Tap::from_socket(ours.into()).unwrap();
    (Net::new(tap, MAC, bytes_per_s).unwrap(), wire)
}

/// A frame behind its header, `len` bytes in all.
fn frame(len: usize, seed: u8) -> Vec<u8> {
    let header = [0; HEADER_LEN].into_iter();
    let payload = (0..len - HEADER_LEN).map(|at| (at as u8).wrapping_mul(31) ^ seed);
    header.chain(payload).collect()
}

fn from_wire(wire: &UnixDatagram) -> Option<Vec<u8>> {
    let mut bytes = vec![0; FRAME_MAX];
    let len = wire.recv(&mut bytes).ok()?;
    bytes.truncate(len);
    Some(bytes)
}

fn merges(driver: &Driver) -> bool {
    driver.offered_features() & 1 << VIRTIO_NET_F_MRG_RXBUF != 0
}

#[test]
fn a_frame_goes_out_as_the_driver_has_written_it() {
    let (net, wire) = nic(None);
    let mut driver = Driver::start(net);
    let sent = frame(1500, 1);
    driver.request(TRANSMIT, &[&sent[..12], &sent[12..700], &sent[700..]], &[]);
    assert_eq!(from_wire(&wire), Some(sent));
}

#[test]
fn a_frame_comes_in_and_says_how_many_buffers_it_took() {
    let (net, wire) = nic(None);
    let mut driver = Driver::start(net);
    assert!(merges(&driver));
    let buffers: Vec<_> = (0..4).map(|_| driver.offer(RECEIVE, &[], &[600])).collect();
    wire.send(&frame(1500, 3)).unwrap();
    driver.lock().process_host_events();
    let mut received = Vec::new();
    for (buffer, len) in buffers.iter().zip([600, 600, 300]) {
        assert_eq!(driver.take_used(RECEIVE), Some((buffer.head, len)));
        received.extend(driver.contents(buffer).concat());
    }
    assert_eq!(driver.take_used(RECEIVE), None);
    received.truncate(1500);
    let mut expected = frame(1500, 3);
    expected[10] = 3;
    assert_eq!(received, expected);
}

#[test]
fn a_driver_that_does_not_merge_gets_frames_that_fit_one_buffer() {
    let (net, wire) = nic(None);
    let mut driver = Driver::start_without(net, 1 << VIRTIO_NET_F_MRG_RXBUF);
    let buffers: Vec<_> = (0..2).map(|_| driver.offer(RECEIVE, &[], &[600])).collect();
    for (len, seed) in [(601, 1), (600, 2)] {
        wire.send(&frame(len, seed)).unwrap();
    }
    driver.lock().process_host_events();
    assert_eq!(driver.take_used(RECEIVE), Some((buffers[0].head, 600)));
    assert_eq!(driver.take_used(RECEIVE), None);
    assert_eq!(
        driver.contents(&buffers[0]).concat()[12..],
        frame(600, 2)[12..]
    );
}

#[test]
fn a_frame_without_room_waits_and_the_driver_is_asked_to_tell() {
    let (net, wire) = nic(None);
    let mut driver = Driver::start(net);
    driver.offer(RECEIVE, &[], &[600]);
    wire.send(&frame(1500, 3)).unwrap();
    driver.lock().process_host_events();
    // Once more, for the transport arms the ring as it sees it.
    driver.lock().process_queue(RECEIVE);
    assert_eq!(driver.take_used(RECEIVE), None);
    driver.offer(RECEIVE, &[], &[600]);
    assert!(driver.must_notify(RECEIVE, 1), "of the first buffer more");
    driver.lock().process_queue(RECEIVE);
    assert_eq!(driver.take_used(RECEIVE), None);
    driver.offer(RECEIVE, &[], &[600]);
    assert!(driver.must_notify(RECEIVE, 1));
    driver.lock().process_queue(RECEIVE);
    let lens: Vec<_> = std::iter::from_fn(|| driver.take_used(RECEIVE)).collect();
    assert_eq!(lens.iter().map(|(_, len)| len).sum::<u32>(), 1500);
}

#[test]
fn interrupts_come_when_the_driver_wants_them() {
    let (net, wire) = nic(None);
    let mut driver = Driver::start(net);
    for _ in 0..4 {
        driver.offer(RECEIVE, &[], &[600]);
    }
    driver.set_used_event(RECEIVE, 1);
    wire.send(&frame(100, 0)).unwrap();
    driver.lock().process_host_events();
    assert_eq!(driver.interrupts().0, 0, "it asked for the second");
    wire.send(&frame(100, 0)).unwrap();
    driver.lock().process_host_events();
    assert_eq!(driver.interrupts().0, 1);
    wire.send(&frame(100, 0)).unwrap();
    driver.lock().process_host_events();
    assert_eq!(driver.interrupts().0, 0, "it has not asked again");
}

#[test]
fn frames_that_come_before_the_driver_are_there_when_it_is() {
    let (net, wire) = nic(None);
    wire.send(&frame(100, 9)).unwrap();
    let mut driver = Driver::start(net);
    driver.lock().process_host_events();
    assert_eq!(driver.take_used(RECEIVE), None);
    let buffer = driver.offer(RECEIVE, &[], &[600]);
    driver.lock().process_queue(RECEIVE);
    assert_eq!(driver.take_used(RECEIVE), Some((buffer.head, 100)));
}

#[test]
fn a_limit_holds_frames_back_and_loses_none() {
    // A tenth of a second's worth is more than the largest frame.
    let (net, wire) = nic(Some(1_000_000));
    let mut driver = Driver::start(net);
    let sent = frame(60_000, 5);
    for _ in 0..5 {
        driver.offer(TRANSMIT, &[&sent], &[]);
    }
    driver.lock().process_queue(TRANSMIT);
    let on_wire = || std::iter::from_fn(|| from_wire(&wire)).count();
    // One is paid for, the next is owed, the others wait for the timer.
    let mut got = on_wire();
    assert_eq!(got, 2);
    let begun = now();
    while got < 5 {
        assert!(
            now() - begun < Duration::from_secs(60),
            "{got} came through"
        );
        std::thread::sleep(Duration::from_millis(1));
        driver.lock().process_host_events();
        got += on_wire();
    }
}

#[test]
fn a_clone_has_an_address_and_a_wire_of_its_own() {
    let (net, wire) = nic(None);
    let mut driver = Driver::start(net);
    driver.offer(RECEIVE, &[], &[600]);
    let state = driver.lock().save(&mut BlobWriter::default()).unwrap();
    let saved: NetState = state.own.decode().unwrap();
    let (ours, other_wire) = UnixDatagram::pair().unwrap();
    let other = Mac([2, 0, 0, 0, 0, 8]);
    let tap = Tap::from_socket(ours.into()).unwrap();
    let clone = Net::restore(&saved, tap, other).unwrap();
    assert_eq!(
        clone.features & 1 << VIRTIO_NET_F_MRG_RXBUF,
        1 << VIRTIO_NET_F_MRG_RXBUF
    );
    let mut clone = driver.clone_into(clone, &state);
    wire.send(&frame(100, 1)).unwrap();
    other_wire.send(&frame(200, 2)).unwrap();
    clone.lock().process_host_events();
    driver.lock().process_host_events();
    assert_eq!(driver.take_used(RECEIVE).map(|(_, len)| len), Some(100));
    assert_eq!(clone.take_used(RECEIVE).map(|(_, len)| len), Some(200));
    for (machine, mac) in [(&driver, MAC), (&clone, other)] {
        let low = machine.read(0x100).to_le_bytes();
        let high = machine.read(0x104).to_le_bytes();
        assert_eq!([&low[..], &high[..2]].concat(), mac.0);
        assert_eq!(high[2..], [1, 0], "the link is up");
    }
}

#[test]
fn a_frame_of_impossible_length_is_a_broken_driver() {
    use crate::devices::virtio::testing::{NEEDS_RESET, STATUS};
    for len in [HEADER_LEN - 1, FRAME_MAX + 1] {
        let (net, wire) = nic(None);
        let mut driver = Driver::start(net);
        driver.offer(TRANSMIT, &[&vec![0; len]], &[]);
        driver.lock().process_queue(TRANSMIT);
        assert_ne!(driver.read(STATUS) & NEEDS_RESET, 0, "{len}");
        assert_eq!(from_wire(&wire), None);
    }
}

proptest! {
    #[test]
    fn a_hostile_driver_gets_nowhere(
        script in prop::collection::vec(any::<u8>(), 0..2000),
        frames in prop::collection::vec((0usize..FRAME_MAX, any::<u8>()), 0..8),
        limited in any::<bool>(),
    ) {
        let (net, wire) = nic(limited.then_some(1 << 30));
        for (len, byte) in frames {
            // The wire may be full.
            let _ = wire.send(&vec![byte; len]);
        }
        hostile::drive(Box::new(net), &script);
    }
}
