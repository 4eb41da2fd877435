//! UDP over IPv4 as bytes.

use etherparse::{IpNumber, Ipv4Header, Ipv4Slice, UdpHeader, UdpSlice};
use std::net::SocketAddrV4;

/// A datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) text: &'a [u8],
}

/// Bytes of both headers, of IPv4's without options.
const HEADERS: usize = Ipv4Header::MIN_LEN + UdpHeader::LEN;

impl<'a> Datagram<'a> {
    /// What is in a packet, if it is a whole datagram.
    pub(super) fn read(packet: &'a [u8]) -> Option<Self> {
        let packet = Ipv4Slice::from_slice(packet).ok()?;
        let (header, payload) = (packet.header(), packet.payload());
        // UDP right behind the header: etherparse would also look behind an authentication header.
        if header.protocol() != IpNumber::UDP || payload.fragmented {
            return None;
        }
        let udp = UdpSlice::from_slice(payload.payload).ok()?;
        // etherparse takes a length of 0 for all that is there, which is IPv6's rule.
        (udp.length() != 0).then(|| Self {
            from: SocketAddrV4::new(header.source_addr(), udp.source_port()),
            to: SocketAddrV4::new(header.destination_addr(), udp.destination_port()),
            text: udp.payload(),
        })
    }

    /// A packet with it, if it is not too long.
    pub(super) fn write(&self) -> Option<Vec<u8>> {
        const HOPS: u8 = 64;
        let (from, to) = (self.from.ip().octets(), self.to.ip().octets());
        let udp_len = UdpHeader::LEN_U16.checked_add(self.text.len().try_into().ok()?)?;
        let mut ip = Ipv4Header::new(udp_len, HOPS, IpNumber::UDP, from, to).ok()?;
        // It may be longer than a frame of the guest's network.
        ip.dont_fragment = false;
        let (from, to) = (self.from.port(), self.to.port());
        let udp = UdpHeader::with_ipv4_checksum(from, to, &ip, self.text).ok()?;
        let mut packet = Vec::with_capacity(HEADERS + self.text.len());
        ip.write(&mut packet).ok()?;
        packet.extend(udp.to_bytes());
        packet.extend(self.text);
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            from in any::<(u32, u16)>(), to in any::<(u32, u16)>(),
            text in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let at = |(ip, port): (u32, u16)| SocketAddrV4::new(ip.into(), port);
            let datagram = Datagram { from: at(from), to: at(to), text: &text };
            let packet = datagram.write().unwrap();
            prop_assert_eq!(Datagram::read(&packet), Some(datagram));
        }

        #[test]
        fn no_packet_is_too_strange(packet in prop::collection::vec(any::<u8>(), 0..200), first in 0x40u8..0x50) {
            let mut packet = packet;
            if let Some(byte) = packet.first_mut() {
                *byte = first;
            }
            if let Some(byte) = packet.get_mut(9) {
                *byte = 17;
            }
            let _ = Datagram::read(&packet);
        }
    }

    /// From 10.77.0.2:4000 to 10.0.0.1:53, with both checksums. It may be cut into fragments.
    const ABC: [u8; 31] = [
        0x45, 0x00, 0x00, 0x1f, 0x00, 0x00, 0x00, 0x00, 0x40, 0x11, 0x66, 0x7f, 0x0a, 0x4d, 0x00,
        0x02, 0x0a, 0x00, 0x00, 0x01, 0x0f, 0xa0, 0x00, 0x35, 0x00, 0x0b, 0x17, 0x51, b'a', b'b',
        b'c',
    ];

    #[test]
    fn a_datagram_is_these_bytes() {
        let datagram = Datagram {
            from: SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 2), 4000),
            to: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 53),
            text: b"abc",
        };
        assert_eq!(datagram.write().unwrap(), ABC);
        assert_eq!(Datagram::read(&ABC), Some(datagram));
    }

    #[test]
    fn what_is_no_whole_datagram_is_not_read() {
        // Version, header's length, total length (too long, too short), more fragments, a later
        // fragment, protocol (TCP, an authentication header), UDP's length (0, below its header's,
        // too long).
        let changes = [
            (0, 0x65),
            (0, 0x44),
            (3, 0x20),
            (3, 0x13),
            (6, 0x20),
            (7, 0x01),
            (9, 6),
            (9, 51),
            (25, 0),
            (25, 7),
            (25, 0x0c),
        ];
        for (at, value) in changes {
            let mut packet = ABC;
            packet[at] = value;
            assert_eq!(Datagram::read(&packet), None, "{value} at {at}");
        }
        for len in 0..ABC.len() {
            assert_eq!(Datagram::read(&ABC[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn what_stands_behind_an_authentication_header_is_not_read() {
        let mut packet = ABC[..20].to_vec();
        packet.extend([17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
        packet.extend(&ABC[20..]);
        packet[9] = 51;
        packet[3] += 12;
        assert_eq!(Datagram::read(&packet), None);
    }

    #[test]
    fn what_is_too_long_is_not_written() {
        let local = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let text = vec![0; usize::from(u16::MAX) - HEADERS + 1];
        let datagram = |text| Datagram {
            from: local,
            to: local,
            text,
        };
        assert!(datagram(&text[..]).write().is_none());
        assert!(datagram(&text[1..]).write().is_some());
    }
}
