//! `hyperfork-vm`: the process of a VM, and the pool's. `hyperfork` starts it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    hyperfork_monitor::main()
}
