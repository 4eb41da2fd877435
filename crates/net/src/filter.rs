//! The packet filter: nf_tables messages (nfnetlink, what the program `nft` speaks).

mod gate;
mod links;
mod nat;

pub(super) use gate::{guard, intercept};
pub(super) use links::{let_guests_meet, part_guests};
pub(super) use nat::{can_hide_guests, hide_guests, show_guests, translate};

use hyperfork_netlink::route::Net;
use hyperfork_netlink::{APPEND, Batch, CREATE, EXCLUSIVE, Netlink};
use std::io;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEWTABLE: u16 = SUBSYSTEM << 8;
const DELTABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEWCHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEWRULE: u16 = (SUBSYSTEM << 8) | 6;

/// The table of a VM's namespace.
const TABLE: &str = "hyperfork";
/// The register all expressions here use.
const REGISTER: u32 = 1;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// Offsets in an IPv4 header.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;

/// Where a chain hangs: its name, kind, hook and priority.
struct Hook(&'static str, &'static str, u32, i32);

/// `struct nfgenmsg`.
fn header(resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [IPV4, 0, high, low]
}

/// What is done to one table of a namespace: all of it or nothing.
struct Transaction<'a> {
    table: &'a str,
    batch: Batch,
}

impl<'a> Transaction<'a> {
    fn of(table: &'a str) -> Self {
        let mut batch = Batch::new();
        batch.message(BATCH_BEGIN, 0, &header(SUBSYSTEM), |_| ());
        Self { table, batch }
    }

    fn commit(mut self, host: &Netlink) -> io::Result<()> {
        self.batch.message(BATCH_END, 0, &header(SUBSYSTEM), |_| ());
        host.request(&self.batch)
    }

    /// The table, which may be there already.
    fn table(&mut self) -> &mut Self {
        self.message(NEWTABLE, CREATE, |_| ())
    }

    /// The table, which must not be there yet.
    fn new_table(&mut self) -> &mut Self {
        self.message(NEWTABLE, CREATE | EXCLUSIVE, |_| ())
    }

    fn no_table(&mut self) -> &mut Self {
        self.message(DELTABLE, 0, |_| ())
    }

    fn chain(&mut self, Hook(name, kind, hook, priority): &Hook) -> &mut Self {
        self.message(NEWCHAIN, CREATE, |message| {
            message.text(3, name);
            message.nested(4, |place| {
                place.big_endian(1, *hook).big_endian(2, *priority as u32);
            });
            message.text(7, kind);
        })
    }

    fn rule(&mut self, hook: &Hook, expressions: impl FnOnce(&mut Batch)) -> &mut Self {
        self.message(NEWRULE, CREATE | APPEND, |message| {
            message.text(2, hook.0).nested(4, expressions);
        })
    }

    /// A message; the first attribute of each is the table.
    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Batch)) -> &mut Self {
        self.batch.message(kind, flags, &header(0), |message| {
            message.text(1, self.table);
            fill(message);
        });
        self
    }
}

fn expression(list: &mut Batch, name: &str, data: impl FnOnce(&mut Batch)) {
    list.nested(1, |element| {
        element.text(1, name).nested(2, data);
    });
}

/// Puts bytes into the register.
fn immediate(list: &mut Batch, bytes: &[u8]) {
    expression(list, "immediate", |data| {
        data.big_endian(1, REGISTER);
        data.nested(2, |value| {
            value.attribute(1, bytes);
        });
    });
}

/// Lets the packet pass.
fn accept(list: &mut Batch) {
    /// `NFT_REG_VERDICT`, `NF_ACCEPT`.
    const VERDICT: u32 = 0;
    const ACCEPT: u32 = 1;
    expression(list, "immediate", |data| {
        data.big_endian(1, VERDICT);
        data.nested(2, |value| {
            value.nested(2, |verdict| {
                verdict.big_endian(1, ACCEPT);
            });
        });
    });
}

/// Refuses the packet, and sends the sender an ICMP error.
fn reject(list: &mut Batch) {
    /// `NFT_REJECT_ICMP_UNREACH`, `ICMP_PKT_FILTERED`.
    const UNREACHABLE: u32 = 0;
    const FILTERED: u8 = 13;
    expression(list, "reject", |data| {
        data.big_endian(1, UNREACHABLE).attribute(2, &[FILTERED]);
    });
}

/// Which header of a packet.
#[derive(Debug, Clone, Copy)]
enum Header {
    /// `NFT_PAYLOAD_NETWORK_HEADER`: IPv4's.
    Network = 1,
    /// `NFT_PAYLOAD_TRANSPORT_HEADER`.
    Transport = 2,
}

/// How two values compare.
#[derive(Debug, Clone, Copy)]
enum Is {
    /// `NFT_CMP_EQ`, `NFT_CMP_NEQ`, `NFT_CMP_LTE`, `NFT_CMP_GTE`.
    Equal = 0,
    Not = 1,
    AtMost = 3,
    AtLeast = 5,
}

/// Puts a part of a header into the register.
fn load(list: &mut Batch, header: Header, offset: u32, len: u32) {
    expression(list, "payload", |data| {
        data.big_endian(1, REGISTER).big_endian(2, header as u32);
        data.big_endian(3, offset).big_endian(4, len);
    });
}

/// Puts what the kernel knows of a packet into the register: `kind` is `meta` or `ct`.
fn look_up(list: &mut Batch, kind: &str, key: u32) {
    expression(list, kind, |data| {
        data.big_endian(1, REGISTER).big_endian(2, key);
    });
}

/// Keeps of the register the bits of a mask.
fn mask(list: &mut Batch, bits: [u8; 4]) {
    expression(list, "bitwise", |data| {
        data.big_endian(1, REGISTER).big_endian(2, REGISTER);
        data.big_endian(3, 4);
        data.nested(4, |value| {
            value.attribute(1, &bits);
        });
        data.nested(5, |value| {
            value.attribute(1, &[0; 4]);
        });
    });
}

/// Goes on only if the register compares so.
fn only_if(list: &mut Batch, is: Is, bytes: &[u8]) {
    expression(list, "cmp", |data| {
        data.big_endian(1, REGISTER).big_endian(2, is as u32);
        data.nested(3, |value| {
            value.attribute(1, bytes);
        });
    });
}

/// Goes on only with packets in whose header an address lies in a network, or does not.
fn address(list: &mut Batch, offset: u32, (network, prefix): Net, is: Is) {
    load(list, Header::Network, offset, 4);
    if prefix < 32 {
        mask(list, (!(u32::MAX >> prefix)).to_be_bytes());
    }
    only_if(list, is, &network.octets());
}
