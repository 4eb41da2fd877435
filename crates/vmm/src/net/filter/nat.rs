//! Address translation.

use super::super::address::{Block, Pool};
use super::{
    DESTINATION, Hook, IPV4, Is, Netlink, REGISTER, SOURCE, address, chain, expression, immediate,
    new_table, no_table, rule, table, transaction,
};
use hyperfork_api::netlink::Batch;
use std::io;
use std::net::Ipv4Addr;

pub(super) const ON_ARRIVAL: Hook = Hook("prerouting", "nat", 0, -100);
const ON_DEPARTURE: Hook = Hook("postrouting", "nat", 4, 100);

/// Has the host put its own address in place of those of all guests of the pool when
/// they speak to the world. Harmless when that is so already.
pub(in super::super) fn hide_guests(host: &Netlink) -> io::Result<()> {
    let pool = Pool::from_environment().map_err(io::Error::other)?;
    exists_after(transaction(host, |batch| hiding(batch, &pool)))
}

/// Whether [`hide_guests`] would do: what it makes is made and removed in one transaction.
pub(in super::super) fn can_hide_guests(host: &Netlink) -> bool {
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
    new_table(batch);
    chain(batch, &ON_DEPARTURE);
    rule(batch, &ON_DEPARTURE, |expressions| {
        address(expressions, SOURCE, all, Is::Equal);
        address(expressions, DESTINATION, all, Is::Not);
        expression(expressions, "masq", |_| ());
    });
}

/// Undoes [`hide_guests`].
pub(in super::super) fn show_guests(host: &Netlink) -> io::Result<()> {
    transaction(host, no_table)
}

/// In a VM's namespace: the guest, who believes to be `visible`, is `real` outside.
pub(in super::super) fn translate(inside: &Netlink, visible: Block, real: Block) -> io::Result<()> {
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
                address(expressions, field, (from.guest(), 32), Is::Equal);
                immediate(expressions, &to.guest().octets());
                expression(expressions, "nat", |data| {
                    data.big_endian(1, kind).big_endian(2, IPV4.into());
                    data.big_endian(3, REGISTER);
                });
            });
        }
    })
}

/// Puts an address and port in place of the destination's.
pub(super) fn new_destination(list: &mut Batch, ip: Ipv4Addr, port: u16) {
    /// `NFT_NAT_DNAT`; `NFT_REG32_01`, behind the register with the address.
    const DESTINATION_NAT: u32 = 1;
    const PORT_REGISTER: u32 = 9;
    immediate(list, &ip.octets());
    expression(list, "immediate", |data| {
        data.big_endian(1, PORT_REGISTER);
        data.nested(2, |value| {
            value.attribute(1, &port.to_be_bytes());
        });
    });
    expression(list, "nat", |data| {
        data.big_endian(1, DESTINATION_NAT)
            .big_endian(2, IPV4.into());
        data.big_endian(3, REGISTER).big_endian(5, PORT_REGISTER);
    });
}
