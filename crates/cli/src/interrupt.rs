//! SIGINT and SIGTERM: recorded as they come, and checked for where the program can stop.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A signal has asked this program to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted(pub(crate) i32);

/// The signals that ask this program to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<(Mutex<Seen>, Condvar)>);

#[derive(Debug, Default)]
struct Seen {
    first: Option<i32>,
    /// Signals that [`Interrupt::next`] has not returned yet.
    waiting: VecDeque<i32>,
}

impl Interrupt {
    /// Catches the signals, which no longer end the program by themselves from now on.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn catch() -> io::Result<Self> {
        let interrupt = Self::default();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let noted = interrupt.clone();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for signal in signals.forever() {
                    noted.note(signal);
                }
            })?;
        Ok(interrupt)
    }

    fn note(&self, signal: i32) {
        let mut seen = self.seen();
        seen.first.get_or_insert(signal);
        seen.waiting.push_back(signal);
        self.0.1.notify_all();
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a signal has come.
    pub(crate) fn is_set(&self) -> bool {
        self.check().is_err()
    }

    /// Checks whether the program may go on.
    ///
    /// # Errors
    /// [`Interrupted`], once a signal has come.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        self.seen()
            .first
            .map_or(Ok(()), |signal| Err(Interrupted(signal)))
    }

    /// Waits for the next signal. Each is returned once.
    pub(crate) fn next(&self) -> i32 {
        let mut seen = self.seen();
        loop {
            if let Some(signal) = seen.waiting.pop_front() {
                return signal;
            }
            seen = self.0.1.wait(seen).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// [`Interrupted`] if a signal has come, which has then caused the error; otherwise the error.
    pub(crate) fn explains(&self, error: anyhow::Error) -> anyhow::Error {
        match self.check() {
            Ok(()) => error,
            Err(interrupted) => interrupted.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_is_remembered_and_each_is_given_once() {
        let interrupt = Interrupt::default();
        assert!(interrupt.check().is_ok());
        interrupt.note(SIGTERM);
        interrupt.note(SIGINT);
        assert_eq!((interrupt.next(), interrupt.next()), (SIGTERM, SIGINT));
        assert!(matches!(interrupt.check(), Err(Interrupted(SIGTERM))));
        let error = interrupt.explains(anyhow::anyhow!("a tool failed"));
        assert_eq!(error.to_string(), "interrupted");
    }
}
