//! Filling the stock up.

use super::super::handover::{Progress, Starter};
use super::super::rundir::RunDir;
use super::stock::{Client, LEAST_QUIET, Policy, Shelf, quiet_after};
use crate::snapshot::{Primer, Shape};
use crate::sys::fds::FdTable;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What there is, shared by the threads that take and the one that builds.
#[derive(Debug)]
pub(super) struct Stock {
    inner: Mutex<Inner>,
    /// Something was taken, put in, or is wanted.
    changed: Condvar,
    begun: Instant,
}

/// What the shells on a shelf are made ready for.
#[derive(Debug)]
struct Priming {
    primer: Primer,
    fds: FdTable,
    /// Counts primings, so that a shell can tell which it has had.
    number: u64,
}

/// A shell in stock.
#[derive(Debug)]
struct Shell {
    starter: Starter,
    /// The last priming it was given.
    primed: Option<u64>,
}

#[derive(Debug)]
struct Inner {
    policy: Policy,
    shells: HashMap<Shelf, Vec<Shell>>,
    primings: HashMap<Shelf, Priming>,
    /// Primings so far.
    primed: u64,
    connections: usize,
    /// When something was taken last.
    taken: Duration,
    /// Until when clones come to life that need the processors more than the builder.
    quiet_until: Duration,
    /// When the last connection ended.
    idle: Duration,
    /// Why the last shell could not be built, if so.
    trouble: Option<String>,
}

/// How long the pool lives with nobody connected: from one command to the next.
const IDLE: Duration = Duration::from_secs(1);
/// The builder looks at what is wanted this often even when nothing happens, for demand
/// is forgotten with time.
const LOOK: Duration = Duration::from_secs(5);
/// After a failure.
const RETRY: Duration = Duration::from_secs(2);

impl Stock {
    pub(super) fn new(most: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                policy: Policy::new(most),
                shells: HashMap::new(),
                primings: HashMap::new(),
                primed: 0,
                connections: 0,
                taken: Duration::ZERO,
                quiet_until: Duration::ZERO,
                idle: Duration::ZERO,
                trouble: None,
            }),
            changed: Condvar::new(),
            begun: Instant::now(),
        }
    }

    /// Somebody is connected.
    pub(super) fn connected(&self) {
        self.inner().connections += 1;
    }

    /// And is no more; `kept` is what it was interested in.
    pub(super) fn disconnected(&self, kept: Option<&Shape>, client: Client) {
        let mut inner = self.inner();
        inner.connections -= 1;
        if let Some(shape) = kept {
            inner.policy.disinterest(shape, client);
            // What was made ready for it has its memory.
            let own = Shelf::of(client, shape);
            inner.primings.remove(&own);
            inner.shells.remove(&own);
        }
        inner.idle = self.begun.elapsed();
        self.changed.notify_all();
    }

    /// Has a client's shells made ready for clones of its line, when there is time. Its
    /// fork is complete.
    pub(super) fn prime(&self, shape: &Shape, client: Client, primer: Primer, fds: FdTable) {
        let mut inner = self.inner();
        inner.primed += 1;
        let number = inner.primed;
        let priming = Priming {
            primer,
            fds,
            number,
        };
        inner.primings.insert(Shelf::of(client, shape), priming);
        let earliest = (inner.taken + LEAST_QUIET).max(self.begun.elapsed());
        inner.quiet_until = inner.quiet_until.min(earliest);
        self.changed.notify_all();
    }

    pub(super) fn interest(&self, shape: &Shape) {
        self.inner().policy.interest(shape);
        self.changed.notify_all();
    }

    /// Up to `count` shells, at once: those made ready for the client first, then those
    /// for anybody, then other clients'.
    pub(super) fn take(
        &self,
        shape: &Shape,
        client: Client,
        count: usize,
    ) -> (Vec<Starter>, usize) {
        let now = self.begun.elapsed();
        let mut inner = self.inner();
        inner.policy.forked(shape, client, count, now);
        let own = Shelf::of(client, shape);
        let mut taken = inner.take_from(&own, count);
        taken.extend(inner.take_from(&Shelf::anybodys(shape), count - taken.len()));
        if taken.len() < count {
            for shelf in inner.others(&own) {
                taken.extend(inner.take_from(&shelf, count - taken.len()));
            }
        }
        inner.taken = now;
        inner.quiet_until = match taken.len() < count {
            // Shells are being built on the fork path already.
            true => now,
            false => now + quiet_after(count),
        };
        let left = inner.count(&own);
        self.changed.notify_all();
        (taken, left)
    }

    /// Waits until `count` are there, or as many as may be, or no more can be built; and
    /// until all of their shape are made ready for whom they are kept.
    pub(super) fn warm(&self, shape: &Shape, count: usize) -> usize {
        let mut inner = self.inner();
        // The policy keeps twice of what is wanted.
        inner
            .policy
            .wanted(shape, count.div_ceil(2), self.begun.elapsed());
        let shelf = Shelf::anybodys(shape);
        self.wait_until(inner, shape, |inner, now| {
            inner.count(&shelf) >= count.min(inner.target(&shelf, now))
        })
    }

    /// As [`warm`](Self::warm), but wants no more than there should be anyway: shells for
    /// anybody would be in the place of those that are kept for somebody.
    pub(super) fn settle(&self, shape: &Shape) -> usize {
        self.wait_until(self.inner(), shape, |_, _| true)
    }

    /// Waits until nothing is in work for a shape and there `are_enough`, or no more can be
    /// built. Gives the number of those for anybody.
    fn wait_until(
        &self,
        mut inner: MutexGuard<'_, Inner>,
        shape: &Shape,
        are_enough: impl Fn(&Inner, Duration) -> bool,
    ) -> usize {
        inner.trouble = None;
        self.changed.notify_all();
        loop {
            let now = self.begun.elapsed();
            let is_done = are_enough(&inner, now) && !inner.is_in_work(shape, now);
            if is_done || inner.trouble.is_some() {
                return inner.count(&Shelf::anybodys(shape));
            }
            inner = self.wait(inner, LOOK);
        }
    }

    /// Builds what is missing, one after the other, until nobody has been connected for
    /// a while.
    pub(super) fn build(&self, run_dir: &RunDir) {
        let mut inner = self.inner();
        loop {
            let now = self.begun.elapsed();
            if inner.connections == 0 && now >= inner.idle + IDLE {
                return;
            }
            let surplus = inner.surplus(now);
            let quiet = inner.quiet_until.saturating_sub(now);
            inner = if !surplus.is_empty() {
                drop(inner);
                drop(surplus);
                self.inner()
            } else if !quiet.is_zero() {
                self.wait(inner, quiet)
            } else if let Some(shelf) = inner.missing(now) {
                drop(inner);
                let built = shell(run_dir, &shelf.shape);
                self.put(shelf, built)
            } else if inner.connections == 0 {
                self.wait(inner, IDLE)
            } else if inner.prime_one() {
                self.changed.notify_all();
                inner
            } else {
                self.wait(inner, LOOK)
            };
        }
    }

    fn put(&self, shelf: Shelf, built: Result<Starter, String>) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner();
        match built {
            Ok(starter) => inner.shells.entry(shelf).or_default().push(Shell {
                starter,
                primed: None,
            }),
            Err(words) => {
                eprintln!("a shell cannot be built: {words}");
                inner.trouble = Some(words);
                self.changed.notify_all();
                inner = self.wait(inner, RETRY);
            }
        }
        self.changed.notify_all();
        inner
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>, longest: Duration) -> MutexGuard<'a, Inner> {
        let result = self.changed.wait_timeout(inner, longest);
        result.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Inner {
    fn count(&self, shelf: &Shelf) -> usize {
        self.shells.get(shelf).map_or(0, Vec::len)
    }

    /// The other clients' shelves of the same shape, the fullest first.
    fn others(&self, own: &Shelf) -> Vec<Shelf> {
        let same = |shelf: &&Shelf| shelf.shape == own.shape && *shelf != own;
        let mut others: Vec<_> = self.shells.keys().filter(same).cloned().collect();
        others.sort_by_key(|shelf| Reverse(self.count(shelf)));
        others
    }

    /// Up to `count` from one shelf, those that were made ready last first.
    fn take_from(&mut self, shelf: &Shelf, count: usize) -> Vec<Starter> {
        let Some(shells) = self.shells.get_mut(shelf) else {
            return Vec::new();
        };
        shells.sort_by_key(|shell| Reverse(shell.primed));
        let taken = shells.drain(..count.min(shells.len()));
        taken.map(|shell| shell.starter).collect()
    }

    fn target(&self, shelf: &Shelf, now: Duration) -> usize {
        let targets = self.policy.targets(now);
        let found = targets.into_iter().find(|(of, _)| of == shelf);
        found.map_or(0, |(_, target)| target)
    }

    /// A shelf on which there are not enough: that with the fewest.
    fn missing(&self, now: Duration) -> Option<Shelf> {
        let targets = self.policy.targets(now).into_iter();
        let missing = targets.filter(|(shelf, target)| self.count(shelf) < *target);
        let fewest = missing.min_by_key(|(shelf, _)| self.count(shelf));
        fewest.map(|(shelf, _)| shelf)
    }

    /// Whether shells of a shape have to be built yet, or made ready.
    fn is_in_work(&self, shape: &Shape, now: Duration) -> bool {
        let targets = self.policy.targets(now);
        let mut of_shape = targets.iter().filter(|(shelf, _)| shelf.shape == *shape);
        of_shape.any(|(shelf, target)| {
            let shells = self.shells.get(shelf).map_or(&[][..], Vec::as_slice);
            let primed = self.primings.get(shelf).map(|priming| priming.number);
            shells.len() < *target || shells.iter().any(|shell| shell.primed < primed)
        })
    }

    /// Has one shell made ready that is not; whether there was one.
    fn prime_one(&mut self) -> bool {
        for (shelf, priming) in &self.primings {
            let shells = self.shells.get_mut(shelf).into_iter().flatten();
            for shell in shells {
                if shell.primed < Some(priming.number) {
                    // One that cannot be has ended, which whoever takes it will notice.
                    let _ = shell.starter.prime(priming.primer.clone(), &priming.fds);
                    shell.primed = Some(priming.number);
                    return true;
                }
            }
        }
        false
    }

    /// Takes out what nobody needs. Dropping it ends the shells.
    fn surplus(&mut self, now: Duration) -> Vec<Shell> {
        let targets: HashMap<_, _> = self.policy.targets(now).into_iter().collect();
        let mut surplus = Vec::new();
        for (shelf, shells) in &mut self.shells {
            let target = targets.get(shelf).copied().unwrap_or(0);
            surplus.extend(shells.drain(target.min(shells.len())..));
        }
        self.shells.retain(|_, shells| !shells.is_empty());
        surplus
    }
}

/// Starts a process and waits until it has built its shell.
fn shell(run_dir: &RunDir, shape: &Shape) -> Result<Starter, String> {
    let words = |error: io::Error| error.to_string();
    let claim = run_dir.nameless().map_err(|error| error.to_string())?;
    let starter = Starter::spawn(run_dir, claim, shape, true).map_err(words)?;
    match starter.progress() {
        Progress::Shell => Ok(starter),
        Progress::Failed(words) => Err(words),
        other => Err(format!("unexpected: {other:?}")),
    }
}
