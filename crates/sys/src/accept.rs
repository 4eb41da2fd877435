//! Accepts connections in an endless loop.

use crate::note;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

/// How long a listener rests after an error. Out of descriptors, accept(2) fails at once
/// while the connection stays in the queue: without a rest the thread would take a processor.
const REST: Duration = Duration::from_millis(100);

/// Calls `serve` with each connection. Logs an error (`EMFILE` and `ENFILE` are the likely ones)
/// when it differs from the one before, and then tries again.
pub fn each(listener: &UnixListener, mut serve: impl FnMut(UnixStream)) {
    let mut last = None;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                last = None;
                serve(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                if last.replace(error.raw_os_error()) != Some(error.raw_os_error()) {
                    note!("a connection cannot be accepted: {error}");
                }
                thread::sleep(REST);
            }
        }
    }
}
