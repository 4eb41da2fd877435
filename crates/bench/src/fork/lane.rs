//! Takes the samples of one cell: its VMs run from the first sample until the last.

use super::raw::Template;
use super::{ForkPlan, ForkRow, Method, Sample};
use crate::cpu;
use crate::error::BenchError;
use crate::guest::Guest;
use crate::host::State;
use crate::stock::Stock;
use crate::vms::Vms;
use hyperfork_api::{ForkReport, Strategy, VmName};
use std::fs;

/// Where a cell's samples come from.
pub(super) enum Lane {
    /// A parent that is forked again and again.
    Forks {
        parent: VmName,
        /// The parent, and all its ancestors.
        line: Vec<VmName>,
        strategy: Strategy,
        clones: u32,
        stock: Stock,
    },
    /// A parent booted for each.
    Firsts(Strategy, Stock),
    /// A VM booted for each.
    Boots(State, Stock),
    /// A machine captured once, in this process.
    Raw(Box<Template>),
}

impl Lane {
    /// Prepares the first sample, by taking one that is not recorded.
    pub(super) fn open(
        row: &mut ForkRow,
        plan: &ForkPlan,
        guest: &Guest,
        state: State,
        vms: &mut Vms<'_>,
    ) -> Result<Self, BenchError> {
        let (cpus, memory_mib, clones) = (plan.vcpus, row.memory_mib, row.clones);
        let stock = |vms: &Vms<'_>| Stock::fill(guest, cpus, memory_mib, clones, vms);
        let strategy = match row.strategy {
            Method::Image => Strategy::Image,
            Method::ProcessFork => Strategy::ProcessFork,
            Method::Boot => {
                let lane = Self::Boots(state, stock(vms)?);
                if state == State::Warm {
                    lane.sample(row, guest, vms)?;
                }
                return Ok(lane);
            }
            Method::Raw => {
                let template = Template::boot(guest, plan.vcpus, row.memory_mib, &row.options())?;
                template.fork()?;
                return Ok(Self::Raw(Box::new(template)));
            }
        };
        if row.first {
            return Ok(Self::Firsts(strategy, stock(vms)?));
        }
        let booted = vms.boot(guest, plan.vcpus, row.memory_mib, &row.options())?;
        let mut line = vec![booted.info.about.name];
        let opened = descend(&mut line, row.depth, strategy, vms).and_then(|parent| {
            let stock = stock(vms)?;
            let first = fork(&parent, strategy, clones, vms)?;
            row.first_us.get_or_insert(first.total_us);
            if let Guest::Linux { .. } = guest {
                let info = vms.info(&parent)?;
                row.touched_mib = Some((info.usage.shared_kib + info.usage.private_kib) >> 10);
            }
            Ok((parent, stock))
        });
        // A parent that cannot be forked is of no use.
        let (parent, stock) = opened.inspect_err(|_| vms.remove_all(&line))?;
        let lane = Self::Forks {
            parent,
            line,
            strategy,
            clones,
            stock,
        };
        lane.settle(vms);
        Ok(lane)
    }

    /// Takes one sample, and removes the VMs that it made.
    pub(super) fn sample(
        &self,
        row: &ForkRow,
        guest: &Guest,
        vms: &mut Vms<'_>,
    ) -> Result<Sample, BenchError> {
        match self {
            Self::Forks {
                parent,
                strategy,
                clones,
                ..
            } => {
                if row.dirty_pages > 0 {
                    vms.write_marks(parent)?;
                }
                let sample = fork(parent, *strategy, *clones, vms);
                self.settle(vms);
                sample
            }
            Self::Firsts(strategy, _) => {
                let booted = vms.boot(guest, row.vcpus, row.memory_mib, &row.options())?;
                self.settle(vms);
                let sample = fork(&booted.info.about.name, *strategy, row.clones, vms);
                vms.remove(&booted.info.about.name);
                sample
            }
            Self::Boots(state, _) => {
                if *state == State::Cold {
                    drop_page_cache()?;
                }
                let options = format!("mode=quick touch_mib={}", row.touched_mib.unwrap_or(0));
                let booted = vms.boot(guest, row.vcpus, row.memory_mib, &options)?;
                let cpu_us = booted.info.status.pid.and_then(cpu::used_us);
                vms.remove(&booted.info.about.name);
                self.settle(vms);
                Ok(Sample {
                    cpu_us,
                    ..Sample::ready_after(booted.took.as_micros() as f64)
                })
            }
            Self::Raw(template) => template.fork(),
        }
    }

    /// Waits until all work for the last sample has ended.
    fn settle(&self, vms: &Vms<'_>) {
        match self {
            Self::Forks { stock, .. } | Self::Firsts(_, stock) | Self::Boots(_, stock) => {
                stock.settle(vms);
            }
            Self::Raw(_) => {}
        }
    }
}

/// Adds so many generations to a chain of clones, each of one clone of the last. Returns the last.
fn descend(
    line: &mut Vec<VmName>,
    generations: u32,
    strategy: Strategy,
    vms: &Vms<'_>,
) -> Result<VmName, BenchError> {
    let root = line[0].clone();
    let mut last = root.clone();
    for _ in 0..generations {
        vms.check()?;
        // Named after the first of them, for names must not be long.
        let report = vms.fork_named(&last, &root, strategy, 1)?;
        let clone = report.clones.first().ok_or(silent(&last))?;
        last = clone.name.clone();
        line.push(last.clone());
    }
    Ok(last)
}

fn fork(
    parent: &VmName,
    strategy: Strategy,
    clones: u32,
    vms: &Vms<'_>,
) -> Result<Sample, BenchError> {
    let report: ForkReport = vms.fork(parent, strategy, clones)?;
    let sample = Sample::of(&report, vms.cpu_us(&report));
    vms.remove_clones(&report);
    sample.ok_or(silent(parent))
}

fn silent(parent: &VmName) -> BenchError {
    BenchError::Silent {
        vm: parent.to_string(),
        what: "how its fork went",
    }
}

/// Drops the host's page cache (proc_sys_vm(5)). Needs root.
fn drop_page_cache() -> Result<(), BenchError> {
    const SWITCH: &str = "/proc/sys/vm/drop_caches";
    const PAGE_CACHE: &str = "1";
    rustix::fs::sync();
    fs::write(SWITCH, PAGE_CACHE).map_err(BenchError::io("drop the page cache through", SWITCH))
}
