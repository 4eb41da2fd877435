//! Runs the distribution's tools, such as make, tar and mke2fs.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// Why a tool did not do its job.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It could not be started, or its output could not be read.
    #[error("cannot run {tool}")]
    Start {
        /// The tool.
        tool: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{tool} failed ({status}): {complaint}")]
    Failed {
        /// The tool.
        tool: String,
        /// How it ended.
        status: ExitStatus,
        /// The line of its output that tells most.
        complaint: String,
    },
    /// It failed because the disk is full.
    #[error("{tool} found the disk full")]
    DiskFull {
        /// The tool.
        tool: String,
    },
    /// The user interrupted it.
    #[error("{tool} was interrupted")]
    Interrupted {
        /// The tool.
        tool: String,
    },
}

/// One run of a tool, in an environment that does not depend on the caller's:
/// the distribution's own search path, untranslated messages, nothing else.
///
/// The tool ends when this process does, even by SIGKILL: it is sent SIGTERM,
/// on which make and mmdebstrap end their own children.
#[derive(Debug)]
pub struct Tool {
    name: String,
    command: Command,
}

/// How much output is kept to find out what went wrong.
const KEPT_LINES: usize = 60;

impl Tool {
    /// A run of `program` without arguments.
    pub fn new(program: &str) -> Self {
        let mut command = Command::new("/usr/bin/setpriv");
        command
            .args(["--pdeathsig", "TERM", "--", program])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        Self {
            name: program.to_owned(),
            command,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Adds `prefix=path` as one argument.
    #[must_use]
    pub fn arg_path(mut self, prefix: &str, path: &Path) -> Self {
        let mut arg = std::ffi::OsString::from(prefix);
        arg.push(path);
        self.command.arg(arg);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Passes the caller's proxies on, by which this machine reaches package mirrors.
    #[must_use]
    pub fn with_proxies(mut self) -> Self {
        for name in ["http_proxy", "https_proxy", "no_proxy"] {
            if let Some(value) = std::env::var_os(name) {
                self.command.env(name, value);
            }
        }
        self
    }

    /// Runs it to its end, handing over each line it prints on either stream.
    ///
    /// # Errors
    /// [`ToolError`], where it does not end with status 0.
    pub fn run(mut self, mut on_line: impl FnMut(&str)) -> Result<(), ToolError> {
        let tool = self.name;
        let start = |source| ToolError::Start {
            tool: tool.clone(),
            source,
        };
        let (output, input) = io::pipe().map_err(start)?;
        self.command
            .stdout(input.try_clone().map_err(start)?)
            .stderr(input);
        let mut child = self.command.spawn().map_err(start)?;
        // The command holds this side's copies of the pipe's writing end; the
        // loop below would never see its end.
        drop(self.command);

        let mut kept = VecDeque::new();
        let mut reader = BufReader::new(output);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).map_err(start)? > 0 {
            let text = String::from_utf8_lossy(&bytes);
            // Progress displays overwrite themselves with carriage returns.
            let line = text.trim_end().rsplit('\r').next().unwrap_or_default();
            if !line.is_empty() {
                on_line(line);
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(line.to_owned());
            }
            bytes.clear();
        }
        let status = child.wait().map_err(start)?;
        match status.success() {
            true => Ok(()),
            false => Err(explain(tool, status, &kept)),
        }
    }

    /// Runs it and takes what it prints on standard output.
    ///
    /// # Errors
    /// As [`Tool::run`].
    pub fn output(mut self) -> Result<String, ToolError> {
        let tool = self.name;
        match self.command.output() {
            Err(source) => Err(ToolError::Start { tool, source }),
            Ok(output) if output.status.success() => {
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            }
            Ok(output) => {
                let complaints = String::from_utf8_lossy(&output.stderr);
                let kept = complaints.lines().map(str::to_owned).collect();
                Err(explain(tool, output.status, &kept))
            }
        }
    }
}

/// Finds the reason in the last lines of a failed tool's output.
fn explain(tool: String, status: ExitStatus, output: &VecDeque<String>) -> ToolError {
    let mentions = |words: &[&str]| {
        output.iter().find(|line| {
            let line = line.to_lowercase();
            words.iter().any(|word| line.contains(word))
        })
    };
    let full = ["no space left on device", "disk quota exceeded"];
    if mentions(&full).is_some() {
        return ToolError::DiskFull { tool };
    }
    // SIGINT and SIGTERM, as seen directly or through a shell's or make's status.
    if matches!(status.signal(), Some(2 | 15)) || matches!(status.code(), Some(130 | 143)) {
        return ToolError::Interrupted { tool };
    }
    // Not just "error": packages are called so.
    let complaint = mentions(&[
        "error:",
        "fatal:",
        "failed",
        "cannot ",
        "unable to",
        "not found",
    ])
    .or(output.back())
    .map_or_else(
        || "it printed nothing".to_owned(),
        |line| line.trim().to_owned(),
    );
    ToolError::Failed {
        tool,
        status,
        complaint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Tool {
        Tool::new("sh").args(["-c", script])
    }

    #[test]
    fn both_streams_arrive_line_by_line() {
        let mut lines = Vec::new();
        shell("echo one; echo two >&2; printf 'x\\r99%%\\nthree'")
            .run(|line| lines.push(line.to_owned()))
            .unwrap();
        assert_eq!(lines, ["one", "two", "99%", "three"]);
    }

    #[test]
    fn the_callers_environment_does_not_reach_a_tool() {
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let environment = Tool::new("env").output().unwrap();
        let mut names: Vec<_> = environment
            .lines()
            .filter_map(|line| Some(line.split_once('=')?.0))
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["LC_ALL", "PATH", "TZ"]);
    }

    #[test]
    fn a_failure_is_told_by_the_line_that_matters() {
        let error = shell(
            "echo 'Unpacking libgpg-error0'; echo 'x.c:1: error: no'; echo 'giving up'; exit 2",
        )
        .run(|_| ())
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "sh failed (exit status: 2): x.c:1: error: no"
        );
        let error = Tool::new("hyperfork-no-such-tool").run(|_| ()).unwrap_err();
        assert!(error.to_string().contains("hyperfork-no-such-tool"));
    }

    #[test]
    fn a_full_disk_and_an_interruption_are_told_apart_from_failures() {
        let full = shell("echo 'as: x.o: No space left on device' >&2; exit 1").run(|_| ());
        assert!(matches!(full, Err(ToolError::DiskFull { .. })), "{full:?}");
        let interrupted = shell("kill -INT $$").run(|_| ());
        assert!(matches!(interrupted, Err(ToolError::Interrupted { .. })));
    }
}
