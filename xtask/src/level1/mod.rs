//! An emulated machine with hardware KVM, for tests that need the real thing.
//!
//! Development hosts may have PVM, or no `/dev/kvm` at all. QEMU emulates a
//! processor with SVM and nested paging; in it ("level 1") a distribution's kernel
//! has a genuine `kvm-amd`, and our guests ("level 2") run as on hardware, only
//! slower.
//!
//! ```text
//! host                 level 1                                    level 2
//! QEMU (TCG) ───────── Debian's cloud kernel, initramfs, kvm-amd
//!   root.ext4 ──────── /: busybox, the files of the job, their
//!                         libraries, all at the paths they have
//!                         on the host
//!                      /job: the commands ──────────────────────── hyperfork run …
//!   standard output <─ port "output": what the commands print
//!   status file <───── port "status": `exit N` after each command
//!   threads file <──── port "threads": what they all do when time
//!                         is nearly up
//!   console.log <───── serial: the kernel
//! ```
//!
//! Files keep their paths, so that whatever was compiled or configured with a path
//! of the host (`env!("CARGO_BIN_EXE_…")`, the image cache) works unchanged.

mod files;
mod initramfs;
mod lines;
mod machine;
mod modules;
mod packages;
mod prepared;
mod qemu;
mod root;
mod suite;

use prepared::Prepared;
pub(crate) use suite::{TARGETS, job, selection};

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to run in the emulated machine.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// Files and directories the commands need, by absolute path. Shared libraries
    /// of programs among the files come along by themselves.
    pub(crate) files: Vec<PathBuf>,
    /// Environment of the commands, beside `HOME`, `PATH` and `TERM`.
    pub(crate) env: Vec<(String, OsString)>,
    /// Run one after the other, whether those before succeed or fail.
    pub(crate) commands: Vec<Command>,
    /// How long everything may take, from power-on.
    pub(crate) limit: Duration,
}

/// One command of a job.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// Program and arguments.
    pub(crate) argv: Vec<OsString>,
    /// Where it starts; made if it is not there.
    pub(crate) directory: PathBuf,
}

/// Runs a job; `output` gets each line the commands print, as it comes. Gives the
/// commands' exit statuses, one for each.
///
/// # Errors
/// When the machine cannot be prepared; when it dies, hangs beyond the limit, or
/// ends without having reported every command's status; when interrupted.
pub(crate) fn run(job: &Job, output: &mut dyn FnMut(&str)) -> Result<Vec<i32>> {
    if job.commands.is_empty() {
        bail!("nothing to run in the emulated machine");
    }
    let prepared = Prepared::ensure()?;
    sweep(prepared.cache())?;
    let scratch = tempfile::Builder::new()
        .prefix(&format!("{RUN}{}.", std::process::id()))
        .tempdir_in(prepared.cache())
        .context("cannot make a directory for the emulated machine")?;
    let disk = root::build(scratch.path(), &prepared.busybox(), job)?;
    machine::run(&prepared, scratch.path(), &disk, job, output)
}

/// Directories of single runs begin with this, and the number of their process.
const RUN: &str = "run-";

/// Removes what runs that were killed have left.
fn sweep(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let owner = name
            .strip_prefix(RUN)
            .and_then(|rest| rest.split_once('.'))
            .map(|(process, _)| Path::new("/proc").join(process));
        if owner.is_some_and(|process| !process.exists()) {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_runs_left_goes_and_the_rest_stays() {
        let cache = tempfile::tempdir().unwrap();
        let ours = format!("{RUN}{}.x", std::process::id());
        // No process has a number this high (PID_MAX_LIMIT is 4 194 304).
        let names = ["0123456789abcdef", ours.as_str(), "run-99999999.x"];
        let exist = || names.map(|name| cache.path().join(name).exists());
        for name in names {
            fs::create_dir(cache.path().join(name)).unwrap();
        }
        sweep(cache.path()).unwrap();
        assert_eq!(exist(), [true, true, false]);
    }
}
