//! TCP of a guest: accepted in its namespace, and connected by this process.

use super::super::{is_of_a_link, streams};
use rustix::net::sockopt::{ip_original_dst, set_socket_linger};
use std::io;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Most connections at a time, each with two threads. Others wait.
const MOST: u32 = 1024;
/// How long to wait where there are so many, or no descriptors.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the world has to answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Accepts from now on.
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
                // The guest's side is accepted already, so it can only be closed now.
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

/// Whether an address is neither one by which a process means its own host (the guest means
/// itself by it, this process the host), nor a VM's of any pool.
pub(super) fn is_elsewhere(to: SocketAddrV4) -> bool {
    let ip = to.ip();
    let is_here = ip.is_loopback() || ip.octets()[0] == 0;
    !(is_here || ip.is_multicast() || ip.is_broadcast() || is_of_a_link(*ip))
}
