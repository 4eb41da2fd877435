//! The demonstration's figures.

use crate::ui::{duration_us, mib};
use hyperfork_api::{CloneReport, ForkReport, VmInfo};

/// Lines of a label, a value, and a remark.
#[derive(Debug, Default)]
pub(super) struct Figures(Vec<[String; 3]>);

impl Figures {
    /// Adds a line.
    pub(super) fn add(&mut self, label: &str, value: String, remark: &str) {
        self.0.push([label.to_owned(), value, remark.to_owned()]);
    }

    /// Adds what a fork took and what its clones have.
    pub(super) fn add_fork(&mut self, fork: &ForkReport, clones: &[VmInfo]) {
        let range = |of: fn(&CloneReport) -> u64| {
            let values = || fork.clones.iter().map(of);
            let (first, last) = (values().min().unwrap_or(0), values().max().unwrap_or(0));
            (
                duration_us(first),
                format!(
                    "the last of {} after {}",
                    fork.clones.len(),
                    duration_us(last)
                ),
            )
        };
        let (first, last) = range(|clone| clone.total_us);
        self.add("fork to running", first, &last);
        let (first, last) = range(|clone| clone.ready_us);
        self.add("fork to ready", first, &last);
        self.add("parent's pause", duration_us(fork.pause_us), "");
        let mean = |of: fn(&VmInfo) -> u64| {
            clones.iter().map(of).sum::<u64>() / clones.len().max(1) as u64
        };
        self.add(
            "memory shared, per clone",
            mib(mean(|vm| vm.usage.shared_kib)),
            "with the parent and the others",
        );
        self.add(
            "memory private, per clone",
            mib(mean(|vm| vm.usage.private_kib)),
            "what it wrote since",
        );
    }

    /// As text.
    pub(super) fn render(&self) -> String {
        let width = |at: usize| self.0.iter().map(|line| line[at].chars().count()).max();
        let (first, second) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
        let mut text = String::new();
        for [label, value, remark] in &self.0 {
            let line = format!("  {label:<first$}  {value:>second$}  {remark}");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_below_each_other() {
        let mut figures = Figures::default();
        figures.add("cold boot", "6.52 s".to_owned(), "");
        figures.add(
            "fork to running",
            "840 us".to_owned(),
            "the last of 8 after 2.00 ms",
        );
        assert_eq!(
            figures.render(),
            "  cold boot        6.52 s\n  fork to running  840 us  the last of 8 after 2.00 ms\n"
        );
    }
}
