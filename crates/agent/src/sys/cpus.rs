//! The CPU affinity of the agent and of the programs that it starts.

use super::check;
use libc::cpu_set_t;
use std::io;
use std::sync::OnceLock;

/// Where this process could run before it kept to one processor.
static BEFORE: OnceLock<cpu_set_t> = OnceLock::new();

/// The processors that this process may run on.
///
/// # Errors
/// The kernel's.
pub(crate) fn allowed() -> io::Result<Vec<usize>> {
    let set = affinity()?;
    // SAFETY: each is a bit of the set.
    let is_in = |&cpu: &usize| unsafe { libc::CPU_ISSET(cpu, &set) };
    Ok((0..libc::CPU_SETSIZE as usize).filter(is_in).collect())
}

/// Keeps this process to one processor, but none of the programs that it starts.
///
/// # Errors
/// The kernel's; then nothing has changed.
pub(crate) fn keep_to(cpu: usize) -> io::Result<()> {
    let before = affinity()?;
    let mut set = none();
    // SAFETY: a number beyond the set is left out of it, as CPU_SET(3) does.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the kernel reads one set.
    check(unsafe { libc::sched_setaffinity(0, size_of::<cpu_set_t>(), &raw const set) })?;
    let _ = BEFORE.set(before);
    Ok(())
}

/// Where programs may run, if that is not where this process may.
pub(super) fn of_programs() -> Option<&'static cpu_set_t> {
    BEFORE.get()
}

fn affinity() -> io::Result<cpu_set_t> {
    let mut set = none();
    // SAFETY: the kernel writes one set at most.
    check(unsafe { libc::sched_getaffinity(0, size_of::<cpu_set_t>(), &raw mut set) })?;
    Ok(set)
}

fn none() -> cpu_set_t {
    // SAFETY: all-zero bytes are an empty set.
    unsafe { std::mem::zeroed() }
}
