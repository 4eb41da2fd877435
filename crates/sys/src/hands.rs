//! Work that threads which happen to have time do together with whoever has it to do.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Who may help.
pub trait Hands {
    /// Does `work` on this thread, and at the same time on such others as have time. So it
    /// is work of many parts, of which each caller takes the next until none is left.
    /// Returns when all callers have returned.
    fn together(&self, work: &(dyn Fn() + Sync));
}

/// Nobody.
#[derive(Debug, Clone, Copy)]
pub struct Alone;

impl Hands for Alone {
    fn together(&self, work: &(dyn Fn() + Sync)) {
        work();
    }
}

/// Where work lies while there is some. Helpers look here when they are woken.
#[derive(Default)]
pub struct Table {
    work: Mutex<Work>,
    /// A helper has come back.
    back: Condvar,
}

#[derive(Default)]
struct Work {
    /// Lives as long as it lies here or a helper is at it: see [`Table::together`].
    now: Option<&'static (dyn Fn() + Sync)>,
    /// Which it is, so that nobody who came back goes again.
    number: u64,
    helpers: usize,
}

/// What a helper has helped with last.
#[derive(Debug, Default)]
pub struct Helped(u64);

impl Table {
    /// As [`Hands::together`]; `call` wakes those who may help.
    pub fn together(&self, work: &(dyn Fn() + Sync), call: impl FnOnce()) {
        // SAFETY: only the lifetime changes. The reference is taken back before this
        // returns or unwinds, by `Over`, which waits for every helper that has it.
        let lasting =
            unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(work) };
        {
            let mut table = self.lock();
            table.now = Some(lasting);
            table.number += 1;
        }
        let _over = Over(self);
        call();
        work();
    }

    /// Whether there is work that this helper has not helped with.
    pub fn calls(&self, helped: &Helped) -> bool {
        let work = self.lock();
        work.now.is_some() && work.number != helped.0
    }

    /// Helps, if there is such work.
    pub fn help(&self, helped: &mut Helped) {
        let work = {
            let mut table = self.lock();
            let Some(work) = table.now.filter(|_| table.number != helped.0) else {
                return;
            };
            helped.0 = table.number;
            table.helpers += 1;
            work
        };
        let _back = Back(self);
        work();
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes work from the table, and waits until nobody is at it.
struct Over<'a>(&'a Table);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let mut work = self.0.lock();
        work.now = None;
        while work.helpers > 0 {
            let back = self.0.back.wait(work);
            work = back.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A helper that is at work.
struct Back<'a>(&'a Table);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.0.lock().helpers -= 1;
        self.0.back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn every_part_is_done_once_and_nobody_is_at_it_afterwards() {
        let table = Table::default();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut helped = Helped::default();
                    while !over.load(Ordering::Relaxed) {
                        table.help(&mut helped);
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
                table.together(&work, || {});
                assert_eq!(at_work.into_inner(), 0);
                assert_eq!(done.map(AtomicUsize::into_inner), [1; 8]);
            }
            over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn work_that_fails_is_taken_from_the_table() {
        let table = Table::default();
        let failed = catch_unwind(AssertUnwindSafe(|| {
            table.together(&|| panic!("on purpose"), || {});
        }));
        assert!(failed.is_err());
        assert!(!table.calls(&Helped::default()));
    }

    #[test]
    fn who_has_helped_is_not_called_again_for_the_same() {
        let table = Table::default();
        let mut helped = Helped::default();
        assert!(!table.calls(&helped));
        let helper = Mutex::new(&mut helped);
        table.together(&|| {}, || {
            let mut helped = helper.lock().unwrap();
            assert!(table.calls(&helped));
            table.help(&mut helped);
            assert!(!table.calls(&helped));
        });
    }
}
