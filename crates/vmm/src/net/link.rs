//! Interfaces, addresses and routes: rtnetlink(7) messages.

use hyperfork_api::Mac;
use hyperfork_api::netlink::{ACK, Batch, CREATE, EXCLUSIVE, REPLACE};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

const NEWLINK: u16 = 16;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
const NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

const INET: u8 = libc::AF_INET as u8;

/// `struct ifinfomsg`.
fn interface(index: u32, up: bool) -> [u8; 16] {
    let flags = if up { libc::IFF_UP as u32 } else { 0 };
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

/// Makes a pair of interfaces, here and in another namespace. The name must be free.
pub(super) fn veth(batch: &mut Batch, name: &str, peer: &str, peers_place: BorrowedFd<'_>) {
    let flags = ACK | CREATE | EXCLUSIVE;
    batch.message(NEWLINK, flags, &interface(0, false), |message| {
        message.text(IFLA_IFNAME, name);
        message.nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |other| {
                    other.raw(&interface(0, false)).text(IFLA_IFNAME, peer);
                    other.number(IFLA_NET_NS_FD, peers_place.as_raw_fd() as u32);
                });
            });
        });
    });
}

/// Switches an interface on, with another Ethernet address if one is given.
pub(super) fn up(batch: &mut Batch, index: u32, mac: Option<Mac>) {
    batch.message(NEWLINK, ACK, &interface(index, true), |message| {
        if let Some(mac) = mac {
            message.attribute(IFLA_ADDRESS, &mac.0);
        }
    });
}

/// Gives an interface an address.
pub(super) fn address(batch: &mut Batch, index: u32, address: Ipv4Addr, prefix: u8) {
    let mut header = [INET, prefix, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    batch.message(NEWADDR, ACK | CREATE | REPLACE, &header, |message| {
        message.attribute(IFA_LOCAL, &address.octets());
        message.attribute(IFA_ADDRESS, &address.octets());
    });
}

/// `struct rtmsg`: a route in the main table.
fn route(prefix: u8, kind: u8) -> [u8; 12] {
    /// `RT_TABLE_MAIN`, `RTPROT_STATIC`.
    const MAIN: u8 = 254;
    const STATIC: u8 = 4;
    [INET, prefix, 0, 0, MAIN, STATIC, 0, kind, 0, 0, 0, 0]
}

/// Packets for `to` go to `gateway`, through an interface.
pub(super) fn way(batch: &mut Batch, to: (Ipv4Addr, u8), gateway: Ipv4Addr, index: u32) {
    /// `RTN_UNICAST`.
    const UNICAST: u8 = 1;
    let flags = ACK | CREATE | REPLACE;
    batch.message(NEWROUTE, flags, &route(to.1, UNICAST), |message| {
        if to.1 > 0 {
            message.attribute(RTA_DST, &to.0.octets());
        }
        message.attribute(RTA_GATEWAY, &gateway.octets());
        message.number(RTA_OIF, index);
    });
}

/// Packets for `to` are refused, and their sender is told.
pub(super) fn prohibit(batch: &mut Batch, to: (Ipv4Addr, u8)) {
    /// `RTN_PROHIBIT`.
    const PROHIBIT: u8 = 8;
    let flags = ACK | CREATE | REPLACE;
    batch.message(NEWROUTE, flags, &route(to.1, PROHIBIT), |message| {
        message.attribute(RTA_DST, &to.0.octets());
    });
}

/// Who has an address is known for good: nobody has to ask.
pub(super) fn neighbour(batch: &mut Batch, index: u32, ip: Ipv4Addr, mac: Mac) {
    /// `NUD_PERMANENT`.
    const PERMANENT: u8 = 0x80;
    let mut header = [INET, 0, 0, 0, 0, 0, 0, 0, PERMANENT, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    batch.message(NEWNEIGH, ACK | CREATE | REPLACE, &header, |message| {
        message.attribute(NDA_DST, &ip.octets());
        message.attribute(NDA_LLADDR, &mac.0);
    });
}
