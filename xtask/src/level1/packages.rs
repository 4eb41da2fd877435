//! Debian packages: programs are installed, files are only unpacked.

use crate::run::{output, run};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs of the host, and the packages that have them.
const TOOLS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mke2fs", "e2fsprogs"),
    ("dpkg-deb", "dpkg"),
    ("ldd", "libc-bin"),
    ("setpriv", "util-linux"),
];

/// Sees to it that all programs are there; installs them where that is allowed.
pub(super) fn install_tools() -> Result<()> {
    let missing: Vec<&str> = TOOLS
        .into_iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root()? {
        bail!(
            "the emulated machine needs programs that are not installed: \
             run `sudo apt-get install --no-install-recommends {}`",
            missing.join(" ")
        );
    }
    println!("installing {}", missing.join(" "));
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "--yes", "--quiet=2", "--no-install-recommends"])
            .args(&missing);
        run(&mut apt)
    };
    install().or_else(|_| update().and_then(|()| install()))
}

/// A package as the archive has it now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Package {
    pub(super) name: String,
    version: String,
}

impl Package {
    /// The package of this name, or the one it stands for: `linux-image-cloud-amd64`
    /// is empty and depends on the current kernel's.
    pub(super) fn find(name: &str) -> Result<Self> {
        Self::look_up(name).or_else(|_| update().and_then(|()| Self::look_up(name)))
    }

    fn look_up(name: &str) -> Result<Self> {
        let unknown = || format!("the package archive has no {name}");
        let described = output(Command::new("apt-cache").args(["show", "--no-all-versions", name]))
            .with_context(unknown)?;
        let field = |key: &str| {
            described
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        };
        let concrete = field("Depends")
            .and_then(|list| list.split([',', ' ']).next())
            .filter(|first| is_kernel(first) && !is_kernel(name));
        match concrete {
            Some(concrete) => Self::look_up(concrete),
            None => Ok(Self {
                name: name.to_owned(),
                version: field("Version").with_context(unknown)?.to_owned(),
            }),
        }
    }

    /// Downloads the package and unpacks it into `directory`.
    pub(super) fn unpack(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory)?;
        let download = || {
            run(Command::new("apt-get")
                .args(["download", "--quiet=2"])
                // As root apt would change to a user that cannot write here.
                .args(["-o", "APT::Sandbox::User=root"])
                .arg(format!("{}={}", self.name, self.version))
                .current_dir(directory))
        };
        download()
            .or_else(|_| update().and_then(|()| download()))
            .with_context(|| format!("cannot download {}", self.name))?;
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(&path)
                    .arg(directory))?;
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Whether a package holds a kernel: its name has the version.
fn is_kernel(name: &str) -> bool {
    name.strip_prefix("linux-image-")
        .and_then(|rest| rest.split('-').next())
        .is_some_and(|version| version.matches('.').count() >= 2)
}

fn update() -> Result<()> {
    if !is_root()? {
        bail!("run `sudo apt-get update` and try again");
    }
    run(Command::new("apt-get").args(["update", "--quiet=2"]))
}

fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("--user"))?.trim() == "0")
}

/// A program that may be where only root's path leads.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::is_kernel;

    #[test]
    fn kernels_are_told_from_packages_that_stand_for_one() {
        assert!(is_kernel("linux-image-6.1.0-56-cloud-amd64"));
        assert!(is_kernel("linux-image-6.12.117+deb12-cloud-amd64"));
        assert!(!is_kernel("linux-image-6.12-cloud-amd64"));
        assert!(!is_kernel("linux-image-cloud-amd64"));
        assert!(!is_kernel("busybox-static"));
    }
}
