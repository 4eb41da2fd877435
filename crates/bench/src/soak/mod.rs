//! Checks that many forks in a row leave nothing behind: counts the resources of the parent, the
//! pool and the host after the first forks, now and then, and after the last.

mod census;
mod row;

pub use census::{Census, ProcessCensus};
pub use row::SoakRow;

use crate::error::BenchError;
use crate::guest::{self, Guest};
use crate::journal::{Journal, Plan, Row};
use crate::stock::Stock;
use crate::vms::Vms;
use hyperfork_api::{ForkReport, ShellSource, Strategy, VmName};
use serde::{Deserialize, Serialize};
use std::thread;
use std::time::{Duration, Instant};

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SoakPlan {
    /// Virtual CPUs of the guest.
    pub vcpus: u8,
    /// Its memory, MiB.
    pub memory_mib: u64,
    /// How much of it it fills before its first fork; all where unset.
    pub touched_mib: Option<u64>,
    /// How many pages it writes after its first fork, each.
    pub dirty_pages: Vec<u64>,
    /// How many of those it writes again after each later fork.
    pub later_pages: u64,
    /// How it is forked.
    pub strategies: Vec<Strategy>,
    /// How many times.
    pub n: usize,
}

/// The first count is after this many forks, or half of them if they are few: by then everything
/// that is made once and kept exists.
const FIRST_COUNT: usize = 100;
/// How often it is counted in all, about.
const COUNTS: usize = 10;
/// How many clones are there before they are removed.
const AT_ONCE: usize = 10;
/// How long resources that are not needed any more may take to be released.
const TIMEOUT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(250);

impl Plan for SoakPlan {
    type Row = SoakRow;

    fn bench(&self) -> &'static str {
        "soak"
    }

    fn check(&self) -> Result<(), BenchError> {
        let dirty = self.dirty_pages.iter().copied().max().unwrap_or(0);
        guest::work(self.memory_mib, self.touched_mib, dirty).map(drop)
    }

    fn rows(&self) -> Vec<SoakRow> {
        let rows = self.strategies.iter().flat_map(|&strategy| {
            let row = move |&pages| SoakRow::empty(self, strategy, pages);
            self.dirty_pages.iter().map(row)
        });
        rows.collect()
    }

    fn with_samples_of(&self, _: &Self) -> Self {
        self.clone()
    }

    fn measure(
        journal: &mut Journal<Self>,
        guest: &Guest,
        vms: &mut Vms<'_>,
    ) -> Result<(), BenchError> {
        let plan = journal.document.plan.clone();
        for at in 0..journal.document.rows.len() {
            let row = &mut journal.document.rows[at];
            if row.n > 0 {
                continue;
            }
            // One that was interrupted has forgotten what it began with.
            *row = SoakRow::empty(&plan, row.strategy, row.dirty_pages);
            match soak(row, at, &plan, guest, vms) {
                Ok(()) => {}
                Err(error) if error.is_of_a_row() => {
                    row.samples.clear();
                    row.failed = Some(hyperfork_api::one_line(&error));
                }
                Err(error) => {
                    row.samples.clear();
                    return Err(error);
                }
            }
            journal.save()?;
        }
        Ok(())
    }
}

/// Measures row number `at`.
fn soak(
    row: &mut SoakRow,
    at: usize,
    plan: &SoakPlan,
    guest: &Guest,
    vms: &mut Vms<'_>,
) -> Result<(), BenchError> {
    let booted = vms.boot(guest, row.vcpus, row.memory_mib, &row.options())?;
    let parent = booted.info.about.name;
    let forked = fork_again_and_again(&parent, row, at, plan, guest, vms);
    vms.remove(&parent);
    forked
}

fn fork_again_and_again(
    parent: &VmName,
    row: &mut SoakRow,
    at: usize,
    plan: &SoakPlan,
    guest: &Guest,
    vms: &Vms<'_>,
) -> Result<(), BenchError> {
    let stock = Stock::fill(guest, row.vcpus, row.memory_mib, 1, vms)?;
    let first = FIRST_COUNT.min(plan.n.div_ceil(2));
    let step = (plan.n / COUNTS).max(1);
    let total = plan.n * plan.rows().len();
    let mut clones: Vec<ForkReport> = Vec::new();
    for fork in 1..=plan.n {
        vms.check()?;
        vms.watch().advance(at * plan.n + fork, total, &row.title());
        if fork > 1 && row.dirty_pages > 0 {
            vms.write_marks(parent)?;
        }
        let report = vms.fork(parent, row.strategy, 1)?;
        for clone in &report.clones {
            row.samples.push(clone.total_us);
            row.from_pool += usize::from(clone.shell_source == ShellSource::Pool);
        }
        clones.push(report);
        let counted = fork == first || fork == plan.n || (fork > first && fork % step == 0);
        if counted || clones.len() == AT_ONCE {
            clones
                .drain(..)
                .for_each(|report| vms.remove_clones(&report));
        }
        if counted {
            stock.settle(vms);
            row.census.push(Census::take(parent, fork, &stock, vms)?);
        }
    }
    judge(parent, row, &stock, vms)
}

/// Records the resources of which there are more after the last fork than after the first ones,
/// once they have had time to be released.
fn judge(
    parent: &VmName,
    row: &mut SoakRow,
    stock: &Stock,
    vms: &Vms<'_>,
) -> Result<(), BenchError> {
    let begun = Instant::now();
    let Some(before) = row.census.first().cloned() else {
        return Ok(());
    };
    while let Some(last) = row.census.last_mut() {
        row.grown = last.grown_since(&before);
        if row.grown.is_none() || begun.elapsed() > TIMEOUT {
            break;
        }
        vms.check()?;
        thread::sleep(LOOK);
        *last = Census::take(parent, last.forks, stock, vms)?;
    }
    Ok(())
}
