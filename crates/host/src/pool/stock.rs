//! What the pool has in stock, shared by the threads that take and the one that
//! [builds](super::builder).

use super::policy::{Client, LEAST_QUIET, Policy, PoolKey, quiet_after};
use crate::handover::LauncherEnd;
use hyperfork_state::Shape;
use hyperfork_sys::fds::FdTable;
use hyperfork_sys::note;
use hyperfork_sys::process::Process;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shells, and what is wanted of them.
#[derive(Debug)]
pub(super) struct Stock {
    inner: Mutex<Inner>,
    /// Something was taken, put in, or is wanted.
    changed: Condvar,
    begun: Instant,
}

/// Memory that the shells of one client preload. Copies are the same memory.
#[derive(Debug, Clone)]
pub(super) struct Preload {
    pub(super) hint: Arc<Vec<u8>>,
    pub(super) fds: Arc<FdTable>,
    /// Counts preloads, so that a shell can tell which it has had.
    pub(super) number: u64,
}

/// A shell in stock.
#[derive(Debug)]
pub(super) struct Stocked {
    pub(super) launcher: LauncherEnd,
    /// The last preload it was given.
    pub(super) preloaded: Option<u64>,
}

/// What the builder does next.
#[derive(Debug)]
pub(super) enum Job {
    /// End these shells, which are too many.
    End(Vec<Stocked>),
    /// Build a shell.
    Build(PoolKey),
    /// Have this shell, which is out of stock until then, preload memory.
    Preload(PoolKey, Stocked, Preload),
    /// Nothing, for so long or until something changes.
    Wait(Duration),
    /// Nothing any more: no client has been connected for a while.
    Close,
}

#[derive(Debug)]
struct Inner {
    policy: Policy,
    shells: HashMap<PoolKey, Vec<Stocked>>,
    preloads: HashMap<PoolKey, Preload>,
    /// Preloads so far.
    preloaded: u64,
    /// What the builder is at, outside the stock.
    in_progress: Option<PoolKey>,
    /// The process of the shell that the builder is at, outside the stock.
    held: Option<u32>,
    /// Whether that has ended or stands still since.
    is_lost: bool,
    connections: usize,
    /// When something was taken last.
    taken: Duration,
    /// Until when new clones need the processors more than the builder.
    quiet_until: Duration,
    /// When the last connection ended.
    idle: Duration,
    /// Kinds of which the last one could not be built, and when to try again.
    failed: HashMap<PoolKey, Duration>,
}

/// How long the pool lives with no client connected: from one command to the next.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// The builder looks at what is wanted this often even when nothing happens, for demand
/// is forgotten with time.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// After a failure the same kind is tried again so much later. Other kinds do not wait.
const RETRY_DELAY: Duration = Duration::from_secs(2);

impl Stock {
    pub(super) fn new(most: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                policy: Policy::new(most),
                shells: HashMap::new(),
                preloads: HashMap::new(),
                preloaded: 0,
                in_progress: None,
                held: None,
                is_lost: false,
                connections: 0,
                taken: Duration::ZERO,
                quiet_until: Duration::ZERO,
                idle: Duration::ZERO,
                failed: HashMap::new(),
            }),
            changed: Condvar::new(),
            begun: Instant::now(),
        }
    }

    /// A client is connected.
    pub(super) fn connected(&self) {
        self.inner().connections += 1;
    }

    /// It is no more; `kept` is the shape that it was interested in.
    pub(super) fn disconnected(&self, kept: Option<&Shape>, client: Client) {
        let mut inner = self.inner();
        inner.connections -= 1;
        if let Some(shape) = kept {
            inner.policy.unregister(shape, client);
            // What was preloaded for it has its memory.
            let own = PoolKey::of(client, shape);
            inner.preloads.remove(&own);
            inner.shells.remove(&own);
            inner.failed.remove(&own);
        }
        inner.idle = self.begun.elapsed();
        self.changed.notify_all();
    }

    /// Has a client's shells preload memory, when there is time. Its fork is complete.
    pub(super) fn preload(&self, shape: &Shape, client: Client, hint: Vec<u8>, fds: FdTable) {
        let mut inner = self.inner();
        inner.preloaded += 1;
        let preload = Preload {
            hint: hint.into(),
            fds: fds.into(),
            number: inner.preloaded,
        };
        inner.preloads.insert(PoolKey::of(client, shape), preload);
        let earliest = (inner.taken + LEAST_QUIET).max(self.begun.elapsed());
        inner.quiet_until = inner.quiet_until.min(earliest);
        self.changed.notify_all();
    }

    pub(super) fn register(&self, shape: &Shape) {
        self.inner().policy.register(shape);
        self.changed.notify_all();
    }

    /// Up to `count` shells, at once: the client's own first, then those with nothing
    /// preloaded, then other clients'.
    pub(super) fn take(&self, shape: &Shape, client: Client, count: usize) -> Vec<LauncherEnd> {
        let now = self.begun.elapsed();
        let mut inner = self.inner();
        inner.policy.forked(shape, client, count, now);
        let own = PoolKey::of(client, shape);
        let mut taken = inner.take_from(&own, count);
        taken.extend(inner.take_from(&PoolKey::any(shape), count - taken.len()));
        if taken.len() < count {
            for key in inner.other_keys(&own) {
                taken.extend(inner.take_from(&key, count - taken.len()));
            }
        }
        inner.taken = now;
        inner.quiet_until = match taken.len() < count {
            // Shells are being built on the fork path already.
            true => now,
            false => now + quiet_after(count),
        };
        self.changed.notify_all();
        taken
    }

    /// Waits until `count` are there, or as many as may be, or no more can be built; and
    /// until all of their shape have preloaded what they should.
    pub(super) fn warm(&self, shape: &Shape, count: usize) {
        let mut inner = self.inner();
        // The policy keeps twice of what is wanted.
        let wanted = count.div_ceil(2);
        inner.policy.wanted(shape, wanted, self.begun.elapsed());
        let key = PoolKey::any(shape);
        self.wait_until(inner, shape, |inner, now| {
            inner.count(&key) >= count.min(inner.target(&key, now))
        });
    }

    /// As [`warm`](Self::warm), but wants no more than there should be anyway: shells with
    /// nothing preloaded would be in the place of those that have.
    pub(super) fn settle(&self, shape: &Shape) {
        self.wait_until(self.inner(), shape, |_, _| true);
    }

    /// Waits until nothing is in work for a shape and there `are_enough`, or no more can be
    /// built.
    fn wait_until(
        &self,
        mut inner: MutexGuard<'_, Inner>,
        shape: &Shape,
        are_enough: impl Fn(&Inner, Duration) -> bool,
    ) {
        inner.failed.retain(|key, _| key.shape != *shape);
        self.changed.notify_all();
        loop {
            let now = self.begun.elapsed();
            let is_done = are_enough(&inner, now) && !inner.is_in_progress(shape, now);
            let has_failed = inner.failed.keys().any(|key| key.shape == *shape);
            if is_done || has_failed {
                return;
            }
            inner = self.wait(inner, POLL_INTERVAL);
        }
    }

    /// What the builder is to do next.
    pub(super) fn next_job(&self) -> Job {
        let mut inner = self.inner();
        let job = inner.next_job(self.begun.elapsed());
        inner.is_lost = false;
        (inner.in_progress, inner.held) = match &job {
            Job::Build(key) => (Some(key.clone()), None),
            Job::Preload(key, shell, _) => (Some(key.clone()), shell.launcher.pid()),
            _ => (None, None),
        };
        job
    }

    /// The builder is at the shell of this process.
    pub(super) fn building(&self, launcher: &LauncherEnd) {
        let mut inner = self.inner();
        (inner.held, inner.is_lost) = (launcher.pid(), false);
    }

    /// A child has ended or stands still. A shell in stock is no use to anyone then, and one
    /// that the builder waits for would keep it. (One that was taken is its taker's matter.)
    pub(super) fn lost(&self, pid: u32, stands_still: bool) {
        let is_it = |shell: &mut Stocked| shell.launcher.pid() == Some(pid);
        let mut inner = self.inner();
        let stocks = inner.shells.values_mut();
        let lost: Vec<_> = stocks
            .flat_map(|shells| shells.extract_if(.., is_it))
            .collect();
        let is_held = inner.held == Some(pid);
        inner.is_lost |= is_held;
        let is_ours = !lost.is_empty() || is_held;
        drop(inner);
        if !is_ours {
            return;
        }
        note!("the shell of process {pid} has ended or stands still");
        // A child that stands still has not been reaped: the number is its own.
        if stands_still && let Ok(process) = Process::open(pid) {
            let _ = process.kill();
        }
        LauncherEnd::end_all(lost.into_iter().map(|shell| shell.launcher));
        self.changed.notify_all();
    }

    /// What the builder was at is done: a shell to put into stock, or none.
    pub(super) fn done(&self, key: PoolKey, mut shell: Option<Stocked>) {
        let mut inner = self.inner();
        (inner.in_progress, inner.held) = (None, None);
        let lost = shell.take_if(|_| inner.is_lost);
        if shell.is_some() {
            inner.failed.remove(&key);
        }
        // Its client may be gone by now, and then it is too many.
        inner.shells.entry(key).or_default().extend(shell);
        drop(inner);
        LauncherEnd::end_all(lost.map(|shell| shell.launcher));
        self.changed.notify_all();
    }

    /// What the builder was at cannot be done.
    pub(super) fn failed(&self, key: PoolKey) {
        let mut inner = self.inner();
        (inner.in_progress, inner.held) = (None, None);
        let again = self.begun.elapsed() + RETRY_DELAY;
        inner.failed.insert(key, again);
        self.changed.notify_all();
    }

    /// Waits until something changes, or so long.
    pub(super) fn rest(&self, longest: Duration) {
        drop(self.wait(self.inner(), longest));
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
    fn next_job(&mut self, now: Duration) -> Job {
        if self.connections == 0 && now >= self.idle + IDLE_TIMEOUT {
            return Job::Close;
        }
        let excess = self.excess(now);
        if !excess.is_empty() {
            return Job::End(excess);
        }
        let quiet = self.quiet_until.saturating_sub(now);
        if !quiet.is_zero() {
            return Job::Wait(quiet);
        }
        if let Some(key) = self.missing(now) {
            return Job::Build(key);
        }
        if self.connections == 0 {
            return Job::Wait(IDLE_TIMEOUT);
        }
        if let Some((key, shell, preload)) = self.not_preloaded() {
            return Job::Preload(key, shell, preload);
        }
        // A kind whose time to be tried again has passed would have been built above, if there
        // were not enough of it.
        let later = self.failed.values().filter(|again| **again > now);
        let again = later.map(|again| *again - now).min();
        Job::Wait(again.unwrap_or(POLL_INTERVAL).min(POLL_INTERVAL))
    }

    fn count(&self, key: &PoolKey) -> usize {
        self.shells.get(key).map_or(0, Vec::len)
    }

    /// The other kinds of the same shape, that with the most shells first.
    fn other_keys(&self, own: &PoolKey) -> Vec<PoolKey> {
        let same = |key: &&PoolKey| key.shape == own.shape && *key != own;
        let mut others: Vec<_> = self.shells.keys().filter(same).cloned().collect();
        others.sort_by_key(|key| Reverse(self.count(key)));
        others
    }

    /// Up to `count` of one kind, those that preloaded last first.
    fn take_from(&mut self, key: &PoolKey, count: usize) -> Vec<LauncherEnd> {
        let Some(shells) = self.shells.get_mut(key) else {
            return Vec::new();
        };
        shells.sort_by_key(|shell| Reverse(shell.preloaded));
        let taken = shells.drain(..count.min(shells.len()));
        taken.map(|shell| shell.launcher).collect()
    }

    fn target(&self, key: &PoolKey, now: Duration) -> usize {
        let targets = self.policy.targets(now);
        let found = targets.into_iter().find(|(of, _)| of == key);
        found.map_or(0, |(_, target)| target)
    }

    /// The kind of which there are not enough: that with the fewest. One that could not be
    /// built a moment ago is not in the way of the others.
    fn missing(&self, now: Duration) -> Option<PoolKey> {
        let may = |key: &PoolKey| self.failed.get(key).is_none_or(|again| *again <= now);
        let targets = self.policy.targets(now).into_iter();
        let missing = targets.filter(|(key, target)| self.count(key) < *target && may(key));
        let fewest = missing.min_by_key(|(key, _)| self.count(key));
        fewest.map(|(key, _)| key)
    }

    /// Whether shells of a shape have to be built yet, or have to preload.
    fn is_in_progress(&self, shape: &Shape, now: Duration) -> bool {
        if self
            .in_progress
            .as_ref()
            .is_some_and(|key| key.shape == *shape)
        {
            return true;
        }
        let targets = self.policy.targets(now);
        let mut of_shape = targets.iter().filter(|(key, _)| key.shape == *shape);
        of_shape.any(|(key, target)| {
            let shells = self.shells.get(key).map_or(&[][..], Vec::as_slice);
            let newest = self.preloads.get(key).map(|preload| preload.number);
            shells.len() < *target || shells.iter().any(|shell| shell.preloaded < newest)
        })
    }

    /// Takes one shell out that has not preloaded what it should.
    fn not_preloaded(&mut self) -> Option<(PoolKey, Stocked, Preload)> {
        for (key, preload) in &self.preloads {
            let Some(shells) = self.shells.get_mut(key) else {
                continue;
            };
            let behind = |shell: &Stocked| shell.preloaded < Some(preload.number);
            if let Some(at) = shells.iter().position(behind) {
                return Some((key.clone(), shells.swap_remove(at), preload.clone()));
            }
        }
        None
    }

    /// Takes out the shells that are too many. Dropping them ends them.
    fn excess(&mut self, now: Duration) -> Vec<Stocked> {
        let targets: HashMap<_, _> = self.policy.targets(now).into_iter().collect();
        let mut excess = Vec::new();
        for (key, shells) in &mut self.shells {
            let target = targets.get(key).copied().unwrap_or(0);
            excess.extend(shells.drain(target.min(shells.len())..));
        }
        self.shells.retain(|_, shells| !shells.is_empty());
        let wanted: HashSet<_> = targets.into_keys().collect();
        self.failed.retain(|key, _| wanted.contains(key));
        excess
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::RunDir;
    use hyperfork_api::{Bytes, VmName};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_kind_that_failed_once_does_not_keep_the_builder_from_resting() {
        let shape = Shape {
            cpus: 1,
            memory: Bytes::mib(64),
            net: None,
            shares: false,
            rings: Vec::new(),
        };
        let (socket, _other) = UnixStream::pair().unwrap();
        let dir = RunDir::at("/nowhere".into()).vm(&VmName::new("x").unwrap());
        let shell = |socket: &UnixStream| Stocked {
            launcher: LauncherEnd::taken(socket.try_clone().unwrap(), dir.clone()),
            preloaded: None,
        };
        let stock = Stock::new(10);
        stock.connected();
        stock.register(&shape);
        let Job::Build(key) = stock.next_job() else {
            panic!("there is none in stock");
        };
        stock.failed(key.clone());
        assert!(matches!(stock.next_job(), Job::Wait(until) if until <= RETRY_DELAY));
        let mut inner = stock.inner();
        let later = RETRY_DELAY + Duration::from_secs(1);
        assert!(matches!(inner.next_job(later), Job::Build(again) if again == key));
        // As many as there should be, of a kind that was tried again in time.
        let shells = [shell(&socket), shell(&socket)];
        inner.shells.entry(key).or_default().extend(shells);
        assert!(matches!(inner.next_job(later), Job::Wait(POLL_INTERVAL)));
    }
}
