//! What runs inside a Linux guest: PID 1, which is also the agent that the host
//! talks to, and the small programs that speak to the monitor themselves. One
//! static binary, which does what the name it is called by says:
//!
//! | called as | does |
//! |---|---|
//! | `hf-fork N` | has the monitor make N clones, prints which one this is |
//! | `hf-done CODE` | reports to the monitor that the work is done; ends a clone |
//! | anything, as PID 1 | brings the guest up and serves the host |
//! | `agent --listen DIR CID...` | serves on Unix sockets, to try it on a host |
//!
//! On some hosts every instruction of the guest's kernel is emulated and a system
//! call costs up to a millisecond, so all of this is written to make few of them:
//! one thread and one `poll`, nothing read that can be known, programs started
//! without copying page tables.
#![deny(unsafe_code)]

mod clock;
mod connection;
mod copy;
mod environment;
mod guest;
mod hooks;
mod identify;
mod init;
mod listener;
mod log;
mod machine;
mod main_program;
mod network;
mod pages;
mod placement;
mod program;
mod rehearsal;
mod ring;
mod secrets;
mod server;
mod session;
mod signal_port;
mod sys;

use std::ffi::OsString;
use std::path::Path;

/// Does what the name the binary was called by says, and gives its exit status.
/// PID 1 does not come back.
pub fn run(arguments: &[OsString]) -> i32 {
    let called_as = arguments
        .first()
        .and_then(|name| Path::new(name).file_name())
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    match called_as {
        "hf-fork" => signal_port::fork(&arguments[1..]),
        "hf-done" => signal_port::done(&arguments[1..]),
        _ if std::process::id() == 1 => init::run(arguments),
        _ => rehearsal::rehearse(arguments),
    }
}
