//! Makes the network namespace of a VM, before the VM needs it.

use super::Setup;
use super::address::{Block, HOST_PREFIX, LINK_PREFIX, Pool};
use super::connector::GuestConnector;
use super::egress::{self, HostAddresses, Rule};
use super::inside::{EVERYWHERE, GATEWAY, GATEWAY_MAC, TO_GUEST, TO_HOST, connect_guest, set_up};
use super::{NF_TABLES, filter, link, netns, resolver, user};
use hyperfork_api::net::GuestNetwork;
use hyperfork_api::{Egress, Mac, NetKind, NetMode};
use hyperfork_netlink::{Batch, Netlink, Subsystem};
use hyperfork_sys::tap::Tap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A network for one VM. The kernel removes it when this and all copies of the TAP are dropped.
#[derive(Debug)]
pub struct Namespace {
    /// The block of addresses that it has on the host; `None` without privileges.
    block: Option<Block>,
    visible: Block,
    tap: Tap,
    nameservers: Vec<Ipv4Addr>,
    connector: GuestConnector,
    _inside: Option<OwnedFd>,
}

/// Why there is no network for a VM.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// All addresses are leased.
    #[error(
        "all {} blocks of addresses are in use: stop some VMs, or use a larger pool (HYPERFORK_NET_POOL)", .0.len()
    )]
    Exhausted(Pool),
    /// The kernel cannot enforce the egress policy.
    #[error("this host cannot enforce --egress, leave it out or load what is missing: {NF_TABLES}")]
    Egress(#[source] io::Error),
    /// A network without privileges failed; the reason in one line.
    #[error("{0}")]
    User(String),
    /// The kernel refuses.
    #[error("cannot {what}{}", needs(.source))]
    Kernel {
        /// What was attempted.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

fn needs(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (a network takes CAP_NET_ADMIN and CAP_SYS_ADMIN)",
        _ => "",
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> NetError {
    move |source| NetError::Kernel { what, source }
}

impl Namespace {
    /// Makes a network, with a lease of addresses.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn prepare(setup: &Setup, kind: &NetKind) -> Result<Self, NetError> {
        let network = Self::prepare_in(setup, kind)?;
        if network.ip().is_some() {
            // Without a filter guests reach the host alone; `doctor` says so.
            if let Ok(host) = Netlink::open(Subsystem::Filter) {
                let _ = filter::part_guests(&host);
                let _ = filter::hide_guests(&host, &setup.pool);
            }
        }
        Ok(network)
    }

    /// The same, without the host's filter tables: only this host reaches the guest.
    pub(super) fn prepare_in(setup: &Setup, kind: &NetKind) -> Result<Self, NetError> {
        let pool = &setup.pool;
        let host = Netlink::open(Subsystem::Route).map_err(failed("speak to the kernel"))?;
        if kind.mode == NetMode::User {
            return Self::without_privileges(setup, &host, &kind.egress);
        }
        let inside = netns::inside_a_new_one(|| {
            set_up()?;
            let tap = Tap::create(TO_GUEST)?;
            // Not every kernel has a filter, and mode `own` gets along without.
            let filter = Netlink::open(Subsystem::Filter);
            Ok((tap, netns::own()?, Netlink::open(Subsystem::Route)?, filter))
        });
        let (tap, inside, route, netfilter) = inside.map_err(failed("make a network namespace"))?;
        let block = lease(pool, &host, inside.as_fd())?;
        let nameservers = resolver::nameservers();
        let visible = match kind.mode {
            NetMode::Own | NetMode::User => block,
            NetMode::Same => pool.visible(),
        };
        connect(&host, &route, pool, block, visible).map_err(failed("set up a VM's network"))?;
        let with_filter = |work: &dyn Fn(&Netlink) -> io::Result<()>| match &netfilter {
            Ok(netfilter) => work(netfilter),
            Err(error) => Err(error.kind().into()),
        };
        if kind.mode == NetMode::Same {
            with_filter(&|netfilter| filter::translate(netfilter, visible, block))
                .map_err(failed("translate a VM's address"))?;
        }
        let ends = vec![block.host()];
        if let Some(rules) = rules_of(&kind.egress, &nameservers, ends, &host, pool)? {
            let guest = route.index_of(TO_GUEST).map_err(NetError::Egress)?;
            with_filter(&|netfilter| filter::guard(netfilter, guest, &rules))
                .map_err(NetError::Egress)?;
        }
        Ok(Self {
            block: Some(block),
            visible,
            tap,
            nameservers,
            connector: GuestConnector::direct(block.guest()),
            _inside: Some(inside),
        })
    }

    /// Makes a network without privileges: this process connects for the guest.
    fn without_privileges(
        setup: &Setup,
        host: &Netlink,
        egress: &Egress,
    ) -> Result<Self, NetError> {
        let pool = &setup.pool;
        let nameservers = resolver::nameservers();
        // Other processes of this host see the guest's connections as the host's own. So a guest
        // reaches those processes, and ports published for other VMs, only if its policy names the
        // host.
        let rules = match egress {
            Egress::All => {
                let addresses = host_addresses(&nameservers, Vec::new(), host, pool)?;
                Some(egress::all_but_the_host(&addresses))
            }
            egress => rules_of(egress, &nameservers, Vec::new(), host, pool)?,
        };
        let visible = pool.block(random() % pool.len());
        let (tap, sockets) = user::prepare(setup, visible, rules).map_err(NetError::User)?;
        Ok(Self {
            block: None,
            visible,
            tap,
            nameservers,
            connector: GuestConnector::inside(visible.guest(), sockets),
            _inside: None,
        })
    }

    /// The VM's address on the host, if the host has a route to it.
    pub fn ip(&self) -> Option<Ipv4Addr> {
        self.block.map(Block::guest)
    }

    /// Connects this process to the guest.
    pub fn connector(&self) -> &GuestConnector {
        &self.connector
    }

    /// The host's interface, and its address there.
    #[cfg(test)]
    pub(super) fn host(&self) -> (String, Ipv4Addr) {
        let block = self.block.expect("it is known to the host");
        (block.interface(), block.host())
    }

    /// The guest's end.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// The guest's network settings, for its agent.
    pub fn guest(&self) -> GuestNetwork {
        GuestNetwork {
            mac: self.mac(),
            ip: self.visible.guest(),
            prefix: HOST_PREFIX,
            gateway: GATEWAY,
            gateway_mac: GATEWAY_MAC,
            nameservers: self.nameservers.clone(),
        }
    }

    /// The Ethernet address of the guest's network device.
    pub fn mac(&self) -> Mac {
        Mac::of(self.visible.guest())
    }
}

/// The rules of a policy; `ends` are the host's addresses on links to this VM.
fn rules_of(
    egress: &Egress,
    nameservers: &[Ipv4Addr],
    ends: Vec<Ipv4Addr>,
    host: &Netlink,
    pool: &Pool,
) -> Result<Option<Vec<Rule>>, NetError> {
    let addresses = match egress::is_about_the_host(egress) {
        true => host_addresses(nameservers, ends, host, pool)?,
        false => HostAddresses {
            nameservers: nameservers.to_vec(),
            host: ends,
        },
    };
    Ok(egress::rules(egress, &addresses))
}

/// All addresses of the host but those of links to other VMs.
fn host_addresses(
    nameservers: &[Ipv4Addr],
    ends: Vec<Ipv4Addr>,
    host: &Netlink,
    pool: &Pool,
) -> Result<HostAddresses, NetError> {
    let addresses = host.addresses();
    let addresses = addresses.map_err(failed("list this host's addresses"))?;
    let is_own = |address: &Ipv4Addr| !pool.contains(*address) && !address.is_loopback();
    let own = addresses.into_iter().filter(is_own);
    Ok(HostAddresses {
        nameservers: nameservers.to_vec(),
        host: ends.into_iter().chain(own).collect(),
    })
}

fn random() -> u32 {
    getrandom::u32().unwrap_or(0)
}

/// Leases a block: makes the veth to the host under the name of a free block. The search begins at
/// a random block, so that addresses are not reused at once.
fn lease(pool: &Pool, host: &Netlink, inside: BorrowedFd<'_>) -> Result<Block, NetError> {
    let begin = random() % pool.len();
    for step in 0..pool.len() {
        let block = pool.block((begin + step) % pool.len());
        let mut batch = Batch::new();
        link::veth(&mut batch, &block.interface(), TO_HOST, inside);
        match host.request(&batch) {
            Ok(()) => return Ok(block),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("link a VM's network to the host")(error)),
        }
    }
    Err(NetError::Exhausted(*pool))
}

fn connect(
    host: &Netlink,
    inside: &Netlink,
    pool: &Pool,
    block: Block,
    visible: Block,
) -> io::Result<()> {
    let interface = host.index_of(&block.interface())?;
    let (to_host, to_guest) = (inside.index_of(TO_HOST)?, inside.index_of(TO_GUEST)?);
    let mut batch = Batch::new();
    batch
        .address(to_host, (block.up(), LINK_PREFIX))
        .up(to_host);
    connect_guest(&mut batch, to_guest, visible.guest());
    batch
        .way(EVERYWHERE, block.host(), to_host)
        // The pool has the addresses of other VMs, and no others.
        .prohibit((pool.base(), pool.prefix()));
    inside.request(&batch)?;

    // Neither end uses IPv6. (The file is missing where the host has no IPv6.)
    let quiet = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", block.interface());
    let _ = fs::write(quiet, "1");
    let mut batch = Batch::new();
    batch
        .address(interface, (block.host(), LINK_PREFIX))
        .up(interface)
        .way((block.guest(), HOST_PREFIX), block.up(), interface);
    host.request(&batch)
}
