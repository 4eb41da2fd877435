//! Measures memory per clone, by the number of clones.

mod row;

pub use row::DensityRow;

use crate::error::BenchError;
use crate::fork::Method;
use crate::guest::{self, Guest, NANO};
use crate::journal::{Journal, Plan, Row};
use crate::memory::{self, Pss};
use crate::stats::tenths;
use crate::stock::Stock;
use crate::vms::Vms;
use hyperfork_api::{CloneReport, ForkReport, ShellSource, Strategy, VmName};
use serde::{Deserialize, Serialize};
use std::thread;
use std::time::Duration;

/// The pause before the host's memory is read, in which the memory of ended processes is freed and
/// new processes settle.
const SETTLE: Duration = Duration::from_millis(500);

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DensityPlan {
    /// Name of the guest's image.
    pub guest: String,
    /// Virtual CPUs of each guest.
    pub vcpus: u8,
    /// Guest memory, MiB, each.
    pub memory_mib: Vec<u64>,
    /// How much of it the embedded guest fills before it is forked; all where unset.
    pub touched_mib: Option<u64>,
    /// How many pages each clone writes.
    pub dirty_pages: u64,
    /// How the guest is forked.
    pub strategies: Vec<Strategy>,
    /// How many clones are there at a time, each.
    pub clones: Vec<u32>,
}

impl Plan for DensityPlan {
    type Row = DensityRow;

    fn bench(&self) -> &'static str {
        "density"
    }

    fn check(&self) -> Result<(), BenchError> {
        if self.guest == NANO {
            let mut sizes = self.memory_mib.iter();
            return sizes.try_for_each(|&mib| {
                guest::work(mib, self.touched_mib, self.dirty_pages).map(drop)
            });
        }
        match self.touched_mib {
            Some(_) => Err(BenchError::OnlyNano("filling memory (--touched-mib)")),
            None => Ok(()),
        }
    }

    fn rows(&self) -> Vec<DensityRow> {
        let mut rows = Vec::new();
        for &memory_mib in &self.memory_mib {
            for &strategy in &self.strategies {
                let row = |&clones| DensityRow::empty(self, clones, strategy, memory_mib);
                rows.extend(self.clones.iter().map(row));
            }
        }
        rows
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
        let total = journal.document.rows.len();
        for at in 0..total {
            let row = &mut journal.document.rows[at];
            if row.n > 0 {
                continue;
            }
            vms.check()?;
            vms.watch().advance(at, total, &row.title());
            match measure(row, &plan, guest, vms) {
                Ok(()) => {}
                Err(error) if error.is_of_a_row() => {
                    row.failed = Some(hyperfork_api::one_line(&error))
                }
                Err(error) => return Err(error),
            }
            journal.save()?;
        }
        Ok(())
    }
}

fn measure(
    row: &mut DensityRow,
    plan: &DensityPlan,
    guest: &Guest,
    vms: &mut Vms<'_>,
) -> Result<(), BenchError> {
    let options = format!(
        "mode=quick touch_mib={} dirty_pages={}",
        row.touched_mib.unwrap_or(0),
        row.dirty_pages
    );
    let parent = vms.boot(guest, plan.vcpus, row.memory_mib, &options)?;
    let parent = parent.info.about.name;
    let measured = fork_and_count(&parent, row, guest, vms);
    vms.remove(&parent);
    measured
}

fn fork_and_count(
    parent: &VmName,
    row: &mut DensityRow,
    guest: &Guest,
    vms: &Vms<'_>,
) -> Result<(), BenchError> {
    let strategy = match row.strategy {
        Method::ProcessFork => Strategy::ProcessFork,
        _ => Strategy::Image,
    };
    // Memory that only the first fork takes must not be counted as the clones'.
    vms.remove_clones(&vms.fork(parent, strategy, 1)?);
    // Before and after, the same number of shells is in the pool.
    let stock = Stock::fill(guest, row.vcpus, row.memory_mib, row.clones, vms)?;
    thread::sleep(SETTLE);
    let before_kib = memory::host().available_kib;
    let report = vms.fork(parent, strategy, row.clones)?;
    let counted = settled(&report, guest, &stock, vms)
        .and_then(|after_kib| count(row, &report, before_kib as f64 - after_kib as f64, vms));
    vms.remove_clones(&report);
    counted
}

/// What the host has available when the clones have done their work, KiB.
fn settled(
    report: &ForkReport,
    guest: &Guest,
    stock: &Stock,
    vms: &Vms<'_>,
) -> Result<u64, BenchError> {
    if let Guest::Nano = guest {
        vms.await_done(report)?;
    }
    stock.refill(vms);
    thread::sleep(SETTLE);
    Ok(memory::host().available_kib)
}

/// Counts the memory of clones that are there; together they took `host_kib`.
fn count(
    row: &mut DensityRow,
    report: &ForkReport,
    host_kib: f64,
    vms: &Vms<'_>,
) -> Result<(), BenchError> {
    let mut sum = Pss::default();
    for clone in &report.clones {
        let pid = vms.info(&clone.name)?.status.pid.unwrap_or(0);
        let pss = Pss::of(pid).map_err(|_| BenchError::Silent {
            vm: clone.name.to_string(),
            what: "how much memory it takes",
        })?;
        sum.all_kib += pss.all_kib;
        sum.guest_kib += pss.guest_kib;
    }
    let each = |kib: f64| Some(tenths(kib / f64::from(row.clones)));
    row.pss_kib_per_clone = each(sum.all_kib as f64);
    row.touched_kib_per_clone = each(sum.guest_kib as f64);
    row.host_kib_per_clone = each(host_kib);
    let clones = || report.clones.iter();
    let pooled = |clone: &&CloneReport| clone.shell_source == ShellSource::Pool;
    row.from_pool = clones().filter(pooled).count();
    row.samples = clones().map(|clone| clone.total_us as f64).collect();
    row.summarise();
    Ok(())
}
