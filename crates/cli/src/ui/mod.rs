//! Output for people.
//!
//! Results go to standard output, everything else (progress, notes, errors) to
//! standard error, so that scripts get results only.

mod progress;
mod quantity;
mod table;
mod time;

pub(crate) use progress::{ImageProgress, Progress, Step};
pub(crate) use quantity::{age, duration_us, mib};
pub(crate) use table::Table;
pub(crate) use time::utc;

use serde::Serialize;
use std::io::{self, Write};

/// The reader of standard output is gone.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(crate) struct StdoutClosed;

/// Prints a result.
///
/// # Errors
/// [`StdoutClosed`], or another error of standard output.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        written => Ok(written?),
    }
}

/// Prints a result as a line.
///
/// # Errors
/// As [`print`].
pub(crate) fn line(text: impl std::fmt::Display) -> anyhow::Result<()> {
    print(&format!("{text}\n"))
}

/// Prints a result as JSON.
///
/// # Errors
/// As [`print`].
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// Prints an error in one line, with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    if error.is::<StdoutClosed>() {
        return;
    }
    note(&format!("error: {}", one_line(error)));
}

/// Prints a line that is not a result.
pub(crate) fn note(text: &str) {
    // Fails when the reader of standard error is gone.
    let _ = writeln!(io::stderr(), "{text}");
}

/// The error and its causes, without those that an earlier message contains.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_that_repeats_nothing() {
        let error = anyhow::anyhow!("no space\nleft")
            .context("cannot write")
            .context("p");
        assert_eq!(one_line(&error), "p: cannot write: no space left");
        let error = anyhow::anyhow!("full").context("the disk is full");
        assert_eq!(one_line(&error), "the disk is full");
    }
}
