//! Results of memory per clone.

use super::DensityPlan;
use crate::fork::Method;
use crate::guest::{self, NANO};
use crate::journal::Row;
use crate::stats::Summary;
use hyperfork_api::Strategy;
use serde::{Deserialize, Serialize};

/// So many clones of one parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DensityRow {
    /// How many.
    pub clones: u32,
    /// How they were made.
    pub strategy: Method,
    /// Name of the guest's image.
    pub guest: String,
    /// Guest memory.
    pub memory_mib: u64,
    /// How much of it the parent had filled; `null` for Linux.
    pub touched_mib: Option<u64>,
    /// How many pages each clone was to write.
    pub dirty_pages: u64,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Proportional set size of a clone's process: everything, touched guest memory
    /// included.
    pub pss_kib_per_clone: Option<f64>,
    /// How much less memory the host has available, by the number of clones: what
    /// KVM and page tables take, too, which is in no process.
    pub host_kib_per_clone: Option<f64>,
    /// Of the proportional set size, guest memory: the pages the clone has touched,
    /// shared ones by their share.
    pub touched_kib_per_clone: Option<f64>,
    /// Number of samples: one of each clone.
    pub n: usize,
    /// How many clones had a VM that was built in advance.
    pub from_pool: usize,
    /// From the request to a clone's first instruction.
    #[serde(flatten)]
    pub total: Summary,
    /// Why it could not be measured.
    pub failed: Option<String>,
    /// All that was measured, microseconds.
    pub samples: Vec<f64>,
}

impl DensityRow {
    pub(super) fn empty(
        plan: &DensityPlan,
        clones: u32,
        strategy: Strategy,
        memory_mib: u64,
    ) -> Self {
        let nano = plan.guest == NANO;
        let touched_mib = guest::touched(memory_mib, plan.touched_mib).ok();
        Self {
            clones,
            strategy: Method::of(strategy),
            guest: plan.guest.clone(),
            memory_mib,
            touched_mib: touched_mib.filter(|_| nano),
            dirty_pages: if nano { plan.dirty_pages } else { 0 },
            vcpus: plan.vcpus,
            pss_kib_per_clone: None,
            host_kib_per_clone: None,
            touched_kib_per_clone: None,
            n: 0,
            from_pool: 0,
            total: Summary::default(),
            failed: None,
            samples: Vec::new(),
        }
    }
}

impl Row for DensityRow {
    const KEYS: &'static [&'static str] = &[
        "clones",
        "strategy",
        "guest",
        "memory_mib",
        "touched_mib",
        "dirty_pages",
        "vcpus",
    ];
    const VALUES: &'static [&'static str] = &[
        "pss_kib_per_clone",
        "host_kib_per_clone",
        "touched_kib_per_clone",
        "from_pool",
        "failed",
    ];

    fn title(&self) -> String {
        let Self {
            clones,
            strategy,
            memory_mib,
            ..
        } = self;
        format!("{clones} clones, {strategy}, {memory_mib} MiB")
    }

    fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    fn summarise(&mut self) {
        self.n = self.samples.len();
        self.total = Summary::of(self.samples.iter().copied());
    }

    fn retry(&mut self) {
        self.failed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BenchError;
    use crate::journal::Plan;

    #[test]
    fn a_row_is_written_with_the_documented_keys() {
        let plan = DensityPlan {
            guest: NANO.to_owned(),
            vcpus: 1,
            memory_mib: vec![64],
            touched_mib: None,
            dirty_pages: 16,
            strategies: vec![Strategy::Image],
            clones: vec![1, 8],
        };
        plan.check().unwrap();
        let mut rows = plan.rows();
        rows[1].samples = vec![1.0; 8];
        rows[1].summarise();
        let value = serde_json::to_value(&rows[1]).unwrap();
        assert_eq!(
            (&value["clones"], &value["n"], &value["p50_us"]),
            (&8.into(), &8.into(), &1.0.into())
        );
        for key in DensityRow::KEYS.iter().chain(DensityRow::VALUES) {
            assert!(value.get(key).is_some(), "{key}");
        }
        assert!(matches!(
            DensityPlan {
                dirty_pages: 1 << 20,
                ..plan
            }
            .check(),
            Err(BenchError::DirtyPages { .. })
        ));
    }
}
