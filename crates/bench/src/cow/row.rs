//! Results of passes over memory.

use super::CowPlan;
use crate::fork::Method;
use crate::guest::{self, NANO};
use crate::journal::Row;
use crate::stats::{Summary, tenths};
use hyperfork_api::Strategy;
use serde::{Deserialize, Serialize};

/// Before or after the fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// In the guest that is going to be forked.
    Before,
    /// In its clone.
    After,
}

/// One kind of pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CowRow {
    /// How the guest is forked.
    pub strategy: Method,
    /// Name of the guest's image.
    pub guest: String,
    /// Guest memory.
    pub memory_mib: u64,
    /// How much of it is written.
    pub touched_mib: u64,
    /// The same in pages.
    pub pages: u64,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// When.
    pub phase: Phase,
    /// Whether each page had a fault.
    pub faulting: bool,
    /// Number of samples.
    pub n: usize,
    /// Of a whole pass.
    #[serde(flatten)]
    pub total: Summary,
    /// The median over the pages, nanoseconds.
    pub ns_per_page: Option<f64>,
    /// After the fork: how much longer the mean pass takes than before it.
    pub penalty_percent: Option<f64>,
    /// Why it could not be measured.
    pub failed: Option<String>,
    /// All that was measured, microseconds a pass.
    pub samples: Vec<f64>,
}

/// Rows that come from the same VMs, in this order.
pub(super) const KINDS: [(Phase, bool); 4] = [
    (Phase::Before, false),
    (Phase::After, false),
    (Phase::Before, true),
    (Phase::After, true),
];

impl CowRow {
    pub(super) fn empty(
        plan: &CowPlan,
        strategy: Strategy,
        memory_mib: u64,
        (phase, faulting): (Phase, bool),
    ) -> Self {
        let touched_mib = guest::touched(memory_mib, plan.touched_mib).unwrap_or(0);
        Self {
            strategy: Method::of(strategy),
            guest: NANO.to_owned(),
            memory_mib,
            touched_mib,
            pages: touched_mib << 8,
            vcpus: plan.vcpus,
            phase,
            faulting,
            n: 0,
            total: Summary::default(),
            ns_per_page: None,
            penalty_percent: None,
            failed: None,
            samples: Vec::new(),
        }
    }
}

impl Row for CowRow {
    const KEYS: &'static [&'static str] = &[
        "strategy",
        "guest",
        "memory_mib",
        "touched_mib",
        "vcpus",
        "phase",
        "faulting",
    ];
    const VALUES: &'static [&'static str] = &["pages", "ns_per_page", "penalty_percent", "failed"];

    fn title(&self) -> String {
        let phase = match self.phase {
            Phase::Before => "before",
            Phase::After => "after",
        };
        let faults = if self.faulting { "with" } else { "without" };
        let Self {
            strategy,
            memory_mib,
            ..
        } = self;
        format!("{strategy}, {memory_mib} MiB, {phase} the fork, {faults} faults")
    }

    fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    fn summarise(&mut self) {
        self.n = self.samples.len();
        self.total = Summary::of(self.samples.iter().copied());
        self.ns_per_page = self
            .total
            .p50_us
            .map(|us| tenths(us * 1000.0 / self.pages.max(1) as f64));
    }

    fn retry(&mut self) {
        self.failed = None;
    }
}

/// Sets penalties, of rows in the order of [`KINDS`].
pub(super) fn compare(cell: &mut [CowRow]) {
    for pair in cell.chunks_mut(2) {
        pair.iter_mut().for_each(Row::summarise);
        if let [before, after] = pair
            && let (Some(before), Some(mean)) = (before.total.mean_us, after.total.mean_us)
        {
            after.penalty_percent = Some(tenths((mean / before - 1.0) * 100.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Plan;

    #[test]
    fn the_penalty_is_the_means_of_after_against_before() {
        let plan = CowPlan {
            vcpus: 1,
            memory_mib: vec![64],
            touched_mib: Some(4),
            strategies: vec![Strategy::Image],
            n: 2,
        };
        let mut rows = plan.rows();
        for (row, samples) in
            rows.iter_mut()
                .zip([[9.0, 11.0], [10.0, 10.0], [50.0, 150.0], [120.0, 136.0]])
        {
            row.samples = samples.to_vec();
        }
        compare(&mut rows);
        let penalties: Vec<_> = rows.iter().map(|row| row.penalty_percent).collect();
        assert_eq!(penalties, [None, Some(0.0), None, Some(28.0)]);
        assert_eq!(rows[3].ns_per_page, Some(125.0));
        let value = serde_json::to_value(&rows[3]).unwrap();
        assert_eq!(
            (&value["phase"], &value["faulting"]),
            (&"after".into(), &true.into())
        );
        for key in CowRow::KEYS.iter().chain(CowRow::VALUES) {
            assert!(value.get(key).is_some(), "{key}");
        }
    }
}
