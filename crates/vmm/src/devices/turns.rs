//! A lock that the device thread takes again and again without starving the threads that want it
//! now and then.
//!
//! ```text
//!   device thread     lock_last ── a piece of work ── lock_last ───(waits)─── a piece ──
//!   another thread              lock ──────(waits)──> holds it ──> releases it
//! ```

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A value behind such a lock.
#[derive(Debug)]
pub struct Turns<T> {
    value: Mutex<T>,
    /// Threads other than the device thread that wait for the lock.
    waiting: Arc<AtomicUsize>,
    none_waits: Condvar,
}

impl<T> Turns<T> {
    /// Puts the value behind the lock.
    pub fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            waiting: Arc::default(),
            none_waits: Condvar::new(),
        }
    }

    /// Takes the lock as soon as its holder releases it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let value = self.lock_value();
        // Under the lock, so the device thread cannot miss it between its check and its wait.
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.none_waits.notify_one();
        value
    }

    /// For the device thread: takes the lock after all other threads that wait for it.
    pub fn lock_last(&self) -> MutexGuard<'_, T> {
        let mut value = self.lock_value();
        while self.is_wanted() {
            let waited = self.none_waits.wait(value);
            value = waited.unwrap_or_else(PoisonError::into_inner);
        }
        value
    }

    /// Whether another thread waits for the lock.
    pub fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// The same check, for the device that is behind the lock.
    pub fn preemption(&self) -> Preemption {
        Preemption {
            waiting: self.waiting.clone(),
            pause: Arc::default(),
        }
    }

    fn lock_value(&self) -> MutexGuard<'_, T> {
        // After a panic under the lock the transport has marked its device as failed.
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the device thread has to return from a device even in the middle of a request: the
/// machine is to be paused, or a vCPU waits for the device's registers.
#[derive(Debug, Clone, Default)]
pub struct Preemption {
    waiting: Arc<AtomicUsize>,
    pause: Arc<AtomicBool>,
}

impl Preemption {
    /// Whether it has to. A device checks this between two pieces of work.
    pub fn is_wanted(&self) -> bool {
        self.pause.load(Ordering::SeqCst) || self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Makes [`is_wanted`](Self::is_wanted) also true while `pause` is set.
    pub fn pause_by(&mut self, pause: Arc<AtomicBool>) {
        self.pause = pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::{Duration, Instant};

    #[test]
    fn the_device_thread_lets_all_waiting_threads_in_before_it_takes_the_lock_again() {
        let turns = Turns::new(0);
        let preemption = turns.preemption();
        let deadline = Instant::now() + Duration::from_secs(60);
        thread::scope(|scope| {
            for round in 1..200 {
                let held = turns.lock_last();
                assert!(!preemption.is_wanted());
                let others = [(); 2].map(|()| scope.spawn(|| *turns.lock() += 1));
                while turns.waiting.load(Ordering::SeqCst) < 2 {
                    assert!(Instant::now() < deadline);
                    thread::yield_now();
                }
                assert!(preemption.is_wanted());
                drop(held);
                assert_eq!(*turns.lock_last(), 2 * round);
                others.into_iter().for_each(|other| other.join().unwrap());
            }
        });
    }

    #[test]
    fn a_pause_preempts_as_long_as_it_is_wanted() {
        let mut preemption = Turns::new(()).preemption();
        let pause = Arc::new(AtomicBool::new(false));
        preemption.pause_by(pause.clone());
        for wanted in [true, false] {
            pause.store(wanted, Ordering::SeqCst);
            assert_eq!(preemption.is_wanted(), wanted);
        }
    }
}
