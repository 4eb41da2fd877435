//! `cargo xtask ci`: all checks that a change must pass.

use crate::run::{run, step};
use crate::workspace::cargo;
use anyhow::Result;

/// # Errors
/// With the first check that fails.
pub(crate) fn ci() -> Result<()> {
    step("format");
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    step("lints");
    run(&mut cargo(&[
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))?;
    step("layers");
    crate::layers::check()?;
    step("licences, bans, advisories");
    crate::deny::check()?;
    step("results");
    crate::results::results(true)?;
    let built = crate::test::build()?;
    step("generated files");
    crate::docs::with_program(true)?;
    let result = crate::test::run_all(&built, None);
    let fuzzed = crate::fuzz::fuzz(&crate::fuzz::Args::default());
    crate::times::tell();
    fuzzed?;
    result?.conclude()
}
