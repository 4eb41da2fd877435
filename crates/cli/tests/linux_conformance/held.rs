//! An agent that is stopped, so that the guest's clones cannot become ready.

use crate::guest::Guest;
use crate::support::{User, eventually, finish};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

/// Where the directory is in the guest.
const MOUNT_POINT: &str = "/shared";

/// A directory to share with a guest, and the argument that does it.
pub(crate) fn shared(user: &User) -> (PathBuf, String) {
    let path = user.path("shared");
    fs::create_dir(&path).unwrap();
    let volume = format!("{}:{MOUNT_POINT}", path.display());
    (path, volume)
}

/// A guest's agent that is stopped. So are its clones'.
pub(crate) struct Held {
    file: PathBuf,
    /// The command that stopped the agent, and ends when the agent continues.
    command: Child,
}

impl Guest<'_> {
    /// Stops the agent. It is continued by way of a shared directory, since a stopped agent takes
    /// no requests.
    pub(crate) fn hold_agent(&self, shared: &Path) -> Held {
        let file = shared.join("held");
        let in_guest = format!("{MOUNT_POINT}/held");
        let command = self.start(&["witness", "hold-agent", &in_guest]);
        eventually("the agent's stop", || file.exists());
        Held { file, command }
    }
}

impl Held {
    /// Continues the agent.
    pub(crate) fn release(self) {
        fs::remove_file(self.file).unwrap();
        assert_eq!(finish(self.command).status, 0);
    }

    /// The guest has ended, and the command that stopped its agent fails.
    pub(crate) fn was_lost(self) {
        fs::remove_file(self.file).unwrap();
        finish(self.command).must_have_failed(125);
    }
}
