//! Address translation.

use super::super::address::{Block, Pool};
use super::{
    DESTINATION, Hook, IPV4, Is, Netlink, REGISTER, SOURCE, TABLE, Transaction, address,
    expression, immediate,
};
use hyperfork_netlink::Batch;
use std::io;
use std::net::Ipv4Addr;

pub(super) const ON_ARRIVAL: Hook = Hook("prerouting", "nat", 0, -100);
const ON_DEPARTURE: Hook = Hook("postrouting", "nat", 4, 100);

/// Makes the host translate the source addresses of all guests of the pool to its own when
/// they send to the world. Harmless when that is so already.
pub(in super::super) fn hide_guests(host: &Netlink, pool: &Pool) -> io::Result<()> {
    let table = table_of(pool);
    let mut wanted = Transaction::of(&table);
    hide(&mut wanted, pool);
    exists_after(wanted.commit(host))
}

/// Whether [`hide_guests`] would do: what it makes is made and removed in one transaction.
pub(in super::super) fn can_hide_guests(host: &Netlink, pool: &Pool) -> bool {
    let table = table_of(pool);
    let mut probe = Transaction::of(&table);
    hide(&mut probe, pool);
    probe.no_table();
    exists_after(probe.commit(host)).is_ok()
}

/// Each pool has a table of the host's, which goes with its last VM.
fn table_of(pool: &Pool) -> String {
    format!("{TABLE}-{}-{}", pool.base(), pool.prefix())
}

/// Any process may have made it.
pub(super) fn exists_after(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn hide(wanted: &mut Transaction<'_>, pool: &Pool) {
    let all = (pool.base(), pool.prefix());
    wanted.new_table().chain(&ON_DEPARTURE);
    wanted.rule(&ON_DEPARTURE, |expressions| {
        address(expressions, SOURCE, all, Is::Equal);
        address(expressions, DESTINATION, all, Is::Not);
        expression(expressions, "masq", |_| ());
    });
}

/// Undoes [`hide_guests`].
pub(in super::super) fn show_guests(host: &Netlink, pool: &Pool) -> io::Result<()> {
    let table = table_of(pool);
    let mut wanted = Transaction::of(&table);
    wanted.no_table();
    wanted.commit(host)
}

/// In a VM's namespace: translates between the guest's `visible` address and its `real` one outside.
pub(in super::super) fn translate(inside: &Netlink, visible: Block, real: Block) -> io::Result<()> {
    /// `NFT_NAT_SNAT`, `NFT_NAT_DNAT`.
    const SOURCE_NAT: u32 = 0;
    const DESTINATION_NAT: u32 = 1;
    let mut wanted = Transaction::of(TABLE);
    wanted.table();
    for (hook, field, from, to, kind) in [
        (&ON_DEPARTURE, SOURCE, visible, real, SOURCE_NAT),
        (&ON_ARRIVAL, DESTINATION, real, visible, DESTINATION_NAT),
    ] {
        wanted.chain(hook).rule(hook, |expressions| {
            address(expressions, field, (from.guest(), 32), Is::Equal);
            immediate(expressions, &to.guest().octets());
            expression(expressions, "nat", |data| {
                data.big_endian(1, kind).big_endian(2, IPV4.into());
                data.big_endian(3, REGISTER);
            });
        });
    }
    wanted.commit(inside)
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
