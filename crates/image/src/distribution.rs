//! Makes trees: a distribution's files as a tar archive, before HyperFork's own files are added.
//! They take longest to make and change least, so they are artifacts of their own.

use crate::host;
use crate::{BuildError, Digest, Environment, Hasher, Job, Recipe, Tool};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// The file of a tree.
pub(crate) const TREE: &str = "root.tar";

/// busybox and its names, nothing else.
#[derive(Debug, Clone)]
pub struct BusyboxTree {
    /// The package that has a static `/bin/busybox`.
    pub package: &'static str,
}

impl Recipe for BusyboxTree {
    fn kind(&self) -> &'static str {
        "trees"
    }

    fn title(&self) -> String {
        "the busybox tree".to_owned()
    }

    fn digest(&self) -> Digest {
        let mut inputs = Hasher::default();
        inputs
            .field("recipe", "busybox 1")
            .field("package", self.package)
            .finish()
    }

    fn source_package(&self) -> Option<&str> {
        Some(self.package)
    }

    fn host_packages(&self) -> Vec<&str> {
        vec![self.package, "tar"]
    }

    fn space_needed(&self) -> u64 {
        16 << 20
    }

    fn build(&self, job: &mut Job<'_>) -> Result<Environment, BuildError> {
        const BUSYBOX: &str = "/bin/busybox";
        let root = job.work.join("root");
        let bin = root.join("usr/bin");
        let install = |root: &Path| -> Result<(), BuildError> {
            fs::create_dir_all(&bin).map_err(BuildError::file("create", &bin))?;
            for directory in ["bin", "sbin", "usr/sbin"] {
                let link = root.join(directory);
                let target = if directory == "usr/sbin" {
                    "bin"
                } else {
                    "usr/bin"
                };
                symlink(target, &link).map_err(BuildError::file("create", &link))?;
            }
            let program = bin.join("busybox");
            fs::copy(BUSYBOX, &program).map_err(BuildError::file("write", &program))?;
            for applet in Tool::new(BUSYBOX).arg("--list").output()?.lines() {
                if applet != "busybox" {
                    let link = bin.join(applet);
                    symlink("busybox", &link).map_err(BuildError::file("create", &link))?;
                }
            }
            Ok(())
        };
        let archive = job.out.join(TREE);
        job.step("collecting busybox", |_| {
            install(&root)?;
            Tool::new("tar")
                .args(["--owner=0", "--group=0", "--mode=755", "--sort=name"])
                .args(["--mtime=@0", "-C"])
                .arg(&root)
                .arg("-cf")
                .arg(&archive)
                .arg(".")
                .run(|_| ())?;
            Ok(())
        })?;
        Ok(Environment::default())
    }
}

/// A minimal Debian, made by mmdebstrap from the mirrors this machine uses.
///
/// Which versions it gets is up to the mirror; they are not part of the key, so
/// an image stays as it is until it is removed or its recipe changes.
#[derive(Debug, Clone)]
pub struct DebianTree {
    /// The release.
    pub codename: &'static str,
    /// Packages beside the essential ones, one a line.
    pub packages: &'static str,
    /// Shell scripts run in order outside the tree at the end, with its path as
    /// the only argument.
    pub customize: &'static [&'static str],
}

/// What no program needs to run: a tree gets smaller, its directories shorter.
const LEFT_OUT: [&str; 5] = ["doc", "info", "lintian", "locale", "man"];

impl Recipe for DebianTree {
    fn kind(&self) -> &'static str {
        "trees"
    }

    fn title(&self) -> String {
        format!("the Debian {} tree", self.codename)
    }

    fn digest(&self) -> Digest {
        let mut inputs = Hasher::default();
        inputs
            .field("recipe", "debian 1")
            .field("codename", self.codename)
            .field("packages", self.packages);
        for script in self.customize {
            inputs.field("customize", script);
        }
        inputs.finish()
    }

    fn source_package(&self) -> Option<&str> {
        None
    }

    fn host_packages(&self) -> Vec<&str> {
        let mut packages = vec!["mmdebstrap", "debian-archive-keyring", "tar"];
        if !host::is_root() {
            packages.push("uidmap");
        }
        packages
    }

    fn space_needed(&self) -> u64 {
        900 << 20
    }

    fn build(&self, job: &mut Job<'_>) -> Result<Environment, BuildError> {
        let sources = host::debian_sources(self.codename, job.progress)?;
        let sources_list = job.work.join("sources.list");
        write(&sources_list, &(sources.join("\n") + "\n"))?;
        let transport = job.work.join("apt.conf");
        write(&transport, &host::apt_transport()?)?;

        // merged-usr: Debian's own way to /usr-merge would install all of Perl.
        let mut mmdebstrap = Tool::new("mmdebstrap")
            .arg(match host::is_root() {
                true => "--mode=root",
                false => "--mode=unshare",
            })
            .args(["--variant=essential", "--format=tar"])
            .arg("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")
            .arg("--include=usr-is-merged")
            .args(
                self.packages
                    .lines()
                    .map(|name| format!("--include={name}")),
            )
            .args(LEFT_OUT.map(|name| format!("--dpkgopt=path-exclude=/usr/share/{name}/*")))
            .arg_path("--aptopt=", &transport)
            .env("TMPDIR", &job.work)
            .with_proxies();
        for (number, script) in self.customize.iter().enumerate() {
            let hook = job.work.join(format!("customize-{number}"));
            write(&hook, script)?;
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&hook, mode).map_err(BuildError::file("write", &hook))?;
            mmdebstrap = mmdebstrap.arg_path("--customize-hook=", &hook);
        }
        let mmdebstrap = mmdebstrap
            .arg(self.codename)
            .arg(job.out.join(TREE))
            .arg(&sources_list);
        job.step("installing Debian into a tree", |progress| {
            mmdebstrap.run(|line| {
                progress.advanced(None, line.trim_start_matches("I: "));
            })?;
            Ok(())
        })?;
        Ok(Environment::default())
    }
}

fn write(path: &Path, text: &str) -> Result<(), BuildError> {
    fs::write(path, text).map_err(BuildError::file("write", path))
}
