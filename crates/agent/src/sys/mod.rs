//! The few system interfaces that need `unsafe`: nothing else in this crate may
//! use it.
#![allow(unsafe_code)]

pub(crate) mod clock;
pub(crate) mod cpus;
pub(crate) mod ioctl;
pub(crate) mod page;
pub(crate) mod port;
pub(crate) mod signals;
pub(crate) mod spawn;
pub(crate) mod vsock;

use std::io;

/// The C library's convention: -1 is an error, and `errno` says which.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}
