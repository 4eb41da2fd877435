//! The modes `idle` and `spin`: each clone proves which one it is and that its
//! memory is what it was at the fork.

use super::{Job, done};
use crate::interrupts::{self, DOORBELLS, wait};
use crate::work::descend;
use crate::{cpu, pages};
use core::hint::spin_loop;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Halted,
    Busy,
}

pub(super) fn run(job: &Job<'_>, how: Wait) -> ! {
    if job.cpu > 0 {
        assist(job.cpu, how);
    }
    let work = job.options.work();
    let mut rung = DOORBELLS.get();
    let mut lineage = 0;
    job.ready();
    loop {
        match how {
            Wait::Halted => DOORBELLS.wait_beyond(rung),
            Wait::Busy => {
                while DOORBELLS.get() == rung {
                    spin_loop();
                }
            }
        }
        rung = DOORBELLS.get();
        let index = interrupts::index();
        if how == Wait::Busy {
            cpu::await_others(job.cpus, 2);
        }
        if index == 0 {
            // The parent: the same words again, so that the next fork has new pages.
            pages::mark(&work, lineage);
            continue;
        }
        let answer = pages::answer_from_memory(&work, index);
        pages::expect_marks(&work, lineage);
        lineage = descend(lineage, index);
        pages::mark(&work, lineage);
        pages::expect_marks(&work, lineage);
        done(index, answer);
    }
}

fn assist(cpu: usize, how: Wait) -> ! {
    loop {
        match how {
            Wait::Halted => wait(),
            Wait::Busy => cpu::progress(cpu),
        }
    }
}
