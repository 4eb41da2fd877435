//! Forks of a Linux guest: each party has a parent, and they take turns fork by fork.

use super::{Party, Samples, turns};
use crate::run::{output, run};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

/// Forks of a Linux guest with two CPUs.
pub(super) struct Linux {
    pub(super) name: &'static str,
    /// What keeps its CPUs busy, if anything does.
    command: &'static [&'static str],
    samples: usize,
}

pub(super) const CASES: [Linux; 2] = [
    Linux {
        name: "linux-idle",
        command: &[],
        samples: 200,
    },
    Linux {
        name: "linux-busy",
        command: &["sh", "-c", "while :; do :; done & while :; do :; done"],
        samples: 200,
    },
];

/// Between two forks: shells are built anew.
const GAP: Duration = Duration::from_millis(700);

const FIGURES: [&str; 2] = ["total_us", "ready_us"];

impl Linux {
    pub(super) fn run(
        &self,
        parties: &[Party; 3],
        fewer: u32,
    ) -> Result<BTreeMap<&'static str, Samples>> {
        let parents: Vec<_> = parties
            .iter()
            .map(|party| Parent::boot(party, self))
            .collect::<Result<_>>()?;
        let mut figures: BTreeMap<&'static str, Samples> = BTreeMap::new();
        // The first forks fill the pools.
        for parent in &parents {
            parent.fork()?;
        }
        for round in 0..self.samples.div_ceil(fewer as usize) {
            for party in turns(parties, round) {
                let parent = parents
                    .iter()
                    .find(|parent| parent.party.name == party.name);
                thread::sleep(GAP);
                let report = parent.context("each party has a parent")?.fork()?;
                let mut add = |figure, value: &Value| -> Result<()> {
                    let value = value.as_f64().context("a figure is missing")?;
                    let all = figures.entry(figure).or_default();
                    all.entry(party.name).or_default().push(value);
                    Ok(())
                };
                for figure in FIGURES {
                    add(figure, &report["clones"][0][figure])?;
                }
                add("pause_us", &report["pause_us"])?;
            }
        }
        Ok(figures)
    }
}

/// A parent; it ends when it is dropped. Its CPUs are paused while other parties' forks are
/// measured.
struct Parent {
    party: Party,
    name: String,
}

impl Parent {
    fn boot(party: &Party, case: &Linux) -> Result<Self> {
        let name = format!("cmp-{}", party.name.replace('_', "-"));
        let mut command = party.command()?;
        command.args([
            "run",
            "-d",
            "--quiet",
            "--image=base",
            "--cpus=2",
            "--memory=256MiB",
        ]);
        command.args(["--net=none", "--name", &name]);
        if !case.command.is_empty() {
            command.arg("--").args(case.command);
        }
        run(command.stdout(Stdio::null()))?;
        let parent = Self {
            party: party.clone(),
            name,
        };
        parent.do_with("pause")?;
        Ok(parent)
    }

    /// Forks it once while it runs, and ends the clone.
    fn fork(&self) -> Result<Value> {
        self.do_with("resume")?;
        // Time to become busy, or idle.
        thread::sleep(Duration::from_millis(300));
        let mut command = self.party.command()?;
        let report = output(command.args(["fork", &self.name, "--json", "--quiet"]))?;
        let report: Value = serde_json::from_str(&report)?;
        self.do_with("pause")?;
        let clone = report["clones"][0]["name"].as_str().context("no clone")?;
        run(self
            .party
            .command()?
            .args(["rm", "-f", clone])
            .stdout(Stdio::null()))?;
        Ok(report)
    }

    fn do_with(&self, verb: &str) -> Result<()> {
        let mut command = self.party.command()?;
        run(command.args([verb, &self.name]).stdout(Stdio::null()))
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        if let Ok(mut command) = self.party.command() {
            let _ = run(command.args(["rm", "-f", &self.name]).stdout(Stdio::null()));
        }
    }
}
