//! The guest's network device: addresses, the route out, and the connections a clone inherits.
//!
//! The agent configures the kernel in as few steps as possible, and starts no program for
//! it: where the guest's kernel is emulated each step costs milliseconds, and a clone answers
//! nothing before. Its gateway is that of its parent, so there is no route to be changed.
//! Both ends of the device's link know each other's Ethernet address beforehand, so that no ARP
//! request is needed either; an announcement would have no listener.

mod connections;

use crate::log;
use connections::Connections;
use hyperfork_api::net::GuestNetwork;
use hyperfork_netlink::{Batch, Netlink, Subsystem};
use std::fs;
use std::io;
use std::net::Ipv4Addr;

const CARD: &str = "eth0";
const RESOLVER: &str = "/etc/resolv.conf";

/// The network device as it was set up last.
#[derive(Debug, Default)]
pub(crate) struct Nic {
    set_up: Option<SetUp>,
    /// Addresses that it had before, whose connections are still to be ended. More than
    /// one when a clone was cloned before it had ended them.
    left: Vec<Ipv4Addr>,
}

/// Its sockets stay open: a clone has them from its parent.
#[derive(Debug)]
struct SetUp {
    kernel: Netlink,
    connections: Connections,
    index: u32,
    network: GuestNetwork,
}

impl Nic {
    /// Makes the guest's network this one. What its programs were connected to by another
    /// address is over, as [`settle`](Self::settle) tells them.
    ///
    /// # Errors
    /// The kernel's. A guest whose kernel has no driver for the device continues without it.
    pub(crate) fn set_up(&mut self, network: &GuestNetwork) -> io::Result<()> {
        let Some(card) = &mut self.set_up else {
            self.set_up = SetUp::first(network)?;
            return Ok(());
        };
        if card.network == *network {
            return Ok(());
        }
        let changes = changes(card.index, Some(&card.network), network);
        card.kernel.request(&changes)?;
        if card.network.ip != network.ip {
            self.left.push(card.network.ip);
        }
        if card.network.nameservers != network.nameservers {
            write_resolver(network);
        }
        card.network = network.clone();
        Ok(())
    }

    /// Ends connections from an address that is not the guest's any more.
    ///
    /// That may come after the first answer: nothing that they send gets out, since the
    /// address is not in this kernel nor let through by the namespace outside, and no program here
    /// sends to it.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        let Some(card) = &self.set_up else {
            return Ok(());
        };
        for left in self.left.drain(..) {
            card.connections.end_all_of(left)?;
        }
        Ok(())
    }
}

impl SetUp {
    fn first(network: &GuestNetwork) -> io::Result<Option<Self>> {
        let kernel = Netlink::open(Subsystem::Route)?;
        let index = match kernel.index_of(CARD) {
            Ok(index) => index,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                log::error(format_args!("this kernel has no driver for the network"));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        kernel.request(&changes(index, None, network))?;
        write_resolver(network);
        Ok(Some(Self {
            kernel,
            connections: Connections::open()?,
            index,
            network: network.clone(),
        }))
    }
}

/// From one network to the next.
fn changes(index: u32, old: Option<&GuestNetwork>, new: &GuestNetwork) -> Batch {
    let mut batch = Batch::new();
    let changed =
        |differs: fn(&GuestNetwork, &GuestNetwork) -> bool| old.is_none_or(|old| differs(old, new));
    if changed(|old, new| old.mac != new.mac) {
        batch.mac(index, new.mac.0);
    }
    if old.is_none() {
        batch.up(index);
    }
    // The new address before the old one goes: with the last all routes would.
    if changed(|old, new| (old.ip, old.prefix) != (new.ip, new.prefix)) {
        batch.address(index, (new.ip, new.prefix));
        if let Some(old) = old {
            batch.no_address(index, (old.ip, old.prefix));
        }
    }
    batch.neighbour(index, new.gateway, new.gateway_mac.0);
    if changed(|old, new| old.gateway != new.gateway) {
        batch.way((Ipv4Addr::UNSPECIFIED, 0), new.gateway, index);
    }
    batch
}

fn write_resolver(network: &GuestNetwork) {
    let lines = network.nameservers.iter();
    let text: String = lines.map(|ip| format!("nameserver {ip}\n")).collect();
    if let Err(error) = fs::write(RESOLVER, text) {
        log::error(format_args!("{RESOLVER}: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperfork_api::Mac;
    use hyperfork_netlink::messages;

    fn network(ip: [u8; 4]) -> GuestNetwork {
        let ip = Ipv4Addr::from(ip);
        GuestNetwork {
            mac: Mac::of(ip),
            ip,
            prefix: 32,
            gateway: Ipv4Addr::new(169, 254, 1, 1),
            gateway_mac: Mac([2, 0, 0, 0, 0, 1]),
            nameservers: Vec::new(),
        }
    }

    fn count(batch: &Batch) -> usize {
        messages(batch.as_bytes()).count()
    }

    #[test]
    fn a_clone_changes_only_what_is_not_as_its_parents() {
        let (a, b) = (network([10, 0, 0, 3]), network([10, 0, 0, 7]));
        // Address and switch, IP, gateway's Ethernet address, route.
        assert_eq!(count(&changes(2, None, &a)), 5);
        // Ethernet address, new IP, old IP, and the gateway's, forgotten with the first.
        assert_eq!(count(&changes(2, Some(&a), &b)), 4);
        let other = GuestNetwork {
            gateway: Ipv4Addr::new(169, 254, 1, 2),
            ..a.clone()
        };
        assert_eq!(count(&changes(2, Some(&a), &other)), 2);
    }
}
