//! How a VM ends, and what it leaves.

use super::Owner;
use hyperfork_api::event::What;
use hyperfork_api::{Code, Error, VmState};
use hyperfork_host::handover::Progress;
use hyperfork_host::record;
use hyperfork_sys::note;

/// How a VM's life ended.
pub(super) struct Ending {
    state: VmState,
    error: Option<Error>,
}

impl Ending {
    pub(super) fn stopped() -> Self {
        Self {
            state: VmState::Stopped,
            error: None,
        }
    }

    pub(super) fn failed(error: Error) -> Self {
        Self {
            state: VmState::Failed,
            error: Some(error),
        }
    }

    /// The guest is the one that did not do its part.
    pub(super) fn by_guest(words: impl Into<String>) -> Self {
        Self::failed(Error::new(Code::Guest, words))
    }
}

impl Owner {
    /// The guest ended itself: powered off, or panicked.
    pub(super) fn guest_is_gone(&self) -> Ending {
        let tail = self.console.tail();
        match panic_line(&String::from_utf8_lossy(&tail)) {
            Some(line) => Ending::by_guest(format!("the guest's kernel panicked: {line}")),
            None if !self.is_ready() => {
                Ending::by_guest("the guest ended before it was ready; see its console")
            }
            None => Ending::stopped(),
        }
    }

    pub(super) fn end(mut self, ending: Ending) {
        // One that ends as soon as it was released has lived all the same.
        let _ = self.look_for_release();
        let is_released = self.is_released();
        self.info_now();
        self.info.status.state = ending.state;
        self.info.status.error = ending.error.as_ref().map(ToString::to_string);
        self.info.status.pid = None;
        let info = self.info;
        // Threads first, so that nothing is written any more.
        drop(self.machine);
        let dir = &self.claim.dir;
        // Where a new VM has the place, nothing in it is ours.
        if is_released && !self.claim.is_anothers() {
            for socket in [
                dir.control_socket(),
                dir.vsock_socket(),
                dir.console_socket(),
            ] {
                let _ = std::fs::remove_file(socket);
            }
            if let Err(error) = record::keep(dir, &info) {
                note!("cannot write {}: {error}", dir.info_path().display());
            }
        }
        self.happenings.tell(match &info.status.error {
            Some(error) => What::Failed {
                error: error.clone(),
            },
            None => What::Stopped,
        });
        if !is_released {
            self.claim.abandon();
        }
        let error = ending.error.unwrap_or_else(|| {
            // In words that may stand behind its name.
            Error::new(Code::NotRunning, "it was stopped")
        });
        if let Some(launcher) = self.launcher {
            launcher.report(&Progress::Failed(error.clone()));
        }
        for waiter in self.ready_waiters {
            waiter.give(Err(error.clone()));
        }
        for waiter in self.exit_waiters {
            waiter.give(Ok(info.clone()));
        }
        for waiter in self.stop_waiters {
            waiter.give(Ok(()));
        }
        self.pending.wait();
    }
}

/// The kernel's own words for why it panicked.
fn panic_line(console: &str) -> Option<&str> {
    const MARK: &str = "Kernel panic - not syncing: ";
    let at = console.rfind(MARK)? + MARK.len();
    console[at..].lines().next().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_last_words_are_found() {
        let console =
            "x\n[    1.0] Kernel panic - not syncing: Attempted to kill init!\r\n[1.1] CPU: 0\n";
        assert_eq!(panic_line(console), Some("Attempted to kill init!"));
        assert_eq!(panic_line("all is well"), None);
    }
}
