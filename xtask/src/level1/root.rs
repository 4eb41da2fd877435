//! The emulated machine's root disk: busybox and the files of one job.

use super::{Command, Job};
use crate::run::{output, run};
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

/// The disk's size; a sparse file. What is left free takes guests' disk overlays.
const SIZE: &str = "8G";

/// Prints what all threads are doing, and how long before the end of a job's time it is
/// asked to: so much may it take on a busy host.
const THREADS: &str = include_str!("threads.sh");
const THREADS_TAKE: Duration = Duration::from_secs(60);

/// Makes the disk in `scratch`.
pub(super) fn build(scratch: &Path, busybox: &Path, job: &Job) -> Result<PathBuf> {
    let tree = Tree(scratch.join("root"));
    tree.skeleton(busybox)?;
    for file in &job.files {
        tree.add(file)?;
        for library in libraries(file)? {
            tree.add(&library)?;
        }
    }
    for command in &job.commands {
        fs::create_dir_all(tree.inside(&command.directory)?)?;
    }
    fs::write(tree.0.join("job"), script(job)?)?;
    fs::write(tree.0.join("threads"), THREADS)?;

    let disk = scratch.join("root.ext4");
    let mke2fs = super::packages::find("mke2fs").context("there is no mke2fs")?;
    run(process::Command::new(mke2fs)
        .args(["-q", "-F", "-t", "ext4", "-m", "0"])
        // It lives for one run: nothing to recover, nothing to initialise.
        .args([
            "-O",
            "^has_journal",
            "-E",
            "lazy_itable_init=1,root_owner=0:0",
        ])
        .arg("-d")
        .arg(&tree.0)
        .arg(&disk)
        .arg(SIZE)
        .stdout(process::Stdio::null()))
    .context("cannot make the emulated machine's disk")?;
    fs::remove_dir_all(&tree.0)?;
    Ok(disk)
}

struct Tree(PathBuf);

impl Tree {
    fn skeleton(&self, busybox: &Path) -> Result<()> {
        for directory in ["dev", "etc", "proc", "root", "run", "sys", "tmp", "var/tmp"] {
            fs::create_dir_all(self.0.join(directory))?;
        }
        for directory in ["bin", "lib", "lib64", "sbin"] {
            fs::create_dir_all(self.0.join("usr").join(directory))?;
            symlink(Path::new("usr").join(directory), self.0.join(directory))?;
        }
        fs::write(self.0.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        fs::write(self.0.join("etc/group"), "root:x:0:\n")?;
        fs::write(self.0.join("etc/hosts"), "127.0.0.1 localhost\n")?;
        fs::copy(busybox, self.0.join("bin/busybox"))?;
        for applet in output(process::Command::new(busybox).arg("--list"))?.lines() {
            if applet != "busybox" {
                symlink("busybox", self.0.join("bin").join(applet))?;
            }
        }
        Ok(())
    }

    /// Where an absolute path of the host lies in here.
    fn inside(&self, path: &Path) -> Result<PathBuf> {
        let relative = path
            .strip_prefix("/")
            .with_context(|| format!("{} is not an absolute path", path.display()))?;
        Ok(self.0.join(relative))
    }

    /// Adds a file or directory at the path it has: a link where that is possible,
    /// for it is only read, else a copy (`cp` keeps holes).
    fn add(&self, path: &Path) -> Result<()> {
        let to = self.inside(path)?;
        let parent = to.parent().unwrap_or(&self.0);
        fs::create_dir_all(parent)?;
        if path.is_dir() {
            fs::create_dir_all(&to)?;
        }
        let copy = |how: &str| {
            let mut cp = process::Command::new("cp");
            // `-T`: into the directory that is there. `-H`: what a link given leads to.
            cp.args(["-a", "-T", "-f", "-H", how]).arg(path).arg(&to);
            cp.stderr(process::Stdio::null());
            run(&mut cp)
        };
        copy("--link")
            .or_else(|_| copy("--sparse=auto"))
            .with_context(|| format!("cannot copy {}", path.display()))
    }
}

/// The shared libraries a program is linked with, loader included; none for a file
/// that is no such program.
fn libraries(path: &Path) -> Result<Vec<PathBuf>> {
    if !is_elf(path)? {
        return Ok(Vec::new());
    }
    let listed = process::Command::new("ldd").arg(path).output()?;
    // It fails for what is not dynamically linked.
    if !listed.status.success() {
        return Ok(Vec::new());
    }
    let mut libraries = Vec::new();
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        if line.contains("not found") {
            bail!("{}: {}", path.display(), line.trim());
        }
        // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, `/lib64/ld-…  (0x…)`
        libraries.extend(
            line.split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(PathBuf::from),
        );
    }
    Ok(libraries)
}

fn is_elf(path: &Path) -> Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let mut magic = Vec::new();
    File::open(path)
        .with_context(|| format!("cannot read {}", path.display()))?
        .take(4)
        .read_to_end(&mut magic)?;
    Ok(magic == b"\x7fELF")
}

/// Where programs expect a file system in memory.
const IN_MEMORY: [&str; 3] = ["/dev/shm", "/run", "/tmp"];
/// Where the machine has its own things, so that nothing of a job can be there.
const TAKEN: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Those of [`IN_MEMORY`] that hide nothing of the job: a checkout may well be in /tmp.
fn in_memory(job: &Job) -> Result<Vec<&'static str>> {
    let directories = job.commands.iter().map(|command| &command.directory);
    let paths: Vec<&PathBuf> = job.files.iter().chain(directories).collect();
    if let Some(path) = paths
        .iter()
        .find(|path| TAKEN.iter().any(|taken| path.starts_with(taken)))
    {
        bail!(
            "the emulated machine cannot have {}: keep checkout, target directory and \
             cache out of {}",
            path.display(),
            TAKEN.join(", ")
        );
    }
    let hides = |directory: &&str| paths.iter().any(|path| path.starts_with(directory));
    Ok(IN_MEMORY.into_iter().filter(|dir| !hides(dir)).collect())
}

/// The job as a shell script; file descriptor 3 takes the statuses, 4 what the threads
/// do.
fn script(job: &Job) -> Result<Vec<u8>> {
    let mut script = Vec::new();
    for directory in in_memory(job)? {
        let mount = format!("mount -t tmpfs -o mode=1777 tmpfs {directory} || exit\n");
        script.extend(mount.bytes());
    }
    script.extend(b"export HOME=");
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
    script.extend(quoted(&home));
    script.extend(b" PATH=/usr/sbin:/usr/bin TERM=dumb\n");
    for (name, value) in &job.env {
        script.extend(b"export ");
        script.extend(name.as_bytes());
        script.push(b'=');
        script.extend(quoted(value));
        script.push(b'\n');
    }
    let timeout = job.limit.saturating_sub(THREADS_TAKE).as_secs();
    script.extend(format!("(sleep {timeout}; exec /bin/sh /threads >&4) 3>&- &\n").bytes());
    for Command { argv, directory } in &job.commands {
        script.extend(b"(cd ");
        script.extend(quoted(directory.as_os_str()));
        // As cargo sets it.
        script.extend(b" && export CARGO_MANIFEST_DIR=\"$PWD\" && exec");
        for word in argv {
            script.push(b' ');
            script.extend(quoted(word));
        }
        script.extend(b") 3>&- 4>&-\necho exit $? >&3\n");
    }
    Ok(script)
}

/// One word of the shell, whatever is in it.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = b"'".to_vec();
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            byte => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_a_command_as_they_are() {
        let word = OsStr::new("it's $HOME \"and\" \\ more\n");
        let mut script = b"printf %s ".to_vec();
        script.extend(quoted(word));
        let printed = process::Command::new("sh")
            .arg("-c")
            .arg(OsStr::from_bytes(&script))
            .output()
            .unwrap();
        assert_eq!(printed.stdout, word.as_bytes());
    }

    /// A job with one file.
    fn job(file: &str) -> Job {
        Job {
            files: vec![file.into()],
            env: Vec::new(),
            commands: vec![Command {
                argv: vec![file.into()],
                directory: "/somewhere".into(),
            }],
            limit: Duration::from_secs(60),
        }
    }

    #[test]
    fn nothing_is_mounted_over_the_files_of_a_job() {
        for (file, mounted) in [
            ("/home/a b/test", &["/dev/shm", "/run", "/tmp"][..]),
            ("/tmp/a b/test", &["/dev/shm", "/run"]),
            ("/run/user/0/test", &["/dev/shm", "/tmp"]),
            ("/tmpfiles/test", &["/dev/shm", "/run", "/tmp"]),
        ] {
            assert_eq!(in_memory(&job(file)).unwrap(), mounted, "{file}");
        }
        let error = in_memory(&job("/dev/shm/test")).unwrap_err().to_string();
        assert!(error.contains("/dev/shm/test"), "{error}");
    }

    #[test]
    fn a_program_comes_with_its_libraries_and_a_text_with_none() {
        let libraries = libraries(&std::env::current_exe().unwrap()).unwrap();
        assert!(
            libraries
                .iter()
                .any(|path| path.to_string_lossy().contains("libc.so"))
        );
        assert!(
            super::libraries(Path::new("/proc/self/status"))
                .unwrap()
                .is_empty()
        );
    }
}
