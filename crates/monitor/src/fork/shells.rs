//! The shells of a fork's clones: taken from the pool, or built now.

use super::{ForkError, Parent};
use hyperfork_api::control::Fork;
use hyperfork_api::{CloneFailure, Error, ShellSource, VmName, one_line};
use hyperfork_host::handover::LauncherEnd;
use hyperfork_host::pool::{PendingTake, Pool};
use hyperfork_host::{Config, RunDir, RunDirError};
use hyperfork_state::Shape;
use hyperfork_sys::clock::Monotonic;
use hyperfork_sys::{fault, note};

/// The shells that a fork has asked for.
pub(super) struct Shells<'a> {
    config: &'a Config,
    shape: Shape,
    /// The request to the pool, until its answer is received.
    pending_take: Option<PendingTake>,
    /// Shells, built or being built, that have been given a clone's name.
    named: Vec<Shell>,
    /// Shells that could not be named.
    unused: Vec<LauncherEnd>,
    /// The first error because of which there are fewer shells than requested.
    failure: Option<ForkError>,
    /// Whether the fork goes on with fewer shells than requested.
    best_effort: bool,
    /// The clones that then fail for want of a shell.
    missing: Vec<CloneFailure>,
    /// When the shells were asked for.
    wanted: Monotonic,
}

/// The process of a clone, with the clone's name.
pub(super) struct Shell {
    pub(super) launcher: LauncherEnd,
    pub(super) source: ShellSource,
    pub(super) wanted: Monotonic,
}

/// The names of a fork's clones: `<prefix>-<k>`, each the first free k.
pub(super) struct CloneNames<'a> {
    run_dir: &'a RunDir,
    prefix: VmName,
    /// The number that was tried last.
    last: u32,
}

impl<'a> CloneNames<'a> {
    pub(super) fn new(parent: &Parent<'a>, request: &Fork) -> Self {
        let prefix = request.prefix.as_ref().unwrap_or(&parent.info.about.name);
        Self {
            run_dir: &parent.config.run_dir,
            prefix: prefix.clone(),
            last: 0,
        }
    }

    /// The name that was tried last.
    fn last(&self) -> Result<VmName, ForkError> {
        Ok(self.prefix.clone_name(self.last)?)
    }

    /// Has `claim` try one after the other until one is free.
    pub(super) fn claim<T>(
        &mut self,
        mut claim: impl FnMut(&RunDir, &VmName) -> Result<T, RunDirError>,
    ) -> Result<T, ForkError> {
        loop {
            self.last += 1;
            let name = self.last()?;
            if self.run_dir.vm(&name).is_taken() {
                continue;
            }
            match claim(self.run_dir, &name) {
                Err(RunDirError::InUse { .. }) => {}
                other => return Ok(other?),
            }
        }
    }
}

impl<'a> Shells<'a> {
    /// Asks the pool for the shells and returns at once. Without a pool, starts processes that
    /// build them while the caller goes on.
    pub(super) fn order(
        config: &'a Config,
        shape: Shape,
        pool: Option<Pool>,
        names: &mut CloneNames<'_>,
        request: &Fork,
    ) -> Self {
        let count = request.count as usize;
        let mut shells = Self {
            config,
            shape,
            pending_take: pool.and_then(|pool| {
                let may = fault::point("shells.take");
                may.and_then(|()| pool.take(count)).ok()
            }),
            named: Vec::new(),
            unused: Vec::new(),
            failure: None,
            best_effort: request.best_effort,
            missing: Vec::new(),
            wanted: Monotonic::now(),
        };
        if shells.pending_take.is_none() {
            shells.build(names, count);
        }
        shells
    }

    /// Takes the error for which the fork fails: there are fewer shells than requested, or, with
    /// best effort, none at all.
    pub(super) fn failure(&mut self) -> Option<ForkError> {
        match self.best_effort && !self.missing.is_empty() {
            true => None,
            false => self.failure.take(),
        }
    }

    /// Receives the pool's shells and names them; if they `are_needed`, starts processes for those
    /// that the pool did not have. Returns the pool, if it still answers.
    pub(super) fn receive(
        &mut self,
        names: &mut CloneNames<'_>,
        count: usize,
        are_needed: bool,
    ) -> Option<Pool> {
        let pending_take = self.pending_take.take()?;
        let taken = fault::point("shells.receive").and_then(|()| pending_take.receive());
        let (taken, pool) = match taken {
            Ok((taken, pool)) => (taken, Some(pool)),
            Err(error) => {
                note!("the pool does not answer: {}", one_line(&error));
                (Vec::new(), None)
            }
        };
        for mut launcher in taken {
            if !are_needed {
                self.unused.push(launcher);
                continue;
            }
            match names.claim(|run_dir, name| launcher.name(run_dir, name)) {
                Ok(()) => self.add(launcher, ShellSource::Pool),
                // The shell may have been killed, or its directory removed: build another.
                Err(error) => {
                    note!("a shell of the pool cannot be used: {}", one_line(&error));
                    self.unused.push(launcher);
                }
            }
        }
        if are_needed {
            self.build(names, count.saturating_sub(self.named.len()));
        }
        pool
    }

    /// The named shells, the unused ones, and the clones that lack one.
    pub(super) fn into_parts(self) -> (Vec<Shell>, Vec<LauncherEnd>, Vec<CloneFailure>) {
        (self.named, self.unused, self.missing)
    }

    /// Starts `count` processes. When one fails, goes on only with best effort.
    fn build(&mut self, names: &mut CloneNames<'_>, count: usize) {
        for _ in 0..count {
            let claimed = names.claim(|run_dir, name| run_dir.claim(name));
            let started = claimed.and_then(|claim| {
                LauncherEnd::spawn(self.config, claim, &self.shape, false)
                    .map_err(ForkError::Process)
            });
            match started {
                Ok(launcher) => self.add(launcher, ShellSource::Built),
                Err(error) => {
                    if let Ok(name) = names.last() {
                        let error = Error::from(&error).to_string();
                        self.missing.push(CloneFailure { name, error });
                    }
                    self.failure.get_or_insert(error);
                    if !self.best_effort {
                        return;
                    }
                }
            }
        }
    }

    fn add(&mut self, launcher: LauncherEnd, source: ShellSource) {
        self.named.push(Shell {
            launcher,
            source,
            wanted: self.wanted,
        });
    }
}
