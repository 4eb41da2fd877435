//! The mode `isolate`: all CPUs check and rewrite all pages, each CPU its own, again and again.
//! Every page must hold what this machine wrote the last time. No two machines ever write the same
//! word after their fork.

use super::{Job, done};
use crate::interrupts::{self, DOORBELLS};
use crate::work::{descend, mix, report};
use crate::{cpu, pages};
use core::sync::atomic::{AtomicU64, Ordering};

/// This machine's lineage, which CPU 0 publishes to the others.
static LINEAGE: AtomicU64 = AtomicU64::new(0);

pub(super) fn run(job: &Job<'_>) -> ! {
    let mut sweep = Sweep {
        job,
        stamp: 0,
        round: 0,
    };
    if job.cpu > 0 {
        loop {
            sweep.once();
            cpu::progress(job.cpu);
        }
    }
    let mut rung = DOORBELLS.get();
    job.ready();
    loop {
        sweep.once();
        if DOORBELLS.get() == rung {
            continue;
        }
        rung = DOORBELLS.get();
        let index = interrupts::index();
        let lineage = LINEAGE.load(Ordering::Relaxed);
        // The parent continues with a new lineage, too.
        LINEAGE.store(descend(lineage, index), Ordering::Release);
        // Two sweeps: one writes the new words, one checks them. Three for CPUs that are
        // in the middle of one.
        for _ in 0..2 {
            sweep.once();
        }
        cpu::await_others(job.cpus, 3);
        sweep.once();
        done(index, report(index));
    }
}

/// One CPU's way around its pages.
struct Sweep<'a> {
    job: &'a Job<'a>,
    /// What made the last sweep's words different from all others.
    stamp: u64,
    round: u64,
}

impl Sweep<'_> {
    fn once(&mut self) {
        self.round += 1;
        let stamp = mix(LINEAGE.load(Ordering::Acquire), self.round);
        let all = self.job.options.work().all();
        for (address, _) in all.skip(self.job.cpu).step_by(self.job.cpus) {
            pages::expect(address, mix(address, self.stamp));
            pages::write(address, mix(address, stamp));
        }
        self.stamp = stamp;
    }
}
