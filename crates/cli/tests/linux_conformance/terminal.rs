//! A shell on a terminal.

use crate::guest::Guest;
use crate::support::{HYPERFORK, User, eventually};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

/// A terminal session with a guest's shell.
pub(crate) struct Session {
    script: Child,
    keys: ChildStdin,
    shown: PathBuf,
}

impl Session {
    pub(crate) fn start(user: &User, guest: &Guest<'_>) -> Self {
        let shown = user.path("shown");
        let session = format!("{HYPERFORK} exec -it {} -- sh", guest.name);
        let mut script = Command::new("script")
            .args(["-qec", &session, "/dev/null"])
            .env("XDG_RUNTIME_DIR", user.path("run"))
            .stdin(Stdio::piped())
            .stdout(File::create(&shown).unwrap())
            .spawn()
            .unwrap();
        let keys = script.stdin.take().unwrap();
        Self {
            script,
            keys,
            shown,
        }
    }

    /// Types a line, and waits for what the shell makes of it: something that is not in
    /// what is typed, since that is shown, too.
    pub(crate) fn types(&mut self, line: &str, answer: &str) {
        writeln!(self.keys, "{line}").unwrap();
        eventually("the shell's answer", || {
            String::from_utf8_lossy(&fs::read(&self.shown).unwrap()).contains(answer)
        });
    }

    /// Has the shell exit; gives the session's status.
    pub(crate) fn exit(mut self, status: i32) -> Option<i32> {
        writeln!(self.keys, "exit {status}").unwrap();
        self.script.wait().unwrap().code()
    }
}
