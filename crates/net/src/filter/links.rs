//! Keeps the host from forwarding packets between VMs, whatever pools their addresses are of.

use super::super::address::INTERFACE_PREFIX;
use super::nat::exists_after;
use super::{Batch, Hook, Is, Netlink, Transaction, look_up, only_if, reject};
use std::io;

/// The host's table for all pools, which goes with the last VM of them all. Each namespace
/// refuses the other VMs of its own pool by itself, which takes no filter.
const LINKS: &str = "hyperfork-links";

/// What the host forwards.
const PASSING: Hook = Hook("forward", "filter", 2, 0);

/// `NFT_META_IIFNAME`, `NFT_META_OIFNAME`.
const CAME_BY: u32 = 6;
const GOES_BY: u32 = 7;

/// Has the host refuse what comes from one VM's link and goes to another's. Harmless when that
/// is so already.
pub(in super::super) fn part_guests(host: &Netlink) -> io::Result<()> {
    let mut wanted = Transaction::of(LINKS);
    wanted.new_table().chain(&PASSING).rule(&PASSING, |list| {
        by_a_link(list, CAME_BY);
        by_a_link(list, GOES_BY);
        reject(list);
    });
    exists_after(wanted.commit(host))
}

/// Undoes [`part_guests`].
pub(in super::super) fn let_guests_meet(host: &Netlink) -> io::Result<()> {
    let mut wanted = Transaction::of(LINKS);
    wanted.no_table();
    wanted.commit(host)
}

/// Goes on only if the name of an interface begins as those of our links.
fn by_a_link(list: &mut Batch, interface: u32) {
    look_up(list, "meta", interface);
    only_if(list, Is::Equal, INTERFACE_PREFIX.as_bytes());
}
