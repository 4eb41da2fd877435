//! Where a fork's clones come to life: shells from the pool, or built now.

use super::super::handover::Starter;
use super::super::owner::Owner;
use super::super::pool::{Pool, Taking};
use super::super::rundir::{Claim, RunDirError};
use super::ForkError;
use crate::sys::clock::Monotonic;
use hyperfork_api::{ShellSource, VmName};

/// Shells on their way.
pub(super) struct Shells<'a> {
    /// What the pool will give.
    taking: Option<Taking<'a>>,
    /// Those that are being built, and have their names already.
    built: Vec<Shell>,
    /// When shells were wanted.
    wanted: Monotonic,
}

/// A process with the name of its clone.
pub(super) struct Shell {
    pub(super) starter: Starter,
    pub(super) source: ShellSource,
    pub(super) wanted: Monotonic,
}

/// The names of a fork's clones: `<prefix>-<k>`, each the first free k.
pub(super) struct Names {
    prefix: VmName,
    last: u32,
}

impl Names {
    pub(super) fn new(prefix: VmName) -> Self {
        Self { prefix, last: 0 }
    }

    /// Has `claim` try one after the other until one is free.
    pub(super) fn claim<T>(
        &mut self,
        owner: &Owner,
        mut claim: impl FnMut(&VmName) -> Result<T, RunDirError>,
    ) -> Result<T, ForkError> {
        loop {
            self.last += 1;
            let name = self.prefix.clone_name(self.last)?;
            if owner.run_dir.vm(&name).is_taken() {
                continue;
            }
            match claim(&name) {
                Err(RunDirError::InUse { .. }) => {}
                other => return Ok(other?),
            }
        }
    }
}

impl<'a> Shells<'a> {
    /// Asks the pool for `count` shells and returns at once. Without a pool they are
    /// begun to be built, which goes on beside whatever is done next.
    pub(super) fn order(
        owner: &Owner,
        pool: Option<&'a Pool>,
        names: &mut Names,
        count: usize,
    ) -> Result<Self, ForkError> {
        let mut shells = Self {
            taking: pool.and_then(|pool| pool.take(count).ok()),
            built: Vec::new(),
            wanted: Monotonic::now(),
        };
        if shells.taking.is_none() {
            shells.build(owner, names, count)?;
        }
        Ok(shells)
    }

    /// All of them, and whether the pool still answers. What the pool did not have is
    /// built.
    pub(super) fn receive(
        mut self,
        owner: &Owner,
        names: &mut Names,
        count: usize,
    ) -> Result<(Vec<Shell>, bool), ForkError> {
        let Some(taking) = self.taking.take() else {
            return Ok((self.built, false));
        };
        let wanted = self.wanted;
        let taken = taking.receive();
        let answers = taken.is_ok();
        let mut taken = taken.unwrap_or_default();
        let mut named = Ok(());
        for starter in &mut taken {
            named =
                named.and_then(|()| names.claim(owner, |name| starter.name(&owner.run_dir, name)));
        }
        self.built = taken
            .into_iter()
            .map(|starter| Shell {
                starter,
                source: ShellSource::Pool,
                wanted,
            })
            .collect();
        if let Err(error) = named {
            self.end();
            return Err(error);
        }
        let missing = count - self.built.len();
        self.build(owner, names, missing)?;
        Ok((self.built, answers))
    }

    /// Ends all of them: there will be no clones.
    pub(super) fn end(self) {
        let taken = self.taking.map(Taking::receive);
        let taken = taken.and_then(Result::ok).unwrap_or_default();
        let built = self.built.into_iter().map(|shell| shell.starter);
        built.chain(taken).for_each(Starter::end);
    }

    /// Starts `count` processes. When one fails, all are gone again.
    fn build(&mut self, owner: &Owner, names: &mut Names, count: usize) -> Result<(), ForkError> {
        for _ in 0..count {
            let started = names
                .claim(owner, |name| owner.run_dir.claim(name))
                .and_then(|claim: Claim| {
                    Starter::spawn(&owner.run_dir, claim, owner.machine.shape(), false)
                        .map_err(ForkError::Process)
                });
            match started {
                Ok(starter) => self.built.push(Shell {
                    starter,
                    source: ShellSource::Built,
                    wanted: self.wanted,
                }),
                Err(error) => {
                    let built = std::mem::take(&mut self.built);
                    built.into_iter().for_each(|shell| shell.starter.end());
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
