//! A VM under test, with the witness in it.

use crate::support::{Ended, User, eventually, read};
use crate::witness;
use serde_json::Value;
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// What a kernel prints when something is wrong with it.
const COMPLAINTS: [&str; 11] = [
    "WARNING",
    "BUG:",
    "Oops",
    "stall",
    "lockup",
    "Call Trace",
    "segfault",
    "general protection",
    "error",
    "hung",
    "unstable",
];

/// Rounds of the witness from any moment on after which one has surely begun and
/// ended since: the first may have been under way, and the last be so.
const ROUNDS: u64 = 3;

/// How often a test forks a guest: what this variable says (`cargo xtask soak`), or `usual`.
pub(crate) fn forks_or(usual: usize) -> usize {
    let told = env::var("HYPERFORK_TEST_FORKS").ok();
    told.map_or(usual, |forks| forks.parse().unwrap())
}

/// A VM under test.
pub(crate) struct Guest<'a> {
    pub(crate) user: &'a User,
    pub(crate) name: String,
    /// Threads of the witness that watch in it.
    watchers: &'static [&'static str],
}

impl<'a> Guest<'a> {
    /// Boots with two CPUs, the witness, and a kernel that prints all its messages.
    pub(crate) fn boot(user: &'a User, name: &str, more: &[&str]) -> Self {
        Self::boot_with_cpus(user, name, "2", more)
    }

    /// The same, with so many CPUs.
    pub(crate) fn boot_with_cpus(user: &'a User, name: &str, cpus: &str, more: &[&str]) -> Self {
        let mut args = vec!["run", "-d", "--quiet", "--name", name];
        args.extend(["--cpus", cpus, "--memory", "256MiB"]);
        args.extend(more);
        assert_eq!(user.ok(&args), format!("{name}\n"));
        let guest = Self::named(user, name);
        let witness = witness::program().to_str().unwrap();
        user.ok(&["cp", witness, &format!("{name}:/usr/bin/witness.new")]);
        // Under its name it is there in one step, for a main program that waits for it.
        guest.sh("echo 8 > /proc/sys/kernel/printk; mv /usr/bin/witness.new /usr/bin/witness");
        guest
    }

    /// One that is there.
    pub(crate) fn named(user: &'a User, name: &str) -> Self {
        Self {
            user,
            name: name.to_owned(),
            watchers: &[],
        }
    }

    /// Boots one in which these parts of the witness watch.
    pub(crate) fn boot_watched(user: &'a User, name: &str, parts: &witness::WitnessParts) -> Self {
        Self::boot_watched_with(user, name, parts, &[])
    }

    /// The same, with more options.
    pub(crate) fn boot_watched_with(
        user: &'a User,
        name: &str,
        parts: &witness::WitnessParts,
        more: &[&str],
    ) -> Self {
        let script = format!(
            "until test -x /usr/bin/witness; do usleep 100000; done; exec witness watch {}",
            parts.names
        );
        let program = ["--", "sh", "-c", &script];
        let mut guest = Self::boot(user, name, &[more, &program[..]].concat());
        guest.watchers = parts.threads;
        guest.must_go_on();
        guest
    }

    /// Runs a script, however it ends.
    pub(crate) fn run(&self, script: &str) -> Ended {
        self.user
            .run(&["exec", &self.name, "--", "sh", "-c", script])
    }

    /// Runs a script that succeeds; gives what it printed.
    pub(crate) fn sh(&self, script: &str) -> String {
        let ended = self.run(script);
        assert_eq!(ended.status, 0, "{}: {script}: {ended:?}", self.name);
        ended.stdout
    }

    /// Runs a program that succeeds; gives what it printed. On a PVM host this takes
    /// half as long as a script.
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        let args = [&["exec", self.name.as_str(), "--"], command].concat();
        self.user.ok(&args)
    }

    /// Starts a program.
    pub(crate) fn start(&self, command: &[&str]) -> Child {
        let args = [&["exec", self.name.as_str(), "--"], command].concat();
        self.user.start(&args)
    }

    /// It answers, under its own name.
    pub(crate) fn must_answer(&self) {
        assert_eq!(self.ask(&["hostname"]), format!("{}\n", self.name));
    }

    /// All parts of the witness go on: each does a whole round from now on. Gives how
    /// far they were and are.
    pub(crate) fn must_go_on(&self) -> (Rounds, Rounds) {
        let told = |rounds: &Rounds| self.watchers.iter().all(|part| rounds.contains_key(*part));
        let mut before = Rounds::new();
        eventually("the first rounds", || {
            before = self.rounds();
            told(&before)
        });
        let mut now = Rounds::new();
        eventually("further rounds", || {
            now = self.rounds();
            before
                .iter()
                .all(|(part, rounds)| now[part] >= rounds + ROUNDS)
        });
        (before, now)
    }

    /// How far the parts of the witness are. None has seen anything wrong.
    fn rounds(&self) -> Rounds {
        let log = self.log();
        assert!(!log.contains("BAD"), "in {}: {log}", self.name);
        // The last line may be under way.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let round = |line: &str| {
            let (part, rounds) = line.split_once(' ').unwrap();
            (part.to_owned(), rounds.parse().unwrap())
        };
        whole.lines().map(round).collect()
    }

    /// Forks it.
    pub(crate) fn fork(&self, count: usize) -> Vec<Guest<'a>> {
        self.fork_as(&self.name, count)
    }

    /// Forks it; the clones have other names.
    pub(crate) fn fork_as(&self, prefix: &str, count: usize) -> Vec<Guest<'a>> {
        let count_text = count.to_string();
        let mut args = vec!["fork", &self.name, "-n", &count_text, "--quiet", "--json"];
        args.extend(["--name-prefix", prefix]);
        let report = self.user.json(&args);
        let clones = report["clones"].as_array().unwrap().iter();
        let clones: Vec<_> = clones
            .map(|clone| self.relative(clone["name"].as_str().unwrap()))
            .collect();
        assert_eq!(clones.len(), count);
        clones
    }

    /// Its relative of this name.
    pub(crate) fn relative(&self, name: &str) -> Guest<'a> {
        Guest {
            watchers: self.watchers,
            ..Self::named(self.user, name)
        }
    }

    /// Removes it.
    pub(crate) fn remove(self) {
        self.user.ok(&["rm", "-f", &self.name]);
    }

    /// Kills its process, and checks that it is listed as failed.
    pub(crate) fn kill(&self) {
        kill(self.pid());
        eventually("its end in the list", || self.info()["state"] == "failed");
        let info = self.info();
        assert_eq!(info["pid"], Value::Null);
        assert_eq!(info["error"], "its process was killed");
    }

    /// What `inspect` prints.
    pub(crate) fn info(&self) -> Value {
        self.user.json(&["inspect", &self.name])
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.info()["pid"].as_u64().unwrap().try_into().unwrap()
    }

    /// What its main program has printed.
    pub(crate) fn log(&self) -> String {
        read(self.dir().join("output.log"))
    }

    /// Its console.
    pub(crate) fn console(&self) -> String {
        read(self.dir().join("console.log"))
    }

    fn dir(&self) -> PathBuf {
        self.user.run_dir().join(&self.name)
    }

    /// Its kernel has nothing to complain about.
    pub(crate) fn must_be_at_peace(&self) {
        let console = self.console();
        for complaint in COMPLAINTS {
            assert!(!console.contains(complaint), "{}: {console}", self.name);
        }
    }
}

/// How many rounds each thread of the witness has done.
pub(crate) type Rounds = BTreeMap<String, u64>;

/// Kills a process.
pub(crate) fn kill(pid: u32) {
    let kill = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(kill.unwrap().success());
}

/// What a process holds: descriptors and threads.
pub(crate) fn held_by(pid: u32) -> (usize, usize) {
    let entries = |what: &str| {
        let entries = Path::new("/proc").join(pid.to_string()).join(what);
        entries.read_dir().map_or(0, Iterator::count)
    };
    (entries("fd"), entries("task"))
}

/// The names of a process's threads.
pub(crate) fn threads_of(pid: u32) -> impl Iterator<Item = String> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let tasks = tasks.read_dir().into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim_end().to_owned())
}
