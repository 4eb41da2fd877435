//! The guest's card: addresses, the way out, and what a clone inherits of connections.
//!
//! Everything is asked of the kernel in as few system calls as it takes, and nobody is
//! started for it. Both ends of the card's link know each other's Ethernet address
//! beforehand, so that nobody has to ask for it either; an announcement would have no
//! listener.

mod connections;

use crate::log;
use hyperfork_api::net::GuestNetwork;
use hyperfork_api::netlink::{ACK, Batch, CREATE, Content, REPLACE, messages};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

const CARD: &str = "eth0";
const RESOLVER: &str = "/etc/resolv.conf";

const NEWLINK: u16 = 16;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const NEWROUTE: u16 = 24;
const NEWNEIGH: u16 = 28;

/// `AF_INET`.
const INET: u8 = 2;

/// The card as it was set up last.
#[derive(Debug, Default)]
pub(crate) struct Card {
    set_up: Option<SetUp>,
}

#[derive(Debug)]
struct SetUp {
    kernel: OwnedFd,
    index: u32,
    network: GuestNetwork,
}

impl Card {
    /// Makes the guest's network this one. What its programs were connected to by another
    /// address is over, and they are told at once.
    ///
    /// # Errors
    /// The kernel's. A guest whose kernel does not know the card goes on without.
    pub(crate) fn set_up(&mut self, network: &GuestNetwork) -> io::Result<()> {
        let set_up = self.set_up.take();
        if let Some(old) = &set_up
            && old.network == *network
        {
            self.set_up = set_up;
            return Ok(());
        }
        let (kernel, index, old) = match set_up {
            Some(old) => (old.kernel, old.index, Some(old.network)),
            None => {
                let kernel = netlink(None)?;
                match name_to_index(&kernel, CARD) {
                    Ok(index) => (kernel, index, None),
                    Err(Errno::NODEV) => {
                        log::error(format_args!("this kernel has no driver for the network"));
                        return Ok(());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        request(&kernel, &changes(index, old.as_ref(), network))?;
        if let Some(old) = &old
            && old.ip != network.ip
        {
            connections::end_all_of(old.ip)?;
        }
        if old.is_none_or(|old| old.nameservers != network.nameservers) {
            write_resolver(network);
        }
        self.set_up = Some(SetUp {
            kernel,
            index,
            network: network.clone(),
        });
        Ok(())
    }
}

/// From one network to the next.
fn changes(index: u32, old: Option<&GuestNetwork>, new: &GuestNetwork) -> Batch {
    let mut batch = Batch::new();
    if let Some(old) = old.filter(|old| old.ip != new.ip) {
        // Its routes go with it.
        let header = address_header(index, old.prefix);
        batch.message(DELADDR, ACK, &header, |message| {
            message.attribute(IFA_LOCAL, &old.ip.octets());
        });
    }
    let (create, up) = (ACK | CREATE | REPLACE, 1u32.to_ne_bytes());
    let mut card = [0; 16];
    card[4..8].copy_from_slice(&index.to_ne_bytes());
    card[8..12].copy_from_slice(&up);
    card[12..].copy_from_slice(&up);
    batch.message(NEWLINK, ACK, &card, |message| {
        message.attribute(IFLA_ADDRESS, &new.mac.0);
    });
    let header = address_header(index, new.prefix);
    batch.message(NEWADDR, create, &header, |message| {
        message.attribute(IFA_LOCAL, &new.ip.octets());
        message.attribute(IFA_ADDRESS, &new.ip.octets());
    });
    // `NUD_PERMANENT`.
    let mut neighbour = [INET, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0];
    neighbour[4..8].copy_from_slice(&index.to_ne_bytes());
    batch.message(NEWNEIGH, create, &neighbour, |message| {
        message.attribute(NDA_DST, &new.gateway.octets());
        message.attribute(NDA_LLADDR, &new.gateway_mac.0);
    });
    // `RT_TABLE_MAIN`, `RTPROT_BOOT`, `RT_SCOPE_UNIVERSE`, `RTN_UNICAST`.
    let route = [INET, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    batch.message(NEWROUTE, create, &route, |message| {
        message.attribute(RTA_GATEWAY, &new.gateway.octets());
        message.number(RTA_OIF, index);
    });
    batch
}

const IFLA_ADDRESS: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// `struct ifaddrmsg`.
fn address_header(index: u32, prefix: u8) -> [u8; 8] {
    let mut header = [INET, prefix, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    header
}

fn write_resolver(network: &GuestNetwork) {
    let lines = network.nameservers.iter();
    let text: String = lines.map(|ip| format!("nameserver {ip}\n")).collect();
    if let Err(error) = fs::write(RESOLVER, text) {
        log::error(format_args!("{RESOLVER}: {error}"));
    }
}

fn netlink(part: Option<Protocol>) -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC, part)?)
}

/// Has all of it done and waits for the answers.
fn request(kernel: &OwnedFd, batch: &Batch) -> io::Result<()> {
    send(kernel, batch.as_bytes(), SendFlags::empty())?;
    let mut buffer = [0; 4096];
    let mut left = batch.acks();
    let mut result = Ok(());
    while left > 0 {
        let (len, _) = recv(kernel, &mut buffer, RecvFlags::empty())?;
        for message in messages(&buffer[..len]) {
            if let Content::Answer(number) = message.content {
                left = left.saturating_sub(1);
                if number != 0 && result.is_ok() {
                    result = Err(io::Error::from_raw_os_error(number));
                }
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperfork_api::Mac;
    use std::net::Ipv4Addr;

    fn network(ip: [u8; 4]) -> GuestNetwork {
        let ip = Ipv4Addr::from(ip);
        GuestNetwork {
            mac: Mac::of(ip),
            ip,
            prefix: 31,
            gateway: Ipv4Addr::new(10, 0, 0, 2),
            gateway_mac: Mac([2, 0, 0, 0, 0, 1]),
            nameservers: Vec::new(),
        }
    }

    fn kinds(batch: &Batch) -> Vec<u16> {
        let all = messages(batch.as_bytes());
        let kinds = all.filter_map(|message| match message.content {
            Content::Other(kind, _) => Some(kind),
            _ => None,
        });
        kinds.collect()
    }

    #[test]
    fn an_old_address_goes_before_a_new_one_comes() {
        let (a, b) = (network([10, 0, 0, 3]), network([10, 0, 0, 7]));
        let fresh = [NEWLINK, NEWADDR, NEWNEIGH, NEWROUTE];
        assert_eq!(kinds(&changes(2, None, &a)), fresh);
        assert_eq!(kinds(&changes(2, Some(&a), &a)), fresh);
        let moved = changes(2, Some(&a), &b);
        assert_eq!(kinds(&moved)[0], DELADDR);
        assert_eq!(kinds(&moved)[1..], fresh);
        assert_eq!(moved.acks(), 5);
    }
}
