//! The egress policy as packet filter rules of the guest's namespace, out of the guest's reach.

use super::super::egress::{Rule, Transport};
use super::nat::{ON_ARRIVAL, new_destination};
use super::{
    Batch, DESTINATION, Header, Hook, Is, Netlink, TABLE, Transaction, accept, address, load,
    look_up, mask, only_if, reject,
};
use hyperfork_api::port::Protocol;
use std::io;
use std::net::Ipv4Addr;

/// What passes through the namespace.
const PASSING: Hook = Hook("forward", "filter", 2, 0);
/// What comes into it, before addresses are translated.
const COMING: Hook = Hook("coming", "filter", 0, -150);

/// `NFT_META_IIF`, `NFT_META_L4PROTO`; `NFT_CT_STATE`.
const CAME_FROM: u32 = 4;
const PROTOCOL: u32 = 16;
const STATE: u32 = 0;

/// `NF_CT_STATE_BIT` of what belongs to a connection, or is about one.
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;

/// Offset of the destination's port in the headers of TCP and UDP.
const PORT: u32 = 2;

/// Filters what comes from one interface by the first rule that matches. Answers to what came
/// from elsewhere pass, and so does everything that comes from elsewhere.
pub(in super::super) fn guard(inside: &Netlink, guest: u32, rules: &[Rule]) -> io::Result<()> {
    let mut wanted = Transaction::of(TABLE);
    gate(wanted.table(), &PASSING, guest, rules);
    wanted.commit(inside)
}

/// As [`guard`]; and TCP that may pass is translated to an address and port of the namespace
/// itself, where the listening process can read its original destination.
pub(in super::super) fn intercept(
    inside: &Netlink,
    guest: u32,
    rules: &[Rule],
    (ip, port): (Ipv4Addr, u16),
) -> io::Result<()> {
    let mut wanted = Transaction::of(TABLE);
    gate(wanted.table(), &COMING, guest, rules);
    wanted.chain(&ON_ARRIVAL).rule(&ON_ARRIVAL, |list| {
        look_up(list, "meta", CAME_FROM);
        only_if(list, Is::Equal, &guest.to_ne_bytes());
        look_up(list, "meta", PROTOCOL);
        only_if(list, Is::Equal, &[Protocol::Tcp.number()]);
        new_destination(list, ip, port);
    });
    wanted.commit(inside)
}

fn gate(wanted: &mut Transaction<'_>, hook: &Hook, guest: u32, rules: &[Rule]) {
    wanted.chain(hook).rule(hook, |list| {
        look_up(list, "meta", CAME_FROM);
        only_if(list, Is::Not, &guest.to_ne_bytes());
        accept(list);
    });
    wanted.rule(hook, |list| {
        look_up(list, "ct", STATE);
        mask(list, (ESTABLISHED | RELATED).to_ne_bytes());
        only_if(list, Is::Not, &[0; 4]);
        accept(list);
    });
    for one in rules {
        wanted.rule(hook, |list| whom(list, one));
    }
    wanted.rule(hook, reject);
}

fn whom(list: &mut Batch, rule: &Rule) {
    if rule.to.1 > 0 {
        address(list, DESTINATION, rule.to, Is::Equal);
    }
    if let Some(Transport { protocol, ports }) = rule.transport {
        look_up(list, "meta", PROTOCOL);
        only_if(list, Is::Equal, &[protocol.number()]);
        if let Some((first, last)) = ports {
            load(list, Header::Transport, PORT, 2);
            only_if(list, Is::AtLeast, &first.to_be_bytes());
            only_if(list, Is::AtMost, &last.to_be_bytes());
        }
    }
    match rule.allow {
        true => accept(list),
        false => reject(list),
    }
}
