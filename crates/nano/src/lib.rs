//! nano, the embedded guest: a program on the bare machine, without a kernel,
//! that boots and forks within milliseconds.
//!
//! It enters at CPL 0 as the 64-bit boot protocol says, goes down to CPL 3 (where
//! every host runs guest code natively) and does everything there. What it does
//! is on its command line, see [`Options`]. It reports to the monitor through the
//! signal port and the serial port. It waits, halted, for the [`DOORBELL_IRQ`]:
//! the monitor raises that interrupt after a fork or a resume, and then the guest
//! reads from the signal port which clone it is.
//!
//! ```text
//! 64 KiB   start of application processors      1 MiB   the program
//! 128 KiB  command line                         2 MiB   the pages it works on
//! 256 KiB  page tables for RAM above 4 GiB
//! ```
//!
//! The part that is arithmetic ([`Options`], [`Work`], [`Passes`]) serves the
//! monitor's tests and benchmarks too: it says which answers a clone must give, and
//! reads what it has measured.
#![cfg_attr(not(test), no_std)]

mod cpu;
mod interrupts;
mod machine;
mod modes;
mod options;
mod pages;
mod passes;
mod port;
#[path = "../../api/src/signal.rs"]
#[allow(dead_code, unreachable_pub)] // It is written for the monitor's end.
mod signal;
mod work;

pub use interrupts::DOORBELL_IRQ;
pub use options::{Mode, Options};
pub use passes::Passes;
pub use work::{BAD, Work, report};

use core::fmt;
use machine::Machine;
use signal::Message;

/// Tells the serial port why, the monitor that the work is [`BAD`], and halts.
pub fn fail(reason: fmt::Arguments<'_>) -> ! {
    port::print(format_args!("nano: {reason}\n"));
    port::signal(Message::Done(BAD));
    loop {
        interrupts::wait();
    }
}

/// Where the assembler's part ends, at CPL 3: on the bootstrap processor with
/// `cpu` 0, later on each application processor.
#[unsafe(no_mangle)]
extern "C" fn nano_main(cpu: u32, boot_params: u64) -> ! {
    let machine = Machine::from(boot_params);
    if cpu == 0 {
        interrupts::set_up();
    }
    match Options::parse(machine.cmdline()) {
        Ok(options) => modes::run(cpu as usize, &options, &machine),
        Err(word) => fail(format_args!("do not understand `{word}`")),
    }
}
