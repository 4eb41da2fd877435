//! The end of a VM, and what it leaves on disk.

use super::Owner;
use hyperfork_api::event::EventKind;
use hyperfork_api::{Code, Error, VmState};
use hyperfork_host::handover::Progress;
use hyperfork_host::record;
use hyperfork_sys::note;

/// How a VM ended.
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

    /// The guest is at fault.
    pub(super) fn by_guest(message: impl Into<String>) -> Self {
        Self::failed(Error::new(Code::Guest, message))
    }
}

impl Owner {
    /// How the VM ends when the guest has reset the machine: by a power-off or a panic.
    pub(super) fn guest_ended(&self) -> Ending {
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
        // The launcher may have released it just now: then the VM leaves its directory.
        let _ = self.check_launcher();
        let is_released = self.is_released();
        self.info_now();
        self.info.status.state = ending.state;
        self.info.status.error = ending.error.as_ref().map(ToString::to_string);
        self.info.status.pid = None;
        let info = self.info;
        // Ends the machine's threads first, so that they write nothing any more.
        drop(self.machine);
        let dir = &self.claim.dir;
        // If another VM has taken the directory's place, its files are not this VM's.
        if is_released && !self.claim.is_replaced() {
            for socket in [
                dir.control_socket(),
                dir.vsock_socket(),
                dir.console_socket(),
            ] {
                let _ = std::fs::remove_file(socket);
            }
            if let Err(error) = record::write_info(dir, &info) {
                note!("cannot write {}: {error}", dir.info_path().display());
            }
        }
        self.events.publish(match &info.status.error {
            Some(error) => EventKind::Failed {
                error: error.clone(),
            },
            None => EventKind::Stopped,
        });
        if !is_released {
            self.claim.abandon();
        }
        let error = ending.error.unwrap_or_else(|| {
            // Phrased to be printed after the VM's name.
            Error::new(Code::NotRunning, "it was stopped")
        });
        if let Some(launcher) = self.launcher {
            launcher.report(&Progress::Failed(error.clone()));
        }
        for waiter in self.ready_waiters {
            waiter.respond(Err(error.clone()));
        }
        for waiter in self.exit_waiters {
            waiter.respond(Ok(info.clone()));
        }
        for waiter in self.stop_waiters {
            waiter.respond(Ok(()));
        }
        self.pending.wait();
    }
}

/// The reason that the guest's kernel gives for its panic.
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
