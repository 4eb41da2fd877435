//! Following the main program: its output into the VM's log, and its end.

use super::identify::connect;
use crate::devices::log::Log;
use crate::devices::virtio::vsock::VsockHandle;
use hyperfork_api::frame;
use hyperfork_api::guest::{Reply, Request, Stream};
use std::time::Duration;

/// Follows until the program ends, and gives its exit status; `None` when the
/// guest is gone first.
///
/// A connection that breaks is made anew from where it broke; a guest that does
/// not take several in a row is gone.
pub(super) fn follow_main(vsock: &VsockHandle, mut offset: u64, log: &Log) -> Option<i32> {
    const ATTEMPTS: u32 = 5;
    const WAIT: Duration = Duration::from_millis(200);
    let mut failures = 0;
    while failures < ATTEMPTS {
        let before = offset;
        if let Some(status) = follow_once(vsock, &mut offset, log) {
            return Some(status);
        }
        failures = if offset > before { 0 } else { failures + 1 };
        std::thread::sleep(WAIT);
    }
    None
}

fn follow_once(vsock: &VsockHandle, offset: &mut u64, log: &Log) -> Option<i32> {
    let mut agent = connect(vsock).ok()?;
    match agent
        .request(&Request::FollowMain {
            from: Some(*offset),
        })
        .ok()?
    {
        Reply::Streaming => {}
        _ => return None,
    }
    let mut stream = agent.into_stream();
    loop {
        match frame::read::<Stream>(&mut stream).ok()?? {
            Stream::Stdout(bytes) | Stream::Stderr(bytes) => {
                log.append(&bytes);
                *offset += bytes.len() as u64;
            }
            Stream::Exited(status) => return Some(status),
            _ => return None,
        }
    }
}
