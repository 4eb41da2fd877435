//! Forwards bytes between two connections.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

/// Copies both ways until both have ended, on this thread and one more.
///
/// # Errors
/// There is no thread. Whatever fails of the connections, both are closed then.
pub fn pass(one: &TcpStream, other: &TcpStream) -> io::Result<()> {
    for stream in [one, other] {
        stream.set_nodelay(true)?;
    }
    thread::scope(|scope| {
        let answers = thread::Builder::new().name("passing".into());
        answers.spawn_scoped(scope, || copy(other, one))?;
        copy(one, other);
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
