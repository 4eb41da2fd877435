//! The network of a VM: a network namespace of its own, with a TAP for the guest's network device
//! and a route to the host.
//!
//! ```text
//!  guest            namespace of the VM's process             host
//!  eth0 ─virtio─ tap0            up0 ─────────veth───────── hfXXXXXXXX ─forward, NAT─ …
//!   .3      169.254.1.1 ──forward── .0                       .1
//! ```
//!
//! Each VM has a block of four addresses from the [pool](address). All guests have the same
//! gateway. Packets are routed, not bridged. Each namespace has a prohibit route to all other
//! blocks of the pool, and drops packets with a foreign source address. The host's end of the veth
//! has the block in its name. Interface names are unique, so the kernel leases the blocks: when
//! the VM's process ends, for whatever reason, its descriptors close, and the namespace, the
//! interface and the lease go.

pub mod address;
mod connector;
mod egress;
pub mod exchange;
mod filter;
mod inside;
mod link;
mod namespace;
mod netns;
mod resolver;
mod sessions;
pub mod streams;
pub mod user;

pub use connector::GuestConnector;
pub use namespace::{Namespace, NetError};

use address::{Block, Pool};
use hyperfork_api::NetMode;
use hyperfork_netlink::{Netlink, Subsystem};
use rustix::fs::{Access, access};
use rustix::thread::CapabilitySet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// What it takes to make networks of VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// The addresses of the VMs.
    pub pool: Pool,
    /// The program that calls [`user::net_main`] if its first argument is
    /// [`user::NET_ARGUMENT`], for networks without privileges.
    pub program: PathBuf,
}

/// Checks whether VMs of this process can have a network of this mode. It leaves nothing behind,
/// and takes well under a millisecond for mode `own`.
///
/// # Errors
/// The reason and what to do, in one line.
pub fn available(setup: &Setup, mode: NetMode) -> Result<(), String> {
    if let Err(error) = access("/dev/net/tun", Access::READ_OK | Access::WRITE_OK) {
        return Err(format!(
            "there is no /dev/net/tun ({error}): `modprobe tun` as root"
        ));
    }
    if mode == NetMode::User {
        return user::prepare(setup, setup.pool.visible(), None).map(drop);
    }
    let may = rustix::thread::capabilities(None).map(|sets| sets.effective);
    if !may.is_ok_and(|may| may.contains(CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN)) {
        return Err("a network takes CAP_NET_ADMIN and CAP_SYS_ADMIN".into());
    }
    let host = Netlink::open(Subsystem::Route).map_err(|error| format!("no rtnetlink: {error}"))?;
    if !link::knows_veth(&host) {
        return Err("the kernel cannot link namespaces: `modprobe veth` as root".into());
    }
    if mode == NetMode::Same && !host_translates(&setup.pool) {
        return Err(format!("mode same takes address translation: {NF_TABLES}"));
    }
    Ok(())
}

/// The kernel modules for address translation and filters, and how to load them.
pub const NF_TABLES: &str =
    "`modprobe -a nf_tables nft_chain_nat nft_ct nft_masq nft_nat nft_reject_ipv4` as root";

/// Whether the host forwards packets between its interfaces. Without that, guests reach only the
/// host, and only the host reaches them.
pub fn host_forwards() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1")
}

/// Whether the host can masquerade guests as its own address. Leaves nothing behind.
pub fn host_translates(pool: &Pool) -> bool {
    Netlink::open(Subsystem::Filter).is_ok_and(|host| filter::can_hide_guests(&host, pool))
}

/// Whether an address is that of a VM with a network on this host, of any pool and any user.
pub fn is_of_a_vm(address: Ipv4Addr) -> bool {
    address != Block::containing(address).host() && is_of_a_link(address)
}

/// Whether an address is that of a VM or of its link to the host, the host's end included.
fn is_of_a_link(address: Ipv4Addr) -> bool {
    Netlink::open(Subsystem::Route).is_ok_and(|host| is_known_to(&host, address))
}

fn is_known_to(host: &Netlink, address: Ipv4Addr) -> bool {
    host.index_of(&Block::containing(address).interface())
        .is_ok()
}

/// Removes the filter tables that VMs share on the host: the pool's table if the pool has no VM
/// left, and the table of all pools if there is no VM at all. It waits a moment for VMs that are
/// just ending, because the kernel removes their interfaces later.
pub fn tidy(pool: &Pool) {
    let host = (
        Netlink::open(Subsystem::Route),
        Netlink::open(Subsystem::Filter),
    );
    if let (Ok(route), Ok(filter)) = host {
        tidy_up(pool, &route, &filter);
    }
}

fn tidy_up(pool: &Pool, route: &Netlink, host: &Netlink) {
    const LOOKS: u32 = 60;
    const MOMENT: Duration = Duration::from_millis(50);
    let none = |which: &dyn Fn(Ipv4Addr) -> bool| {
        let addresses = route.addresses();
        addresses.is_ok_and(|all| {
            !all.into_iter()
                .any(|one| which(one) && is_known_to(route, one))
        })
    };
    let none_of_the_pool = || none(&|address| pool.contains(address));
    let none_at_all = || none(&|_| true);
    let gone = (0..LOOKS).any(|look| {
        // The first check is at once.
        thread::sleep(MOMENT * look.min(1));
        none_of_the_pool()
    });
    // A table may not exist. If a VM was made meanwhile, it found the table that is removed here,
    // so that table is made again.
    if gone {
        let _ = filter::show_guests(host, pool);
        if !none_of_the_pool() {
            let _ = filter::hide_guests(host, pool);
        }
    }
    if gone && none_at_all() {
        let _ = filter::let_guests_meet(host);
        if !none_at_all() {
            let _ = filter::part_guests(host);
        }
    }
}

#[cfg(test)]
mod tests;
