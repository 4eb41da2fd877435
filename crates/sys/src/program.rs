//! Starts processes that inherit nothing from their launcher but what the caller names.

use super::check;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// A program of ours, under the name by which process lists show it, in the root directory.
/// It gets nothing of the caller's environment: what is in there, such as credentials, is not
/// for a process that may live for days beside untrusted guests. Of the caller's descriptors it
/// gets the standard streams that are set on the result.
///
/// # Errors
/// When the kernel cannot close descriptors at an execve(2) (Linux before 5.11).
pub fn clean(program: &Path, name: &str) -> io::Result<Command> {
    close_all_on_exec()?;
    let mut command = Command::new(program);
    command.arg0(name).current_dir("/").env_clear();
    Ok(command)
}

/// Has all descriptors of this process, but the standard streams, close when a program is
/// executed. Our own are made so; but this process may have inherited others.
///
/// In this process rather than in the new one: a closure for that would make the
/// standard library duplicate our page tables, guest memory's included, for each start.
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
