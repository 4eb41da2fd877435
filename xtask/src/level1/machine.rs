//! The emulated machine, running.

use super::lines::Lines;
use super::qemu::Qemu;
use super::{Job, Prepared};
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// How often an interrupt or the time limit is looked for.
const POLL: Duration = Duration::from_millis(100);
/// Lines of the kernel's log shown when the machine fails.
const TAIL: usize = 30;

/// Boots, runs the job, and gives its commands' statuses.
pub(super) fn run(
    prepared: &Prepared,
    scratch: &Path,
    disk: &Path,
    job: &Job,
    output: &mut dyn FnMut(&str),
) -> Result<Vec<i32>> {
    let files = Files::in_directory(scratch);
    let interrupted = interrupts()?;
    let deadline = Instant::now() + job.limit;
    let mut machine = Qemu::start(prepared, disk, &files)?;
    let pieces = machine.output()?;
    let mut lines = Lines::new(output);
    loop {
        match pieces.recv_timeout(POLL) {
            Ok(piece) => lines.take(&piece),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        if Instant::now() > deadline {
            bail!(
                "the emulated machine did not end within {} s; the last it printed was: {}\n{}",
                job.limit.as_secs(),
                lines.end(),
                files.told()
            );
        }
    }
    let last = lines.end();
    let status = machine.wait()?;
    let statuses = files.statuses();
    if !status.success() || statuses.len() != job.commands.len() {
        bail!(
            "the emulated machine died ({status}) after {} of {} commands; the last it printed was: {last}\n{}",
            statuses.len(),
            job.commands.len(),
            files.told()
        );
    }
    Ok(statuses)
}

/// What a machine leaves.
pub(super) struct Files {
    /// What its kernel says.
    pub(super) console: PathBuf,
    /// The commands' statuses.
    pub(super) status: PathBuf,
    /// What its threads waited for when time was nearly up.
    pub(super) threads: PathBuf,
    /// What QEMU says.
    pub(super) errors: PathBuf,
}

impl Files {
    fn in_directory(directory: &Path) -> Self {
        let file = |name| directory.join(name);
        Self {
            console: file("console.log"),
            status: file("status"),
            threads: file("threads"),
            errors: file("qemu.log"),
        }
    }

    /// The commands' statuses, as far as they were told.
    fn statuses(&self) -> Vec<i32> {
        let told = read(&self.status);
        told.lines()
            .filter_map(|line| line.strip_prefix("exit ")?.parse().ok())
            .collect()
    }

    /// What there is to find out why it failed.
    fn told(&self) -> String {
        let mut told = String::new();
        for (who, path, most) in [
            ("QEMU", &self.errors, TAIL),
            ("its threads", &self.threads, usize::MAX),
            ("its kernel", &self.console, TAIL),
        ] {
            let text = read(path);
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(most)..] {
                told.push_str(&format!("{who}: {line}\n"));
            }
        }
        told
    }
}

/// A file's text; none where there is no such file.
fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Becomes true at Ctrl-C or a polite request to end.
fn interrupts() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(flag)
}
