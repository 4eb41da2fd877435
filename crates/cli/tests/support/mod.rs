//! The program, run as a user would, with VMs of its own.
#![allow(dead_code)] // Each test file uses a part.

use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The program.
pub(crate) const HYPERFORK: &str = env!("CARGO_BIN_EXE_hyperfork");

/// This package's directory, which cargo and xtask pass to the tests that they run: if two
/// checkouts share a target directory, the compiled-in path may be the other one's.
pub(crate) fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The smallest guest there is.
pub(crate) const NANO: [&str; 8] = [
    "--image",
    "nano",
    "--cpus",
    "1",
    "--memory",
    "64MiB",
    "--append",
    "touch_mib=4",
];

/// A user with a run directory. Its VMs end with it.
pub(crate) struct User {
    dir: tempfile::TempDir,
}

impl User {
    pub(crate) fn new() -> Self {
        Self {
            // Whatever TMPDIR is: a socket's path has 107 bytes at most.
            dir: tempfile::tempdir_in("/tmp").expect("a directory"),
        }
    }

    /// What is in the run directory.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run/hyperfork")
    }

    /// A directory for whatever else.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let run = self.path("run");
        fs::create_dir_all(&run).expect("a directory");
        let mut command = Command::new(HYPERFORK);
        command
            .args(args)
            .env("XDG_RUNTIME_DIR", run)
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ended {
        Ended::of(self.command(args).output().expect("hyperfork"))
    }

    /// As [`run`](Self::run); it must succeed. Gives what it printed.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let ended = self.run(args);
        assert_eq!(ended.status, 0, "{ended:?}");
        ended.stdout
    }

    /// As [`ok`](Self::ok), for verbs that print JSON.
    pub(crate) fn json<S: AsRef<OsStr>>(&self, args: &[S]) -> Value {
        serde_json::from_str(&self.ok(args)).expect("JSON")
    }

    /// As [`run`](Self::run); it must fail with this status and one line about it.
    pub(crate) fn fails<S: AsRef<OsStr>>(&self, status: i32, args: &[S]) -> String {
        self.run(args).must_have_failed(status)
    }

    /// Starts the program.
    pub(crate) fn start<S: AsRef<OsStr>>(&self, args: &[S]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("hyperfork")
    }

    /// Boots nano under this name.
    pub(crate) fn nano(&self, name: &str) {
        let mut args = vec!["run", "-d", "--name", name];
        args.extend(NANO);
        assert_eq!(self.ok(&args), format!("{name}\n"));
    }

    /// The names of all VMs, ended ones included.
    pub(crate) fn names(&self) -> Vec<String> {
        self.ok(&["ps", "-aq"]).lines().map(str::to_owned).collect()
    }

    /// Waits until nothing is left of any VM: no directory and no process.
    pub(crate) fn must_be_clean(&self) {
        let left = |of_vms: bool| -> Vec<String> {
            let entries = fs::read_dir(self.run_dir()).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names
                .filter(|name| !of_vms || !name.starts_with('.'))
                .collect()
        };
        assert!(left(true).is_empty(), "left behind: {:?}", left(true));
        // The pool ends when no VM has been connected for a moment.
        let is_over = || self.all_processes().is_empty() && left(false).is_empty();
        assert!(
            comes_about(is_over),
            "left behind: {:?} and the processes {:#?}",
            left(false),
            self.all_processes()
                .into_iter()
                .map(told)
                .collect::<Vec<_>>()
        );
    }

    /// Waits until there are so many processes of this user's VMs: some may still be ending, or
    /// have not executed their program yet.
    pub(crate) fn must_have_processes(&self, count: usize) {
        eventually(&format!("{count} processes"), || {
            self.processes().len() == count
        });
    }

    /// The processes of this user's VMs, known by the files they have open.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let pool = [".pool", ".shells"].map(|name| self.run_dir().join(name));
        self.processes_with(|path| !pool.iter().any(|dir| path.starts_with(dir)))
    }

    /// These and the pool's processes, waiting shells included.
    pub(crate) fn all_processes(&self) -> Vec<u32> {
        self.processes_with(|_| true)
    }

    /// The processes that have a file open under the run directory for which `which` holds.
    fn processes_with(&self, which: impl Fn(&Path) -> bool) -> Vec<u32> {
        let ours = |pid: &u32| {
            let fds = fs::read_dir(format!("/proc/{pid}/fd"))
                .into_iter()
                .flatten()
                .flatten();
            let mut links = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
            links.any(|link| link.starts_with(self.run_dir()) && which(&link))
        };
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(ours).collect()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut args = vec!["rm".to_owned(), "-f".to_owned()];
        args.extend(self.names());
        if args.len() > 2 {
            self.run(&args);
        }
    }
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Checks that it ended with this status, printed nothing on standard output and the reason in
    /// one line on standard error, which is returned. Lines of progress may come before.
    pub(crate) fn must_have_failed(self, status: i32) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let lines = self.stderr.lines().filter(|line| !line.ends_with(" ..."));
        let lines: Vec<_> = lines.collect();
        assert!(
            lines.len() == 1 && lines[0].starts_with("error: "),
            "{self:?}"
        );
        lines[0].to_owned()
    }
}

/// Waits for a condition, with a deadline.
pub(crate) fn eventually(what: &str, holds: impl FnMut() -> bool) {
    assert!(comes_about(holds), "{what} did not come about");
}

/// Whether a condition holds, at the latest after two minutes.
fn comes_about(mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > Duration::from_secs(120) {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// A process, for a failure's message: its number, arguments, state and parent.
fn told(pid: u32) -> String {
    let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let (arguments, status) = (of("cmdline").replace('\0', " "), of("status"));
    let wanted = |line: &&str| line.starts_with("State:") || line.starts_with("PPid:");
    let status = status.lines().filter(wanted).collect::<Vec<_>>().join(", ");
    format!("{pid} {arguments}({status})")
}

/// Sends a signal, by its name.
pub(crate) fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(sent.expect("kill").success());
}

/// Waits for a program that was started.
pub(crate) fn finish(child: Child) -> Ended {
    Ended::of(child.wait_with_output().expect("its output"))
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).expect("a text file")
}
