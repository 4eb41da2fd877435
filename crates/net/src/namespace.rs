//! A VM's network namespace, made in advance.

use super::Setup;
use super::address::{Block, HOST_PREFIX, LINK_PREFIX, Pool};
use super::connector::GuestConnector;
use super::egress::{self, HostAddresses, Rule};
use super::inside::{EVERYWHERE, GATEWAY, GATEWAY_MAC, TO_GUEST, TO_HOST, connect_guest, set_up};
use super::netlink::{Netlink, Part};
use super::{NF_TABLES, filter, link, netns, resolver, user};
use hyperfork_api::net::GuestNetwork;
use hyperfork_api::netlink::Batch;
use hyperfork_api::{Egress, Mac, NetKind, NetMode};
use hyperfork_sys::tap::Tap;
use rustix::rand::{GetRandomFlags, getrandom};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A network for one VM. The kernel removes it when this and all copies of the TAP are dropped.
#[derive(Debug)]
pub struct Namespace {
    /// The block of addresses by which the host knows it; `None` without privileges.
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
    /// The kernel cannot keep a guest from connecting to others.
    #[error("this host cannot enforce --egress, leave it out or load what is missing: {NF_TABLES}")]
    Egress(#[source] io::Error),
    /// No network without privileges either; the reason in one line.
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
    /// Makes one, with a lease of addresses.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn prepare(setup: &Setup, kind: &NetKind) -> Result<Self, NetError> {
        let network = Self::prepare_in(setup, kind)?;
        if network.ip().is_some() {
            // Without a filter guests reach the host alone; `doctor` says so.
            if let Ok(host) = Netlink::open(Part::Filter) {
                let _ = filter::part_guests(&host);
                let _ = filter::hide_guests(&host, &setup.pool);
            }
        }
        Ok(network)
    }

    /// One with addresses of this pool, known to this host alone.
    pub(super) fn prepare_in(setup: &Setup, kind: &NetKind) -> Result<Self, NetError> {
        let pool = &setup.pool;
        let host = Netlink::open(Part::Route).map_err(failed("speak to the kernel"))?;
        if kind.mode == NetMode::User {
            return Self::without_privileges(setup, &host, &kind.egress);
        }
        let inside = netns::inside_a_new_one(|| {
            set_up()?;
            let tap = Tap::create(TO_GUEST)?;
            // Not every kernel has a filter, and mode `own` gets along without.
            let filter = Netlink::open(Part::Filter);
            Ok((tap, netns::own()?, Netlink::open(Part::Route)?, filter))
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

    /// A network without privileges: sockets of this process are its way out.
    fn without_privileges(
        setup: &Setup,
        host: &Netlink,
        egress: &Egress,
    ) -> Result<Self, NetError> {
        let pool = &setup.pool;
        let nameservers = resolver::nameservers();
        // The sockets are this host's, so its other processes see their packets as the host's
        // own: a guest reaches those processes, and ports published for other VMs, only if its
        // policy names the host.
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

    /// The VM's address as the host knows it, if it does.
    pub fn ip(&self) -> Option<Ipv4Addr> {
        self.block.map(Block::guest)
    }

    /// How this process reaches the guest.
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

/// The rules of a policy; `ends` are addresses of the host that it has for this VM alone.
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

/// With all addresses of the host that are not a link's.
fn host_addresses(
    nameservers: &[Ipv4Addr],
    ends: Vec<Ipv4Addr>,
    host: &Netlink,
    pool: &Pool,
) -> Result<HostAddresses, NetError> {
    let addresses = host.addresses();
    let addresses = addresses.map_err(failed("list this host's addresses"))?;
    let others = |address: &Ipv4Addr| !pool.contains(*address) && !address.is_loopback();
    let others = addresses.into_iter().filter(others);
    Ok(HostAddresses {
        nameservers: nameservers.to_vec(),
        host: ends.into_iter().chain(others).collect(),
    })
}

fn random() -> u32 {
    let mut random = [0; 4];
    match getrandom(&mut random, GetRandomFlags::empty()) {
        Ok(_) => u32::from_ne_bytes(random),
        Err(_) => 0,
    }
}

/// Makes the link to the host under the name of the first block that is free, beginning
/// somewhere, so that addresses are not used again at once.
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
        // Other VMs are in the pool, and nothing else is.
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
