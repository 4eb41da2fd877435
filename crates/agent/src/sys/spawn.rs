//! Starts a program without copying the agent's memory or page tables.
//!
//! `fork` would copy the agent's page tables, and `posix_spawn` of the GNU C
//! library asks the kernel about each of 64 signals; both cost tens of
//! milliseconds in a guest whose kernel is emulated. So: `clone` with
//! `CLONE_VM | CLONE_VFORK`, a handful of system calls in the child, `execve`.

use super::{check, cpus};
use libc::cpu_set_t;
use rustix::process::Pid;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

/// What to start, and how.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Paths to try in turn, as a search of PATH yields them.
    pub(crate) candidates: &'a [CString],
    /// Arguments, the program's name first.
    pub(crate) argv: &'a [CString],
    /// `NAME=value` strings.
    pub(crate) env: &'a [CString],
    /// Working directory.
    pub(crate) cwd: Option<&'a CStr>,
    /// Becomes descriptors 0, 1 and 2; each above 2.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    /// Whether descriptor 0 is a terminal that the program shall control.
    pub(crate) terminal: bool,
}

/// Why a program did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    /// There was no process to be had.
    #[error("no process could be made")]
    Clone(#[source] io::Error),
    /// Session, descriptors or terminal.
    #[error("its streams could not be set up")]
    Streams(#[source] io::Error),
    /// The working directory.
    #[error("its working directory could not be entered")]
    Directory(#[source] io::Error),
    /// The program itself.
    #[error("it could not be executed")]
    Execute(#[source] io::Error),
}

/// Room for the child until `execve`: a dozen frames.
const STACK: usize = 16 << 10;

/// Everything the child needs, made beforehand, since it must not allocate.
struct Child {
    candidates: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    cwd: *const c_char,
    stdio: [RawFd; 3],
    terminal: bool,
    /// The processors that it may run on, if those are not the agent's.
    cpus: Option<&'static cpu_set_t>,
    failure: Option<(Step, c_int)>,
}

#[derive(Clone, Copy)]
enum Step {
    Streams,
    Directory,
    Execute,
}

/// Starts a program as leader of a session and process group of its own, with no
/// signal blocked, on any processor, and returns once it has been executed.
///
/// # Errors
/// [`SpawnError`]; then no process is left.
pub(crate) fn spawn(plan: &Plan<'_>) -> Result<Pid, SpawnError> {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        let strings = strings.iter().map(|string| string.as_ptr());
        strings.chain([ptr::null()]).collect()
    };
    let mut child = Child {
        candidates: pointers(plan.candidates),
        argv: pointers(plan.argv),
        env: pointers(plan.env),
        cwd: plan.cwd.map_or(ptr::null(), CStr::as_ptr),
        stdio: plan.stdio.map(|fd| fd.as_raw_fd()),
        terminal: plan.terminal,
        cpus: cpus::of_programs(),
        failure: None,
    };
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: CLONE_VFORK suspends this thread until the child has executed or
    // exited, so `stack`, `child` and all that it points to outlive its use of
    // them, and no other code writes to them; the stack's end is aligned to 16
    // bytes. `run` keeps to what a child sharing our memory may do.
    let pid = check(unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        libc::clone(run, top.cast(), flags, (&raw mut child).cast())
    })
    .map_err(SpawnError::Clone)?;
    // SAFETY: `child` is alive; the volatile read keeps the compiler from
    // assuming that `None` is still there.
    let failure = unsafe { ptr::read_volatile(&raw const child.failure) };
    let Some((step, errno)) = failure else {
        return Pid::from_raw(pid)
            .ok_or_else(|| SpawnError::Clone(io::Error::other("clone gave no process")));
    };
    // SAFETY: waitpid takes plain numbers; no status is asked for. The child has
    // exited, or is about to.
    unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
    let error = io::Error::from_raw_os_error(errno);
    Err(match step {
        Step::Streams => SpawnError::Streams(error),
        Step::Directory => SpawnError::Directory(error),
        Step::Execute => SpawnError::Execute(error),
    })
}

/// The child: shares the agent's memory, so only system calls, no allocation, no
/// lock, no panic.
extern "C" fn run(child: *mut c_void) -> c_int {
    // SAFETY: `spawn` passed a `Child` that outlives this process's use of it,
    // and is suspended meanwhile.
    let child = unsafe { &mut *child.cast::<Child>() };
    // SAFETY: all pointers in `child` are to live NUL-terminated strings, or
    // arrays of such that end with a null pointer.
    let failure = unsafe { prepare_and_execute(child) };
    child.failure = Some(failure);
    // SAFETY: ends this process alone, running none of the agent's handlers.
    unsafe { libc::_exit(127) }
}

/// Only returns where it failed.
///
/// # Safety
/// Only in a child made by `spawn`.
unsafe fn prepare_and_execute(child: &Child) -> (Step, c_int) {
    // SAFETY: see `run`; `errno` is the suspended agent's, which does not mind.
    unsafe {
        let errno = || *libc::__errno_location();
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        if let Some(cpus) = child.cpus {
            // If this fails, the program still runs, on fewer processors.
            libc::sched_setaffinity(0, size_of::<cpu_set_t>(), cpus);
        }
        if libc::setsid() == -1 {
            return (Step::Streams, errno());
        }
        for (target, source) in (0..).zip(child.stdio) {
            if libc::dup2(source, target) == -1 {
                return (Step::Streams, errno());
            }
        }
        if child.terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
            return (Step::Streams, errno());
        }
        if !child.cwd.is_null() && libc::chdir(child.cwd) == -1 {
            return (Step::Directory, errno());
        }
        // As execvp(3): a candidate that may not be executed is remembered, one
        // that is not there is not.
        let mut worst = libc::ENOENT;
        for candidate in &child.candidates[..child.candidates.len() - 1] {
            libc::execve(*candidate, child.argv.as_ptr(), child.env.as_ptr());
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => worst = libc::EACCES,
                other => return (Step::Execute, other),
            }
        }
        (Step::Execute, worst)
    }
}
