//! What runs in a VM's process: from an order to a running machine, its owner, its forks.
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
//! | [`vm`] | a straight line from the first order to the end |
//! | [`prepared`] | a shell and all around it that does not depend on what it becomes |
//! | [`owner`] | the one thread that changes the VM |
//! | [`fork`] | the fork path: begin in `fork/mod.rs` and go downhill |
//! | [`task`] | what the owner is told or asked |
//! | [`control`] | the control socket |
//! | [`identify`], [`follow`] | talking to the guest's agent |
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

/// The program `hyperfork-vm`: a VM, the pool, or the helper of a network without
/// privileges, as its first argument says.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(|word| word.to_str()).collect();
    let result = match words[..] {
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
