//! Results of fork times.

use super::{ForkPlan, Method, Sample};
use crate::guest::{self, NANO};
use crate::journal::Row;
use crate::stats::{Summary, percentile, tenths};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a parent is forked, and what kind of parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) strategy: Method,
    pub(super) memory_mib: u64,
    pub(super) dirty_pages: u64,
    pub(super) clones: u32,
    pub(super) depth: u32,
}

/// One strategy at one memory size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForkRow {
    /// How VMs were made.
    pub strategy: Method,
    /// Name of the guest's image.
    pub guest: String,
    /// Guest memory.
    pub memory_mib: u64,
    /// How much of it the guest had filled before; `null` for Linux until it was
    /// booted.
    pub touched_mib: Option<u64>,
    /// How many pages the parent was to write between forks.
    pub dirty_pages: u64,
    /// How many it wrote: a few more, as they are spread evenly.
    pub written_pages: u64,
    /// How many clones each fork made.
    #[serde(default = "one")]
    pub clones: u32,
    /// How many generations the parent was away from the VM that was booted.
    #[serde(default)]
    pub depth: u32,
    /// Whether each sample is the first fork of a parent.
    #[serde(default)]
    pub first: bool,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Number of samples.
    pub n: usize,
    /// How many clones, of all samples, had a VM that was built in advance.
    pub from_pool: usize,
    /// The first fork of a parent, which has all its memory to freeze; not among the
    /// samples.
    pub first_us: Option<f64>,
    /// Of [`Sample::total_us`].
    #[serde(flatten)]
    pub total: Summary,
    /// Median of [`Sample::total_us`] divided by the clones.
    #[serde(default)]
    pub per_clone_us: Option<f64>,
    /// Of [`Sample::ready_us`].
    pub ready_p50_us: Option<f64>,
    /// The same, 99th percentile.
    pub ready_p99_us: Option<f64>,
    /// Of [`Sample::pause_us`].
    pub pause_p50_us: Option<f64>,
    /// The same, 99th percentile.
    pub pause_p99_us: Option<f64>,
    /// Of [`Sample::cpu_us`].
    #[serde(default)]
    pub cpu_p50_us: Option<f64>,
    /// Medians of [`Sample::phases_us`].
    pub phases_p50_us: BTreeMap<String, f64>,
    /// Why it could not be measured.
    pub failed: Option<String>,
    /// All that was measured.
    #[serde(with = "super::columns")]
    pub samples: Vec<Sample>,
}

fn one() -> u32 {
    1
}

impl ForkRow {
    pub(super) fn empty(plan: &ForkPlan, case: Case) -> Self {
        let Case {
            strategy,
            memory_mib,
            dirty_pages,
            clones,
            depth,
        } = case;
        // A cold boot brings a machine up, it does not fill its memory.
        let touched = match strategy {
            Method::Boot => Some(0),
            _ => plan.touched_mib,
        };
        let work = guest::work(memory_mib, touched, dirty_pages).ok();
        let work = work.filter(|_| plan.guest == NANO);
        Self {
            strategy,
            guest: plan.guest.clone(),
            memory_mib,
            touched_mib: work.map(|work| work.pages >> 8),
            dirty_pages,
            written_pages: work.map_or(0, |work| guest::marked(&work)),
            clones,
            depth,
            first: plan.first && matches!(strategy, Method::Image | Method::ProcessFork),
            vcpus: plan.vcpus,
            n: 0,
            from_pool: 0,
            first_us: None,
            total: Summary::default(),
            per_clone_us: None,
            ready_p50_us: None,
            ready_p99_us: None,
            pause_p50_us: None,
            pause_p99_us: None,
            cpu_p50_us: None,
            phases_p50_us: BTreeMap::new(),
            failed: None,
            samples: Vec::new(),
        }
    }

    /// The embedded guest's options.
    pub(super) fn options(&self) -> String {
        let Self {
            touched_mib,
            dirty_pages,
            ..
        } = self;
        format!(
            "mode=quick touch_mib={} dirty_pages={dirty_pages}",
            touched_mib.unwrap_or(0)
        )
    }

    /// How it was forked, for people.
    pub fn method(&self) -> String {
        let clones = match self.clones {
            1 => String::new(),
            clones => format!(", {clones} clones at once"),
        };
        let depth = match self.depth {
            0 => String::new(),
            depth => format!(", depth {depth}"),
        };
        let first = if self.first { ", first fork" } else { "" };
        format!("{}{clones}{depth}{first}", self.strategy)
    }

    /// How many of `n` samples were taken, or cannot be.
    pub(super) fn finished(&self, n: usize) -> usize {
        match self.failed {
            Some(_) => n,
            None => self.samples.len().min(n),
        }
    }
}

impl Row for ForkRow {
    const KEYS: &'static [&'static str] = &[
        "strategy",
        "guest",
        "memory_mib",
        "touched_mib",
        "dirty_pages",
        "vcpus",
        "clones",
        "depth",
        "first",
    ];
    const VALUES: &'static [&'static str] = &[
        "per_clone_us",
        "from_pool",
        "first_us",
        "ready_p50_us",
        "ready_p99_us",
        "pause_p50_us",
        "pause_p99_us",
        "cpu_p50_us",
        "phases_p50_us",
        "failed",
    ];

    fn title(&self) -> String {
        let pages = match self.dirty_pages {
            0 => String::new(),
            pages => format!(", {pages} pages written"),
        };
        format!("{}, {} MiB{pages}", self.method(), self.memory_mib)
    }

    fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    fn summarise(&mut self) {
        let samples = &self.samples;
        self.n = samples.len();
        self.from_pool = samples.iter().map(Sample::pooled).sum();
        self.total = Summary::of(samples.iter().map(|sample| sample.total_us));
        let each = |sample: &Sample| sample.total_us / f64::from(self.clones.max(1));
        self.per_clone_us = Summary::of(samples.iter().map(each)).p50_us;
        self.cpu_p50_us = Summary::of(samples.iter().filter_map(|sample| sample.cpu_us)).p50_us;
        let ready = Summary::of(samples.iter().filter_map(|sample| sample.ready_us));
        (self.ready_p50_us, self.ready_p99_us) = (ready.p50_us, ready.p99_us);
        let pause = Summary::of(samples.iter().filter_map(|sample| sample.pause_us));
        (self.pause_p50_us, self.pause_p99_us) = (pause.p50_us, pause.p99_us);
        let mut phases: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (name, us) in samples.iter().flat_map(|sample| &sample.phases_us) {
            phases.entry(name.clone()).or_default().push(*us);
        }
        self.phases_p50_us = phases
            .into_iter()
            .filter_map(|(name, mut values)| {
                values.sort_by(f64::total_cmp);
                Some((name, tenths(percentile(&values, 50.0)?)))
            })
            .collect();
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
        let plan = ForkPlan {
            guest: NANO.to_owned(),
            vcpus: 1,
            memory_mib: vec![64],
            touched_mib: None,
            dirty_pages: vec![0, 100],
            strategies: vec![Method::ProcessFork, Method::Boot],
            clones: vec![4],
            depth: vec![10],
            first: false,
            n: 2,
        };
        let mut rows = plan.rows();
        assert_eq!(rows.len(), 3);
        assert_eq!((rows[1].dirty_pages, rows[1].touched_mib), (100, Some(62)));
        assert_eq!((rows[2].dirty_pages, rows[2].touched_mib), (0, Some(0)));
        assert_eq!((rows[2].clones, rows[2].depth), (1, 0));
        let row = &mut rows[0];
        assert_eq!(
            row.title(),
            "process-fork, 4 clones at once, depth 10, 64 MiB"
        );
        for (total, capture) in [(10.0, 1.0), (20.0, 2.0)] {
            row.samples.push(Sample {
                pause_us: Some(5.0),
                cpu_us: Some(7.0),
                phases_us: [("capture".to_owned(), capture)].into(),
                ..Sample::ready_after(total)
            });
        }
        row.summarise();
        let value = serde_json::to_value(&*row).unwrap();
        assert_eq!(value["strategy"], "process-fork");
        assert_eq!(value["p50_us"], 15.0);
        assert_eq!((&value["clones"], &value["depth"]), (&4.into(), &10.into()));
        assert_eq!(value["per_clone_us"], 3.8);
        assert_eq!(value["cpu_p50_us"], 7.0);
        assert_eq!(value["pause_p50_us"], 5.0);
        assert_eq!(value["phases_p50_us"]["capture"], 1.5);
        for key in ForkRow::KEYS.iter().chain(ForkRow::VALUES) {
            assert!(value.get(key).is_some(), "{key}");
        }
        assert_eq!(
            serde_json::from_value::<ForkRow>(value.clone()).unwrap(),
            *row
        );
        // Results from before there were such columns are of single clones of booted VMs.
        let mut old = value;
        let keys = old.as_object_mut().unwrap();
        for key in ["clones", "depth", "per_clone_us", "cpu_p50_us"] {
            keys.remove(key).unwrap();
        }
        let old: ForkRow = serde_json::from_value(old).unwrap();
        assert_eq!((old.clones, old.depth), (1, 0));
        assert_eq!(old.samples, row.samples);
    }
}
