//! Injecting faults into processes, and inspecting processes.
#![allow(dead_code)] // Each test file uses a part.

use crate::support::{Ended, User, eventually};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

/// How long a command that waits for no VM may take on a busy host. One that hangs takes minutes,
/// or does not end.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// Waits for a program that was started, with a deadline.
pub(crate) fn finish_within(mut child: Child, most: Duration) -> Ended {
    let begun = Instant::now();
    while child.try_wait().expect("wait").is_none() {
        if begun.elapsed() > most {
            let _ = child.kill();
            panic!(
                "it did not end: {:?}",
                Ended::of(child.wait_with_output().expect("output"))
            );
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ended::of(child.wait_with_output().expect("its output"))
}

/// Runs `hyperfork` as [`User::run`], with a deadline.
pub(crate) fn soon(user: &User, args: &[&str]) -> Ended {
    finish_within(user.start(args), SOON)
}

/// Sends a signal, by its name, unless the process has ended.
pub(crate) fn signal(pid: u32, name: &str) {
    let mut kill = Command::new("kill");
    let kill = kill.args(["-s", name, &pid.to_string()]);
    drop(kill.output().expect("kill"));
}

/// The process of a VM.
pub(crate) fn pid_of(user: &User, vm: &str) -> u32 {
    let info = user.json(&["inspect", vm]);
    info["pid"]
        .as_u64()
        .expect("a process")
        .try_into()
        .expect("its number")
}

/// Whether there is such a process, and it has not ended.
pub(crate) fn lives(pid: u32) -> bool {
    state_of(pid).is_some_and(|state| !"ZX".contains(state))
}

/// Its state, as ps(1) has it: `T` for a stopped process.
pub(crate) fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')?..].chars().nth(2)
}

/// How many descriptors a process has.
pub(crate) fn descriptors_of(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The user's pool.
pub(crate) fn pool_of(user: &User) -> Option<u32> {
    let wanted = format!("hyperfork-vm\0pool\0{}\0", user.run_dir().display());
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid: &u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.starts_with(wanted.as_bytes())
    })
}

/// The processes of shells in stock, built or being built.
pub(crate) fn shells_of(user: &User) -> Vec<u32> {
    let entries = fs::read_dir(user.run_dir().join(".shells"));
    let locks = entries.into_iter().flatten().flatten();
    let pids = locks.filter_map(|entry| fs::read_to_string(entry.path().join("lock")).ok());
    pids.filter_map(|pid| pid.parse().ok())
        .filter(|&pid| lives(pid))
        .collect()
}

/// Removes all VMs but these. Clones whose parent gave them up may go by themselves meanwhile.
pub(crate) fn remove_all_but(user: &User, spared: &[&str]) {
    let others = |name: &String| !spared.contains(&name.as_str());
    eventually("the removal of all others", || {
        let names = user.names().into_iter().filter(others).collect::<Vec<_>>();
        if names.is_empty() {
            return true;
        }
        let mut remove = vec!["rm".to_owned(), "-f".to_owned()];
        remove.extend(names);
        let ended = finish_within(user.start(&remove), SOON);
        assert!([0, 1].contains(&ended.status), "{remove:?}: {ended:?}");
        false
    });
}

/// A run directory on a small file system of its own.
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts it, before the user has a VM.
    pub(crate) fn of(user: &User) -> Self {
        let path = user.path("run");
        fs::create_dir_all(&path).expect("a directory");
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs"]);
        let mounted = Ended::of(mount.arg(&path).output().expect("mount"));
        assert_eq!(
            mounted.status, 0,
            "this test mounts a tmpfs, as root: {mounted:?}"
        );
        Self { path }
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Fills it.
    pub(crate) fn fill(&self) {
        let source = fs::File::open("/dev/zero").expect("zeroes");
        let mut file = fs::File::create(self.filler()).expect("a file");
        let full = std::io::copy(&mut &source, &mut file).expect_err("it has no end");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    }

    /// Frees the space again.
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.filler()).expect("the filler");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        drop(unmount.arg("-l").arg(&self.path).output());
        // The user could not remove the directory while it was mounted.
        let _ = self.path.parent().map(fs::remove_dir_all);
    }
}

/// A process's limits, by prlimit(1), until this is dropped.
pub(crate) fn limit_descriptors(pid: u32, most: usize) {
    let mut prlimit = Command::new("prlimit");
    let limit = format!("--nofile={most}:");
    let prlimit = prlimit.args(["--pid", &pid.to_string(), &limit]);
    let limited = Ended::of(prlimit.output().expect("prlimit"));
    assert_eq!(limited.status, 0, "{limited:?}");
}

/// Processor time that a process's threads of this name have had.
pub(crate) fn cpu_time_of(pid: u32, thread: &str) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .expect("threads")
        .flatten();
    let named = tasks.filter(|task| {
        let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        comm.trim() == thread
    });
    named.map(|task| on_cpu(&task.path())).sum()
}

/// The first number is nanoseconds on a processor.
fn on_cpu(task: &Path) -> Duration {
    let stat = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    let ns = stat.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or_default())
}

/// A limit of processes and threads that holds for root, too.
pub(crate) struct PidsLimit(PathBuf);

impl PidsLimit {
    pub(crate) fn of(process: u32) -> Self {
        let hierarchy = PathBuf::from("/sys/fs/cgroup/pids");
        let root = if hierarchy.is_dir() {
            hierarchy
        } else {
            "/sys/fs/cgroup".into()
        };
        let group = root.join(format!("hyperfork-test-{process}"));
        let made = fs::create_dir(&group).and_then(|()| {
            let _ = fs::write(root.join("cgroup.subtree_control"), "+pids");
            fs::write(group.join("cgroup.procs"), process.to_string())
        });
        made.expect("this test makes a pids cgroup, as root");
        Self(group)
    }

    pub(crate) fn no_more(&self) {
        let current = fs::read_to_string(self.0.join("pids.current")).expect("how many");
        fs::write(self.0.join("pids.max"), current).expect("a limit");
    }

    pub(crate) fn any(&self) {
        fs::write(self.0.join("pids.max"), "max").expect("no limit");
    }
}

impl Drop for PidsLimit {
    fn drop(&mut self) {
        let root = self.0.parent().expect("a parent").join("cgroup.procs");
        for pid in fs::read_to_string(self.0.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
        {
            let _ = fs::write(&root, pid);
        }
        let _ = fs::remove_dir(&self.0);
    }
}
