//! Signals to the process. A thread waits for them, and no handler catches them:
//! so a child made by `fork(2)`, which has them blocked as well, has no state of
//! theirs to rebuild. (`signal-hook` is handlers and a pipe, which such a child would share with its
//! parent.)

use crate::note;
use rustix::process::{Signal, WaitOptions, wait};
use std::io;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::thread;

/// Signals that only threads which [wait](Self::wait) for them receive.
#[derive(Clone, Copy)]
pub struct Signals(libc::sigset_t);

impl Signals {
    /// Blocks `signals`, and no others, in the calling thread and all threads it will
    /// start: call it before there are others.
    ///
    /// # Errors
    /// As `pthread_sigmask(3)`.
    pub fn block(signals: &[Signal]) -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the set is initialised by the first call, and outlives all of them; the
        // numbers are those of signals.
        let (set, error) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
            }
            let set = set.assume_init();
            let error = libc::pthread_sigmask(libc::SIG_SETMASK, &set, null_mut());
            (set, error)
        };
        match error {
            0 => Ok(Self(set)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Waits for the next one of them. Where several threads wait, one gets it.
    ///
    /// # Errors
    /// As `sigwait(3)`.
    pub fn wait(&self) -> io::Result<Signal> {
        let mut number = 0;
        // SAFETY: both pointers are to values that live across the call.
        match unsafe { libc::sigwait(&self.0, &mut number) } {
            0 => Signal::from_named_raw(number)
                .ok_or_else(|| io::Error::other(format!("signal {number} was not asked for"))),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Calls `then` on a thread of its own whenever one of `signals` comes. To be called before
/// there are other threads, which would get them otherwise.
///
/// # Errors
/// As [`Signals::block`], or when there can be no thread.
pub fn on_each(
    signals: &[Signal],
    mut then: impl FnMut(Signal) + Send + 'static,
) -> io::Result<()> {
    let signals = Signals::block(signals)?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while let Ok(signal) = signals.wait() {
                then(signal);
            }
        })
        .map(drop)
}

/// Calls `changed` with the number of each child that has ended, or stands still (true). To
/// be called before there are threads. The number of one that has ended is free again.
///
/// # Errors
/// As [`on_each`].
pub fn watch_children(mut changed: impl FnMut(u32, bool) + Send + 'static) -> io::Result<()> {
    on_each(&[Signal::CHILD], move |_| {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            changed(pid.as_raw_nonzero().get().unsigned_abs(), status.stopped());
        }
    })
}

/// Reaps all children that have ended.
pub fn reap() {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        // Its confinement left it no time to say so itself.
        if status.terminating_signal() == Some(Signal::SYS.as_raw()) {
            note!(
                "process {pid} was ended: a thread that handles what a guest writes made a system \
                 call that it may not"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_comes_to_who_waits_and_to_nobody_else() {
        // One that does no harm to the test program's other threads.
        let signals = Signals::block(&[Signal::CHILD]).unwrap();
        // SAFETY: raises it in this very thread, where it is blocked.
        unsafe { libc::raise(libc::SIGCHLD) };
        assert_eq!(signals.wait().unwrap(), Signal::CHILD);
    }
}
