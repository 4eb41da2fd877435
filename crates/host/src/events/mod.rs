//! Following the events of VMs without a daemon: each VM's process sends its events to its
//! subscribers, and the run directory shows which VMs are added and removed (inotify(7)).
//!
//! ```text
//!  run directory: name added ─> connecting ──> subscribed ──> ended ──> name removed
//!                                (repeated        │             ▲
//!                                 until there     └── closed ───┘ without a last event:
//!                                 is a socket)        the VM was killed, or has dropped this
//!                                                     subscriber
//! ```

mod run_dir_watch;
mod subscription;
#[cfg(test)]
mod tests;

use crate::client::ClientError;
use crate::run_dir::{RunDir, RunDirError};
use hyperfork_api::{Event, VmName};
use hyperfork_sys::clock::unix_ms;
use hyperfork_sys::descriptors;
use run_dir_watch::{Change, RunDirWatch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;
use subscription::{Subscription, Update};

/// The events of a run directory's VMs, from some moment on.
#[derive(Debug)]
pub struct Events {
    run_dir: RunDir,
    watch: RunDirWatch,
    /// Which VMs; all, if empty.
    only: Vec<VmName>,
    /// Since when events are followed.
    since_unix_ms: u64,
    vms: BTreeMap<VmName, Subscription>,
    updates: VecDeque<Result<Event, ClientError>>,
}

/// Why events cannot be followed any more.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The run directory cannot be watched.
    #[error("cannot watch the run directory")]
    Watch(#[source] io::Error),
    /// Waiting failed.
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
    /// The run directory cannot be read.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
}

/// How long to wait before connecting again to a VM whose socket does not exist yet.
const RECONNECT_DELAY: Duration = Duration::from_millis(10);

impl Events {
    /// Follows the events of the VMs with these names, or of all VMs if `only` is empty, from now
    /// on.
    ///
    /// # Errors
    /// [`EventsError`].
    pub fn begin(run_dir: RunDir, only: Vec<VmName>) -> Result<Self, EventsError> {
        // A descriptor for each VM.
        descriptors::expect_many();
        let mut events = Self {
            // Watches before listing the directory, so that no VM is missed in between.
            watch: RunDirWatch::begin(&run_dir).map_err(EventsError::Watch)?,
            run_dir,
            only,
            since_unix_ms: unix_ms(),
            vms: BTreeMap::new(),
            updates: VecDeque::new(),
        };
        events.rescan()?;
        // Subscribes to the VMs that exist before the caller goes on.
        events.connect();
        Ok(events)
    }

    /// Waits for the next event, or for the error of the next VM that cannot be followed.
    ///
    /// # Errors
    /// [`EventsError`].
    pub fn receive(&mut self) -> Result<Result<Event, ClientError>, EventsError> {
        loop {
            if let Some(update) = self.updates.pop_front() {
                return Ok(update);
            }
            self.wait()?;
        }
    }

    fn wait(&mut self) -> Result<(), EventsError> {
        self.connect();
        if !self.updates.is_empty() {
            return Ok(());
        }
        let connecting = self.vms.values().any(Subscription::is_connecting);
        let again = Timespec {
            tv_sec: 0,
            tv_nsec: RECONNECT_DELAY.subsec_nanos().into(),
        };
        let mut fds = vec![PollFd::new(&self.watch, PollFlags::IN)];
        let subscribed = self.vms.values().filter_map(Subscription::stream);
        fds.extend(subscribed.map(|stream| PollFd::new(stream, PollFlags::IN)));
        match poll(&mut fds, connecting.then_some(&again)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(EventsError::Wait(error.into())),
        }
        // A VM's events come before the removal of its directory.
        for (name, vm) in &mut self.vms {
            pass_on(&mut self.updates, name, vm.read());
        }
        self.read_run_dir_changes()
    }

    /// Connects to new VMs, and forgets those that are removed.
    fn connect(&mut self) {
        for (name, vm) in &mut self.vms {
            pass_on(&mut self.updates, name, vm.connect());
        }
        self.vms.retain(|_, vm| !vm.is_over());
    }

    fn read_run_dir_changes(&mut self) -> Result<(), EventsError> {
        for change in self.watch.changes().map_err(EventsError::Watch)? {
            match change {
                Change::Added(name) => self.added(&name),
                Change::Removed(name) => self.removed(&name),
                Change::Overflow => self.rescan()?,
            }
        }
        Ok(())
    }

    /// Lists the run directory, at first and when the kernel has dropped changes.
    fn rescan(&mut self) -> Result<(), EventsError> {
        let there: Vec<_> = self.run_dir.list()?;
        for dir in &there {
            self.added(dir.name());
        }
        let gone: Vec<_> = self.vms.keys().cloned().collect();
        for name in gone {
            if !there.iter().any(|dir| *dir.name() == name) {
                self.removed(&name);
            }
        }
        Ok(())
    }

    fn added(&mut self, name: &VmName) {
        if !self.only.is_empty() && !self.only.contains(name) {
            return;
        }
        let is_known = self.vms.get(name).is_some_and(|vm| !vm.is_removed());
        if is_known {
            return;
        }
        // Another VM had the name before.
        if let Some(mut before) = self.vms.remove(name) {
            pass_on(&mut self.updates, name, before.give_up());
        }
        let vm = Subscription::new(self.run_dir.vm(name), self.since_unix_ms);
        self.vms.insert(name.clone(), vm);
    }

    fn removed(&mut self, name: &VmName) {
        if let Some(vm) = self.vms.get_mut(name) {
            vm.removed();
        }
    }
}

fn pass_on(
    updates: &mut VecDeque<Result<Event, ClientError>>,
    vm: &VmName,
    what: impl IntoIterator<Item = Update>,
) {
    updates.extend(what.into_iter().map(|what| match what {
        Update::Event(event) => Ok(event),
        Update::Observed(kind) => Ok(Event {
            time_unix_ms: unix_ms(),
            vm: vm.clone(),
            kind,
        }),
        Update::Unavailable(error) => Err(error),
    }));
}
