//! Measures fork time by memory size (HyperFork paper, figure 2), cold boot, and the time that KVM
//! alone takes.
//!
//! Every cell, a strategy at a memory size with so many pages written between forks, so
//! many clones at once and so many generations before, has a parent of its own. Cells take
//! turns, a sample each, so that whatever else happens on the host happens to all of them.

mod batches;
mod columns;
mod lane;
mod method;
mod raw;
mod row;
mod sample;

pub use method::Method;
pub use row::ForkRow;
pub use sample::Sample;

use crate::error::BenchError;
use crate::guest::{Guest, NANO, work};
use crate::host::State;
use crate::journal::{Journal, Plan, Row};
use crate::vms::Vms;
use batches::{Cost, batches};
use lane::Lane;
use row::Case;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForkPlan {
    /// Name of the guest's image.
    pub guest: String,
    /// Virtual CPUs of each guest.
    pub vcpus: u8,
    /// Guest memory, MiB, each.
    pub memory_mib: Vec<u64>,
    /// How much of it the embedded guest fills before it is forked; all where unset.
    pub touched_mib: Option<u64>,
    /// How many pages the parent writes between two forks, each.
    pub dirty_pages: Vec<u64>,
    /// What is compared.
    pub strategies: Vec<Method>,
    /// How many clones each fork makes, each.
    #[serde(default = "one_clone")]
    pub clones: Vec<u32>,
    /// How many generations a parent is away from the VM that was booted, each.
    #[serde(default = "booted")]
    pub depth: Vec<u32>,
    /// Whether each parent is forked only once: with all its memory to freeze.
    #[serde(default)]
    pub first: bool,
    /// Samples per row.
    pub n: usize,
}

fn one_clone() -> Vec<u32> {
    vec![1]
}

fn booted() -> Vec<u32> {
    vec![0]
}

impl ForkPlan {
    /// Only boots, of guests that fill no memory.
    fn is_of_boots(&self) -> bool {
        self.strategies == [Method::Boot]
    }

    /// Rows of one strategy at one memory size.
    fn forks(&self, case: Case) -> impl Iterator<Item = ForkRow> {
        self.dirty_pages.iter().flat_map(move |&dirty_pages| {
            self.clones.iter().flat_map(move |&clones| {
                self.depth.iter().map(move |&depth| {
                    let case = Case {
                        dirty_pages,
                        clones,
                        depth,
                        ..case
                    };
                    ForkRow::empty(self, case)
                })
            })
        })
    }
}

impl Plan for ForkPlan {
    type Row = ForkRow;

    fn bench(&self) -> &'static str {
        if self.is_of_boots() { "boot" } else { "fork" }
    }

    fn check(&self) -> Result<(), BenchError> {
        let dirty = self.dirty_pages.iter().copied().max().unwrap_or(0);
        if self.guest == NANO {
            let mut sizes = self.memory_mib.iter();
            return sizes.try_for_each(|&mib| work(mib, self.touched_mib, dirty).map(drop));
        }
        let only_nano = [
            (self.touched_mib.is_some(), "filling memory (--touched-mib)"),
            (dirty > 0, "writing pages between forks (--dirty-pages)"),
            (self.strategies.contains(&Method::Raw), "the strategy raw"),
        ];
        match only_nano.iter().find(|(asked, _)| *asked) {
            Some((_, what)) => Err(BenchError::OnlyNano(what)),
            None => Ok(()),
        }
    }

    fn rows(&self) -> Vec<ForkRow> {
        let mut rows = Vec::new();
        for &memory_mib in &self.memory_mib {
            for &strategy in &self.strategies {
                let case = Case {
                    strategy,
                    memory_mib,
                    dirty_pages: 0,
                    clones: 1,
                    depth: 0,
                };
                match strategy {
                    // Between boots nothing is written, and raw forks are of one image.
                    Method::Boot | Method::Raw => rows.push(ForkRow::empty(self, case)),
                    Method::Image | Method::ProcessFork => rows.extend(self.forks(case)),
                }
            }
        }
        rows
    }

    fn with_samples_of(&self, other: &Self) -> Self {
        Self {
            n: other.n,
            ..self.clone()
        }
    }

    fn measure(
        journal: &mut Journal<Self>,
        guest: &Guest,
        vms: &mut Vms<'_>,
    ) -> Result<(), BenchError> {
        let rows = &journal.document.rows;
        let most_shells = vms.host().settings.pool.most as u64;
        let costs: Vec<_> = rows.iter().map(|row| Cost::of(row, most_shells)).collect();
        let available_mib = crate::memory::host().available_kib >> 10;
        for batch in batches(&costs, available_mib, most_shells)? {
            run_batch(journal, batch, guest, vms)?;
        }
        Ok(())
    }
}

/// Measures rows whose parents are all there at the same time.
fn run_batch(
    journal: &mut Journal<ForkPlan>,
    batch: Range<usize>,
    guest: &Guest,
    vms: &mut Vms<'_>,
) -> Result<(), BenchError> {
    let plan = journal.document.plan.clone();
    let state = journal.document.host.state;
    let mut lanes: Vec<Option<Lane>> = batch.clone().map(|_| None).collect();
    for round in 0..plan.n {
        let mut measured = false;
        for (at, lane) in batch.clone().zip(&mut lanes) {
            let rows = &mut journal.document.rows;
            if rows[at].samples.len() > round || rows[at].failed.is_some() {
                continue;
            }
            vms.check()?;
            let done = rows.iter().map(|row| row.finished(plan.n)).sum();
            vms.watch()
                .advance(done, plan.n * rows.len(), &rows[at].title());
            measured = true;
            match sample(lane, &mut rows[at], &plan, guest, state, vms) {
                Ok(sample) => rows[at].samples.push(sample),
                Err(error) if error.is_of_a_row() => {
                    rows[at].failed = Some(hyperfork_api::one_line(&error));
                    close(lane.take(), vms);
                }
                Err(error) => return Err(error),
            }
        }
        if measured {
            journal.save()?;
        }
    }
    lanes.into_iter().for_each(|lane| close(lane, vms));
    Ok(())
}

fn sample(
    lane: &mut Option<Lane>,
    row: &mut ForkRow,
    plan: &ForkPlan,
    guest: &Guest,
    state: State,
    vms: &mut Vms<'_>,
) -> Result<Sample, BenchError> {
    let lane = match lane {
        Some(lane) => lane,
        None => lane.insert(Lane::open(row, plan, guest, state, vms)?),
    };
    lane.sample(row, guest, vms)
}

fn close(lane: Option<Lane>, vms: &Vms<'_>) {
    if let Some(Lane::Forks { line, .. }) = lane {
        vms.remove_all(&line);
    }
}
