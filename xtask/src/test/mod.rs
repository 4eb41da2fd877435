//! All tests, with everything they need.
//!
//! Test programs run one after the other, for many of them have VMs that want all of the
//! host. The emulated machine runs beside them: it is one busy thread, on a host of two
//! processors, and its times appear in no result.

mod tally;

use crate::level1;
use crate::programs::{self, Program};
use crate::run::{run, step, watch};
use crate::times;
use crate::workspace::{self, cargo};
use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tally::Tally;

/// How long the emulated machine may take. Its processors share this host's with
/// whatever else runs.
const EMULATED_LIMIT: Duration = Duration::from_secs(40 * 60);

/// Prepares, runs, and closes with one line: `tests: N passed, N failed`.
///
/// # Errors
/// When a test fails, or cannot be run.
pub(crate) fn test(filter: Option<&str>) -> Result<()> {
    let result = run_all(&build()?, filter);
    times::tell();
    result?.conclude()
}

/// Builds all tests, once: another selection of packages would have other features, and so
/// compile much of the same again.
///
/// # Errors
/// When something does not compile.
pub(crate) fn build() -> Result<Vec<Program>> {
    step("building the tests");
    programs::build(&["--workspace"])
}

/// Runs all tests, here and in the emulated machine.
///
/// # Errors
/// When they cannot be run, not when one fails.
pub(crate) fn run_all(built: &[Program], filter: Option<&str>) -> Result<Tally> {
    images(&["base", "python"])?;
    step("tests, here and in the emulated hardware-KVM machine");
    thread::scope(|scope| {
        let emulated = scope.spawn(|| emulated_tests(built, filter, "level1: "));
        let here = tests_here(built, filter);
        let emulated = emulated.join();
        let mut tally = here?;
        tally += emulated.map_err(|_| anyhow::anyhow!("the emulated machine's thread died"))??;
        Ok(tally)
    })
}

/// Only the tests in the emulated hardware-KVM machine.
///
/// # Errors
/// When a test fails, or cannot be run.
pub(crate) fn emulated(filter: Option<&str>) -> Result<()> {
    step("building the tests");
    let built = programs::build(&level1::selection())?;
    images(&["base"])?;
    step("tests in the emulated hardware-KVM machine");
    let result = emulated_tests(&built, filter, "");
    times::tell();
    result?.conclude()
}

/// Builds guest images with the program that the tests are built with.
pub(crate) fn images(names: &[&str]) -> Result<()> {
    step("guest images");
    let program = workspace::program()?;
    for image in names {
        run(Command::new(&program).args(["image", "build", image]))?;
    }
    Ok(())
}

/// Whether a host without KVM cannot run these tests. They are then run in the emulated
/// machine only.
fn needs_kvm(program: &Program) -> bool {
    program.is_integration_test() && ["cli", "vmm"].contains(&program.package_name())
}

fn tests_here(built: &[Program], filter: Option<&str>) -> Result<Tally> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    let has_kvm = Path::new("/dev/kvm").exists();
    let mut tally = Tally::default();
    let programs = built.iter().filter(|program| program.is_test);
    for program in programs.filter(|program| has_kvm || !needs_kvm(program)) {
        let title = program.title();
        println!("\n     Running {title}");
        let begun = Instant::now();
        let mut command = program.command();
        tally += watched(command.args(filter)).with_context(|| title.clone())?;
        times::program(&title, begun.elapsed());
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
    }
    tally += watched(cargo(&["test", "--locked", "--workspace", "--doc"]).args(filter))?;
    Ok(tally)
}

/// Runs tests, their output passed on and their summaries added up.
fn watched(command: &mut Command) -> Result<Tally> {
    let mut tally = Tally::default();
    let status = watch(command, |line| {
        tally.add_line(&line);
    })?;
    if !status.success() && tally.failed == 0 {
        // It died in the middle of a test. The others are worth running all the same.
        println!("{:?}: {status}", command.get_program());
        tally.failed += 1;
    }
    Ok(tally)
}

/// Runs what [`level1::TARGETS`] names in there, and adds its summaries up. The lines
/// begin with `prefix`.
fn emulated_tests(built: &[Program], filter: Option<&str>, prefix: &str) -> Result<Tally> {
    let job = level1::job(&level1::TARGETS, built, filter, EMULATED_LIMIT)?;
    let mut tally = Tally::default();
    let mut targets = level1::TARGETS.iter();
    let mut begun = Instant::now();
    let statuses = level1::run(&job, &mut |line| {
        if !line.is_empty() {
            println!("{prefix}{line}");
        }
        if tally.add_line(line)
            && let Some(target) = targets.next()
        {
            times::program(&format!("level1: {}", target.test), begun.elapsed());
            begun = Instant::now();
        }
    })?;
    if statuses.iter().any(|&status| status != 0) && tally.failed == 0 {
        bail!("tests in the emulated machine ended with the statuses {statuses:?}");
    }
    Ok(tally.of(prefix))
}
