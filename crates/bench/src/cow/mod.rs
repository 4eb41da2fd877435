//! Measures the time to write memory before and after a fork (HyperFork paper, section 5.1
//! and figure 3).
//!
//! The guest writes 128 random bytes into each page, twice, and then is forked; the
//! clone does the same again. Of each pair, the first pass has a fault at every page:
//! before the fork the host allocates it, afterwards it copies it. The guest itself
//! takes the time, by the time-stamp counter.

mod row;

pub use row::{CowRow, Phase};
use row::{KINDS, compare};

use crate::error::BenchError;
use crate::fork::Method;
use crate::guest::{self, Guest};
use crate::journal::{Journal, Plan};
use crate::stats::tenths;
use crate::stock::Stock;
use crate::vms::Vms;
use hyperfork_api::{Strategy, VmName};
use hyperfork_nano::Passes;
use hyperfork_vmm::kvm::KvmError;
use kvm_ioctls::Kvm;
use serde::{Deserialize, Serialize};
use std::io;

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CowPlan {
    /// Virtual CPUs of each guest. One writes.
    pub vcpus: u8,
    /// Guest memory, MiB, each.
    pub memory_mib: Vec<u64>,
    /// How much of it is written; all where unset.
    pub touched_mib: Option<u64>,
    /// How the guest is forked.
    pub strategies: Vec<Strategy>,
    /// Samples per row. Each is of a VM of its own.
    pub n: usize,
}

impl Plan for CowPlan {
    type Row = CowRow;

    fn bench(&self) -> &'static str {
        "cow"
    }

    fn check(&self) -> Result<(), BenchError> {
        let mut sizes = self.memory_mib.iter();
        sizes.try_for_each(|&mib| guest::touched(mib, self.touched_mib).map(drop))
    }

    fn rows(&self) -> Vec<CowRow> {
        let mut rows = Vec::new();
        for &memory_mib in &self.memory_mib {
            for &strategy in &self.strategies {
                rows.extend(KINDS.map(|kind| CowRow::empty(self, strategy, memory_mib, kind)));
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
        _: &Guest,
        vms: &mut Vms<'_>,
    ) -> Result<(), BenchError> {
        let plan = journal.document.plan.clone();
        // Where guests are booted, shells for clones are built: not while they are timed.
        let stocks: Result<Vec<_>, _> = plan
            .memory_mib
            .iter()
            .map(|&mib| Stock::fill(&Guest::Nano, plan.vcpus, mib, 1, vms))
            .collect();
        let stocks = stocks?;
        let cycles_per_us = f64::from(tsc_khz()?) / 1000.0;
        let total = journal.document.rows.len() / KINDS.len() * plan.n;
        for round in 0..plan.n {
            for cell in journal.document.rows.chunks_mut(KINDS.len()) {
                if cell[0].samples.len() > round || cell[0].failed.is_some() {
                    continue;
                }
                vms.check()?;
                let next = format!("{}, {} MiB", cell[0].strategy, cell[0].memory_mib);
                vms.watch().advance(round * total / plan.n, total, &next);
                let sampled = sample(&cell[0], &plan, vms);
                stocks.iter().for_each(|stock| stock.refill(vms));
                match sampled {
                    Ok((before, after)) => {
                        let cycles = [before.again, after.again, before.faulting, after.faulting];
                        for (row, cycles) in cell.iter_mut().zip(cycles) {
                            row.samples.push(tenths(cycles as f64 / cycles_per_us));
                        }
                        compare(cell);
                    }
                    Err(error) if error.is_of_a_row() => {
                        let message = hyperfork_api::one_line(&error);
                        cell.iter_mut()
                            .for_each(|row| row.failed = Some(message.clone()));
                    }
                    Err(error) => return Err(error),
                }
            }
            journal.save()?;
        }
        Ok(())
    }
}

/// What a guest took before its fork and its clone afterwards.
fn sample(row: &CowRow, plan: &CowPlan, vms: &mut Vms<'_>) -> Result<(Passes, Passes), BenchError> {
    let strategy = match row.strategy {
        Method::ProcessFork => Strategy::ProcessFork,
        _ => Strategy::Image,
    };
    let options = format!("mode=cow touch_mib={}", row.touched_mib);
    let parent = vms
        .boot(&Guest::Nano, plan.vcpus, row.memory_mib, &options)?
        .info
        .about
        .name;
    let passes = fork_and_read(&parent, strategy, vms);
    vms.remove(&parent);
    passes
}

fn fork_and_read(
    parent: &VmName,
    strategy: Strategy,
    vms: &Vms<'_>,
) -> Result<(Passes, Passes), BenchError> {
    let before = passes(parent, vms)?;
    let report = vms.fork(parent, strategy, 1)?;
    // The clone's first message says that it is done.
    let after = report.clones.first().map(|clone| passes(&clone.name, vms));
    vms.remove_clones(&report);
    Ok((before, after.unwrap_or_else(|| Err(silent(parent)))?))
}

fn passes(vm: &VmName, vms: &Vms<'_>) -> Result<Passes, BenchError> {
    Passes::last_in(&vms.console(vm)).ok_or_else(|| silent(vm))
}

fn silent(vm: &VmName) -> BenchError {
    BenchError::Silent {
        vm: vm.to_string(),
        what: "how long its passes took",
    }
}

/// How fast a guest's time-stamp counter runs (api.rst, KVM_GET_TSC_KHZ).
fn tsc_khz() -> Result<u32, KvmError> {
    let call = |call| {
        move |error: kvm_ioctls::Error| KvmError::Call {
            call,
            source: io::Error::from_raw_os_error(error.errno()),
        }
    };
    let kvm = Kvm::new().map_err(call("opening /dev/kvm"))?;
    let vm = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
    let vcpu = vm.create_vcpu(0).map_err(call("KVM_CREATE_VCPU"))?;
    vcpu.get_tsc_khz().map_err(call("KVM_GET_TSC_KHZ"))
}
