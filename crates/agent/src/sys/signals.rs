//! Receives signals through a descriptor, and sends signals.

use super::check;
use std::io;
use std::mem;
use std::os::fd::{FromRawFd, OwnedFd};

/// Blocks the signals the agent cares about, and those that would kill it, and
/// gives a non-blocking descriptor from which the former are read (signalfd(2)).
///
/// # Errors
/// The kernel's.
pub(crate) fn take() -> io::Result<OwnedFd> {
    let watched = set(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT]);
    // SIGPIPE stays pending for ever; writing then simply fails with EPIPE.
    let blocked = set(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGPIPE]);
    // SAFETY: `blocked` outlives the call, and the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const blocked, std::ptr::null_mut()) })?;
    // SAFETY: `watched` outlives the call; -1 asks for a new descriptor.
    let raw = check(unsafe {
        libc::signalfd(
            -1,
            &raw const watched,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        )
    })?;
    // SAFETY: the kernel just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The signal numbers in a read from the descriptor.
pub(crate) fn numbers(bytes: &[u8]) -> impl Iterator<Item = i32> + '_ {
    // A record begins with the signal's number, `ssi_signo`.
    bytes
        .chunks_exact(mem::size_of::<libc::signalfd_siginfo>())
        .filter_map(|record| record.first_chunk::<4>())
        .map(|number| u32::from_ne_bytes(*number) as i32)
}

/// Bytes one signal takes in a read from the descriptor.
pub(crate) const RECORD: usize = mem::size_of::<libc::signalfd_siginfo>();

/// Sends a signal: to a process, to a group (negative), or to all (-1).
///
/// # Errors
/// The kernel's.
pub(crate) fn send(to: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes plain numbers.
    check(unsafe { libc::kill(to, signal) }).map(drop)
}

/// From now on writing to a pipe without a reader fails with EPIPE; otherwise it would
/// kill this process.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: ignoring a signal runs no handler. It only fails for signals that do
    // not exist.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

fn set(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set that it is given, sigaddset changes
    // it; both only fail for signal numbers that do not exist.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}
