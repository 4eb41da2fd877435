//! Filling the stock up.

use super::super::handover::{Progress, Starter};
use super::super::rundir::RunDir;
use super::stock::{Policy, QUIET};
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

/// One connection, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client(pub(super) u64);

/// What shells of a shape are made ready for: the line of the client that forked last.
#[derive(Debug)]
struct Priming {
    client: Client,
    primer: Primer,
    fds: FdTable,
    /// Counts primings, so that a shell can tell which it has had.
    number: u64,
}

/// A shell in stock.
#[derive(Debug)]
struct Shell {
    starter: Starter,
    /// The last priming it was given, and for whom.
    primed: Option<(Client, u64)>,
}

#[derive(Debug)]
struct Inner {
    policy: Policy,
    shells: HashMap<Shape, Vec<Shell>>,
    primings: HashMap<Shape, Priming>,
    /// Primings so far.
    primed: u64,
    connections: usize,
    /// When something was taken last.
    taken: Duration,
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
            inner.policy.disinterest(shape);
            // What was made ready for it has its memory.
            inner.primings.retain(|_, priming| priming.client != client);
            let shells = inner.shells.entry(shape.clone()).or_default();
            shells.retain(|shell| shell.primed.is_none_or(|(by, _)| by != client));
        }
        inner.idle = self.begun.elapsed();
        self.changed.notify_all();
    }

    /// Has shells of this shape made ready for a client's line, when there is time.
    pub(super) fn prime(&self, shape: &Shape, client: Client, primer: Primer, fds: FdTable) {
        let mut inner = self.inner();
        inner.primed += 1;
        let priming = Priming {
            client,
            primer,
            fds,
            number: inner.primed,
        };
        inner.primings.insert(shape.clone(), priming);
        self.changed.notify_all();
    }

    pub(super) fn interest(&self, shape: &Shape) {
        self.inner().policy.interest(shape);
        self.changed.notify_all();
    }

    /// Up to `count` shells, at once; those made ready for the client first.
    pub(super) fn take(
        &self,
        shape: &Shape,
        client: Client,
        count: usize,
    ) -> (Vec<Starter>, usize) {
        let now = self.begun.elapsed();
        let mut inner = self.inner();
        inner.policy.wanted(shape, count, now);
        inner.taken = now;
        let shells = inner.shells.entry(shape.clone()).or_default();
        shells.sort_by_key(|shell| match shell.primed {
            Some((by, number)) if by == client => (0, Reverse(number)),
            Some(_) => (2, Reverse(0)),
            None => (1, Reverse(0)),
        });
        let taken = shells.drain(..count.min(shells.len()));
        let taken = taken.map(|shell| shell.starter).collect();
        let left = shells.len();
        self.changed.notify_all();
        (taken, left)
    }

    /// Waits until `count` are there, or as many as may be, or no more can be built.
    pub(super) fn warm(&self, shape: &Shape, count: usize) -> usize {
        let mut inner = self.inner();
        // The policy keeps twice of what is wanted.
        inner
            .policy
            .wanted(shape, count.div_ceil(2), self.begun.elapsed());
        inner.trouble = None;
        self.changed.notify_all();
        loop {
            let have = inner.count(shape);
            let target = inner.target(shape, self.begun.elapsed());
            if have >= count.min(target) || inner.trouble.is_some() {
                return have;
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
            let next = inner.missing(now);
            inner = match next {
                _ if !surplus.is_empty() => {
                    drop(inner);
                    drop(surplus);
                    self.inner()
                }
                Some(shape) => {
                    let empty = inner.count(&shape) == 0;
                    let quiet = (inner.taken + QUIET).saturating_sub(now);
                    if !empty && !quiet.is_zero() {
                        self.wait(inner, quiet)
                    } else {
                        drop(inner);
                        let built = shell(run_dir, &shape);
                        self.put(shape, built)
                    }
                }
                None if inner.connections == 0 => self.wait(inner, IDLE),
                None => {
                    let quiet = (inner.taken + QUIET).saturating_sub(now);
                    match quiet.is_zero() {
                        false => self.wait(inner, quiet),
                        true if inner.prime_one() => inner,
                        true => self.wait(inner, LOOK),
                    }
                }
            };
        }
    }

    fn put(&self, shape: Shape, built: Result<Starter, String>) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner();
        match built {
            Ok(starter) => inner.shells.entry(shape).or_default().push(Shell {
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
    fn count(&self, shape: &Shape) -> usize {
        self.shells.get(shape).map_or(0, Vec::len)
    }

    fn target(&self, shape: &Shape, now: Duration) -> usize {
        let targets = self.policy.targets(now);
        let found = targets.into_iter().find(|(of, _)| of == shape);
        found.map_or(0, |(_, target)| target)
    }

    /// A shape of which there are not enough: that with the fewest.
    fn missing(&self, now: Duration) -> Option<Shape> {
        let targets = self.policy.targets(now).into_iter();
        let missing = targets.filter(|(shape, target)| self.count(shape) < *target);
        let fewest = missing.min_by_key(|(shape, _)| self.count(shape));
        fewest.map(|(shape, _)| shape)
    }

    /// Has one shell made ready that is not; whether there was one.
    fn prime_one(&mut self) -> bool {
        for (shape, priming) in &self.primings {
            let mark = Some((priming.client, priming.number));
            let shells = self.shells.entry(shape.clone()).or_default();
            if let Some(shell) = shells.iter_mut().find(|shell| shell.primed != mark) {
                // One that cannot be has ended, which whoever takes it will notice.
                let _ = shell.starter.prime(priming.primer.clone(), &priming.fds);
                shell.primed = mark;
                return true;
            }
        }
        false
    }

    /// Takes out what nobody needs. Dropping it ends the shells.
    fn surplus(&mut self, now: Duration) -> Vec<Shell> {
        let targets: HashMap<_, _> = self.policy.targets(now).into_iter().collect();
        let mut surplus = Vec::new();
        for (shape, shells) in &mut self.shells {
            let target = targets.get(shape).copied().unwrap_or(0);
            surplus.extend(shells.drain(target.min(shells.len())..));
        }
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
