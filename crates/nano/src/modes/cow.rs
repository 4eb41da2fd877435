//! The mode `cow`: the copy-on-write benchmark of the HyperFork paper, section 5.1.
//!
//! It writes 128 random bytes into each page, twice, and says how long each pass
//! took. Before the fork the first pass makes the host allocate every page; in a
//! clone it makes it copy every page. The second pass, of either, has no faults.

use super::{Job, done};
use crate::interrupts::{self, DOORBELLS, wait};
use crate::port::print;
use crate::work::{Work, descend, mix, report};
use crate::{Passes, pages};
use core::arch::x86_64::{_mm_lfence, _rdtsc};

/// How many bytes of each page a pass writes, in words.
const WORDS: u64 = 128 / 8;

pub(super) fn run(job: &Job<'_>) -> ! {
    if job.cpu > 0 {
        loop {
            wait();
        }
    }
    let work = job.options.work();
    let mut rung = DOORBELLS.get();
    let mut seed = 0;
    measure(&work, seed);
    job.ready();
    loop {
        DOORBELLS.wait_beyond(rung);
        rung = DOORBELLS.get();
        let index = interrupts::index();
        seed = descend(seed, index);
        measure(&work, seed);
        done(index, report(index));
    }
}

fn measure(work: &Work, seed: u64) {
    let passes = Passes {
        faulting: pass(work, mix(seed, 1)),
        again: pass(work, mix(seed, 2)),
    };
    print(format_args!("nano: {passes}\n"));
}

/// Writes random words into all pages; how many cycles that took.
fn pass(work: &Work, seed: u64) -> u64 {
    // Xorshift must not begin with zero.
    let mut random = seed | 1;
    let begun = cycles();
    for (page, _) in work.all() {
        for word in 0..WORDS {
            // Marsaglia's xorshift64: a few cycles a word, next to nothing beside a fault.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            pages::write(page + word * 8, random);
        }
    }
    cycles() - begun
}

/// The time-stamp counter, once everything before is done.
fn cycles() -> u64 {
    // SAFETY: both instructions are in every 64-bit processor and touch no memory; reading
    // the counter at CPL 3 is allowed, since no code sets CR4.TSD.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}
