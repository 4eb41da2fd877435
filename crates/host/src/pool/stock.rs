//! The shells in stock, shared by the threads that serve clients and the thread that
//! [builds](super::builder) shells.

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

/// The shells in stock, and the demand for them.
#[derive(Debug)]
pub(super) struct Stock {
    inner: Mutex<Inner>,
    /// Signalled whenever the stock or the demand has changed.
    changed: Condvar,
    begun: Instant,
}

/// Memory that the shells of one client preload. Clones of the value share it.
#[derive(Debug, Clone)]
pub(super) struct Preload {
    pub(super) hint: Arc<Vec<u8>>,
    pub(super) fds: Arc<FdTable>,
    /// The number of this preload, by which a shell's [`preloaded`](Stocked::preloaded) is known.
    pub(super) number: u64,
}

/// A shell in stock.
#[derive(Debug)]
pub(super) struct Stocked {
    pub(super) launcher: LauncherEnd,
    /// The number of its last preload.
    pub(super) preloaded: Option<u64>,
}

/// What the builder has to do next.
#[derive(Debug)]
pub(super) enum Job {
    /// End these shells, which exceed the target.
    End(Vec<Stocked>),
    /// Build a shell.
    Build(PoolKey),
    /// Have this shell preload memory; it is out of stock meanwhile.
    Preload(PoolKey, Stocked, Preload),
    /// Wait for so long, or until something changes.
    Wait(Duration),
    /// End the pool: no client has been connected for a while.
    Close,
}

#[derive(Debug)]
struct Inner {
    policy: Policy,
    shells: HashMap<PoolKey, Vec<Stocked>>,
    preloads: HashMap<PoolKey, Preload>,
    /// The number of the latest preload.
    preloaded: u64,
    /// The kind of shell that the builder is working on, outside the stock.
    in_progress: Option<PoolKey>,
    /// The process of the shell that the builder is working on.
    held: Option<u32>,
    /// Whether that process has ended or was stopped meanwhile.
    is_lost: bool,
    connections: usize,
    /// When shells were taken last.
    taken: Duration,
    /// Until when the builder leaves the processors to new clones.
    quiet_until: Duration,
    /// When the last client disconnected.
    idle: Duration,
    /// Kinds of which the last shell could not be built, and when to try again.
    failed: HashMap<PoolKey, Duration>,
}

/// How long the pool runs with no client connected: long enough for the next command.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the builder recomputes the targets when nothing changes: demand decays with time.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How long after a failure the same kind is tried again. Other kinds do not wait.
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

    /// A client has connected.
    pub(super) fn connected(&self) {
        self.inner().connections += 1;
    }

    /// A client has disconnected; `registered` is its shape.
    pub(super) fn disconnected(&self, registered: Option<&Shape>, client: Client) {
        let mut inner = self.inner();
        inner.connections -= 1;
        if let Some(shape) = registered {
            inner.policy.unregister(shape, client);
            // Shells that have preloaded its memory are of no use to other clients.
            let own = PoolKey::of(client, shape);
            inner.preloads.remove(&own);
            inner.shells.remove(&own);
            inner.failed.remove(&own);
        }
        inner.idle = self.begun.elapsed();
        self.changed.notify_all();
    }

    /// Has a client's shells preload memory when there is time. The client's fork is complete.
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

    /// Takes up to `count` shells, without waiting: the client's own first, then those that have
    /// preloaded nothing, then other clients'.
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
            // The fork builds the missing shells itself, so the clones compete with builds anyway.
            true => now,
            false => now + quiet_after(count),
        };
        self.changed.notify_all();
        taken
    }

    /// Waits until there are `count` shells, or as many as the policy allows, and all shells of
    /// the shape have preloaded what they should; or until one cannot be built.
    pub(super) fn warm(&self, shape: &Shape, count: usize) {
        let mut inner = self.inner();
        // The policy keeps twice the demand.
        let wanted = count.div_ceil(2);
        inner.policy.wanted(shape, wanted, self.begun.elapsed());
        let key = PoolKey::any(shape);
        self.wait_until(inner, shape, |inner, now| {
            inner.count(&key) >= count.min(inner.target(&key, now))
        });
    }

    /// As [`warm`](Self::warm), but with the present demand: more shells with nothing preloaded
    /// would take the place of those that have.
    pub(super) fn settle(&self, shape: &Shape) {
        self.wait_until(self.inner(), shape, |_, _| true);
    }

    /// Waits until nothing is in progress for a shape and there `are_enough`, or until a shell
    /// cannot be built.
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

    /// The builder's next job.
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

    /// The builder is working on the shell of this process.
    pub(super) fn building(&self, launcher: &LauncherEnd) {
        let mut inner = self.inner();
        (inner.held, inner.is_lost) = (launcher.pid(), false);
    }

    /// A child has ended or was stopped (SIGSTOP): its shell is dropped from the stock, or the
    /// builder, which may be waiting for it, is freed. (A shell that was taken belongs to its
    /// client.)
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
        note!("the shell of process {pid} has ended or was stopped");
        // A stopped child has not been reaped, so its number has not been reused.
        if stands_still && let Ok(process) = Process::open(pid) {
            let _ = process.kill();
        }
        LauncherEnd::end_all(lost.into_iter().map(|shell| shell.launcher));
        self.changed.notify_all();
    }

    /// The builder has finished its job: a shell to put into stock, or none.
    pub(super) fn done(&self, key: PoolKey, mut shell: Option<Stocked>) {
        let mut inner = self.inner();
        (inner.in_progress, inner.held) = (None, None);
        let lost = shell.take_if(|_| inner.is_lost);
        if shell.is_some() {
            inner.failed.remove(&key);
        }
        // If its client has disconnected by now, the next job ends the shell as excess.
        inner.shells.entry(key).or_default().extend(shell);
        drop(inner);
        LauncherEnd::end_all(lost.map(|shell| shell.launcher));
        self.changed.notify_all();
    }

    /// The builder's job has failed.
    pub(super) fn failed(&self, key: PoolKey) {
        let mut inner = self.inner();
        (inner.in_progress, inner.held) = (None, None);
        let again = self.begun.elapsed() + RETRY_DELAY;
        inner.failed.insert(key, again);
        self.changed.notify_all();
    }

    /// Waits until something changes, at most for `longest`.
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
        // A kind that may be tried again now needs no shells, or it would have been chosen above.
        let later = self.failed.values().filter(|again| **again > now);
        let again = later.map(|again| *again - now).min();
        Job::Wait(again.unwrap_or(POLL_INTERVAL).min(POLL_INTERVAL))
    }

    fn count(&self, key: &PoolKey) -> usize {
        self.shells.get(key).map_or(0, Vec::len)
    }

    /// The other kinds of the same shape, the one with the most shells first.
    fn other_keys(&self, own: &PoolKey) -> Vec<PoolKey> {
        let same = |key: &&PoolKey| key.shape == own.shape && *key != own;
        let mut others: Vec<_> = self.shells.keys().filter(same).cloned().collect();
        others.sort_by_key(|key| Reverse(self.count(key)));
        others
    }

    /// Takes up to `count` shells of one kind, those with the latest preload first.
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

    /// The kind with the fewest shells of those that lack some. A kind that could not be built a
    /// moment ago does not hold up the others.
    fn missing(&self, now: Duration) -> Option<PoolKey> {
        let may = |key: &PoolKey| self.failed.get(key).is_none_or(|again| *again <= now);
        let targets = self.policy.targets(now).into_iter();
        let missing = targets.filter(|(key, target)| self.count(key) < *target && may(key));
        let fewest = missing.min_by_key(|(key, _)| self.count(key));
        fewest.map(|(key, _)| key)
    }

    /// Whether shells of a shape still have to be built, or to preload.
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

    /// Takes a shell out of stock that has not preloaded what it should.
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

    /// Takes the shells out that exceed their target. Dropping them ends them.
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
        // As many as the target, of a kind that may be tried again.
        let shells = [shell(&socket), shell(&socket)];
        inner.shells.entry(key).or_default().extend(shells);
        assert!(matches!(inner.next_job(later), Job::Wait(POLL_INTERVAL)));
    }
}
