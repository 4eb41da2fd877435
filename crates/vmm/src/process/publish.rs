//! Published ports: the VM's process listens on the host and passes on what comes.
//!
//! Whoever connects before the guest is ready waits; nobody is answered by a clone that
//! does not know yet that it is one. Connections end with the process.

use super::handover::Birth;
use crate::net::Namespace;
use hyperfork_api::fork::PublishedPort;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// A VM's published ports, taken but not served yet.
#[derive(Debug, Default)]
pub(super) struct Published(Vec<(TcpListener, PublishedPort)>);

/// Most connections at a time, each with two threads. Others wait.
const MOST: u32 = 1024;
/// How long to wait where there are so many, or no descriptors.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a guest has to answer a connection.
const PATIENCE: Duration = Duration::from_secs(30);

impl Birth {
    /// Puts down what the VM's network is, and takes the ports it publishes: a clone, in
    /// place of its parent's, free ones.
    ///
    /// # Errors
    /// A port is in use, in one line.
    pub(super) fn connect(&mut self, network: Option<&Namespace>) -> Result<Published, String> {
        let Some(network) = network else {
            return Ok(Published::default());
        };
        self.identity.network = Some(network.guest());
        self.info.ip = Some(network.ip());
        let is_clone = self.identity.generation > 0;
        let wanted = self.spec.guest.network();
        let wanted = wanted.map_or(&[][..], |network| &network.ports);
        let taken = wanted.iter().map(|&port| take(port, is_clone));
        let taken: Vec<_> = taken.collect::<Result<_, _>>()?;
        self.info.ports = taken.iter().map(|(_, port)| *port).collect();
        Ok(Published(taken))
    }
}

fn take(port: PublishedPort, any: bool) -> Result<(TcpListener, PublishedPort), String> {
    let host = if any { 0 } else { port.host };
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, host));
    let taken = listener.and_then(|listener| Ok((listener.local_addr()?.port(), listener)));
    match taken {
        Ok((host, listener)) => Ok((listener, PublishedPort { host, ..port })),
        Err(error) => Err(format!(
            "cannot publish port {host} of this host: {error}; choose another, or 0 for any"
        )),
    }
}

impl Published {
    /// Passes connections on to the guest, from now on.
    pub(super) fn serve(&mut self, ip: Ipv4Addr) {
        let connections = Arc::new(AtomicU32::new(0));
        for (listener, port) in self.0.drain(..) {
            let connections = connections.clone();
            let guest = (ip, port.guest).into();
            let served = thread::Builder::new()
                .name("port".into())
                .spawn(move || accept(&listener, guest, &connections));
            if let Err(error) = served {
                eprintln!("port {} cannot be served: {error}", port.host);
            }
        }
    }
}

fn accept(listener: &TcpListener, guest: SocketAddr, connections: &Arc<AtomicU32>) {
    loop {
        if connections.load(Ordering::Relaxed) >= MOST {
            thread::sleep(PAUSE);
            continue;
        }
        let Ok((outside, _)) = listener.accept() else {
            thread::sleep(PAUSE);
            continue;
        };
        connections.fetch_add(1, Ordering::Relaxed);
        let counted = connections.clone();
        let passing = thread::Builder::new()
            .name("passing".into())
            .spawn(move || {
                // Whichever end fails, both are closed then, which tells them.
                let _ = pass(&outside, guest);
                counted.fetch_sub(1, Ordering::Relaxed);
            });
        if passing.is_err() {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Copies both ways until both have ended.
fn pass(outside: &TcpStream, guest: SocketAddr) -> io::Result<()> {
    let inside = TcpStream::connect_timeout(&guest, PATIENCE)?;
    for stream in [outside, &inside] {
        stream.set_nodelay(true)?;
    }
    thread::scope(|scope| {
        let answers = thread::Builder::new().name("passing".into());
        answers.spawn_scoped(scope, || copy(&inside, outside))?;
        copy(outside, &inside);
        Ok(())
    })
}

/// Copies what comes from one to the other, then its end.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) if to.write_all(&buffer[..len]).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Broken: neither way makes sense any more.
            _ => {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
