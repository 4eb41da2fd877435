//! Tests on the host's own network, as root, with addresses for documentation (RFC 5737).

mod links;

use super::address::Pool;
use super::{Namespace, NetError, Setup, available, filter, link, netns};
use hyperfork_api::{Egress, NetKind, NetMode};
use hyperfork_netlink::{Netlink, Subsystem};
use hyperfork_sys::tap::HEADER_LEN;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Where in a frame behind its header things are.
const IP: usize = HEADER_LEN + 14;
const PROTOCOL: usize = IP + 9;
const SOURCE: usize = IP + 12;
const DESTINATION: usize = IP + 16;

/// A setup with this pool; none of these tests needs a helper.
fn setup(pool: &Pool) -> Setup {
    Setup {
        pool: *pool,
        program: PathBuf::new(),
    }
}

fn pool(text: &str) -> Pool {
    text.parse().unwrap()
}

fn namespace(pool: &Pool, mode: NetMode) -> Namespace {
    guarded(pool, mode, Egress::All)
}

fn guarded(pool: &Pool, mode: NetMode, egress: Egress) -> Namespace {
    Namespace::prepare_in(&setup(pool), &NetKind { mode, egress })
        .unwrap_or_else(|error| panic!("{}", hyperfork_api::one_line(&error)))
}

/// Waits for something that must come, but not for ever.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The next IPv4 frame of this protocol that the guest gets.
fn frame_of(network: &Namespace, protocol: u8) -> Vec<u8> {
    eventually("frame for the guest", || {
        let mut frame = vec![0; 2000];
        let len = network.tap().read(&mut frame).unwrap()?;
        frame.truncate(len);
        (frame[IP - 2..IP] == [8, 0] && frame[PROTOCOL] == protocol).then_some(frame)
    })
}

/// A guest's frame with a datagram.
fn datagram(network: &Namespace, from: Ipv4Addr, to: (Ipv4Addr, u16), text: &[u8]) -> Vec<u8> {
    let guest = network.guest();
    let mut frame = vec![0; HEADER_LEN];
    frame.extend(guest.gateway_mac.0);
    frame.extend(guest.mac.0);
    frame.extend([8, 0]);
    let len = (28 + text.len()) as u16;
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    header[2..4].copy_from_slice(&len.to_be_bytes());
    header.extend(from.octets());
    header.extend(to.0.octets());
    let words = header
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend(4000u16.to_be_bytes());
    frame.extend(to.1.to_be_bytes());
    frame.extend((8 + text.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(text);
    frame
}

fn send(network: &Namespace, frame: &[u8]) {
    eventually("room in the TAP", || network.tap().write(frame).unwrap());
}

/// Hears the guest at the host's end of its link.
fn listener(network: &Namespace) -> (UdpSocket, (Ipv4Addr, u16)) {
    let socket = UdpSocket::bind((network.host().1, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, (network.host().1, port))
}

#[test]
fn to_look_whether_there_can_be_a_network_makes_nothing() {
    for mode in [NetMode::Own, NetMode::Same] {
        available(&setup(&Pool::DEFAULT), mode).unwrap();
    }
    netns::inside_a_new_one(|| {
        let (route, filter) = (
            Netlink::open(Subsystem::Route)?,
            Netlink::open(Subsystem::Filter)?,
        );
        assert!(link::knows_veth(&route));
        assert!(route.index_of("hf-probe").is_err());
        let pools = ["192.0.2.0/24", "198.51.100.0/24"].map(pool);
        for pool in &pools {
            assert!(filter::can_hide_guests(&filter, pool));
            // No table is left, and one that is there does not matter.
            assert!(filter::show_guests(&filter, pool).is_err());
            filter::hide_guests(&filter, pool)?;
            filter::hide_guests(&filter, pool)?;
            assert!(filter::can_hide_guests(&filter, pool));
        }
        // Each pool has its own.
        for pool in &pools {
            filter::show_guests(&filter, pool)?;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_namespace_that_is_dropped_leaves_nothing_and_its_addresses_are_free_again() {
    // Small, so not the same as that of another run of this test.
    let pool = pool(&format!("203.0.113.{}/28", std::process::id() % 16 * 16));
    let mut all: Vec<_> = (0..pool.len())
        .map(|_| namespace(&pool, NetMode::Own))
        .collect();
    let error = Namespace::prepare_in(&setup(&pool), &NetKind::default()).unwrap_err();
    assert!(matches!(error, NetError::Exhausted(_)), "{error:?}");
    assert!(error.to_string().contains("all 3 blocks"), "{error}");
    let first = all.swap_remove(0);
    let (ip, interface) = (first.ip().unwrap(), first.host().0);
    let there = Path::new("/sys/class/net").join(&interface);
    assert!(there.exists());
    drop(first);
    let again = eventually("address", || {
        Namespace::prepare_in(&setup(&pool), &NetKind::default()).ok()
    });
    assert_eq!(again.ip().unwrap(), ip);
    drop((all, again));
    eventually("end of the interfaces", || (!there.exists()).then_some(()));
}

#[test]
fn the_host_and_a_guest_reach_each_other_without_an_arp_request() {
    let pool = pool("198.51.100.0/26");
    let network = namespace(&pool, NetMode::Own);
    let (socket, address) = listener(&network);
    socket.send_to(b"in", (network.ip().unwrap(), 7)).unwrap();
    let frame = frame_of(&network, 17);
    assert_eq!(frame[HEADER_LEN..][..6], network.guest().mac.0);
    assert_eq!(frame[HEADER_LEN + 6..][..6], network.guest().gateway_mac.0);
    assert_eq!(frame[SOURCE..][..4], address.0.octets());
    assert_eq!(frame[DESTINATION..][..4], network.ip().unwrap().octets());
    assert!(frame.ends_with(b"in"));
    send(
        &network,
        &datagram(&network, network.ip().unwrap(), address, b"out"),
    );
    let mut text = [0; 10];
    let (len, from) = socket.recv_from(&mut text).unwrap();
    assert_eq!(
        (&text[..len], from),
        (&b"out"[..], (network.ip().unwrap(), 4000).into())
    );
}

#[test]
fn a_guest_that_calls_itself_by_a_foreign_address_is_not_heard() {
    let pool = pool("198.51.100.64/26");
    let network = namespace(&pool, NetMode::Own);
    let (socket, address) = listener(&network);
    let other = Ipv4Addr::new(203, 0, 113, 9);
    send(&network, &datagram(&network, other, address, b"foreign"));
    send(
        &network,
        &datagram(&network, network.ip().unwrap(), address, b"own"),
    );
    let mut text = [0; 10];
    let len = socket.recv(&mut text).unwrap();
    assert_eq!(&text[..len], b"own");
}

#[test]
fn a_guest_that_calls_another_is_told_that_it_may_not() {
    let pool = pool("198.51.100.128/26");
    let (one, other) = (
        namespace(&pool, NetMode::Own),
        namespace(&pool, NetMode::Own),
    );
    send(
        &one,
        &datagram(&one, one.ip().unwrap(), (other.ip().unwrap(), 7), b"hello"),
    );
    let frame = frame_of(&one, 1);
    // Destination unreachable, communication administratively prohibited.
    assert_eq!(frame[IP + 20..][..2], [3, 13]);
    assert_eq!(frame[SOURCE..][..4], one.guest().gateway.octets());
}

#[test]
fn a_guest_of_mode_same_sees_the_same_address_everywhere_and_has_its_own_outside() {
    let pool = pool("198.51.100.192/26");
    let all = [
        namespace(&pool, NetMode::Same),
        namespace(&pool, NetMode::Same),
    ];
    assert_eq!(all[0].guest(), all[1].guest());
    assert_ne!(all[0].ip().unwrap(), all[1].ip().unwrap());
    for network in &all {
        let visible = network.guest().ip;
        let (socket, address) = listener(network);
        socket
            .send_to(b"in", (network.ip().unwrap(), 4000))
            .unwrap();
        let frame = frame_of(network, 17);
        assert_eq!(frame[DESTINATION..][..4], visible.octets());
        send(network, &datagram(network, visible, address, b"out"));
        let mut text = [0; 10];
        let (len, from) = socket.recv_from(&mut text).unwrap();
        assert_eq!(
            (&text[..len], from),
            (&b"out"[..], (network.ip().unwrap(), 4000).into())
        );
    }
}

/// Whether a datagram to this port of the host's end arrives there, or its sender gets an
/// error.
fn arrives(network: &Namespace) -> bool {
    let (socket, address) = listener(network);
    socket.set_nonblocking(true).unwrap();
    arrives_at(network, &socket, address)
}

fn arrives_at(network: &Namespace, socket: &UdpSocket, address: (Ipv4Addr, u16)) -> bool {
    let visible = network.guest().ip;
    send(network, &datagram(network, visible, address, b"hello"));
    eventually("arrival or refusal", || {
        if socket.recv(&mut [0; 10]).is_ok() {
            return Some(true);
        }
        let mut frame = vec![0; 2000];
        network.tap().read(&mut frame).unwrap()?;
        let refused = frame[PROTOCOL] == 1 && frame[IP + 20..][..2] == [3, 13];
        refused.then_some(false)
    })
}

#[test]
fn a_guest_begins_to_speak_to_those_alone_whom_it_may() {
    let pool = pool("192.0.2.0/26");
    let may = |mode, words: &[&str]| arrives(&guarded(&pool, mode, Egress::of(words).unwrap()));
    for mode in [NetMode::Own, NetMode::Same] {
        assert!(may(mode, &["all"]));
        assert!(may(mode, &["host"]));
        assert!(may(mode, &["10.0.0.0/8", "192.0.2.0/26:1-65535/udp"]));
        for refused in [
            &["none"][..],
            &["192.0.2.0/26/tcp"],
            &["public", "dns"],
            &["192.0.2.0/26:1"],
        ] {
            assert!(!may(mode, refused), "{mode:?} {refused:?}");
        }
    }
}

#[test]
fn who_may_begin_nothing_still_answers() {
    let pool = pool("192.0.2.64/26");
    let network = guarded(&pool, NetMode::Own, Egress::Only(Vec::new()));
    let (socket, address) = listener(&network);
    socket.set_nonblocking(true).unwrap();
    assert!(!arrives_at(&network, &socket, address));
    socket
        .send_to(b"in", (network.ip().unwrap(), 4000))
        .unwrap();
    frame_of(&network, 17);
    assert!(arrives_at(&network, &socket, address));
    // To this guest, and no other.
    assert!(!arrives(&network));
}
