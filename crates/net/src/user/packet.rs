//! UDP over IPv4 as bytes.

use hyperfork_api::port::Protocol;
use std::net::{Ipv4Addr, SocketAddrV4};

/// A datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) text: &'a [u8],
}

/// Bytes of an IPv4 header without options, and of UDP's.
const IP: usize = 20;
const UDP: usize = 8;
/// Longest text of one.
pub(super) const MOST: usize = u16::MAX as usize - IP - UDP;

impl<'a> Datagram<'a> {
    /// What is in a packet, if it is a whole datagram.
    pub(super) fn read(packet: &'a [u8]) -> Option<Self> {
        /// More fragments, and where in the whole this one begins.
        const FRAGMENT: u16 = 0x3fff;
        let first = *packet.first()?;
        let header = usize::from(first & 15) * 4;
        let packet = packet.get(..word(packet, 2)?.into())?;
        let is_whole = word(packet, 6)? & FRAGMENT == 0;
        if first >> 4 != 4 || header < IP || !is_whole || *packet.get(9)? != Protocol::Udp.number()
        {
            return None;
        }
        let (from, to) = (address(packet, 12)?, address(packet, 16)?);
        let udp = packet.get(header..)?;
        let text = udp.get(UDP..word(udp, 4)?.into())?;
        Some(Self {
            from: SocketAddrV4::new(from, word(udp, 0)?),
            to: SocketAddrV4::new(to, word(udp, 2)?),
            text,
        })
    }

    /// A packet with it, if it is not too long.
    pub(super) fn write(&self) -> Option<Vec<u8>> {
        const HOPS: u8 = 64;
        if self.text.len() > MOST {
            return None;
        }
        let udp_len = (UDP + self.text.len()) as u16;
        let mut packet = vec![0x45, 0];
        packet.extend((IP as u16 + udp_len).to_be_bytes());
        packet.extend([0, 0, 0, 0, HOPS, Protocol::Udp.number(), 0, 0]);
        packet.extend(self.from.ip().octets());
        packet.extend(self.to.ip().octets());
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(self.from.port().to_be_bytes());
        packet.extend(self.to.port().to_be_bytes());
        packet.extend(udp_len.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(self.text);
        // Addresses, protocol and length are summed up with it (RFC 768).
        let mut pseudo = packet[12..].to_vec();
        pseudo.resize(pseudo.len().next_multiple_of(2), 0);
        pseudo.extend([0, Protocol::Udp.number()]);
        pseudo.extend(udp_len.to_be_bytes());
        // Nothing would mean that there is none.
        let sum = Some(checksum(&pseudo))
            .filter(|sum| *sum != 0)
            .unwrap_or(u16::MAX);
        packet[IP + 6..IP + 8].copy_from_slice(&sum.to_be_bytes());
        Some(packet)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    bytes.try_into().ok().map(u16::from_be_bytes)
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(bytes.into())
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(*high) << 8 | u32::from(*low),
        [high, ..] => u32::from(*high) << 8,
        [] => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_sums_to_nothing(
            from in any::<(u32, u16)>(), to in any::<(u32, u16)>(),
            text in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let at = |(ip, port): (u32, u16)| SocketAddrV4::new(ip.into(), port);
            let datagram = Datagram { from: at(from), to: at(to), text: &text };
            let packet = datagram.write().unwrap();
            prop_assert_eq!(checksum(&packet[..IP]), 0);
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

    #[test]
    fn what_is_too_long_is_not_written() {
        let local = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let text = vec![0; MOST + 1];
        let datagram = |text| Datagram {
            from: local,
            to: local,
            text,
        };
        assert!(datagram(&text[..]).write().is_none());
        assert!(datagram(&text[1..]).write().is_some());
    }
}
