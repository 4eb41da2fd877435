//! Hooks: programs that renew in a clone what the agent cannot. The clone answers when all of
//! them have succeeded, and not at all when one of them fails.
//!
//! The agent watches their directories, so it knows the hooks beforehand: to list a directory takes
//! several milliseconds where the guest's kernel is emulated, and most guests have no hooks.

use crate::environment::Environment;
use crate::log;
use crate::sys::spawn::{Plan, spawn};
use hyperfork_api::Identity;
use hyperfork_api::guest::{Failure, HOOKS_DIR};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read};
use rustix::process::{WaitOptions, WaitStatus, waitpid};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where SSH host keys are, and what renews them.
const SSH_DIR: &str = "/etc/ssh";
const RENEW_SSH_KEYS: &str = "/usr/lib/hyperfork/renew-ssh-host-keys";

/// The programs, and the watch that reports that there may be others.
#[derive(Debug)]
pub(crate) struct Hooks {
    changes: Option<OwnedFd>,
    programs: Vec<PathBuf>,
    environment: Environment,
}

impl Hooks {
    /// Watches the directories that there are.
    pub(crate) fn watched() -> Self {
        let mut hooks = Self {
            changes: None,
            programs: Vec::new(),
            environment: Environment::inherited(),
        };
        match watch([HOOKS_DIR, SSH_DIR]) {
            Ok(changes) => hooks.changes = Some(changes),
            Err(error) => log::error(format_args!("{HOOKS_DIR} cannot be watched: {error}")),
        }
        hooks.look();
        hooks
    }

    /// Ready to be read when there may be other programs.
    pub(crate) fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.changes.as_ref().map(AsFd::as_fd)
    }

    /// Finds out which programs there are now.
    pub(crate) fn changed(&mut self) {
        if let Some(changes) = &self.changes {
            let mut events = [0; 4096];
            while read(changes, &mut events).is_ok_and(|len| len > 0) {}
        }
        self.look();
    }

    fn look(&mut self) {
        self.programs = match programs(Path::new(HOOKS_DIR)) {
            Ok(programs) => programs,
            Err(error) => {
                log::error(format_args!("{HOOKS_DIR}: {error}"));
                Vec::new()
            }
        };
        if has_host_keys(Path::new(SSH_DIR)) && Path::new(RENEW_SSH_KEYS).exists() {
            self.programs.insert(0, RENEW_SSH_KEYS.into());
        }
    }

    /// Runs them all, one after the other.
    ///
    /// # Errors
    /// The first that fails.
    pub(crate) fn run(&self, identity: &Identity) -> Result<(), Failure> {
        if self.programs.is_empty() {
            return Ok(());
        }
        let variables = [
            ("HYPERFORK_NAME", identity.name.to_string()),
            ("HYPERFORK_INDEX", identity.index.to_string()),
            ("HYPERFORK_GENERATION", identity.generation.to_string()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value));
        let environment = self.environment.with(&variables, false);
        self.programs.iter().try_for_each(|program| {
            run(program, &environment).map_err(|why| Failure::File {
                path: program.display().to_string(),
                reason: why,
            })
        })
    }
}

fn watch<const N: usize>(directories: [&str; N]) -> io::Result<OwnedFd> {
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let what = WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVE
        | WatchFlags::ATTRIB
        | WatchFlags::CLOSE_WRITE;
    for directory in directories {
        match inotify::add_watch(&changes, directory, what) {
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(changes)
}

/// All that may be executed, by name.
fn programs(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let is_program = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut found = paths.collect::<io::Result<Vec<_>>>()?;
    found.retain(is_program);
    found.sort();
    Ok(found)
}

fn has_host_keys(directory: &Path) -> bool {
    let is_key = |name: &str| name.starts_with("ssh_host_") && name.ends_with("_key");
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name())
        .any(|name| name.to_str().is_some_and(is_key))
}

/// Runs a program to its end; what it prints is in the kernel's log.
fn run(program: &Path, environment: &Environment) -> Result<(), String> {
    let message = |error: &dyn std::fmt::Display| error.to_string();
    let path = CString::new(program.as_os_str().as_encoded_bytes()).map_err(|e| message(&e))?;
    let env = environment.strings().map_err(|error| message(&error))?;
    let device = |path, access| open(path, access | OFlags::CLOEXEC, Mode::empty());
    let nothing = device("/dev/null", OFlags::RDWR).map_err(|error| message(&error))?;
    let output = device("/dev/kmsg", OFlags::WRONLY);
    let output = output.as_ref().unwrap_or(&nothing).as_fd();
    let plan = Plan {
        argv: std::slice::from_ref(&path),
        candidates: std::slice::from_ref(&path),
        env: &env,
        cwd: None,
        stdio: [nothing.as_fd(), output, output],
        terminal: false,
    };
    let pid = spawn(&plan).map_err(|error| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })?;
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Err(Errno::INTR) | Ok(None) => {}
            Err(error) => return Err(message(&error)),
            Ok(Some((_, status))) => return succeeded(status),
        }
    }
}

fn succeeded(status: WaitStatus) -> Result<(), String> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(format!("it ended with status {code}")),
        (_, signal) => Err(format!("signal {} ended it", signal.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_executed_is_run_in_the_order_of_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        assert!(programs(&path("missing")).unwrap().is_empty());
        for (name, mode) in [("20-b", 0o755), ("10-a", 0o755), ("30-text", 0o644)] {
            fs::write(path(name), "").unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(path("40-directory")).unwrap();
        std::os::unix::fs::symlink("20-b", path("50-link")).unwrap();
        let expected = ["10-a", "20-b", "50-link"].map(path);
        assert_eq!(programs(directory.path()).unwrap(), expected);
    }

    #[test]
    fn only_private_host_keys_are_to_be_renewed() {
        let directory = tempfile::tempdir().unwrap();
        let has = || has_host_keys(directory.path());
        fs::write(directory.path().join("ssh_config"), "").unwrap();
        fs::write(directory.path().join("ssh_host_rsa_key.pub"), "").unwrap();
        assert!(!has());
        fs::write(directory.path().join("ssh_host_rsa_key"), "").unwrap();
        assert!(has());
    }

    #[test]
    fn a_program_that_fails_says_how() {
        let environment = Environment::inherited();
        let run = |program: &str| run(Path::new(program), &environment);
        assert_eq!(run("/bin/true"), Ok(()));
        assert_eq!(run("/bin/false"), Err("it ended with status 1".to_owned()));
        assert!(run("/no/such").unwrap_err().contains("No such file"));
    }
}
