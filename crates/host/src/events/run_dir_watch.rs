//! Which names come and go in the run directory.

use crate::run_dir::RunDir;
use hyperfork_api::VmName;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A watch (inotify(7)). Directories of VMs get their names, and lose them, by being renamed.
#[derive(Debug)]
pub(super) struct RunDirWatch(OwnedFd);

/// What has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A VM has this name now.
    Added(VmName),
    /// It has it no more.
    Removed(VmName),
    /// More than the kernel keeps.
    Overflow,
}

impl RunDirWatch {
    pub(super) fn begin(run_dir: &RunDir) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let wanted = WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::ONLYDIR;
        inotify::add_watch(&watch, run_dir.path(), wanted)?;
        Ok(Self(watch))
    }

    /// What has changed since the last time, without waiting.
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
            // What is no VM has no name of one.
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
