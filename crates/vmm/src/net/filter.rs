//! Address translation: nf_tables messages (nfnetlink, what the program `nft` speaks).

use super::address::{Block, Pool};
use super::netlink::Netlink;
use hyperfork_api::netlink::{APPEND, Batch, CREATE, EXCLUSIVE};
use std::io;
use std::net::Ipv4Addr;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEWTABLE: u16 = SUBSYSTEM << 8;
const DELTABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEWCHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEWRULE: u16 = (SUBSYSTEM << 8) | 6;

/// The one table that is ours.
const TABLE: &str = "hyperfork";
/// The register all expressions here use.
const REGISTER: u32 = 1;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// Offsets in an IPv4 header.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;

/// Where a chain hangs: its name, hook and priority.
struct Hook(&'static str, u32, i32);

const ON_ARRIVAL: Hook = Hook("prerouting", 0, -100);
const ON_DEPARTURE: Hook = Hook("postrouting", 4, 100);

/// `struct nfgenmsg`.
fn header(resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [IPV4, 0, high, low]
}

/// A transaction: all of it is done or nothing.
fn transaction(host: &Netlink, fill: impl FnOnce(&mut Batch)) -> io::Result<()> {
    let mut batch = Batch::new();
    batch.message(BATCH_BEGIN, 0, &header(SUBSYSTEM), |_| ());
    fill(&mut batch);
    batch.message(BATCH_END, 0, &header(SUBSYSTEM), |_| ());
    host.request(&batch)
}

/// Has the host put its own address in place of those of all guests of the pool when
/// they speak to the world. Harmless when that is so already.
pub(super) fn hide_guests(host: &Netlink) -> io::Result<()> {
    let pool = Pool::from_environment().map_err(io::Error::other)?;
    exists_after(transaction(host, |batch| hiding(batch, &pool)))
}

/// Whether [`hide_guests`] would do: what it makes is made and removed in one transaction.
pub(super) fn can_hide_guests(host: &Netlink) -> bool {
    let Ok(pool) = Pool::from_environment() else {
        return false;
    };
    let probed = transaction(host, |batch| {
        hiding(batch, &pool);
        no_table(batch);
    });
    exists_after(probed).is_ok()
}

/// It is all the same who has made it.
fn exists_after(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn hiding(batch: &mut Batch, pool: &Pool) {
    let all = (pool.base(), pool.prefix());
    table(batch);
    chain(batch, &ON_DEPARTURE);
    rule(batch, &ON_DEPARTURE, |expressions| {
        compare(expressions, SOURCE, all, true);
        compare(expressions, DESTINATION, all, false);
        expression(expressions, "masq", |_| ());
    });
}

/// Undoes [`hide_guests`].
pub(super) fn show_guests(host: &Netlink) -> io::Result<()> {
    transaction(host, no_table)
}

/// In a VM's namespace: the guest, who believes to be `visible`, is `real` outside.
pub(super) fn translate(inside: &Netlink, visible: Block, real: Block) -> io::Result<()> {
    /// `NFT_NAT_SNAT`, `NFT_NAT_DNAT`.
    const SOURCE_NAT: u32 = 0;
    const DESTINATION_NAT: u32 = 1;
    transaction(inside, |batch| {
        table(batch);
        for (hook, field, from, to, kind) in [
            (&ON_DEPARTURE, SOURCE, visible, real, SOURCE_NAT),
            (&ON_ARRIVAL, DESTINATION, real, visible, DESTINATION_NAT),
        ] {
            chain(batch, hook);
            rule(batch, hook, |expressions| {
                compare(expressions, field, (from.guest(), 32), true);
                expression(expressions, "immediate", |data| {
                    data.big_endian(1, REGISTER);
                    data.nested(2, |value| {
                        value.attribute(1, &to.guest().octets());
                    });
                });
                expression(expressions, "nat", |data| {
                    data.big_endian(1, kind).big_endian(2, IPV4.into());
                    data.big_endian(3, REGISTER);
                });
            });
        }
    })
}

fn table(batch: &mut Batch) {
    batch.message(NEWTABLE, CREATE | EXCLUSIVE, &header(0), |message| {
        message.text(1, TABLE);
    });
}

fn no_table(batch: &mut Batch) {
    batch.message(DELTABLE, 0, &header(0), |message| {
        message.text(1, TABLE);
    });
}

fn chain(batch: &mut Batch, Hook(name, hook, priority): &Hook) {
    batch.message(NEWCHAIN, CREATE, &header(0), |message| {
        message.text(1, TABLE).text(3, name);
        message.nested(4, |place| {
            place.big_endian(1, *hook).big_endian(2, *priority as u32);
        });
        message.text(7, "nat");
    });
}

fn rule(batch: &mut Batch, hook: &Hook, expressions: impl FnOnce(&mut Batch)) {
    batch.message(NEWRULE, CREATE | APPEND, &header(0), |message| {
        message.text(1, TABLE).text(2, hook.0);
        message.nested(4, expressions);
    });
}

fn expression(list: &mut Batch, name: &str, data: impl FnOnce(&mut Batch)) {
    list.nested(1, |element| {
        element.text(1, name).nested(2, data);
    });
}

/// Goes on only with packets in whose header an address lies in a network, or does not.
fn compare(list: &mut Batch, offset: u32, (network, prefix): (Ipv4Addr, u8), inside: bool) {
    /// `NFT_PAYLOAD_NETWORK_HEADER`.
    const NETWORK_HEADER: u32 = 1;
    /// `NFT_CMP_EQ`, `NFT_CMP_NEQ`.
    const EQUAL: u32 = 0;
    const NOT_EQUAL: u32 = 1;
    expression(list, "payload", |data| {
        data.big_endian(1, REGISTER).big_endian(2, NETWORK_HEADER);
        data.big_endian(3, offset).big_endian(4, 4);
    });
    if prefix < 32 {
        let mask = !(u32::MAX >> prefix);
        expression(list, "bitwise", |data| {
            data.big_endian(1, REGISTER).big_endian(2, REGISTER);
            data.big_endian(3, 4);
            data.nested(4, |value| {
                value.big_endian(1, mask);
            });
            data.nested(5, |value| {
                value.big_endian(1, 0);
            });
        });
    }
    expression(list, "cmp", |data| {
        data.big_endian(1, REGISTER);
        data.big_endian(2, if inside { EQUAL } else { NOT_EQUAL });
        data.nested(3, |value| {
            value.attribute(1, &network.octets());
        });
    });
}
