//! The one gate.

use crate::run::{cargo, run, step};
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
    step("licences");
    crate::licences::check()?;
    step("generated files");
    crate::docs::docs(true)?;
    crate::test::test(None)?;
    crate::fuzz::fuzz(&crate::fuzz::Args::default())
}
