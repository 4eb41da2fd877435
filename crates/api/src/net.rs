//! The network of a VM.

use crate::egress::Egress;
use crate::port::PublishedPort;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address derived from an IP address: locally administered, and unique if that is.
    pub const fn of(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, b'H', a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Which addresses clones have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetMode {
    /// Its own, which its agent sets.
    #[default]
    Own,
    /// Those of its parent as far as the guest can see, translated outside.
    Same,
    /// Addresses without a meaning outside: the VM's process makes the guest's connections. For
    /// users without privileges.
    User,
}

/// The part of a network's configuration that a shell is built with, before it is a VM's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct NetKind {
    /// Which addresses clones have.
    pub mode: NetMode,
    /// Where a guest may connect to.
    pub egress: Egress,
}

/// The network a user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Network {
    /// The part that is the same for all clones.
    pub kind: NetKind,
    /// Guest ports to be reached on the host.
    pub ports: Vec<PublishedPort>,
    /// Most bytes a second, each way; `None` for no limit.
    pub bytes_per_s: Option<u64>,
}

/// The network configuration of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetwork {
    /// The Ethernet address of its NIC.
    pub mac: Mac,
    /// Its address.
    pub ip: Ipv4Addr,
    /// The length of the network's prefix, in bits.
    pub prefix: u8,
    /// The gateway.
    pub gateway: Ipv4Addr,
    /// The gateway's Ethernet address, so that the guest need not ask for it (ARP).
    pub gateway_mac: Mac,
    /// The name servers.
    pub nameservers: Vec<Ipv4Addr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ethernet_address_is_that_of_one_machine_and_not_a_makers() {
        let mac = Mac::of(Ipv4Addr::new(10, 213, 0, 7));
        assert_eq!(mac.to_string(), "02:48:0a:d5:00:07");
        assert_eq!(mac.0[0] & 0b11, 0b10);
    }
}
