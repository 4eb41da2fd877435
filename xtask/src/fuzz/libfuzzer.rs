//! The command line of a fuzz target's program (libFuzzer).

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A file system in memory.
const MEMORY_FILES: &str = "/dev/shm";
/// Environment variable: the directory in which a target makes its own (see `fuzz/src/lib.rs`).
const SCRATCH: &str = "HYPERFORK_FUZZ_SCRATCH";
/// Seconds that one input may take.
const SLOWEST: u32 = 10;
/// MiB that the process may take, and one allocation.
const MEMORY: u32 = 2048;
const ALLOCATION: u32 = 512;

/// The program, with limits, saying everything to `log`; and the directory for what it makes, which
/// goes with the result. The program may be killed, so it cannot see to that itself.
///
/// # Errors
/// When the log or the directory cannot be made.
pub(super) fn libfuzzer(program: &Path, log: &Path) -> Result<(Command, TempDir)> {
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
    let scratch = tempfile::Builder::new()
        .prefix("hyperfork-fuzz-")
        .tempdir_in(MEMORY_FILES)
        .context(MEMORY_FILES)?;
    command.env(SCRATCH, scratch.path());
    Ok((command, scratch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_target_that_is_killed_leaves_nothing_in_memory() {
        let temp = tempfile::tempdir().unwrap();
        let script = temp.path().join("target");
        let left = temp.path().join("left");
        let text = format!(
            "mkdir -p \"$HYPERFORK_FUZZ_SCRATCH/own/deep\"\n\
             echo \"$HYPERFORK_FUZZ_SCRATCH\" > {}\n\
             kill -9 $$\n",
            left.display()
        );
        fs::write(&script, text).unwrap();
        let log = temp.path().join("log");
        let (command, scratch) = libfuzzer(Path::new("/bin/sh"), &log).unwrap();
        // Before libFuzzer's own arguments, which the shell then ignores.
        let mut shell = Command::new("/bin/sh");
        shell.arg(&script);
        shell.envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        assert_eq!(shell.status().unwrap().signal(), Some(9));
        let own = fs::read_to_string(left).unwrap();
        let own = Path::new(own.trim());
        assert!(own.starts_with("/dev/shm") && own.join("own/deep").is_dir());
        drop(scratch);
        assert!(!own.exists());
    }
}
