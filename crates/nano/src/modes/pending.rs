//! The mode `pending`: at the fork an interrupt has been requested and cannot be
//! delivered, since interrupts are off. When they are on again it must come once.
//! Each time around it says that it is ready.

use super::{Job, done};
use crate::interrupts::apic::send_to_self;
use crate::interrupts::{DOORBELLS, FENCES, IPIS, Vector, hold_off, wait};
use crate::signal::Message;
use crate::work::report;
use crate::{fail, port};

pub(super) fn run(job: &Job<'_>) -> ! {
    if job.cpu > 0 {
        loop {
            wait();
        }
    }
    job.announce();
    let mut sent = 0;
    let mut rung = DOORBELLS.get();
    loop {
        // Both are delivered at its end.
        hold_off(Vector::Ipi, Message::Ready(0), rung);
        sent += 1;
        DOORBELLS.wait_beyond(rung);
        rung = DOORBELLS.get();
        let index = port::index();
        let fences = FENCES.get();
        send_to_self(Vector::Fence);
        FENCES.wait_beyond(fences);
        if IPIS.get() != sent {
            fail(format_args!("{} interrupts of {sent}", IPIS.get()));
        }
        done(index, report(index));
    }
}
