//! The emulated machine, running.

use super::files::Files;
use super::lines::Lines;
use super::qemu::Qemu;
use super::{Job, Prepared};
use anyhow::{Result, bail};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// How often an interrupt or the time limit is looked for.
const POLL: Duration = Duration::from_millis(100);

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

/// Becomes true at Ctrl-C or a polite request to end.
fn interrupts() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(flag)
}
