//! The agent as PID 1, with mounts, host name and network of its own: in Linux
//! namespaces, so these tests want root. They cannot set the clock: that
//! capability is taken away.
#![allow(clippy::unwrap_used)]

mod support;

use hyperfork_api::guest::{GuestIdentity, Reply, Request, Stream};
use hyperfork_api::{Secrets, VmName, guest};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{SystemTime, UNIX_EPOCH};
use support::*;
use tempfile::TempDir;

struct Guest {
    process: Child,
    directory: TempDir,
}

impl Guest {
    fn boot() -> Self {
        let directory = tempfile::tempdir_in(SHORT).unwrap();
        let process = Command::new("env")
            .args(["--default-signal", "setpriv"])
            .arg("--bounding-set=-sys_time")
            .args(["unshare", "--pid", "--fork", "--kill-child"])
            .args(["--mount", "--uts", "--net", "--ipc"])
            .arg(env!("CARGO_BIN_EXE_hyperfork-agent"))
            .arg("--listen")
            .arg(directory.path())
            .arg(PARENT.to_string())
            .env_clear()
            // As the kernel starts PID 1.
            .envs([
                ("HOME", "/"),
                ("TERM", "linux"),
                ("GLIBC_TUNABLES", "glibc.malloc.check=0"),
            ])
            .env("PATH", std::env::var_os("PATH").unwrap())
            .spawn()
            .unwrap();
        let guest = Self { process, directory };
        wait_for(&guest.socket());
        guest
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join(format!("{PARENT}.sock"))
    }

    fn ask(&self, request: &Request) -> Reply {
        let mut talk = Talk::to(&self.socket());
        talk.say(request);
        talk.hear()
    }

    fn identify(&self, seed: Vec<u8>) -> Reply {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut identity = identity(PARENT);
        identity.seed = seed;
        identity.name = VmName::new("web.2").unwrap();
        self.ask(&Request::Identify {
            identity,
            realtime_ns: now.as_nanos() as u64,
            shares: Vec::new(),
            secrets: Secrets::default(),
        })
    }

    fn run(&self, script: &str) -> String {
        let mut talk = Talk::to(&self.socket());
        talk.say(&Request::Exec(sh(script)));
        assert_eq!(talk.hear::<Reply>(), Reply::Streaming);
        let end = talk.end();
        assert_eq!(end.status, 0, "{end:?}");
        String::from_utf8(end.stdout).unwrap()
    }

    fn end(mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // `unshare` takes PID 1 with it, and that all others.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn booted() -> Guest {
    let guest = Guest::boot();
    let reply = guest.identify(vec![7; hyperfork_api::Identity::SEED_LEN]);
    assert!(matches!(reply, Reply::Identified { .. }), "{reply:?}");
    guest
}

#[test]
fn a_guest_has_what_linux_programs_expect() {
    let guest = booted();
    let mounts = guest.run("cat /proc/mounts");
    for expected in [
        "proc /proc proc",
        "sysfs /sys sysfs",
        "devpts /dev/pts devpts",
        "tmpfs /dev/shm tmpfs",
        "tmpfs /run tmpfs",
        "tmpfs /tmp tmpfs",
    ] {
        assert!(mounts.contains(expected), "{expected} in {mounts}");
    }
    assert_eq!(
        guest.run("hostname; echo x > /tmp/x && cat /dev/fd/0 < /tmp/x"),
        "web.2\nx\n"
    );
    assert_eq!(
        guest.run("echo $HOME $TERM $GLIBC_TUNABLES"),
        "/root linux glibc.malloc.check=0\n"
    );
    let loopback = guest.run("cat /proc/net/fib_trie");
    assert!(loopback.contains("127.0.0.1"), "{loopback}");
    let who: GuestIdentity =
        serde_json::from_str(&guest.run("cat /run/hyperfork/identity.json")).unwrap();
    assert_eq!(who.name, "web.2");
}

#[test]
fn terminals_work_in_it() {
    let guest = booted();
    let mut talk = Talk::to(&guest.socket());
    talk.say(&Request::Exec(on_terminal(sh(
        "tty; stty size; exec sleep 1000",
    ))));
    assert_eq!(talk.hear::<Reply>(), Reply::Streaming);
    talk.hear_text("24 80");
    talk.say(&Stream::Signal(libc::SIGINT));
    assert_eq!(talk.end().status, 128 + libc::SIGINT);
}

#[test]
fn orphans_are_reaped() {
    let guest = booted();
    guest.run("for k in 1 2 3 4 5; do (sleep 0.05 &) ; done");
    wait_until("PID 1 has no children but who asks", || {
        // The shell that looks, and `ps`-like `ls` below it.
        let zombies = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l; \
                       grep -l '^Name:.sleep' /proc/[0-9]*/status 2>/dev/null | wc -l";
        guest.run(zombies) == "0\n0\n"
    });
}

#[test]
fn without_fresh_randomness_there_is_no_identity() {
    let guest = Guest::boot();
    let reply = guest.identify(vec![1; 5]);
    assert!(matches!(reply, Reply::Failed(guest::Failure::Refused(_))));
    let reply = guest.ask(&Request::Exec(sh("true")));
    assert!(matches!(reply, Reply::Failed(guest::Failure::Refused(_))));
}

#[test]
fn powering_off_lets_programs_end_by_themselves_and_kills_the_others() {
    let guest = booted();
    let file = guest.directory.path().join("ended");
    let script = format!(
        "trap 'echo gently > {}; exit' TERM; echo ready; while :; do sleep 0.01; done",
        file.display()
    );
    let mut gentle = Talk::to(&guest.socket());
    gentle.say(&Request::Exec(sh(&script)));
    assert_eq!(gentle.hear::<Reply>(), Reply::Streaming);
    gentle.hear_text("ready");
    let mut stubborn = Talk::to(&guest.socket());
    stubborn.say(&Request::Exec(sh(
        "trap '' TERM; echo ready; while :; do sleep 0.01; done",
    )));
    assert_eq!(stubborn.hear::<Reply>(), Reply::Streaming);
    stubborn.hear_text("ready");

    assert_eq!(guest.ask(&Request::PowerOff), Reply::Ok);
    let kept = read_when_there(&file);
    assert_eq!(kept, "gently\n");
    // A restart ends a PID namespace like this (pid_namespaces(7), reboot(2));
    // `unshare` ends as PID 1 did.
    let status = guest.end();
    assert_eq!(
        status.signal().or(status.code()),
        Some(libc::SIGHUP),
        "{status:?}"
    );
}

fn read_when_there(path: &Path) -> String {
    wait_until("the program ended by itself", || {
        content(path).is_ok_and(|text| !text.is_empty())
    });
    content(path).unwrap()
}
