//! Forwards a guest's TCP: accepts its connections in its namespace, and connects to their
//! destinations from this process.

use super::super::{is_of_a_link, streams};
use rustix::net::sockopt::{ip_original_dst, set_socket_linger};
use std::io;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Most connections at a time, each with two threads. Further ones wait in the backlog.
const MOST: u32 = 1024;
/// The pause when there are so many connections, or no descriptors left.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a destination has to accept a connection.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Starts the thread that accepts connections.
pub(super) fn serve(listener: TcpListener) -> io::Result<()> {
    let accepting = thread::Builder::new().name("out".into());
    accepting.spawn(move || accept(&listener)).map(drop)
}

fn accept(listener: &TcpListener) {
    let connections = Arc::new(AtomicU32::new(0));
    loop {
        if connections.load(Ordering::Relaxed) >= MOST {
            thread::sleep(PAUSE);
            continue;
        }
        let Ok((inside, _)) = listener.accept() else {
            thread::sleep(PAUSE);
            continue;
        };
        connections.fetch_add(1, Ordering::Relaxed);
        let counted = connections.clone();
        let passing = thread::Builder::new().name("passing".into());
        let passing = passing.spawn(move || {
            if connect(&inside)
                .and_then(|outside| streams::pass(&inside, &outside))
                .is_err()
            {
                // The guest's side is accepted already, so it can only be reset now.
                let _ = set_socket_linger(&inside, Some(Duration::ZERO));
            }
            drop(inside);
            counted.fetch_sub(1, Ordering::Relaxed);
        });
        if passing.is_err() {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Connects to the destination that the guest has connected to.
fn connect(inside: &TcpStream) -> io::Result<TcpStream> {
    let to = ip_original_dst(inside)?;
    if !is_elsewhere(to) {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    TcpStream::connect_timeout(&to.into(), TIMEOUT)
}

/// Whether an address belongs to another host. It does not if it is local (such an address means
/// the guest to the guest, but the host to this process), multicast, broadcast, or a VM's.
pub(super) fn is_elsewhere(to: SocketAddrV4) -> bool {
    let ip = to.ip();
    let is_here = ip.is_loopback() || ip.octets()[0] == 0;
    !(is_here || ip.is_multicast() || ip.is_broadcast() || is_of_a_link(*ip))
}
