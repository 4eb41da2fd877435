//! Results of a soak.

use super::{Census, SoakPlan};
use crate::fork::Method;
use crate::guest;
use crate::journal::Row;
use crate::stats::Summary;
use hyperfork_api::Strategy;
use serde::{Deserialize, Serialize};

/// Many forks of one parent, one after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SoakRow {
    /// How it was forked.
    pub strategy: Strategy,
    /// Guest memory.
    pub memory_mib: u64,
    /// How much of it it had filled before.
    pub touched_mib: u64,
    /// How many pages it was to write after its first fork.
    pub dirty_pages: u64,
    /// How many of those after each later one, others each time.
    pub later_pages: u64,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// How many forks.
    pub n: usize,
    /// How many of the clones had a VM that was built in advance.
    pub from_pool: usize,
    /// Whether the host reported to the monitor at the end which pages were written.
    pub tracked: bool,
    /// What there was more of after the last fork than after the first ones; `null` if
    /// nothing.
    pub grown: Option<String>,
    /// From a request to the clone's first instruction.
    #[serde(flatten)]
    pub total: Summary,
    /// Why it could not be measured.
    pub failed: Option<String>,
    /// What there was, from time to time.
    pub census: Vec<Census>,
    /// All forks' times, microseconds.
    pub samples: Vec<u64>,
}

impl SoakRow {
    pub(super) fn empty(plan: &SoakPlan, strategy: Strategy, dirty_pages: u64) -> Self {
        let touched_mib = guest::touched(plan.memory_mib, plan.touched_mib);
        Self {
            strategy,
            memory_mib: plan.memory_mib,
            touched_mib: touched_mib.unwrap_or(0),
            dirty_pages,
            later_pages: plan.later_pages,
            vcpus: plan.vcpus,
            n: 0,
            from_pool: 0,
            tracked: false,
            grown: None,
            total: Summary::default(),
            failed: None,
            census: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// The guest's options.
    pub(super) fn options(&self) -> String {
        let Self {
            touched_mib,
            dirty_pages,
            later_pages,
            ..
        } = self;
        format!(
            "mode=quick touch_mib={touched_mib} dirty_pages={dirty_pages} later_pages={later_pages}"
        )
    }
}

impl Row for SoakRow {
    const KEYS: &'static [&'static str] = &[
        "strategy",
        "memory_mib",
        "touched_mib",
        "dirty_pages",
        "later_pages",
        "vcpus",
    ];
    const VALUES: &'static [&'static str] = &["from_pool", "tracked", "grown", "failed"];

    fn title(&self) -> String {
        let Self {
            strategy,
            memory_mib,
            dirty_pages,
            ..
        } = self;
        let strategy = Method::of(*strategy);
        format!("{strategy}, {memory_mib} MiB, {dirty_pages} pages written")
    }

    fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    fn verdict(&self) -> Option<String> {
        let forks = self.n;
        let grown = self.grown.as_ref()?;
        Some(format!("{forks} forks leave something behind: {grown}"))
    }

    fn summarise(&mut self) {
        self.n = self.samples.len();
        self.tracked = self.census.last().is_some_and(|last| last.parent.tracked);
        self.total = Summary::of(self.samples.iter().map(|us| *us as f64));
    }

    fn retry(&mut self) {
        self.failed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Plan;

    #[test]
    fn a_row_is_written_with_the_documented_keys_and_read_back() {
        let plan = SoakPlan {
            vcpus: 1,
            memory_mib: 64,
            touched_mib: None,
            dirty_pages: vec![100, 5000],
            later_pages: 100,
            strategies: vec![Strategy::Image],
            n: 2,
        };
        plan.check().unwrap();
        let mut rows = plan.rows();
        assert_eq!(rows.len(), 2);
        let row = &mut rows[1];
        row.samples = vec![10, 20];
        row.census.push(Census::default());
        row.summarise();
        assert_eq!((row.n, row.verdict()), (2, None));
        row.grown = Some("parent's descriptors: 90, 50 before".to_owned());
        assert!(row.verdict().unwrap().starts_with("2 forks leave"));
        let value = serde_json::to_value(&*row).unwrap();
        for key in SoakRow::KEYS.iter().chain(SoakRow::VALUES) {
            assert!(value.get(key).is_some(), "{key}");
        }
        assert_eq!(serde_json::from_value::<SoakRow>(value).unwrap(), *row);
        let too_many = SoakPlan {
            dirty_pages: vec![1 << 20],
            ..plan
        };
        assert!(too_many.check().unwrap_err().is_usage());
    }
}
