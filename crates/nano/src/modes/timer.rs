//! The mode `timer`: the local APIC's timer always runs, so every fork finds it
//! running, and in parent and clone it must come once.

use super::{Job, done};
use crate::fail;
use crate::interrupts::apic::arm_timer;
use crate::interrupts::{DOORBELLS, FENCES, TIMERS, Vector, wait};
use crate::port;
use crate::work::report;

pub(super) fn run(job: &Job<'_>) -> ! {
    if job.cpu > 0 {
        loop {
            wait();
        }
    }
    let mut rung = DOORBELLS.get();
    let mut armed = 0;
    job.ready();
    loop {
        arm_timer(Vector::Timer, job.options.timer_ms);
        TIMERS.wait_beyond(armed);
        armed += 1;
        // The same timer sends the fence, behind whatever it may still send for before.
        let fences = FENCES.get();
        arm_timer(Vector::Fence, 0);
        FENCES.wait_beyond(fences);
        if TIMERS.get() != armed {
            fail(format_args!("{} timers came of {armed}", TIMERS.get()));
        }
        if DOORBELLS.get() != rung {
            rung = DOORBELLS.get();
            let index = port::index();
            done(index, report(index));
        }
    }
}
