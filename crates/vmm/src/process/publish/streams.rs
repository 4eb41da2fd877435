//! TCP: two threads for each connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Most connections at a time. Others wait.
const MOST: u32 = 1024;
/// How long to wait where there are so many, or no descriptors.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a guest has to answer a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Passes connections on to the guest. Never returns.
pub(super) fn accept(listener: &TcpListener, guest: SocketAddr, connections: &Arc<AtomicU32>) {
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
