//! Where a fork's clones come to life: shells from the pool, or built now.

use super::{ForkError, Parent};
use hyperfork_api::control::Fork;
use hyperfork_api::{CloneFailure, Error, ShellSource, VmName, one_line};
use hyperfork_host::handover::LauncherEnd;
use hyperfork_host::pool::{PendingTake, Pool};
use hyperfork_host::{Config, RunDir, RunDirError};
use hyperfork_state::Shape;
use hyperfork_sys::clock::Monotonic;
use hyperfork_sys::{fault, note};

/// Shells on their way.
pub(super) struct Shells<'a> {
    config: &'a Config,
    shape: Shape,
    /// What the pool will give.
    taking: Option<PendingTake>,
    /// Those that are there, or being built, and have their names already.
    named: Vec<Shell>,
    /// Those that could not be named.
    nameless: Vec<LauncherEnd>,
    /// Why there are not as many as were wanted: the first reason.
    failure: Option<ForkError>,
    /// Whether those that there are will do.
    best_effort: bool,
    /// The clones that there will not be then.
    missing: Vec<CloneFailure>,
    /// When shells were wanted.
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
    /// Asks the pool for `count` shells and returns at once. Without a pool they are
    /// begun to be built, which goes on beside the caller's next steps.
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
            taking: pool.and_then(|pool| {
                let may = fault::point("shells.take");
                may.and_then(|()| pool.take(count)).ok()
            }),
            named: Vec::new(),
            nameless: Vec::new(),
            failure: None,
            best_effort: request.best_effort,
            missing: Vec::new(),
            wanted: Monotonic::now(),
        };
        if shells.taking.is_none() {
            shells.build(names, count);
        }
        shells
    }

    /// Why the fork comes to nothing, once: there are not as many as were wanted, or, by best
    /// effort, none at all.
    pub(super) fn failure(&mut self) -> Option<ForkError> {
        match self.best_effort && !self.named.is_empty() {
            true => None,
            false => self.failure.take(),
        }
    }

    /// Waits for what the pool gives and names it; if they `are_needed`, what it did not
    /// have is built. Gives the pool back, if it still answers.
    pub(super) fn receive(
        &mut self,
        names: &mut CloneNames<'_>,
        count: usize,
        are_needed: bool,
    ) -> Option<Pool> {
        let taking = self.taking.take()?;
        let taken = fault::point("shells.receive").and_then(|()| taking.receive());
        let (taken, pool) = match taken {
            Ok((taken, pool)) => (taken, Some(pool)),
            Err(error) => {
                note!("the pool does not answer: {}", one_line(&error));
                (Vec::new(), None)
            }
        };
        for mut launcher in taken {
            if !are_needed {
                self.nameless.push(launcher);
                continue;
            }
            match names.claim(|run_dir, name| launcher.name(run_dir, name)) {
                Ok(()) => self.add(launcher, ShellSource::Pool),
                // It may have been killed, or its directory removed; another is built.
                Err(error) => {
                    note!("a shell from stock has no use: {}", one_line(&error));
                    self.nameless.push(launcher);
                }
            }
        }
        if are_needed {
            self.build(names, count.saturating_sub(self.named.len()));
        }
        pool
    }

    /// Those that are named, the others, and the clones that lack one.
    pub(super) fn into_parts(self) -> (Vec<Shell>, Vec<LauncherEnd>, Vec<CloneFailure>) {
        (self.named, self.nameless, self.missing)
    }

    /// Starts `count` processes. After one that fails, others are started only by best effort.
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
