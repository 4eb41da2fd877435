//! A network without privileges: in a user namespace of its own a process may do what takes
//! `CAP_NET_ADMIN` elsewhere.
//!
//! ```text
//!  guest        namespace of a user of its own                     this process
//!  eth0 ─virtio─ tap0 ──TCP: translated to a listening socket────> streams: connects for the guest
//!                 └─────all else: forwarded to up0 (a TUN)───────> datagrams: UDP, by sockets
//! ```
//!
//! A [helper](helper) process makes the namespace and sends its descriptors to this process. After
//! that it only makes sockets in the namespace, through which this process serves published ports.
//! The helper ends when this process does. A socket belongs to the namespace that it was made in,
//! whichever process uses it, so this process reaches the guest through the helper's sockets and
//! all other hosts through its own.

mod datagrams;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod helper;
mod packet;
mod streams;

pub use helper::net_main;

use super::Setup;
use super::address::{Block, Pool};
use super::egress::Rule;
use super::inside::GATEWAY;
use helper::{Answer, Order};
use hyperfork_api::frame;
use hyperfork_api::port::Protocol;
use hyperfork_sys::tap::Tap;
use hyperfork_sys::{program, scm};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

/// The first argument of the helper process; a program's `main` calls [`net_main`] for it.
pub const NET_ARGUMENT: &str = "net";

/// The connection to the helper, which makes sockets in the namespace while this is open.
#[derive(Debug)]
pub(super) struct Sockets(Mutex<UnixStream>);

impl Sockets {
    /// Makes a socket in the namespace.
    pub(super) fn make(&self, protocol: Protocol) -> io::Result<OwnedFd> {
        let helper = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        scm::send(&helper, &[protocol.number()], &[])?;
        let (_, fds) = scm::receive(&helper)?.ok_or(io::ErrorKind::NotConnected)?;
        fds.into_iter()
            .next()
            .ok_or(io::ErrorKind::OutOfMemory.into())
    }
}

/// Makes a namespace, and threads that forward the guest's packets to the destinations that the
/// rules allow. The threads end with this process.
///
/// # Errors
/// The reason in one line.
pub(super) fn prepare(
    setup: &Setup,
    visible: Block,
    rules: Option<Vec<Rule>>,
) -> Result<(Tap, Arc<Sockets>), String> {
    let message = |error: io::Error| format!("no network without privileges: {error}");
    let (ours, theirs) = UnixStream::pair().map_err(message)?;
    program::clean(&setup.program, "hyperfork-vm")
        .map_err(message)?
        .arg(NET_ARGUMENT)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(message)?;
    let order = Order {
        guest: visible.guest(),
        rules: fenced(&setup.pool, rules),
    };
    let order = postcard::to_stdvec(&order).map_err(|error| error.to_string())?;
    scm::send(&ours, &order, &[]).map_err(message)?;
    let (answer, fds) = scm::receive(&ours)
        .map_err(message)?
        .ok_or("no network without privileges: its helper ended")?;
    let answer: Answer = frame::from_bytes(&answer).map_err(|error| error.to_string())?;
    answer?;
    let [tap, tun, listener]: [OwnedFd; 3] = fds
        .try_into()
        .map_err(|_| "no network without privileges: its helper gave too little")?;
    streams::serve(listener.into()).map_err(message)?;
    datagrams::serve(tun).map_err(message)?;
    Ok((Tap::from_created(tap), Arc::new(Sockets(Mutex::new(ours)))))
}

/// The rules, preceded by what no policy allows: other VMs, and the gateway, which is this process.
fn fenced(pool: &Pool, rules: Option<Vec<Rule>>) -> Vec<Rule> {
    let refused = [(pool.base(), pool.prefix()), (GATEWAY, 32)];
    let refused = refused.map(|to| Rule {
        to,
        transport: None,
        allow: false,
    });
    let all = Rule {
        to: (Ipv4Addr::UNSPECIFIED, 0),
        transport: None,
        allow: true,
    };
    let rules = rules.unwrap_or_else(|| vec![all]);
    refused.into_iter().chain(rules).collect()
}
