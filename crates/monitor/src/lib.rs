//! The process of a VM: from the launcher's order to a running machine, its owner, its forks.
//!
//! ```text
//!  launcher ──order──> vm: build a shell ─> boot or restore ─> run
//!                                                               │
//!   control socket ─┐                                           ▼
//!   guest's ports  ─┼──────────────── tasks ───────────────> owner ──> fork ─> clones
//!   agent, signals ─┘
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`vm`] | the process from its first order to its end, in a straight line |
//! | [`prepared`] | a shell with its sockets, logs and network, before it boots or is restored |
//! | [`owner`] | the one thread that changes the VM |
//! | [`fork`] | the fork path: begin in `fork/mod.rs` and go downhill |
//! | [`task`] | the messages to the owner |
//! | [`control`] | the control socket |
//! | [`identify`], [`follow`] | requests to the guest's agent |
//! | [`publish`] | published ports |
#![deny(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod control;
mod follow;
mod fork;
mod identify;
mod owner;
mod prepared;
mod publish;
mod signals;
mod task;
mod vm;

use hyperfork_host::{pool, program};
use hyperfork_net::user;
use hyperfork_sys::note;
use std::ffi::OsString;
use std::process::ExitCode;

/// The program `hyperfork-vm`. Its first argument says what it runs: a VM, the pool, or the
/// helper of an unprivileged network.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let texts: Vec<_> = arguments.iter().map(|it| it.to_str()).collect();
    let result = match texts[..] {
        [Some(program::VM), ..] => vm::main(),
        [Some(program::POOL), _, Some(settings)] => {
            pool::main(arguments[1].clone().into(), settings)
                .map_err(|error| format!("the pool ends: {}", hyperfork_api::one_line(&error)))
        }
        [Some(user::NET_ARGUMENT), ..] => return user::net_main(),
        _ => Err(format!(
            "{} is started by hyperfork: see `hyperfork --help`",
            program::NAME
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            note!("{why}");
            ExitCode::FAILURE
        }
    }
}
