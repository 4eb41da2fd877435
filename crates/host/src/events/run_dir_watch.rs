//! Watching which names are added to the run directory and removed from it.

use crate::run_dir::RunDir;
use hyperfork_api::VmName;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A watch (inotify(7)). A VM's directory gets its name, and loses it, by being renamed.
#[derive(Debug)]
pub(super) struct RunDirWatch(OwnedFd);

/// A change in the run directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A VM has this name now.
    Added(VmName),
    /// No VM has this name any more.
    Removed(VmName),
    /// There were more changes than the kernel queues.
    Overflow,
}

impl RunDirWatch {
    pub(super) fn begin(run_dir: &RunDir) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let wanted = WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::ONLYDIR;
        inotify::add_watch(&watch, run_dir.path(), wanted)?;
        Ok(Self(watch))
    }

    /// The changes since the last call, without waiting.
    pub(super) fn changes(&self) -> io::Result<Vec<Change>> {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut changes = Vec::new();
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(rustix::io::Errno::AGAIN) => return Ok(changes),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                changes.push(Change::Overflow);
                continue;
            }
            let name = event.file_name().and_then(|name| name.to_str().ok());
            // Other files have no name that a VM could have.
            let Some(name) = name.and_then(|name| VmName::new(name).ok()) else {
                continue;
            };
            if flags.contains(ReadFlags::MOVED_TO) {
                changes.push(Change::Added(name));
            } else if flags.contains(ReadFlags::MOVED_FROM) {
                changes.push(Change::Removed(name));
            }
        }
    }
}

impl AsFd for RunDirWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
