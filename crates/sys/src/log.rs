//! Messages of a VM's process or the pool to the user.
//!
//! A VM's process and the pool write to a file in the run directory. That file system may
//! be full, and then the message is lost: a process that cannot log goes on with its work.
//! (`eprintln!` would panic, so the crates below the command line may not use it.)

use std::fmt::Arguments;
use std::io::Write;

pub use crate::note;

/// Writes one line to the standard error stream, if that can be written to.
#[macro_export]
macro_rules! note {
    ($($words:tt)*) => {
        $crate::log::write(format_args!($($words)*))
    };
}

/// Writes one line with a single system call, so that lines of several threads do not mix.
/// An error is ignored on purpose.
pub fn write(line: Arguments<'_>) {
    let line = format!("{line}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}
