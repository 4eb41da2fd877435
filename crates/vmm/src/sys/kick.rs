//! Getting a thread out of `KVM_RUN`.
//!
//! A signal alone is not enough: it may arrive just before the thread enters the
//! kernel. So its handler also sets `kvm_run.immediate_exit`, upon which the next
//! `KVM_RUN` returns at once (KVM api.rst, 5, "immediate_exit").

use std::cell::Cell;
use std::io;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

thread_local! {
    /// This thread's `immediate_exit` byte, or null.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(null_mut()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: not null means that `Kickable` of this very thread is alive, and it
        // borrows the byte's owner. The kernel reads it as a plain byte.
        unsafe { AtomicU8::from_ptr(flag) }.store(1, Ordering::Relaxed);
    }
}

/// Has the process handle kicks. To be called before a thread is made [`Kickable`], and
/// before it is confined: confined threads handle no signal anew.
///
/// # Errors
/// When the signal handler cannot be installed.
pub fn prepare() -> io::Result<()> {
    static HANDLER: OnceLock<Result<(), i32>> = OnceLock::new();
    let install = || register_signal_handler(SIGRTMIN(), on_kick).map_err(|error| error.errno());
    HANDLER
        .get_or_init(install)
        .map_err(io::Error::from_raw_os_error)
}

/// While this lives, a [`kick`] of the thread that made it sets its flag.
#[derive(Debug)]
pub struct Kickable(());

impl Kickable {
    /// Makes the calling thread kickable, for which the process must be [prepared](prepare).
    ///
    /// # Safety
    /// `immediate_exit` must stay valid until the result is dropped, and the
    /// result must be dropped on this thread.
    pub unsafe fn this_thread(immediate_exit: *mut u8) -> Self {
        IMMEDIATE_EXIT.set(immediate_exit);
        Self(())
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(null_mut());
    }
}

/// Interrupts `thread`: its system call returns `EINTR`, and its next `KVM_RUN`
/// returns at once.
///
/// # Errors
/// When the thread is gone.
pub fn kick<T>(thread: &JoinHandle<T>) -> io::Result<()> {
    thread
        .kill(SIGRTMIN())
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))
}
