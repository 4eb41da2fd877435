//! One sample: a fork or a boot.

use crate::stats::tenths;
use hyperfork_api::{CloneReport, ForkReport, ShellSource};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One fork, into however many clones, or one boot; microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// From the request to the first guest instruction known to be executed, in the clone
    /// that came last; for a boot, to ready.
    pub total_us: f64,
    /// From the request to the guest's first message, in the clone that sent it last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ready_us: Option<f64>,
    /// How long the parent was paused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pause_us: Option<f64>,
    /// Processor time that a clone's process had had when all were ready, the mean of all
    /// clones. That of building its VM in advance and making it ready is in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_us: Option<f64>,
    /// Whether the VM of the clone that came last had been built in advance.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shell_source: Option<ShellSource>,
    /// How many clones had a VM that was built in advance, where there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from_pool: Option<usize>,
    /// Durations of the phases, by name, of the clone that came last.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub phases_us: BTreeMap<String, f64>,
}

impl Sample {
    /// Of a boot.
    pub fn ready_after(us: f64) -> Self {
        Self {
            total_us: us,
            ready_us: Some(us),
            pause_us: None,
            cpu_us: None,
            shell_source: None,
            from_pool: None,
            phases_us: BTreeMap::new(),
        }
    }

    /// Of a fork; `None` when it tells of no clone.
    pub(super) fn of(report: &ForkReport, cpu_us: Option<f64>) -> Option<Self> {
        let clones = &report.clones;
        let last = clones.iter().max_by_key(|clone| clone.total_us)?;
        let ready_us = clones.iter().map(|clone| clone.ready_us).max()?;
        let pooled = |clone: &&CloneReport| clone.shell_source == ShellSource::Pool;
        let phases = serde_json::to_value(last.phases_us).ok()?;
        Some(Self {
            total_us: last.total_us as f64,
            ready_us: Some(ready_us as f64),
            pause_us: Some(report.pause_us as f64),
            cpu_us: cpu_us.map(tenths),
            shell_source: Some(last.shell_source),
            from_pool: (clones.len() > 1).then(|| clones.iter().filter(pooled).count()),
            phases_us: serde_json::from_value(phases).ok()?,
        })
    }

    /// How many clones had a VM that was built in advance.
    pub(super) fn pooled(&self) -> usize {
        let alone = self.shell_source == Some(ShellSource::Pool);
        self.from_pool.unwrap_or(usize::from(alone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperfork_api::{Phases, Strategy, VmName};

    fn clone(total_us: u64, ready_us: u64, shell_source: ShellSource) -> CloneReport {
        CloneReport {
            name: VmName::new("p-1").unwrap(),
            ip: None,
            ports: Vec::new(),
            total_us,
            ready_us,
            shell_source,
            phases_us: Phases {
                first_run: total_us,
                ..Phases::default()
            },
        }
    }

    #[test]
    fn a_fork_into_many_took_as_long_as_the_clone_that_came_last() {
        let report = ForkReport {
            parent: VmName::new("p").unwrap(),
            pause_us: 5,
            strategy: Strategy::Image,
            clones: vec![
                clone(10, 90, ShellSource::Pool),
                clone(30, 40, ShellSource::Built),
                clone(20, 50, ShellSource::Pool),
            ],
            failed: Vec::new(),
        };
        let sample = Sample::of(&report, Some(1.0)).unwrap();
        assert_eq!((sample.total_us, sample.ready_us), (30.0, Some(90.0)));
        assert_eq!(sample.phases_us["first_run"], 30.0);
        assert_eq!(sample.shell_source, Some(ShellSource::Built));
        assert_eq!(sample.pooled(), 2);

        let alone = ForkReport {
            clones: vec![clone(10, 20, ShellSource::Pool)],
            ..report
        };
        let sample = Sample::of(&alone, None).unwrap();
        assert_eq!((sample.from_pool, sample.pooled()), (None, 1));
        let none = ForkReport {
            clones: Vec::new(),
            ..alone
        };
        assert_eq!(Sample::of(&none, None), None);
    }
}
