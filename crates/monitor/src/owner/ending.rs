//! How a VM ends, and what it leaves.

use super::Owner;
use hyperfork_api::VmState;
use hyperfork_api::control::Reply;
use hyperfork_host::handover::Progress;
use hyperfork_host::record;
use hyperfork_sys::note;

/// How a VM's life ended.
pub(super) struct Ending {
    state: VmState,
    error: Option<String>,
}

impl Ending {
    pub(super) fn stopped() -> Self {
        Self {
            state: VmState::Stopped,
            error: None,
        }
    }

    pub(super) fn failed(error: impl Into<String>) -> Self {
        Self {
            state: VmState::Failed,
            error: Some(error.into()),
        }
    }
}

impl Owner {
    /// The guest ended itself: powered off, or panicked.
    pub(super) fn guest_is_gone(&self) -> Ending {
        let tail = self.console.tail();
        match panic_line(&String::from_utf8_lossy(&tail)) {
            Some(line) => Ending::failed(format!("the guest's kernel panicked: {line}")),
            None if self.launcher.is_some() => {
                Ending::failed("the guest ended before it was ready; see its console")
            }
            None => Ending::stopped(),
        }
    }

    pub(super) fn end(mut self, ending: Ending) {
        self.info_now();
        self.info.state = ending.state;
        self.info.error = ending.error;
        self.info.pid = None;
        let info = Box::new(self.info);
        // Threads first, so that nothing is written any more.
        drop(self.machine);
        let dir = &self.claim.dir;
        let words = info
            .error
            .clone()
            .unwrap_or_else(|| "it was stopped".to_owned());
        if self.claim.is_anothers() {
            // A new VM has the place: nothing in it is ours.
        } else if self.released {
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
        } else {
            self.claim.abandon();
        }
        if let Some(launcher) = self.launcher {
            launcher.report(&Progress::Failed(words.clone()));
        }
        for waiter in self.ready_waiters {
            let _ = waiter.send(Reply::Error(words.clone()));
        }
        for waiter in self.exit_waiters {
            let _ = waiter.send(Reply::Info(info.clone()));
        }
        for waiter in self.stop_waiters {
            let _ = waiter.send(Reply::Ok);
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
