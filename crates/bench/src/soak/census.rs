//! Counts the resources of a VM, of its user's pool, and of the host.

use crate::error::BenchError;
use crate::memory;
use crate::stock::Stock;
use crate::vms::Vms;
use hyperfork_api::VmName;
use procfs::ProcResult;
use procfs::process::{FDTarget, Process, all_processes};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// At one moment, with no clones there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Census {
    /// After so many forks.
    pub forks: usize,
    /// The parent's process.
    pub parent: ProcessCensus,
    /// The pool's, if there is one.
    pub pool: Option<ProcessCensus>,
    /// Entries of the run directory, those of its shells included.
    pub entries: u64,
    /// Processes that this one, the parent or the pool has started, including ended ones that
    /// were not waited for.
    pub processes: u64,
    /// What programs on the host could have.
    pub host_available_kib: u64,
}

/// Of one process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessCensus {
    /// Open descriptors.
    pub fds: u64,
    /// Threads.
    pub threads: u64,
    /// Mappings of memory.
    pub mappings: u64,
    /// Resident memory.
    pub rss_kib: u64,
    /// What is in the memory files that it has open: frozen guest memory, layers, arenas.
    pub files_kib: u64,
    /// Whether the host reports writes to guest memory to it.
    pub tracked: bool,
}

/// By how much a thing may differ that comes and goes, whatever the number of forks.
mod slack {
    pub(super) const FDS: u64 = 16;
    pub(super) const THREADS: u64 = 8;
    pub(super) const MAPPINGS: u64 = 64;
    pub(super) const RSS_KIB: u64 = 16 << 10;
    pub(super) const FILES_KIB: u64 = 48 << 10;
    pub(super) const ENTRIES: u64 = 12;
    pub(super) const PROCESSES: u64 = 12;
}

/// All programs share the host's memory. A fall of less than this a fork, over fewer forks than
/// these, says nothing.
const HOST_KIB_PER_FORK: u64 = 16;
const FORKS_FOR_HOST: u64 = 1000;

impl Census {
    pub(super) fn take(
        parent: &VmName,
        forks: usize,
        stock: &Stock,
        vms: &Vms<'_>,
    ) -> Result<Self, BenchError> {
        let pid = vms.info(parent)?.status.pid.unwrap_or(0);
        let pool = stock.pool_pid();
        let starters = [Some(std::process::id()), Some(pid), pool];
        Ok(Self {
            forks,
            parent: ProcessCensus::of(pid),
            pool: pool.map(ProcessCensus::of),
            entries: entries(vms.run_dir().path()),
            processes: children_of(&starters),
            host_available_kib: memory::host().available_kib,
        })
    }

    /// What there is more of than there was, beyond what comes and goes, as a message.
    pub(super) fn grown_since(&self, before: &Self) -> Option<String> {
        let mut grown = Vec::new();
        let mut compare = |what: &str, unit: &str, then: u64, now: u64, slack: u64| {
            if now > then + slack {
                grown.push(format!("{what}: {now}{unit}, {then} before"));
            }
        };
        let none = ProcessCensus::default();
        let pools = (
            before.pool.as_ref().unwrap_or(&none),
            self.pool.as_ref().unwrap_or(&none),
        );
        for (whose, (then, now)) in [("parent", (&before.parent, &self.parent)), ("pool", pools)] {
            let mut own = |what, unit, then, now, slack| {
                compare(&format!("{whose}'s {what}"), unit, then, now, slack);
            };
            own("descriptors", "", then.fds, now.fds, slack::FDS);
            own("threads", "", then.threads, now.threads, slack::THREADS);
            own("mappings", "", then.mappings, now.mappings, slack::MAPPINGS);
            own("memory", " KiB", then.rss_kib, now.rss_kib, slack::RSS_KIB);
            let (then, now) = (then.files_kib, now.files_kib);
            own("memory files", " KiB", then, now, slack::FILES_KIB);
        }
        let (then, now) = (before.entries, self.entries);
        compare("run directory's entries", "", then, now, slack::ENTRIES);
        let (then, now) = (before.processes, self.processes);
        compare("processes", "", then, now, slack::PROCESSES);
        let forks = self.forks.saturating_sub(before.forks) as u64;
        if forks >= FORKS_FOR_HOST / 2 && self.forks as u64 >= FORKS_FOR_HOST {
            let (then, now) = (before.host_available_kib, self.host_available_kib);
            let taken = then.saturating_sub(now);
            let what = "memory that the host does not have any more";
            compare(what, " KiB", 0, taken, forks * HOST_KIB_PER_FORK);
        }
        (!grown.is_empty()).then(|| grown.join("; "))
    }
}

impl ProcessCensus {
    /// Of a process; nothing where it is gone.
    fn of(pid: u32) -> Self {
        Process::new(pid.cast_signed())
            .and_then(|process| Self::count(&process))
            .unwrap_or_default()
    }

    fn count(process: &Process) -> ProcResult<Self> {
        let status = process.status()?;
        let mut census = Self {
            threads: status.threads,
            rss_kib: status.vmrss.unwrap_or(0),
            mappings: process.maps().map_or(0, |maps| maps.len() as u64),
            ..Self::default()
        };
        for fd in process.fd().into_iter().flatten().flatten() {
            census.fds += 1;
            match fd.target {
                FDTarget::AnonInode(name) => census.tracked |= name.contains("userfaultfd"),
                FDTarget::MemFD(_) => {
                    let file = fs::metadata(format!("/proc/{}/fd/{}", process.pid, fd.fd));
                    // In units of 512 bytes, whatever the file system (stat(2)).
                    census.files_kib += file.map_or(0, |file| file.blocks() / 2);
                }
                _ => {}
            }
        }
        Ok(census)
    }
}

/// What is in a directory, and in those in it whose names begin with a dot: no VMs.
fn entries(directory: &Path) -> u64 {
    let found = fs::read_dir(directory).into_iter().flatten().flatten();
    let count = |entry: fs::DirEntry| {
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        1 + if hidden { entries(&entry.path()) } else { 0 }
    };
    found.map(count).sum()
}

/// How many processes have one of these for a parent.
fn children_of(starters: &[Option<u32>]) -> u64 {
    let processes = all_processes().into_iter().flatten().flatten();
    let parents = processes.filter_map(|process| Some(process.stat().ok()?.ppid.cast_unsigned()));
    parents.filter(|pid| starters.contains(&Some(*pid))).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_a_process_opens_and_starts_is_counted_and_told() {
        let own = std::process::id();
        let census = || Census {
            forks: 10,
            parent: ProcessCensus::of(own),
            ..Census::default()
        };
        let before = census();
        assert!(before.parent.threads > 0 && before.parent.rss_kib > 100);
        assert_eq!(census().grown_since(&before), None);
        let mut leaked: Vec<File> = Vec::new();
        leaked.resize_with(40, || File::open("/dev/null").unwrap());
        let message = census().grown_since(&before).unwrap();
        assert!(message.starts_with("parent's descriptors: "), "{message}");

        let children = children_of(&[Some(own)]);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        assert!(children_of(&[Some(own), None]) > children);
        child.wait().unwrap();
    }

    #[test]
    fn entries_of_vms_are_not_counted_but_those_of_shells_are() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["vm", ".shells/one", ".shells/two"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("vm/file"), "").unwrap();
        assert_eq!(entries(dir.path()), 4);
    }

    #[test]
    fn the_hosts_memory_counts_only_over_many_forks() {
        let census = |forks, host_available_kib| Census {
            forks,
            host_available_kib,
            ..Census::default()
        };
        let before = census(100, 10 << 20);
        assert_eq!(census(200, 1 << 20).grown_since(&before), None);
        assert_eq!(census(10_000, 10 << 20).grown_since(&before), None);
        assert!(census(10_000, 9 << 20).grown_since(&before).is_some());
    }
}
