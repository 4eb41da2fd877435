//! What the vCPU threads and those who direct them have in common.
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
//! A thread that is over counts as at rest, however it got there, so nothing waits for it.
//! The first that ends the machine for all says why, and so much is told at once
//! ([`Event::Fault`], [`Event::Reset`]).

use super::{Connections, Event};
use crate::kvm::Vcpu;
use crate::sys::clock::Monotonic;
use crate::sys::hands::WorkShare;
use crate::sys::kick::KickGroup;
use crate::sys::sched::Urgent;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A signal gets lost where the user has too many pending (RLIMIT_SIGPENDING), so a thread
/// that does not come to rest is kicked again.
const KICK_AGAIN: Duration = Duration::from_millis(100);

/// Something to be done with a vCPU that is at rest.
pub(super) type Job = Box<dyn FnOnce(&mut Vcpu) + Send>;

/// What all threads share.
pub(super) struct Shared {
    gate: Mutex<Gate>,
    pub(super) changed: Condvar,
    /// The threads that can be in their guests.
    pub(super) kickable: KickGroup,
    pub(super) connections: OnceLock<Connections>,
    /// Why no vCPU runs ever again.
    end: OnceLock<End>,
    /// When the first of them ran.
    pub(super) entered: OnceLock<Monotonic>,
    /// Said to the thread that [waits](super::Vcpus::await_first_exit) for it.
    pub(super) first_exit: (Mutex<bool>, Condvar),
    /// The same, for those who ask at every exit.
    pub(super) has_exited: AtomicBool,
    /// The threads that have not run their guests yet, by their indices: others wait for
    /// them.
    urgent: Mutex<Vec<(usize, Urgent)>>,
    /// What threads at rest may help with.
    pub(super) work: WorkShare,
}

pub(super) struct Gate {
    pub(super) wanted: Wanted,
    /// For each thread, whether it will not enter the guest until `wanted` changes.
    at_rest: Vec<bool>,
    /// For each thread at rest, as long as no thread has begun with it.
    pub(super) jobs: Vec<Option<Job>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Rest,
    Run,
    /// Nothing else comes after this.
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
            urgent: Mutex::default(),
            work: WorkShare::default(),
        })
    }

    pub(super) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn urgent(&self) -> MutexGuard<'_, Vec<(usize, Urgent)>> {
        self.urgent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the machine: no vCPU enters its guest any more, and those that are in it come
    /// out. Only the first reason counts, and only that is told.
    pub(super) fn end(&self, end: End) {
        let told = end.clone();
        if self.end.set(end).is_ok()
            && let Some(connections) = self.connections.get()
        {
            (connections.events)(match told {
                End::PowerOff => Event::Reset,
                End::Fault(what) => Event::Fault(what),
            });
        }
        self.want(Wanted::End);
        self.kickable.kick_all();
    }

    /// Has a thread wait for those who compute again, if it does not already.
    pub(super) fn keep_urgent_no_more(&self, index: usize) {
        self.urgent().retain(|(urgent, _)| *urgent != index);
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
    /// Counts one more thread, which is about to start, and not at rest until it says so.
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

/// Has a thread count as at rest from its end on, whatever ends it.
pub(super) struct RestsInTheEnd<'a> {
    pub(super) shared: &'a Shared,
    pub(super) index: usize,
}

impl Drop for RestsInTheEnd<'_> {
    fn drop(&mut self) {
        self.shared.keep_urgent_no_more(self.index);
        self.shared.gate().set_at_rest(self.index, true);
        self.shared.changed.notify_all();
    }
}
