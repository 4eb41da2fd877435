//! `hyperfork-vm`: the process of a VM, and the pool's. `hyperfork` starts it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // As `hyperfork_host::program::BUILD` has it; so is the program that asks.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|kind| kind == "build")
    {
        println!("{}", env!("HYPERFORK_BUILD"));
        return ExitCode::SUCCESS;
    }
    hyperfork_monitor::main()
}
