//! The state shared by the vCPU threads and the threads that run and pause them.
//!
//! ```text
//!             run()               kicked, or an exit
//!   AT REST ─────────> RUNNING ──────────────────────> AT REST
//!      │                  │        while `Rest` is wanted
//!      │ drop, end        │ drop, end, panic
//!      v                  v
//!     OVER (at rest for ever)
//! ```
//!
//! A thread that has ended counts as at rest, whatever ended it, so nothing waits for it.
//! The first failure or power-off ends all vCPUs and is reported at once ([`Event::Fault`],
//! [`Event::Reset`]).

use super::{Connections, Event};
use crate::kvm::Vcpu;
use crate::sys::clock::Monotonic;
use crate::sys::hands::WorkShare;
use crate::sys::kick::KickGroup;
use crate::sys::sched::RealtimeBoost;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A signal is lost if the user has too many pending (RLIMIT_SIGPENDING), so a thread that does
/// not come to rest is kicked again after this time.
const KICK_AGAIN: Duration = Duration::from_millis(100);

/// Work on a vCPU at rest.
pub(super) type Job = Box<dyn FnOnce(&mut Vcpu) + Send>;

/// The state that all vCPU threads share.
pub(super) struct Shared {
    gate: Mutex<Gate>,
    pub(super) changed: Condvar,
    /// The threads that may be in `KVM_RUN`.
    pub(super) kickable: KickGroup,
    pub(super) connections: OnceLock<Connections>,
    /// Why no vCPU will run again.
    end: OnceLock<End>,
    /// When the first vCPU entered the guest.
    pub(super) entered: OnceLock<Monotonic>,
    /// Whether a vCPU has exited, for the thread that
    /// [waits](super::Vcpus::await_first_exit) for it.
    pub(super) first_exit: (Mutex<bool>, Condvar),
    /// The same, for the vCPU threads, which read it at every exit.
    pub(super) has_exited: AtomicBool,
    /// The real-time priority of the threads that have not run their vCPU yet, by their indices.
    boosts: Mutex<Vec<(usize, RealtimeBoost)>>,
    /// Work of another thread that threads at rest help with.
    pub(super) work: WorkShare,
}

pub(super) struct Gate {
    pub(super) wanted: Wanted,
    /// For each thread, whether it will not enter the guest until `wanted` changes.
    at_rest: Vec<bool>,
    /// The job for each vCPU that no thread has begun yet.
    pub(super) jobs: Vec<Option<Job>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Rest,
    Run,
    /// Final.
    End,
}

/// Why a machine has ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// Its guest has reset it or turned it off.
    #[error("the guest has turned its machine off")]
    PowerOff,
    /// A part of it failed: what happened, in one line.
    #[error("{0}")]
    Fault(String),
}

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            gate: Mutex::new(Gate {
                wanted: Wanted::Rest,
                at_rest: Vec::new(),
                jobs: Vec::new(),
            }),
            changed: Condvar::new(),
            kickable: KickGroup::new()?,
            connections: OnceLock::new(),
            end: OnceLock::new(),
            entered: OnceLock::new(),
            first_exit: (Mutex::new(false), Condvar::new()),
            has_exited: AtomicBool::new(false),
            boosts: Mutex::default(),
            work: WorkShare::default(),
        })
    }

    pub(super) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn boosts(&self) -> MutexGuard<'_, Vec<(usize, RealtimeBoost)>> {
        self.boosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the machine: no vCPU enters the guest any more, and those in it exit. Only the first
    /// reason is kept and reported.
    pub(super) fn end(&self, end: End) {
        let reason = end.clone();
        if self.end.set(end).is_ok()
            && let Some(connections) = self.connections.get()
        {
            (connections.events)(match reason {
                End::PowerOff => Event::Reset,
                End::Fault(what) => Event::Fault(what),
            });
        }
        self.want(Wanted::End);
        self.kickable.kick_all();
    }

    /// Ends a thread's real-time priority, if it still has it.
    pub(super) fn end_boost(&self, index: usize) {
        self.boosts().retain(|(boosted, _)| *boosted != index);
    }

    pub(super) fn ended(&self) -> Option<&End> {
        self.end.get()
    }

    pub(super) fn want(&self, wanted: Wanted) {
        let mut gate = self.gate();
        if gate.wanted != Wanted::End {
            gate.wanted = wanted;
        }
        self.changed.notify_all();
    }

    /// Waits until all threads are at rest. Returns whether they are.
    pub(super) fn wait_for_rest(&self, most: Duration) -> bool {
        let deadline = Instant::now() + most;
        let mut gate = self.gate();
        while !gate.at_rest.iter().all(|&rests| rests) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let changed = self.changed.wait_timeout(gate, left.min(KICK_AGAIN));
            let (changed, waited) = changed.unwrap_or_else(PoisonError::into_inner);
            gate = changed;
            if waited.timed_out() {
                drop(gate);
                self.kickable.kick_all();
                gate = self.gate();
            }
        }
        true
    }
}

impl Gate {
    /// Adds a thread that is about to start. It counts as running until it reports that it rests.
    pub(super) fn add_thread(&mut self) {
        self.at_rest.push(false);
    }

    pub(super) fn set_at_rest(&mut self, index: usize, rests: bool) {
        self.at_rest[index] = rests;
    }

    pub(super) fn take_job(&mut self, index: usize) -> Option<Job> {
        self.jobs.get_mut(index)?.take()
    }
}

/// Marks a thread as at rest when it ends, whatever ends it.
pub(super) struct RestsAfterEnd<'a> {
    pub(super) shared: &'a Shared,
    pub(super) index: usize,
}

impl Drop for RestsAfterEnd<'_> {
    fn drop(&mut self) {
        self.shared.end_boost(self.index);
        self.shared.gate().set_at_rest(self.index, true);
        self.shared.changed.notify_all();
    }
}
