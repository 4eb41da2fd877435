//! Starts processes that inherit nothing from their launcher but what the caller names.

use super::check;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// A command that runs one of HyperFork's programs in the root directory; process lists show it as
/// `name`. It gets none of the caller's environment, which may contain credentials, because it may
/// run for days beside untrusted guests. The only descriptors that it gets are the standard streams
/// set on the result.
///
/// # Errors
/// When the kernel cannot close descriptors at an execve(2) (Linux before 5.11).
pub fn clean(program: &Path, name: &str) -> io::Result<Command> {
    close_all_on_exec()?;
    let mut command = Command::new(program);
    command.arg0(name).current_dir("/").env_clear();
    Ok(command)
}

/// Sets close-on-exec for all descriptors of this process but the standard streams. HyperFork opens
/// its own that way, but this process may have inherited others.
///
/// This is done here and not in the new process: with a closure for that the standard library would
/// use fork(2), which copies the page tables, those of guest memory included, at each start.
fn close_all_on_exec() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: changes flags of descriptors, none of which is used by a number after an
    // execve(2).
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    check(result as libc::c_int).map(drop)
}
