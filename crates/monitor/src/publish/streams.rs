//! TCP: two threads for each connection.

use super::is_a_vm;
use hyperfork_net::{GuestConnector, streams};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Most connections at a time. Further clients wait.
const MAX_CONNECTIONS: u32 = 1024;
/// How long to wait at that limit, or when there are no descriptors left.
const RETRY_DELAY: Duration = Duration::from_millis(20);
/// How long a guest may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Forwards connections to the guest. Never returns.
pub(super) fn accept(
    listener: &TcpListener,
    reach: &GuestConnector,
    port: u16,
    connections: &Arc<AtomicU32>,
) {
    loop {
        if connections.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            thread::sleep(RETRY_DELAY);
            continue;
        }
        let Ok((outside, caller)) = listener.accept() else {
            thread::sleep(RETRY_DELAY);
            continue;
        };
        if is_a_vm(caller) {
            continue;
        }
        connections.fetch_add(1, Ordering::Relaxed);
        let (counted, reach) = (connections.clone(), reach.clone());
        let passing = thread::Builder::new()
            .name("passing".into())
            .spawn(move || {
                // When either end fails, both connections are closed, and so both ends notice.
                let _ = pass(&outside, &reach, port);
                counted.fetch_sub(1, Ordering::Relaxed);
            });
        if passing.is_err() {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn pass(outside: &TcpStream, reach: &GuestConnector, port: u16) -> io::Result<()> {
    streams::pass(outside, &reach.stream(port, CONNECT_TIMEOUT)?)
}
