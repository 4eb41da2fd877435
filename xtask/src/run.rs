//! Runs programs.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};

/// Says what is being done.
pub(crate) fn step(what: &str) {
    crate::times::step(what);
    println!("\n── {what}");
}

/// Runs to the end; an error unless it succeeds.
///
/// # Errors
/// When the program cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// Runs to the end, its output passed on line by line, each of which `look` sees, too.
///
/// # Errors
/// When the program cannot be started or its output not be read.
pub(crate) fn watch(command: &mut Command, mut look: impl FnMut(String)) -> Result<ExitStatus> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let stdout = child.stdout.take().context("no output of a program")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        look(line);
    }
    Ok(child.wait()?)
}

/// Runs to the end and gives what it wrote to stdout.
///
/// # Errors
/// As [`run`].
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}
