//! The helper process of a network without privileges: makes the namespace, and sockets in it.

use super::super::egress::Rule;
use super::super::inside::{EVERYWHERE, GATEWAY, TO_GUEST, TO_HOST, connect_guest, set_up};
use super::super::{filter, netns};
use hyperfork_api::frame;
use hyperfork_api::port::Protocol;
use hyperfork_netlink::{Batch, Netlink, Subsystem};
use hyperfork_sys::scm;
use hyperfork_sys::tap::{Tap, create_tun};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

/// The first message to the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) guest: Ipv4Addr,
    pub(super) rules: Vec<Rule>,
}

/// Its answer: `Ok` comes with the descriptors of the TAP, the TUN and the listening socket; `Err`
/// is the reason in one line.
pub(super) type Answer = Result<(), String>;

/// The TUN's MTU: the longest IPv4 packet, so that datagrams are not fragmented.
const MTU: u32 = 65_535;

/// The helper's main function. Its standard input is a socket of the process that wants a
/// namespace.
pub fn net_main() -> ExitCode {
    let served = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|socket| serve(&UnixStream::from(socket)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(socket: &UnixStream) -> io::Result<()> {
    let Some((order, _)) = scm::receive(socket)? else {
        return Ok(());
    };
    let order: Order = frame::from_bytes(&order).map_err(io::Error::other)?;
    let (answer, fds): (Answer, _) = match make(&order) {
        Ok(fds) => (Ok(()), fds),
        Err(message) => (Err(message), Vec::new()),
    };
    let answer = postcard::to_stdvec(&answer).map_err(io::Error::other)?;
    scm::send(socket, &answer, &fds)?;
    drop(fds);
    while let Some((protocol, _)) = scm::receive(socket)? {
        let kind = match protocol[..] == [Protocol::Tcp.number()] {
            true => SocketType::STREAM,
            false => SocketType::DGRAM,
        };
        let made = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None);
        scm::send(socket, &[], &made.map(|fd| vec![fd]).unwrap_or_default())?;
    }
    Ok(())
}

fn make(order: &Order) -> Result<Vec<OwnedFd>, String> {
    let cannot = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
    netns::become_root_of_a_new_one().map_err(cannot(
        "make a user namespace (see /proc/sys/user/max_user_namespaces and the host's AppArmor)",
    ))?;
    set_up().map_err(cannot("set a namespace up"))?;
    let tap = Tap::create(TO_GUEST).map_err(cannot("make a TAP in a user namespace"))?;
    let tun = create_tun(TO_HOST).map_err(cannot("make a TUN in a user namespace"))?;
    let listener = connect(order.guest).map_err(cannot("set up a VM's network"))?;
    let port = listener.local_addr().map_err(cannot("listen"))?.port();
    let route = Netlink::open(Subsystem::Route).and_then(|route| route.index_of(TO_GUEST));
    let guest = route.map_err(cannot("set up a VM's network"))?;
    Netlink::open(Subsystem::Filter)
        .and_then(|netfilter| filter::intercept(&netfilter, guest, &order.rules, (GATEWAY, port)))
        .map_err(cannot("filter packets in a user namespace (nf_tables)"))?;
    let tap = tap
        .as_fd()
        .try_clone_to_owned()
        .map_err(cannot("make a TAP"))?;
    Ok(vec![tap, tun, listener.into()])
}

/// Configures both interfaces, and listens on the address to which the guest's connections are
/// translated.
fn connect(guest: Ipv4Addr) -> io::Result<TcpListener> {
    let inside = Netlink::open(Subsystem::Route)?;
    let (to_guest, out) = (inside.index_of(TO_GUEST)?, inside.index_of(TO_HOST)?);
    let mut batch = Batch::new();
    batch.mtu(out, MTU).up(out);
    connect_guest(&mut batch, to_guest, guest);
    batch.link_to(EVERYWHERE, out);
    inside.request(&batch)?;
    TcpListener::bind((GATEWAY, 0))
}
