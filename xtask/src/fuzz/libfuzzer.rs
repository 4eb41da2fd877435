//! The command line of a fuzz target's program (libFuzzer).

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

/// Seconds that one input may take.
const SLOWEST: u32 = 10;
/// MiB that the process may take, and one allocation.
const MEMORY: u32 = 2048;
const ALLOCATION: u32 = 512;
/// The program, with limits, saying everything to `log`.
///
/// # Errors
/// When the log cannot be written.
pub(super) fn libfuzzer(program: &Path, log: &Path) -> Result<Command> {
    log.parent().map(fs::create_dir_all).transpose()?;
    let file = File::create(log).with_context(|| log.display().to_string())?;
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file);
    command.arg(format!("-timeout={SLOWEST}"));
    command.arg(format!("-rss_limit_mb={MEMORY}"));
    command.arg(format!("-malloc_limit_mb={ALLOCATION}"));
    Ok(command)
}
