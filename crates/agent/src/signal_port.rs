//! `hf-fork` and `hf-done`: the [signal port](hyperfork_api::signal) for shell
//! scripts.

use crate::sys::port;
use hyperfork_api::signal::{Message, PORT};
use std::ffi::{OsString, c_int};
use std::io::Write;

/// Arguments have 24 bits in a message.
const MAX_ARGUMENT: u32 = 0xff_ffff;

/// `hf-fork N`: asks for N clones and prints the caller's number among them: 0
/// in the parent, k in the k-th clone.
pub(crate) fn fork(arguments: &[OsString]) -> c_int {
    let Some(count) = number(arguments).filter(|count| *count > 0) else {
        return usage(
            "hf-fork N: ask the monitor for N clones; prints 0 in the parent, k in clone k",
        );
    };
    match port::open(PORT) {
        Err(error) => failed(error),
        Ok(mut port) => {
            port.write(Message::Fork(count).encode());
            let line = format!("{}\n", port.read());
            match std::io::stdout().write_all(line.as_bytes()) {
                Ok(()) => 0,
                Err(error) => failed(error),
            }
        }
    }
}

/// `hf-done CODE`: tells that the work is done, with a result code.
pub(crate) fn done(arguments: &[OsString]) -> c_int {
    let Some(code) = number(arguments) else {
        return usage(
            "hf-done CODE: tell the monitor that the work is done, with this result code",
        );
    };
    match port::open(PORT) {
        Err(error) => failed(error),
        Ok(mut port) => {
            port.write(Message::Done(code).encode());
            0
        }
    }
}

fn number(arguments: &[OsString]) -> Option<u32> {
    let [only] = arguments else { return None };
    only.to_str()?
        .parse()
        .ok()
        .filter(|number| *number <= MAX_ARGUMENT)
}

fn usage(text: &str) -> c_int {
    eprintln!("usage: {text} (up to {MAX_ARGUMENT})");
    2
}

fn failed(error: std::io::Error) -> c_int {
    eprintln!(
        "the signal port cannot be used: {error}; it needs root and a kernel with X86_IOPL_IOPERM"
    );
    1
}
