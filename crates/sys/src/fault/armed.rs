//! Fault points in builds with debug assertions.

use super::{FILE, STRUCK};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};
use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

static RUN_DIR: OnceLock<PathBuf> = OnceLock::new();

/// How often each point was reached since the file was changed.
static REACHED: Mutex<Option<Reached>> = Mutex::new(None);

struct Reached {
    file: String,
    times: HashMap<&'static str, u32>,
}

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Error(Option<Errno>),
    Kill,
    Stop,
    Panic,
}

/// A line of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Armed {
    action: Action,
    nth: Option<u32>,
    pid: Option<u32>,
    not: Option<u32>,
}

pub(super) fn arm_from(run_dir: &Path) {
    // A clone made by fork(2) has its parent's, which is the same.
    let _ = RUN_DIR.set(run_dir.to_owned());
}

pub(super) fn reach(name: &'static str) -> io::Result<()> {
    let Some(run_dir) = RUN_DIR.get() else {
        return Ok(());
    };
    let Ok(file) = fs::read_to_string(run_dir.join(FILE)) else {
        return Ok(());
    };
    let Some(armed) = file.lines().find_map(|line| parse(line, name)) else {
        return Ok(());
    };
    let times = count(name, &file);
    let this = std::process::id();
    let strikes = armed.nth.is_none_or(|nth| nth == times)
        && armed.pid.is_none_or(|pid| pid == this)
        && armed.not != Some(this);
    if !strikes {
        return Ok(());
    }
    let struck = OpenOptions::new()
        .create(true)
        .append(true)
        .open(run_dir.join(STRUCK));
    struck.and_then(|mut struck| writeln!(struck, "{name}"))?;
    match armed.action {
        Action::Error(Some(errno)) => Err(errno.into()),
        Action::Error(None) => Err(io::Error::other(format!("fault point {name}"))),
        Action::Kill => Ok(kill_process(getpid(), Signal::KILL)?),
        Action::Stop => stop(),
        Action::Panic => panic!("fault point {name}"),
    }
}

/// Stops the process. The signal is for this thread, which must not get on before the process
/// stands still: another point would strike when it has been continued already.
fn stop() -> io::Result<()> {
    // SAFETY: raising a signal touches no memory of this process.
    match unsafe { libc::raise(libc::SIGSTOP) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn count(name: &'static str, file: &str) -> u32 {
    let mut reached = REACHED.lock().unwrap_or_else(PoisonError::into_inner);
    if reached.as_ref().is_none_or(|reached| reached.file != file) {
        *reached = Some(Reached {
            file: file.to_owned(),
            times: HashMap::new(),
        });
    }
    let times = reached.as_mut().map(|reached| reached.times.entry(name));
    times.map_or(0, |times| {
        let times = times.or_default();
        *times += 1;
        *times
    })
}

/// What a line of the file says of a point, if anything.
fn parse(line: &str, name: &str) -> Option<Armed> {
    let mut words = line.split_whitespace();
    if words.next() != Some(name) {
        return None;
    }
    let action = match words.next()? {
        "error" => Action::Error(None),
        "ENOSPC" => Action::Error(Some(Errno::NOSPC)),
        "EMFILE" => Action::Error(Some(Errno::MFILE)),
        "EAGAIN" => Action::Error(Some(Errno::AGAIN)),
        "kill" => Action::Kill,
        "stop" => Action::Stop,
        "panic" => Action::Panic,
        _ => return None,
    };
    let mut armed = Armed {
        action,
        nth: None,
        pid: None,
        not: None,
    };
    for word in words {
        match word.split_once('=') {
            Some(("pid", pid)) => armed.pid = Some(pid.parse().ok()?),
            Some(("not", pid)) => armed.not = Some(pid.parse().ok()?),
            Some(_) => return None,
            None => armed.nth = Some(word.parse().ok()?),
        }
    }
    Some(armed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_point_an_action_and_maybe_which_time_and_process() {
        let armed = |action, nth, pid| {
            Some(Armed {
                action,
                nth,
                pid,
                not: None,
            })
        };
        let enospc = Action::Error(Some(Errno::NOSPC));
        assert_eq!(parse("a.b ENOSPC 2", "a.b"), armed(enospc, Some(2), None));
        assert_eq!(parse("a.b kill", "a.b"), armed(Action::Kill, None, None));
        let stop = armed(Action::Stop, None, Some(7));
        assert_eq!(parse("a.b stop pid=7", "a.b"), stop);
        let others = parse("a.b kill not=7", "a.b").unwrap();
        assert_eq!((others.pid, others.not), (None, Some(7)));
        assert_eq!(parse("a.b kill at=7", "a.b"), None);
        assert_eq!(parse("a.b kill", "a.c"), None);
        assert_eq!(parse("a.b burn", "a.b"), None);
        assert_eq!(parse("", "a.b"), None);
    }

    #[test]
    fn a_point_strikes_as_often_as_the_file_says_and_leaves_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        assert!(reach("a.b").is_ok(), "not armed");
        arm_from(dir.path());
        assert!(reach("a.b").is_ok(), "no file");
        fs::write(dir.path().join(FILE), "a.b ENOSPC 2\n").unwrap();
        assert!(reach("a.b").is_ok());
        let error = reach("a.b").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(reach("a.b").is_ok());
        // Another file counts anew.
        fs::write(dir.path().join(FILE), "a.b error 1\n").unwrap();
        assert!(reach("a.b").is_err());
        let struck = fs::read_to_string(dir.path().join(STRUCK)).unwrap();
        assert_eq!(struck, "a.b\na.b\n");
    }
}
