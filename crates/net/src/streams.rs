//! Forwards bytes between two TCP connections.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

/// Copies both ways until both have ended, on this thread and one more.
///
/// # Errors
/// When no thread can be started. A failure of one connection closes both and is no error.
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

/// Copies from one connection to the other until the end of the stream, then passes the end on.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) if to.write_all(&buffer[..len]).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // One connection failed, so neither direction is of use any more.
            _ => {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
