//! The mode `fork`: asks for a fork and waits for it, as a program of a full guest
//! does. Parent and clones then signal which one they are, and the clones of
//! `depth` generations do the same again.

use super::{Job, done};
use crate::interrupts::wait;
use crate::signal::{ForkAnswer, ForkStatus, Message};
use crate::work::report;
use crate::{fail, port};
use core::hint::spin_loop;

pub(super) fn run(job: &Job<'_>) -> ! {
    if job.cpu == 0 {
        job.announce();
        port::signal(Message::Ready(0));
        let mut number = 0;
        for generation in 1..=job.options.depth {
            number = fork(job.options.fork, generation);
            if number == 0 {
                break;
            }
        }
        done(number, report(number));
    }
    loop {
        wait();
    }
}

/// As `fork(2)`, but for the number of clones and that they are numbered.
fn fork(clones: u32, tag: u32) -> u32 {
    port::signal(Message::Fork { clones, tag });
    loop {
        match port::fork_status() {
            Some(ForkStatus { answer, tag: whose }) if whose == tag => match answer {
                ForkAnswer::Pending => spin_loop(),
                ForkAnswer::Forked(number) => return number,
                ForkAnswer::None | ForkAnswer::Refused(_) => {
                    fail(format_args!("no fork: {answer:?}"))
                }
            },
            other => fail(format_args!("the fork of another: {other:?}")),
        }
    }
}
