//! The network around a VM: a namespace of its own, with a TAP for the guest's card and
//! a way out.
//!
//! ```text
//!  guest            namespace of the VM's process             host
//!  eth0 ─virtio─ tap0            up0 ─────────veth───────── hfXXXXXXXX ─forward, NAT─ …
//!   .3      169.254.1.1 ──forward── .0                       .1
//! ```
//!
//! Each VM has a block of four addresses out of the [pool](address). The guest's gateway is
//! the same everywhere. Packets are routed, not bridged. In its namespace a VM's way to every
//! other block of the pool is prohibited, and packets with a foreign source are dropped. The
//! host's end of the veth carries the block in its name, so that the kernel, which has every
//! name once, is who leases blocks; when the process ends, however it does, its descriptors
//! close, the namespace goes, and with it the interface and the lease.

pub mod address;
mod egress;
pub mod exchange;
mod filter;
mod link;
mod namespace;
mod netlink;
mod netns;
mod reach;
mod resolver;
mod sessions;
pub mod streams;
pub mod user;

pub use namespace::{Namespace, NetError};
pub use reach::Reach;

use address::{Block, Pool};
use hyperfork_api::NetMode;
use netlink::{Netlink, Part};
use rustix::fs::{Access, access};
use rustix::thread::CapabilitySet;
use std::fs;
use std::thread;
use std::time::Duration;

/// What keeps VMs of this process from having a network of this mode, in one line. Nothing
/// is made for it, so it takes well under a millisecond for mode `own`.
///
/// # Errors
/// The reason and what to do.
pub fn available(mode: NetMode) -> Result<(), String> {
    if let Err(error) = access("/dev/net/tun", Access::READ_OK | Access::WRITE_OK) {
        return Err(format!(
            "there is no /dev/net/tun ({error}): `modprobe tun` as root"
        ));
    }
    let pool = Pool::from_environment()?;
    if mode == NetMode::User {
        return user::prepare(&pool, pool.visible(), None).map(drop);
    }
    let may = rustix::thread::capabilities(None).map(|sets| sets.effective);
    if !may.is_ok_and(|may| may.contains(CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN)) {
        return Err("a network takes CAP_NET_ADMIN and CAP_SYS_ADMIN".into());
    }
    let host = Netlink::open(Part::Route).map_err(|error| format!("no rtnetlink: {error}"))?;
    if !link::knows_veth(&host) {
        return Err("the kernel cannot link namespaces: `modprobe veth` as root".into());
    }
    if mode == NetMode::Same && !host_translates() {
        return Err(format!("mode same takes address translation: {NF_TABLES}"));
    }
    Ok(())
}

/// What translates addresses, and how to get it.
pub const NF_TABLES: &str =
    "`modprobe -a nf_tables nft_chain_nat nft_ct nft_masq nft_nat nft_reject_ipv4` as root";

/// Whether the host lets packets through between its interfaces: without that, guests
/// reach the host and are reached by it, and nobody else.
pub fn host_forwards() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1")
}

/// Whether the host can hide guests behind its own address. Leaves nothing behind.
pub fn host_translates() -> bool {
    let Ok(pool) = Pool::from_environment() else {
        return false;
    };
    Netlink::open(Part::Filter).is_ok_and(|host| filter::can_hide_guests(&host, &pool))
}

/// Removes what the VMs of this process's pool share on the host, if there are none. Those
/// that are just ending get a moment: the kernel removes interfaces when it has time.
pub fn tidy() {
    const LOOKS: u32 = 60;
    const MOMENT: Duration = Duration::from_millis(50);
    let (Ok(pool), Ok(host)) = (Pool::from_environment(), Netlink::open(Part::Filter)) else {
        return;
    };
    let none = || {
        let names = fs::read_dir("/sys/class/net").into_iter().flatten();
        let mut names = names.flatten().map(|entry| entry.file_name());
        names.all(|name| {
            let block = name.to_str().and_then(Block::of_interface);
            block.is_none_or(|block| !pool.contains(block.guest()))
        })
    };
    let gone = (0..LOOKS).any(|look| {
        // The first look is at once.
        thread::sleep(MOMENT * look.min(1));
        none()
    });
    if gone {
        // It may not be there.
        let _ = filter::show_guests(&host, &pool);
        // Who came meanwhile has found it still there.
        if !none() {
            let _ = filter::hide_guests(&host, &pool);
        }
    }
}

#[cfg(test)]
mod tests;
