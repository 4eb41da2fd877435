//! `fork(2)` of a process with many threads.

use std::io;
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::thread;

/// Forks; the child runs `life` and then exits. Returns the child's PID; the caller has to wait for
/// it. The child keeps only the descriptors in `keep` and standard input, output and error.
///
/// The child has a copy of all memory, but only the calling thread. What other threads were in the
/// middle of is never finished: a lock that one of them held is never released, and joining one
/// never returns. So `life` may use
/// - what the caller lends it exclusively, and no other thread was using, and
/// - what it makes itself; the allocator, standard error and new threads work.
///
/// # Safety
/// `life` must neither lock, wait for, nor drop anything that another thread may be using, and
/// must use no descriptor that the caller does not list. Nothing of the caller's is dropped in the
/// child.
///
/// # Errors
/// As `fork(2)`.
pub unsafe fn fork(keep: &[RawFd], life: impl FnOnce() -> ExitCode + Send) -> io::Result<u32> {
    let mut keep = keep.to_vec();
    keep.extend([libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO]);
    keep.sort_unstable();
    // Held by this thread at the fork, so it is this thread's to release on both sides.
    // (The C library does the same for its allocator.)
    let stderr = io::stderr().lock();
    // SAFETY: the child calls nothing but `be_child`, which does not return; what may be
    // used in it is said above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(stderr);
            be_child(&keep, life)
        }
        child => Ok(child as u32),
    }
}

fn be_child(keep: &[RawFd], life: impl FnOnce() -> ExitCode + Send) -> ! {
    close_all_but(keep);
    // On a new thread's stack. This thread's stack holds all frames of the parent, and would grow
    // from each generation to the next; stacks of ended threads are reused.
    let ended = thread::scope(|scope| {
        let life = thread::Builder::new()
            .name("owner".into())
            .spawn_scoped(scope, life);
        life.ok().and_then(|life| life.join().ok())
    });
    let status = match ended {
        Some(code) if code == ExitCode::SUCCESS => 0,
        _ => 1,
    };
    // SAFETY: ends the process without touching anything of the parent's.
    unsafe { libc::_exit(status) }
}

/// Closes all descriptors but `keep`, which is sorted.
fn close_all_but(keep: &[RawFd]) {
    let mut first = 0;
    for &fd in keep.iter().chain([&RawFd::MAX]) {
        let fd = fd as libc::c_uint;
        if first < fd {
            // SAFETY: what is closed belongs to values of the parent's, which are neither
            // used nor dropped here. Closing a range that has none open is no error.
            unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
        }
        first = fd + 1;
    }
}
