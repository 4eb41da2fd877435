//! The kernel and the machine.

use super::Check;
use crate::config;
use crate::verbs::host_memory;
use hyperfork_image::ImageStore;
use hyperfork_sys::huge_pages;
use hyperfork_vmm::kvm::{Host, HostKind};
use rustix::fs::{Access, access, statfs, statvfs};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Facts about this host.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    /// `hardware`, `pvm` or `none`.
    kvm: &'static str,
    kernel: String,
    cpus: u64,
    memory_mib: u64,
    memory_available_mib: u64,
    /// The setting of transparent huge pages for shared memory.
    shmem_huge_pages: Option<String>,
    userfaultfd: bool,
    cgroup_version: Option<u32>,
    cache_dir: Option<PathBuf>,
    cache_free_mib: Option<u64>,
    run_dir: Option<PathBuf>,
}

/// The first kernel with PAGEMAP_SCAN, which finds the pages that a second fork
/// has to copy.
const KERNEL: (u32, u32) = (6, 7);

/// Space that building all images takes, with their caches.
const CACHE_MIB: u64 = 6 << 10;

/// Memory below which there is hardly a point.
const MEMORY_MIB: u64 = 1 << 10;

const USERFAULTFD: &str = "/dev/userfaultfd";

impl Facts {
    /// Gathers the facts.
    pub(super) fn gather() -> Self {
        let memory = host_memory().ok();
        let cache_dir = ImageStore::default_root().ok();
        Self {
            kvm: match Host::open().map(|host| host.kind()) {
                Ok(HostKind::Hardware) => "hardware",
                Ok(HostKind::Pvm) => "pvm",
                Err(_) => "none",
            },
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64),
            memory_mib: memory.map_or(0, |memory| memory.total.as_mib()),
            memory_available_mib: memory.map_or(0, |memory| memory.available.as_mib()),
            shmem_huge_pages: huge_pages::setting(),
            userfaultfd: access(USERFAULTFD, Access::READ_OK | Access::WRITE_OK).is_ok(),
            cgroup_version: cgroup_version(),
            cache_free_mib: cache_dir.as_deref().and_then(free_mib),
            cache_dir,
            run_dir: config::run_dir().ok().map(|dir| dir.path().to_owned()),
        }
    }

    /// The checks of these facts.
    pub(super) fn checks(&self) -> Vec<Check> {
        vec![
            self.kernel(),
            self.memory(),
            self.huge_pages(),
            self.userfaultfd(),
            self.cgroups(),
            run_dir(),
            self.cache(),
        ]
    }

    fn kernel(&self) -> Check {
        let finding = format!("Linux {}", self.kernel);
        match version(&self.kernel) {
            Some(version) if version < KERNEL => Check::warning(
                "kernel",
                finding,
                format!(
                    "a VM can be forked only once before Linux {}.{}: use a newer kernel",
                    KERNEL.0, KERNEL.1
                ),
            ),
            _ => Check::ok("kernel", finding),
        }
    }

    fn memory(&self) -> Check {
        let finding = format!(
            "{} MiB, {} MiB of it available, {} CPUs",
            self.memory_mib, self.memory_available_mib, self.cpus
        );
        match self.memory_available_mib < MEMORY_MIB {
            true => Check::warning("memory", finding, "stop other programs, or run small VMs"),
            false => Check::ok("memory", finding),
        }
    }

    fn huge_pages(&self) -> Check {
        const NAME: &str = "huge pages";
        match self.shmem_huge_pages.as_deref() {
            Some(setting) if huge_pages::are_given(setting) => {
                Check::ok(NAME, format!("shared memory: {setting}"))
            }
            Some(setting) => Check::warning(
                NAME,
                format!("shared memory: {setting}; guest memory is mapped in pages of 4 KiB"),
                format!(
                    "for less work per fork: echo advise | sudo tee {}",
                    huge_pages::SETTING
                ),
            ),
            None => Check::warning(
                NAME,
                "this kernel has no transparent huge pages for shared memory",
                "use one with CONFIG_TRANSPARENT_HUGEPAGE",
            ),
        }
    }

    fn userfaultfd(&self) -> Check {
        const NAME: &str = "userfaultfd";
        match (self.userfaultfd, Path::new(USERFAULTFD).exists()) {
            (true, _) => Check::ok(NAME, format!("{USERFAULTFD} may be used")),
            (false, true) => Check::warning(
                NAME,
                format!("you may not open {USERFAULTFD}"),
                format!(
                    "forks of VMs that have written much take longer without it: sudo chgrp kvm {USERFAULTFD} && sudo chmod 660 {USERFAULTFD}"
                ),
            ),
            (false, false) => Check::warning(
                NAME,
                format!("there is no {USERFAULTFD}"),
                "forks of VMs that have written much take longer without it: use a kernel with CONFIG_USERFAULTFD",
            ),
        }
    }

    fn cgroups(&self) -> Check {
        const NAME: &str = "cgroups";
        match self.cgroup_version {
            Some(2) => Check::ok(NAME, "version 2"),
            Some(version) => Check::ok(NAME, format!("version {version} (hybrid or legacy)")),
            None => Check::warning(
                NAME,
                "/sys/fs/cgroup is not mounted",
                "VMs run without limits on processor and memory",
            ),
        }
    }

    fn cache(&self) -> Check {
        const NAME: &str = "image cache";
        let Some(directory) = &self.cache_dir else {
            return Check::warning(
                NAME,
                "no place for it is known",
                "set XDG_CACHE_HOME or HOME",
            );
        };
        let place = directory.display();
        match self.cache_free_mib {
            Some(free) if free < CACHE_MIB => Check::warning(
                NAME,
                format!("{place}, {free} MiB free"),
                format!(
                    "building all images takes up to {CACHE_MIB} MiB: make room, or set XDG_CACHE_HOME"
                ),
            ),
            Some(free) => Check::ok(NAME, format!("{place}, {free} MiB free")),
            None => Check::warning(
                NAME,
                format!("{place} cannot be looked at"),
                "set XDG_CACHE_HOME",
            ),
        }
    }
}

fn run_dir() -> Check {
    const NAME: &str = "run directory";
    /// TMPFS_MAGIC of linux/magic.h.
    const TMPFS: u64 = 0x0102_1994;
    let usable = config::run_dir().map(|dir| dir.path().to_owned());
    match usable {
        Ok(path) if access(&path, Access::WRITE_OK).is_ok() => {
            let finding = path.display().to_string();
            match statfs(&path) {
                Ok(fs) if fs.f_type as u64 == TMPFS => Check::ok(NAME, finding),
                _ => Check::ok(
                    NAME,
                    finding + ", on a disk: in memory (tmpfs) a fork takes 0.1 ms less",
                ),
            }
        }
        Ok(path) => Check::failed(
            NAME,
            format!("{} is not writable", path.display()),
            "set XDG_RUNTIME_DIR to a directory of your own",
        ),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            Check::failed(
                NAME,
                format!("{error}{}", cause.unwrap_or_default()),
                "set XDG_RUNTIME_DIR to a directory of your own",
            )
        }
    }
}

/// Major and minor version of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn cgroup_version() -> Option<u32> {
    /// CGROUP2_SUPER_MAGIC of linux/magic.h.
    const CGROUP2: u64 = 0x6367_7270;
    let root = statfs("/sys/fs/cgroup").ok()?;
    if root.f_type as u64 == CGROUP2 {
        return Some(2);
    }
    let mut mounts = procfs::mounts().ok()?.into_iter();
    mounts
        .any(|mount| mount.fs_vfstype == "cgroup")
        .then_some(1)
}

/// Space left where `path` is, or will be.
fn free_mib(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let space = statvfs(there).ok()?;
    Some((space.f_bavail * space.f_frsize) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_release_is_understood() {
        assert_eq!(version("6.18.0-cloud-amd64"), Some((6, 18)));
        assert_eq!(version("6.7-rc1"), Some((6, 7)));
        assert_eq!(version("what"), None);
    }

    #[test]
    fn space_is_told_for_a_directory_that_is_not_there_yet() {
        let temp = tempfile::tempdir().unwrap();
        assert!(free_mib(&temp.path().join("not/yet")).is_some());
    }
}
