//! Kicks threads out of `KVM_RUN`.
//!
//! A signal alone is not enough: it may arrive just before the thread enters the
//! kernel. So its handler also sets `kvm_run.immediate_exit`, upon which the next
//! `KVM_RUN` returns at once (KVM api.rst, 5, "immediate_exit").

use std::cell::Cell;
use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// This thread's `immediate_exit` byte, or null.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(null_mut()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: not null means that `Kickable` of this very thread is alive, and its
        // maker has promised that the byte is, too. The kernel reads it as a plain byte.
        unsafe { AtomicU8::from_ptr(flag) }.store(1, Ordering::Relaxed);
    }
}

/// Threads that are kicked together.
#[derive(Debug)]
pub struct KickGroup(Mutex<Vec<libc::pthread_t>>);

impl KickGroup {
    /// A group of no threads yet.
    ///
    /// # Errors
    /// When the signal handler cannot be installed. It is installed here, so that threads of
    /// the group may be confined to what needs no handlers.
    pub fn new() -> io::Result<Self> {
        install_handler()?;
        Ok(Self(Mutex::default()))
    }

    /// Interrupts every [`Kickable`] thread of the group: its system call returns `EINTR`,
    /// and its next `KVM_RUN` returns at once.
    pub fn kick_all(&self) {
        for &thread in self.threads().iter() {
            // SAFETY: a thread takes itself out of the list before it ends, which the lock
            // keeps it from doing now. The signal has a handler.
            unsafe { libc::pthread_kill(thread, SIGRTMIN()) };
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<libc::pthread_t>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While this lives, a [kick](KickGroup::kick_all) of its group sets the flag of the thread
/// that made it.
#[derive(Debug)]
pub struct Kickable<'a> {
    group: &'a KickGroup,
    thread: libc::pthread_t,
}

impl<'a> Kickable<'a> {
    /// Makes the calling thread kickable.
    ///
    /// # Safety
    /// `immediate_exit` must stay valid until the result is dropped, and the result must be
    /// dropped on this thread.
    pub unsafe fn this_thread(group: &'a KickGroup, immediate_exit: *const AtomicU8) -> Self {
        IMMEDIATE_EXIT.set(immediate_exit.cast_mut().cast());
        // SAFETY: it takes nothing and only tells.
        let thread = unsafe { libc::pthread_self() };
        group.threads().push(thread);
        Self { group, thread }
    }
}

impl Drop for Kickable<'_> {
    fn drop(&mut self) {
        self.group.threads().retain(|&thread| thread != self.thread);
        IMMEDIATE_EXIT.set(null_mut());
    }
}

/// Installs the handler once per process; every later call returns the first result.
fn install_handler() -> io::Result<()> {
    static OUTCOME: OnceLock<Result<(), i32>> = OnceLock::new();
    let outcome = OUTCOME.get_or_init(|| {
        register_signal_handler(SIGRTMIN(), on_kick).map_err(|error| error.errno())
    });
    outcome.map_err(io::Error::from_raw_os_error)
}
