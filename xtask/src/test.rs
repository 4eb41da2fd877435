//! All tests, with everything they need.

use crate::level1;
use crate::run::{run, step};
use crate::workspace::{self, cargo};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::ops::AddAssign;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Tests passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// Prepares, runs, and closes with one line: `tests: N passed, N failed`.
///
/// # Errors
/// When a test fails, or cannot be run.
pub(crate) fn test(filter: Option<&str>) -> Result<()> {
    images(&["base", "python"])?;
    step("tests");
    let mut tally = Tally::default();
    for selection in selections() {
        tally += cargo_test(selection, filter)?;
    }
    step("tests in the emulated hardware-KVM machine");
    tally += emulated_tests(filter)?;
    tally.conclude()
}

/// Only the tests in the emulated hardware-KVM machine.
///
/// # Errors
/// When a test fails, or cannot be run.
pub(crate) fn emulated(filter: Option<&str>) -> Result<()> {
    images(&["base"])?;
    step("tests in the emulated hardware-KVM machine");
    emulated_tests(filter)?.conclude()
}

fn images(names: &[&str]) -> Result<()> {
    step("the program and its guest images");
    run(&mut cargo(&[
        "build",
        "--locked",
        "--package",
        "hyperfork-cli",
    ]))?;
    let program = workspace::program()?;
    for image in names {
        run(Command::new(&program).args(["image", "build", image]))?;
    }
    Ok(())
}

/// What is tested here: everything, or where this host has no KVM, everything that
/// does not need it. The rest is then tested in the emulated machine only.
fn selections() -> Vec<&'static [&'static str]> {
    if Path::new("/dev/kvm").exists() {
        return vec![&["--workspace"]];
    }
    vec![
        &[
            "--workspace",
            "--exclude=hyperfork-cli",
            "--exclude=hyperfork-vmm",
        ],
        &["--package=hyperfork-vmm", "--lib"],
        &["--package=hyperfork-cli", "--bins"],
    ]
}

/// `cargo test`, its output passed on and its summaries added up.
fn cargo_test(selection: &[&str], filter: Option<&str>) -> Result<Tally> {
    let mut command = cargo(&["test", "--locked", "--no-fail-fast"]);
    command.args(selection).args(filter);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let stdout = child.stdout.take().context("no output of cargo")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        tally.add_line(&line);
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        bail!("cargo test: {status}");
    }
    Ok(tally)
}

/// How long the emulated machine may take. Its processors share this host's with
/// whatever else runs.
const EMULATED_LIMIT: Duration = Duration::from_secs(25 * 60);

/// Runs what [`level1::TARGETS`] names in there, and adds its summaries up.
fn emulated_tests(filter: Option<&str>) -> Result<Tally> {
    let job = level1::job(&level1::TARGETS, filter, EMULATED_LIMIT)?;
    let mut tally = Tally::default();
    let statuses = level1::run(&job, &mut |line| {
        println!("{line}");
        tally.add_line(line);
    })?;
    if statuses.iter().any(|&status| status != 0) && tally.failed == 0 {
        bail!("tests in the emulated machine ended with the statuses {statuses:?}");
    }
    Ok(tally)
}

impl Tally {
    /// Says how it went.
    fn conclude(self) -> Result<()> {
        println!("\ntests: {} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 {
            bail!("{} tests failed", self.failed);
        }
        if self.passed == 0 {
            bail!("no test was run");
        }
        Ok(())
    }

    /// Adds a line of a test program's output, if it is a summary.
    fn add_line(&mut self, line: &str) {
        if let Some(summary) = line.strip_prefix("test result: ") {
            self.add(summary);
        }
    }

    /// Adds `ok. 8 passed; 0 failed; …`.
    fn add(&mut self, summary: &str) {
        for part in summary.split([';', '.']) {
            match part.trim().split_once(' ') {
                Some((count, "passed")) => self.passed += count.parse().unwrap_or(0),
                Some((count, "failed")) => self.failed += count.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn summaries_add_up() {
        let mut tally = Tally::default();
        tally.add(
            "ok. 8 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s",
        );
        tally.add(
            "FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s",
        );
        assert_eq!(
            tally,
            Tally {
                passed: 11,
                failed: 2
            }
        );
    }
}
