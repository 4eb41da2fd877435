//! The agent's log: the kernel's log if it is PID 1, which reaches the console; otherwise standard
//! error.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;

/// Logs one line. Ignores failures: there is no other place to report them.
pub(crate) fn error(message: fmt::Arguments<'_>) {
    let kernel_log = (std::process::id() == 1)
        .then(|| OpenOptions::new().write(true).open("/dev/kmsg").ok())
        .flatten();
    // One write is one record, and <3> marks it as an error.
    let _ = match kernel_log {
        Some(mut log) => log.write_all(format!("<3>hyperfork-agent: {message}\n").as_bytes()),
        None => std::io::stderr().write_all(format!("hyperfork-agent: {message}\n").as_bytes()),
    };
}
