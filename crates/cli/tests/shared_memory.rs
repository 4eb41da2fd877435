//! The memory files that a clone's process shares with other VMs, with the real program.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod support;

use rustix::fs::{SealFlags, fcntl_get_seals};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use support::{User, eventually, read};

/// The memory files that a VM has open, as places in /proc.
fn memory_files(process: &str) -> Vec<PathBuf> {
    let links = fs::read_dir(format!("{process}/fd")).unwrap();
    let links = links.map(|link| link.unwrap().path());
    let is_memory = |link: &PathBuf| {
        let file = fs::read_link(link).unwrap_or_default();
        file.to_string_lossy().starts_with("/memfd:hyperfork-")
    };
    links.filter(is_memory).collect()
}

/// The access mode of an open file (`proc_pid_fdinfo(5)`): 0 is read-only.
fn access_mode(process: &str, link: &Path) -> u32 {
    let fd = link.file_name().unwrap().to_string_lossy();
    let info = read(format!("{process}/fdinfo/{fd}"));
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    u32::from_str_radix(flags.unwrap().trim(), 8).unwrap() & 3
}

fn seals(link: &Path) -> SealFlags {
    fcntl_get_seals(File::open(link).unwrap()).unwrap()
}

#[test]
fn no_clone_can_write_what_it_shares_with_its_relatives() {
    let frozen = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE;
    for strategy in ["image", "process-fork"] {
        let user = User::new();
        user.nano("p");
        // Of the second fork images have changes, and shells are made ready for it.
        for (parent, count) in [("p", 2), ("p", 1), ("p-1", 1)] {
            let count = count.to_string();
            let fork = [
                "fork",
                parent,
                "-n",
                &count,
                "--strategy",
                strategy,
                "--json",
            ];
            let report = user.json(&fork);
            for clone in report["clones"].as_array().unwrap() {
                let info = user.json(&["inspect", clone["name"].as_str().unwrap()]);
                let process = format!("/proc/{}", info["pid"]);
                let files = memory_files(&process);
                assert!(!files.is_empty(), "{strategy}: {clone}");
                for file in &files {
                    assert_eq!(access_mode(&process, file), 0, "{strategy}: {file:?}");
                    assert!(seals(file).contains(frozen), "{strategy}: {file:?}");
                }
                let maps = read(format!("{process}/maps"));
                let shared =
                    |line: &&str| line.contains("rw-s") && line.contains("memfd:hyperfork");
                assert_eq!(maps.lines().find(shared), None);
                eventually("the memory is sealed for good", || {
                    let mut files = files.iter();
                    files.all(|file| seals(file).contains(SealFlags::WRITE))
                });
            }
        }
    }
}
