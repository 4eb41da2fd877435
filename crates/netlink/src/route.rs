//! Interfaces, addresses, routes and neighbours of IPv4: rtnetlink(7) messages.

use super::{Batch, CREATE, DUMP, Netlink, REPLACE, attributes};
use std::io;
use std::net::Ipv4Addr;

/// `RTM_NEWLINK`.
pub const NEWLINK: u16 = 16;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// `AF_INET`.
const INET: u8 = 2;

/// `struct ifinfomsg`: an interface, to be switched on or left as it is.
pub fn interface(index: u32, up: bool) -> [u8; 16] {
    /// `IFF_UP`.
    const UP: u32 = 1;
    let flags = if up { UP } else { 0 };
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

/// A place in a network: an address and how many of its bits are the network's.
pub type Net = (Ipv4Addr, u8);

impl Batch {
    /// Switches an interface on.
    pub fn up(&mut self, index: u32) -> &mut Self {
        self.message(NEWLINK, 0, &interface(index, true), |_| ())
    }

    /// Sets the length of the longest packet that an interface takes.
    pub fn mtu(&mut self, index: u32, bytes: u32) -> &mut Self {
        self.message(NEWLINK, 0, &interface(index, false), |message| {
            message.number(IFLA_MTU, bytes);
        })
    }

    /// Gives an interface an Ethernet address. Its neighbours are forgotten with the one
    /// it had, permanent ones too.
    pub fn mac(&mut self, index: u32, mac: [u8; 6]) -> &mut Self {
        self.message(NEWLINK, 0, &interface(index, false), |message| {
            message.attribute(IFLA_ADDRESS, &mac);
        })
    }

    /// Gives an interface an address, beside those it has.
    pub fn address(&mut self, index: u32, (ip, prefix): Net) -> &mut Self {
        let header = address_header(index, prefix);
        self.message(NEWADDR, CREATE | REPLACE, &header, |message| {
            message.attribute(IFA_LOCAL, &ip.octets());
            message.attribute(IFA_ADDRESS, &ip.octets());
        })
    }

    /// Takes an address from an interface. With its last one go all routes that it has.
    pub fn no_address(&mut self, index: u32, (ip, prefix): Net) -> &mut Self {
        self.message(DELADDR, 0, &address_header(index, prefix), |message| {
            message.attribute(IFA_LOCAL, &ip.octets());
        })
    }

    /// Packets for `to` leave through an interface, where their receiver is.
    pub fn link_to(&mut self, to: Net, index: u32) -> &mut Self {
        /// `RT_SCOPE_LINK`.
        const LINK: u8 = 253;
        self.route(to, [LINK, UNICAST], 0, |message| {
            message.number(RTA_OIF, index);
        })
    }

    /// Packets for `to` go to `gateway`, which is on the other side of an interface
    /// whatever its address.
    pub fn way(&mut self, to: Net, gateway: Ipv4Addr, index: u32) -> &mut Self {
        /// `RTNH_F_ONLINK`.
        const ON_LINK: u32 = 4;
        self.route(to, [UNIVERSE, UNICAST], ON_LINK, |message| {
            message.attribute(RTA_GATEWAY, &gateway.octets());
            message.number(RTA_OIF, index);
        })
    }

    /// Packets for `to` are refused, and their sender is told.
    pub fn prohibit(&mut self, to: Net) -> &mut Self {
        /// `RTN_PROHIBIT`.
        const PROHIBIT: u8 = 8;
        self.route(to, [UNIVERSE, PROHIBIT], 0, |_| ())
    }

    /// A route in the main table, of this scope and type.
    fn route(
        &mut self,
        (to, prefix): Net,
        [scope, kind]: [u8; 2],
        flags: u32,
        fill: impl FnOnce(&mut Self),
    ) -> &mut Self {
        /// `RT_TABLE_MAIN`, `RTPROT_STATIC`.
        const MAIN: u8 = 254;
        const STATIC: u8 = 4;
        let mut header = [INET, prefix, 0, 0, MAIN, STATIC, scope, kind, 0, 0, 0, 0];
        header[8..].copy_from_slice(&flags.to_ne_bytes());
        self.message(NEWROUTE, CREATE | REPLACE, &header, |message| {
            if prefix > 0 {
                message.attribute(RTA_DST, &to.octets());
            }
            fill(message);
        })
    }

    /// Who has an address on the other side of an interface is known for good: nobody
    /// has to ask.
    pub fn neighbour(&mut self, index: u32, ip: Ipv4Addr, mac: [u8; 6]) -> &mut Self {
        /// `NUD_PERMANENT`.
        const PERMANENT: u8 = 0x80;
        let mut header = [INET, 0, 0, 0, 0, 0, 0, 0, PERMANENT, 0, 0, 0];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        self.message(NEWNEIGH, CREATE | REPLACE, &header, |message| {
            message.attribute(NDA_DST, &ip.octets());
            message.attribute(NDA_LLADDR, &mac);
        })
    }
}

impl Netlink {
    /// All addresses of the namespace in which this was opened.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&self) -> io::Result<Vec<Ipv4Addr>> {
        let mut batch = Batch::new();
        batch.message(GETADDR, DUMP, &address_header(0, 0), |_| ());
        let mut addresses = Vec::new();
        self.list(&batch, |kind, payload| {
            addresses.extend(listed_address(kind, payload));
        })?;
        Ok(addresses)
    }
}

/// The address that a message of a listing is about, if it is about one.
pub fn listed_address(kind: u16, payload: &[u8]) -> Option<Ipv4Addr> {
    let all = payload.get(address_header(0, 0).len()..)?;
    let mut all = attributes(all).filter(|_| kind == NEWADDR);
    let (_, local) = all.find(|(kind, _)| *kind == IFA_LOCAL)?;
    <[u8; 4]>::try_from(local).ok().map(Ipv4Addr::from)
}

/// `RT_SCOPE_UNIVERSE`, `RTN_UNICAST`.
const UNIVERSE: u8 = 0;
const UNICAST: u8 = 1;

/// `struct ifaddrmsg`.
fn address_header(index: u32, prefix: u8) -> [u8; 8] {
    let mut header = [INET, prefix, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    header
}
