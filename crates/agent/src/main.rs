//! The binary; see the library for what it does.
#![no_main]

use std::ffi::{c_char, c_int};

/// The C library's entry point, instead of the Rust runtime's: that one makes a
/// dozen system calls before `main` (it probes the standard descriptors and sets
/// up a handler for stack overflows), and where there is no `/dev/null` yet it
/// aborts, which for PID 1 means a kernel panic.
// SAFETY: no other symbol of this binary is called `main`.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    let arguments: Vec<_> = std::env::args_os().collect();
    hyperfork_agent::run(&arguments)
}
