//! The host kernel's interfaces, wrapped once: every raw pointer and system call
//! of the monitor is in this crate, behind a safe function that says why it is safe.

pub mod accept;
pub mod clock;
pub mod connect;
pub mod descriptors;
pub mod epoll;
pub mod fault;
pub mod fds;
pub mod file_lock;
pub mod fork;
pub mod hands;
pub mod hole;
pub mod host;
pub mod huge_pages;
pub mod kick;
pub mod log;
pub mod mapping;
pub mod memfd;
pub mod pagemap;
pub mod peer;
pub mod process;
pub mod program;
pub mod sched;
pub mod scm;
pub mod seccomp;
pub mod secrecy;
pub mod signals;
pub mod statm;
pub mod swap;
pub mod tap;
pub mod userfault;

use std::io;

/// The C library's convention: -1 is an error, and `errno` says which.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}
