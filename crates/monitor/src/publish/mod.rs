//! Published ports: the VM's process listens on the host and forwards to the guest.
//!
//! A client that connects before the guest is ready has to wait, so that no clone answers
//! before it has its identity. Connections end with the process.

mod datagrams;
mod streams;

use datagrams::Datagrams;
use hyperfork_api::port::{Protocol, PublishedPort};
use hyperfork_host::handover::NewVm;
use hyperfork_net::{GuestConnector, Namespace};
use hyperfork_sys::note;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread;

/// A VM's published ports, bound but not served yet.
#[derive(Debug, Default)]
pub(super) struct Published(Vec<(BoundPort, PublishedPort)>);

/// A port bound on the host.
#[derive(Debug)]
enum BoundPort {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Records the VM's network in `new`, and binds the ports that it publishes. A clone gets free
/// ports in place of its parent's.
///
/// # Errors
/// Which port is in use, in one line.
pub(super) fn connect(new: &mut NewVm, network: Option<&Namespace>) -> Result<Published, String> {
    let Some(network) = network else {
        return Ok(Published::default());
    };
    new.identity.network = Some(network.guest());
    new.info.status.ip = network.ip();
    let is_clone = new.identity.generation > 0;
    let wanted = new.spec.guest.network();
    let wanted = wanted.map_or(&[][..], |network| &network.ports);
    let bound = wanted.iter().map(|&port| bind_port(port, is_clone));
    let bound: Vec<_> = bound.collect::<Result<_, _>>()?;
    new.info.status.ports = bound.iter().map(|(_, port)| *port).collect();
    Ok(Published(bound))
}

/// Whether the client of a published port is a VM of this host. Such clients are refused: VMs
/// do not reach each other, not even through the host's addresses.
fn is_a_vm(caller: SocketAddr) -> bool {
    match caller {
        SocketAddr::V4(caller) => hyperfork_net::is_of_a_vm(*caller.ip()),
        SocketAddr::V6(_) => false,
    }
}

fn bind_port(port: PublishedPort, any: bool) -> Result<(BoundPort, PublishedPort), String> {
    let host = if any { 0 } else { port.host };
    match bind(PublishedPort { host, ..port }) {
        Ok((host, bound)) => Ok((bound, PublishedPort { host, ..port })),
        Err(error) => Err(format!(
            "cannot publish {} port {host} of {}: {error}; choose another, or 0 for any",
            port.protocol,
            match port.address {
                Ipv4Addr::UNSPECIFIED => "this host".to_owned(),
                address => address.to_string(),
            }
        )),
    }
}

fn bind(port: PublishedPort) -> io::Result<(u16, BoundPort)> {
    let address = (port.address, port.host);
    Ok(match port.protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(address)?;
            (listener.local_addr()?.port(), BoundPort::Tcp(listener))
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(address)?;
            (socket.local_addr()?.port(), BoundPort::Udp(socket))
        }
    })
}

impl Published {
    /// Starts forwarding to the guest.
    pub(super) fn serve(&mut self, reach: &GuestConnector) {
        let connections = Arc::new(AtomicU32::new(0));
        for (bound, port) in self.0.drain(..) {
            let (connections, reach) = (connections.clone(), reach.clone());
            let thread = thread::Builder::new().name("port".into());
            let served = thread.spawn(move || match bound {
                BoundPort::Tcp(listener) => {
                    streams::accept(&listener, &reach, port.guest, &connections)
                }
                BoundPort::Udp(socket) => {
                    let served = Datagrams::new(socket, reach, port.guest).map(Datagrams::serve);
                    let (Ok(error) | Err(error)) = served;
                    note!("udp port {} is served no more: {error}", port.host);
                }
            });
            if let Err(error) = served {
                note!("port {} cannot be served: {error}", port.host);
            }
        }
    }
}
