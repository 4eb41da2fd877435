//! Published ports: the VM's process listens on the host and passes on what comes.
//!
//! Whoever connects before the guest is ready waits; nobody is answered by a clone that
//! does not know yet that it is one. Connections end with the process.

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

/// A VM's published ports, taken but not served yet.
#[derive(Debug, Default)]
pub(super) struct Published(Vec<(Taken, PublishedPort)>);

/// A port of the host.
#[derive(Debug)]
enum Taken {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Puts down what the VM's network is, and takes the ports it publishes: a clone, in place of
/// its parent's, free ones.
///
/// # Errors
/// A port is in use, in one line.
pub(super) fn connect(new: &mut NewVm, network: Option<&Namespace>) -> Result<Published, String> {
    let Some(network) = network else {
        return Ok(Published::default());
    };
    new.identity.network = Some(network.guest());
    new.info.status.ip = network.ip();
    let is_clone = new.identity.generation > 0;
    let wanted = new.spec.guest.network();
    let wanted = wanted.map_or(&[][..], |network| &network.ports);
    let taken = wanted.iter().map(|&port| take(port, is_clone));
    let taken: Vec<_> = taken.collect::<Result<_, _>>()?;
    new.info.status.ports = taken.iter().map(|(_, port)| *port).collect();
    Ok(Published(taken))
}

/// Whether the caller of a published port is a VM of this host: VMs do not reach each other,
/// by the host's addresses neither.
fn is_a_vm(caller: SocketAddr) -> bool {
    match caller {
        SocketAddr::V4(caller) => hyperfork_net::is_of_a_vm(*caller.ip()),
        SocketAddr::V6(_) => false,
    }
}

fn take(port: PublishedPort, any: bool) -> Result<(Taken, PublishedPort), String> {
    let host = if any { 0 } else { port.host };
    match bind(PublishedPort { host, ..port }) {
        Ok((host, taken)) => Ok((taken, PublishedPort { host, ..port })),
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

fn bind(port: PublishedPort) -> io::Result<(u16, Taken)> {
    let address = (port.address, port.host);
    Ok(match port.protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(address)?;
            (listener.local_addr()?.port(), Taken::Tcp(listener))
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(address)?;
            (socket.local_addr()?.port(), Taken::Udp(socket))
        }
    })
}

impl Published {
    /// Passes on to the guest what comes, from now on.
    pub(super) fn serve(&mut self, reach: &GuestConnector) {
        let connections = Arc::new(AtomicU32::new(0));
        for (taken, port) in self.0.drain(..) {
            let (connections, reach) = (connections.clone(), reach.clone());
            let thread = thread::Builder::new().name("port".into());
            let served = thread.spawn(move || match taken {
                Taken::Tcp(listener) => {
                    streams::accept(&listener, &reach, port.guest, &connections)
                }
                Taken::Udp(socket) => {
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
