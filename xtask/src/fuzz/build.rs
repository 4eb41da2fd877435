//! Builds the fuzz targets with the pinned stable compiler.
//!
//! An LLVM pass that stable rustc can run reports edges and comparisons of each run to
//! libFuzzer. A sanitizer would take a nightly compiler; the code under test
//! is safe Rust except for `sys`, and assertions check what it must not do.

use super::{directory, target_dir};
use crate::run::run;
use crate::workspace::cargo;
use anyhow::Result;
use std::path::PathBuf;

/// Named, so that flags are for the targets and not for build scripts.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

const FUZZING: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// What targets are built for. Each has a directory of its own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// To be run by libFuzzer.
    Fuzzing,
    /// To be run once over a corpus, and tell which lines that has reached.
    Coverage,
}

/// Builds these targets with one command, and returns the directory they are in.
///
/// # Errors
/// When they cannot be built.
pub(super) fn instrumented(purpose: Purpose, targets: &[String]) -> Result<PathBuf> {
    let (flags, directory_name) = match purpose {
        Purpose::Fuzzing => (FUZZING.to_owned(), "targets"),
        Purpose::Coverage => (format!("{FUZZING} -Cinstrument-coverage"), "coverage"),
    };
    let target_dir = target_dir().join(directory_name);
    let manifest = directory().join("Cargo.toml");
    let mut command = cargo(&["build", "--locked", "--release", "--target", TRIPLE]);
    for target in targets {
        command.arg("--bin").arg(target);
    }
    command.arg("--manifest-path").arg(manifest);
    command.arg("--target-dir").arg(&target_dir);
    // Of flags, the variable that is encoded is looked at first.
    command
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", flags);
    run(&mut command)?;
    Ok(target_dir.join(TRIPLE).join("release"))
}
