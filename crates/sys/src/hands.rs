//! Lets idle threads help another thread with its work.
//!
//! A VM's vCPU threads are idle while the machine is paused. Scoped threads would have to be
//! started, which takes longer than most of the work does.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Threads that may help.
pub trait Helpers {
    /// Runs `work` on this thread, and at the same time on the idle helpers. `work` has
    /// many parts: each thread takes the next part until none is left. Returns when all
    /// threads have returned from it.
    fn run(&self, work: &(dyn Fn() + Sync));
}

/// No helpers.
#[derive(Debug, Clone, Copy)]
pub struct NoHelpers;

impl Helpers for NoHelpers {
    fn run(&self, work: &(dyn Fn() + Sync)) {
        work();
    }
}

/// The work that helpers share. They look here when they are woken.
#[derive(Default)]
pub struct WorkShare {
    work: Mutex<Work>,
    /// A helper has finished.
    finished: Condvar,
}

#[derive(Default)]
struct Work {
    /// The current work, valid as long as it is here or a helper runs it: see
    /// [`WorkShare::run`].
    now: Option<&'static (dyn Fn() + Sync)>,
    /// The number of the current work, so that no helper runs the same work twice.
    number: u64,
    helpers: usize,
}

/// The number of the work that a helper has helped with last.
#[derive(Debug, Default)]
pub struct LastHelp(u64);

impl WorkShare {
    /// As [`Helpers::run`]; `wake` wakes the threads that may help.
    pub fn run(&self, work: &(dyn Fn() + Sync), wake: impl FnOnce()) {
        // SAFETY: only the lifetime changes. The reference is taken back before this
        // returns or unwinds, by `Withdrawal`, which waits for every helper that has it.
        let lasting =
            unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(work) };
        {
            let mut shared = self.lock();
            shared.now = Some(lasting);
            shared.number += 1;
        }
        let _withdrawal = Withdrawal(self);
        wake();
        work();
    }

    /// Whether there is work that this helper has not helped with.
    pub fn has_work(&self, last: &LastHelp) -> bool {
        let work = self.lock();
        work.now.is_some() && work.number != last.0
    }

    /// Helps, if there is such work.
    pub fn help(&self, last: &mut LastHelp) {
        let work = {
            let mut shared = self.lock();
            let Some(work) = shared.now.filter(|_| shared.number != last.0) else {
                return;
            };
            last.0 = shared.number;
            shared.helpers += 1;
            work
        };
        let _helping = Helping(self);
        work();
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the work back when dropped, and waits until no helper runs it.
struct Withdrawal<'a>(&'a WorkShare);

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        let mut work = self.0.lock();
        work.now = None;
        while work.helpers > 0 {
            let finished = self.0.finished.wait(work);
            work = finished.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A helper that runs the work, until dropped.
struct Helping<'a>(&'a WorkShare);

impl Drop for Helping<'_> {
    fn drop(&mut self) {
        self.0.lock().helpers -= 1;
        self.0.finished.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn every_part_is_done_once_and_no_helper_is_at_it_afterwards() {
        let share = WorkShare::default();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut last = LastHelp::default();
                    while !over.load(Ordering::Relaxed) {
                        share.help(&mut last);
                    }
                });
            }
            for _ in 0..2000 {
                let (next, at_work) = (AtomicUsize::new(0), AtomicUsize::new(0));
                let done: [AtomicUsize; 8] = Default::default();
                let work = || {
                    at_work.fetch_add(1, Ordering::Relaxed);
                    while let Some(part) = done.get(next.fetch_add(1, Ordering::Relaxed)) {
                        part.fetch_add(1, Ordering::Relaxed);
                    }
                    at_work.fetch_sub(1, Ordering::Relaxed);
                };
                share.run(&work, || {});
                assert_eq!(at_work.into_inner(), 0);
                assert_eq!(done.map(AtomicUsize::into_inner), [1; 8]);
            }
            over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn work_that_fails_is_taken_back() {
        let share = WorkShare::default();
        let failed = catch_unwind(AssertUnwindSafe(|| {
            share.run(&|| panic!("on purpose"), || {});
        }));
        assert!(failed.is_err());
        assert!(!share.has_work(&LastHelp::default()));
    }

    #[test]
    fn a_helper_is_not_called_again_for_the_same_work() {
        let share = WorkShare::default();
        let mut last = LastHelp::default();
        assert!(!share.has_work(&last));
        let helper = Mutex::new(&mut last);
        share.run(&|| {}, || {
            let mut last = helper.lock().unwrap();
            assert!(share.has_work(&last));
            share.help(&mut last);
            assert!(!share.has_work(&last));
        });
    }
}
