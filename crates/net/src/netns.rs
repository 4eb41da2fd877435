//! Makes network namespaces (namespaces(7)).

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{getegid, geteuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::thread;

/// Makes a network namespace and does `work` in it, on a new thread. The namespace lasts as long
/// as a descriptor that was made in it is open.
///
/// # Errors
/// The kernel's: no `CAP_SYS_ADMIN`; and those of `work`.
pub(super) fn inside_a_new_one<T: Send>(
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let inside = || {
        // SAFETY: only the network namespace of this new thread changes, which has used nothing
        // of it.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
        work()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("namespace".into())
            .spawn_scoped(scope, inside)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    })
}

/// Moves this process, which must have one thread, into a new user namespace in which it has all
/// capabilities, and into a new network namespace of that. This takes no privilege if the host's
/// settings allow user namespaces.
///
/// # Errors
/// The kernel's.
pub(super) fn become_root_of_a_new_one() -> io::Result<()> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    // SAFETY: only this process's capabilities and network change, and it has used neither yet.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET)? };
    // A process that may not set groups may map only its own (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))
}

/// The calling thread's network namespace.
///
/// # Errors
/// The kernel's; when there is no /proc.
pub(super) fn own() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(open("/proc/thread-self/ns/net", flags, Mode::empty())?)
}
