//! Pairs of interfaces: the one rtnetlink(7) message that only the host needs.

use hyperfork_netlink::route::{NEWLINK, interface};
use hyperfork_netlink::{Batch, CREATE, EXCLUSIVE, Netlink};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

/// Makes a pair of interfaces, here and in another namespace. The name must be free.
pub(super) fn veth(batch: &mut Batch, name: &str, peer: &str, peers_place: BorrowedFd<'_>) {
    pair(batch, name, peer, peers_place.as_raw_fd());
}

/// Whether the kernel can make such pairs. This asks for one whose other end is in no namespace:
/// a kernel with veth refuses for that reason, a kernel without it for another; none makes one.
pub(super) fn knows_veth(host: &Netlink) -> bool {
    let mut batch = Batch::new();
    pair(&mut batch, "hf-probe", "hf-probe-peer", -1);
    let answer = host.request(&batch);
    !answer.is_err_and(|error| error.raw_os_error() == Some(libc::EOPNOTSUPP))
}

fn pair(batch: &mut Batch, name: &str, peer: &str, peers_place: RawFd) {
    let flags = CREATE | EXCLUSIVE;
    batch.message(NEWLINK, flags, &interface(0, false), |message| {
        message.text(IFLA_IFNAME, name);
        message.nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |other| {
                    other.raw(&interface(0, false)).text(IFLA_IFNAME, peer);
                    other.number(IFLA_NET_NS_FD, peers_place as u32);
                });
            });
        });
    });
}
