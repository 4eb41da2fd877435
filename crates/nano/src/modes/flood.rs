//! The mode `flood`: all CPUs write values of every kind to the signal port,
//! as fast as they can, like a hostile guest.

use super::Job;
use crate::port;
use crate::signal::{FORK_PORT, Message, PORT};
use crate::work::mix;

pub(super) fn run(job: &Job<'_>) -> ! {
    if job.cpu == 0 {
        job.ready();
    }
    let mut round = job.cpu as u64;
    loop {
        round = mix(round, 1);
        let any = round as u32;
        port::signal(Message::Fork {
            clones: any & 7,
            tag: any >> 8,
        });
        port::signal(Message::Done(any));
        port::signal(Message::Ready(any));
        port::write(PORT, any);
        port::write(FORK_PORT, any);
        port::fork_status();
    }
}
