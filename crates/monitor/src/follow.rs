//! Following the main program: its output into the VM's log, and its end.
//!
//! Output is counted from the program's start, and a clone's program goes on counting. So
//! a clone's log goes on where its parent's was at the fork: one behind the other they
//! are all that the program has ever printed, also between the fork and the moment from
//! which the clone's agent can be asked for it. (What had been printed by then and was
//! still on its way to the parent's log is in both: nobody can tell when the program has
//! written what is in a pipe.)

use crate::identify::{connect, count_main};
use hyperfork_api::frame;
use hyperfork_api::guest::{Reply, Request, Stream};
use hyperfork_vmm::devices::log::Log;
use hyperfork_vmm::devices::virtio::vsock::VsockHandle;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where a main program's output goes. Clones of the value are the same.
#[derive(Debug, Clone)]
pub(super) struct MainOutput {
    log: Log,
    logged: Arc<AtomicU64>,
}

impl MainOutput {
    /// Goes on behind so many bytes that are in another's log.
    pub(super) fn new(log: Log, logged: u64) -> Self {
        Self {
            log,
            logged: Arc::new(logged.into()),
        }
    }

    /// How many bytes of all that the program has ever written are in this log or in
    /// those of VMs it stems from.
    pub(super) fn logged(&self) -> u64 {
        self.logged.load(Ordering::Relaxed)
    }

    /// Waits until what the program has written by now is logged: as long as more comes
    /// in, for it is followed meanwhile.
    pub(super) fn catch_up(&self, vsock: &VsockHandle) {
        const STEP: Duration = Duration::from_millis(5);
        const MOST_STEPS_IN_VAIN: u32 = 400;
        let Ok(written) = count_main(vsock) else {
            return;
        };
        let (mut logged, mut in_vain) = (self.logged(), 0);
        while logged < written && in_vain < MOST_STEPS_IN_VAIN {
            std::thread::sleep(STEP);
            let now = self.logged();
            in_vain = if now > logged { 0 } else { in_vain + 1 };
            logged = now;
        }
    }

    /// Follows until the program ends, and gives its exit status; `None` when the
    /// guest is gone first.
    ///
    /// A connection that breaks is made anew from where it broke; a guest that does
    /// not take several in a row is gone.
    pub(super) fn follow(&self, vsock: &VsockHandle) -> Option<i32> {
        const ATTEMPTS: u32 = 5;
        const WAIT: Duration = Duration::from_millis(200);
        let mut failures = 0;
        while failures < ATTEMPTS {
            let before = self.logged();
            if let Some(status) = self.follow_once(vsock) {
                return Some(status);
            }
            failures = match self.logged() > before {
                true => 0,
                false => failures + 1,
            };
            std::thread::sleep(WAIT);
        }
        None
    }

    fn follow_once(&self, vsock: &VsockHandle) -> Option<i32> {
        let mut agent = connect(vsock).ok()?;
        let from = Some(self.logged());
        match agent.request(&Request::FollowMain { from }).ok()? {
            Reply::Streaming => {}
            _ => return None,
        }
        let mut stream = agent.into_stream();
        loop {
            match frame::read::<Stream>(&mut stream).ok()?? {
                Stream::Stdout(bytes) | Stream::Stderr(bytes) => {
                    // Counted first: a fork in between must not have it twice.
                    self.count(bytes.len() as u64);
                    self.log.append(&bytes);
                }
                Stream::Skipped(len) => self.count(len),
                Stream::Exited(status) => return Some(status),
                _ => return None,
            }
        }
    }

    fn count(&self, len: u64) {
        self.logged.fetch_add(len, Ordering::Relaxed);
    }
}
