//! `hyperfork-vm`: the process of a VM, and the pool's. `hyperfork` starts it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // The argument is `hyperfork_host::program::BUILD`; `hyperfork` compares the output with its
    // own build.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|kind| kind == "build")
    {
        println!("{}", env!("HYPERFORK_BUILD"));
        return ExitCode::SUCCESS;
    }
    hyperfork_monitor::main()
}
