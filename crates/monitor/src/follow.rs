//! Following the main program: copying its output into the VM's log, and awaiting its end.
//!
//! Output is counted from the program's start, and the count goes on in a clone. So a clone's
//! log continues its parent's log from the fork on: the two together hold all that the program
//! has ever printed, including its output before the clone's agent could be asked for it.
//! (Output that was on its way to the parent's log at the fork is in both logs: the time at
//! which a program wrote the bytes in a pipe is not known.)

use crate::identify::{connect, count_main};
use hyperfork_api::frame;
use hyperfork_api::guest::{Reply, Request, Stream};
use hyperfork_vmm::devices::log::Log;
use hyperfork_vmm::devices::virtio::vsock::VsockHandle;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The log of a main program's output. Clones of the value share it.
#[derive(Debug, Clone)]
pub(super) struct MainOutput {
    log: Log,
    logged: Arc<AtomicU64>,
}

impl MainOutput {
    /// A log that continues after `logged` bytes of output that are in the parent's log.
    pub(super) fn new(log: Log, logged: u64) -> Self {
        Self {
            log,
            logged: Arc::new(logged.into()),
        }
    }

    /// How many bytes of all that the program has ever written are in this log and in the logs
    /// of the VM's ancestors.
    pub(super) fn logged(&self) -> u64 {
        self.logged.load(Ordering::Relaxed)
    }

    /// Waits until the program's output so far is in the log, as long as the log still grows
    /// (another thread is [following](Self::follow) the program).
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

    /// Copies output until the program ends, and returns its exit status; `None` when the guest
    /// ends first.
    ///
    /// A broken connection is re-established and continued where it broke; after several failed
    /// attempts in a row the guest counts as ended.
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
                    // Counted before it is logged: after a fork in between, the clone must not log it again.
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
