//! `hf-fork` and `hf-done`: the [signal port](hyperfork_api::signal) for shell
//! scripts.

use crate::sys::{port, signals};
use hyperfork_api::guest::FORK_LOCK_PATH;
use hyperfork_api::signal::{
    FORK_PORT, ForkAnswer, ForkStatus, MOST_CLONES, Message, PORT, PORT_LEN, Refusal,
};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use std::ffi::{OsString, c_int};
use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

/// Result codes have 24 bits in a message.
const MAX_CODE: u32 = 0xff_ffff;

/// Waits between two looks at the port: short at first, for a quick fork, and longer
/// later, since each look costs a guest whose kernel is emulated about 1 ms.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(16);

/// Why there is no fork.
#[derive(Debug)]
enum NoFork {
    Port(io::Error),
    Monitor,
    Busy,
    Refused(Refusal),
}

/// `hf-fork N`: has the machine forked into N clones and prints which one this is:
/// 0 in the parent, k in the k-th clone.
pub(crate) fn fork(arguments: &[OsString]) -> c_int {
    let Some(clones) = number(arguments, MOST_CLONES).filter(|clones| *clones > 0) else {
        return usage(
            "hf-fork N: fork this machine into N clones; prints 0 in the parent, k in clone k",
            MOST_CLONES,
        );
    };
    // The output's reader may exist only in the parent.
    signals::ignore_broken_pipes();
    match fork_machine(clones) {
        Ok(number) => print(number),
        Err(why) => {
            complain(format_args!("hf-fork: {}", why.in_words(clones)));
            1
        }
    }
}

/// `hf-done CODE`: reports that the work is done, with a result code. A clone ends
/// with that, so there it does not return.
pub(crate) fn done(arguments: &[OsString]) -> c_int {
    let Some(code) = number(arguments, MAX_CODE) else {
        return usage(
            "hf-done CODE: tell the monitor that the work is done, with this result code; ends a clone",
            MAX_CODE,
        );
    };
    match port::open(PORT, PORT_LEN) {
        Err(error) => {
            complain(format_args!("hf-done: {}", NoFork::Port(error).in_words(0)));
            1
        }
        Ok(mut ports) => {
            ports.write(PORT, Message::Done(code).encode());
            match ports.read(PORT) {
                0 => 0,
                _ => loop {
                    thread::sleep(Duration::MAX);
                },
            }
        }
    }
}

/// As fork(2), but for the number of clones and that they are numbered.
fn fork_machine(clones: u32) -> Result<u32, NoFork> {
    let _turn = wait_for_turn();
    let mut ports = port::open(PORT, PORT_LEN).map_err(NoFork::Port)?;
    let tag = ForkStatus::tag(std::process::id());
    ports.write(PORT, Message::Fork { clones, tag }.encode());
    let mut wait = FIRST_WAIT;
    loop {
        let status = ForkStatus::decode(ports.read(FORK_PORT)).ok_or(NoFork::Monitor)?;
        match status.answer {
            _ if status.tag != tag => return Err(NoFork::Busy),
            ForkAnswer::None => return Err(NoFork::Monitor),
            ForkAnswer::Pending => {}
            ForkAnswer::Forked(number) => return Ok(number),
            ForkAnswer::Refused(why) => return Err(NoFork::Refused(why)),
        }
        thread::sleep(wait);
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// The monitor makes one fork at a time; programs of the guest that want one take
/// turns, each until it knows its answer. Where there is no place for a lock, the
/// second gets an error.
fn wait_for_turn() -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let lock = open(FORK_LOCK_PATH, flags, Mode::from_raw_mode(0o600)).ok()?;
    flock(&lock, FlockOperation::LockExclusive).ok()?;
    Some(lock)
}

/// A missing reader of the number does not undo the fork.
fn print(number: u32) -> c_int {
    match io::stdout().write_all(format!("{number}\n").as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(format_args!(
                "hf-fork: this is number {number}, but that cannot be printed: {error}"
            ));
            1
        }
        _ => 0,
    }
}

impl NoFork {
    fn in_words(&self, clones: u32) -> String {
        match self {
            Self::Port(error) => format!(
                "the signal port cannot be used: {error}; it needs root and a kernel with X86_IOPL_IOPERM"
            ),
            Self::Monitor => "there is no monitor that forks this machine".to_owned(),
            Self::Busy => "another program's fork is under way: try again".to_owned(),
            Self::Refused(why) => match why {
                Refusal::Count => format!("{clones} clones are too many for one fork"),
                Refusal::Spent => format!(
                    "this machine may not have {clones} more clones (`hyperfork run --max-forks`)"
                ),
                Refusal::Crowded => "there are too many machines on the host".to_owned(),
                Refusal::Failed => {
                    "the host could not do it: `hyperfork inspect` there tells why".to_owned()
                }
                Refusal::Interrupted => {
                    "another fork made this clone meanwhile: try again".to_owned()
                }
            },
        }
    }
}

fn number(arguments: &[OsString], most: u32) -> Option<u32> {
    let [only] = arguments else { return None };
    let number = only.to_str()?.parse().ok();
    number.filter(|number| *number <= most)
}

/// Ignores failures: standard error may have no reader either.
fn complain(message: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{message}");
}

fn usage(text: &str, most: u32) -> c_int {
    complain(format_args!("usage: {text} (up to {most})"));
    2
}
