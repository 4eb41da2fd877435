//! The emulated machine, running.

use super::{Job, Prepared};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Enough for tests with guests of 2 GiB. Taken from the host as it is used.
const MEMORY_MIB: &str = "3072";
/// How often an interrupt or the time limit is looked for.
const POLL: Duration = Duration::from_millis(100);
/// Lines of the kernel's log shown when the machine fails.
const TAIL: usize = 30;

/// Boots, runs the job, and gives its commands' statuses.
pub(super) fn run(
    prepared: &Prepared,
    scratch: &Path,
    disk: &Path,
    job: &Job,
    output: &mut dyn FnMut(&str),
) -> Result<Vec<i32>> {
    let files = Files {
        console: scratch.join("console.log"),
        status: scratch.join("status"),
        errors: scratch.join("qemu.log"),
    };
    let interrupted = interrupts()?;
    let deadline = Instant::now() + job.limit;
    let mut machine = Machine::start(prepared, disk, &files)?;
    let lines = machine.lines()?;
    loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => output(&line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        if Instant::now() > deadline {
            bail!(
                "the emulated machine did not end within {} s\n{}",
                job.limit.as_secs(),
                files.told()
            );
        }
    }
    let status = machine.0.wait().context("cannot wait for QEMU")?;
    let statuses = files.statuses();
    if !status.success() || statuses.len() != job.commands.len() {
        bail!(
            "the emulated machine died ({status}) after {} of {} commands\n{}",
            statuses.len(),
            job.commands.len(),
            files.told()
        );
    }
    Ok(statuses)
}

/// QEMU. Dropping it kills it.
struct Machine(Child);

impl Machine {
    fn start(prepared: &Prepared, disk: &Path, files: &Files) -> Result<Self> {
        // Should this process be killed, so is QEMU.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-machine", "q35", "-accel", "tcg,thread=multi"])
            .args(["-cpu", "EPYC,+svm,+npt", "-smp", "2", "-m", MEMORY_MIB])
            .arg("-kernel")
            .arg(prepared.kernel())
            .arg("-initrd")
            .arg(prepared.initramfs())
            .args([
                "-append",
                "console=ttyS0 loglevel=5 panic=-1 mitigations=off tsc=reliable",
            ])
            .args([
                "-chardev",
                &option("file,id=console,path=", &files.console)?,
            ])
            .args(["-serial", "chardev:console"])
            .args(["-device", "virtio-serial-pci"])
            .args(["-chardev", "file,id=output,path=/proc/self/fd/1"])
            .args(["-device", "virtserialport,chardev=output,name=output"])
            .args(["-chardev", &option("file,id=status,path=", &files.status)?])
            .args(["-device", "virtserialport,chardev=status,name=status"])
            .args([
                "-drive",
                &option("if=none,id=root,format=raw,cache=unsafe,file=", disk)?,
            ])
            .args(["-device", "virtio-blk-pci,drive=root"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&files.errors)?)
            .spawn()
            .context("cannot start QEMU")?;
        Ok(Self(child))
    }

    /// What it prints, from a thread of its own, so that waiting has a limit.
    fn lines(&mut self) -> Result<Receiver<String>> {
        let output = self.0.stdout.take().context("no output of QEMU")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(lines)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Either fails only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a machine leaves.
struct Files {
    console: PathBuf,
    status: PathBuf,
    errors: PathBuf,
}

impl Files {
    /// The commands' statuses, as far as they were told.
    fn statuses(&self) -> Vec<i32> {
        let told = fs::read_to_string(&self.status).unwrap_or_default();
        told.lines()
            .filter_map(|line| line.strip_prefix("exit ")?.parse().ok())
            .collect()
    }

    /// What QEMU and the kernel had to say at the end.
    fn told(&self) -> String {
        let mut told = String::new();
        for (who, path) in [("QEMU", &self.errors), ("its kernel", &self.console)] {
            let text = fs::read(path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(TAIL)..] {
                told.push_str(&format!("{who}: {line}\n"));
            }
        }
        told
    }
}

/// An option of QEMU's that ends in a path, in which commas are doubled.
fn option(prefix: &str, path: &Path) -> Result<String> {
    let path: OsString = path.into();
    let path = path
        .into_string()
        .ok()
        .context("QEMU takes only paths in UTF-8")?;
    Ok(format!("{prefix}{}", path.replace(',', ",,")))
}

/// Becomes true at Ctrl-C or a polite request to end.
fn interrupts() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(flag)
}
