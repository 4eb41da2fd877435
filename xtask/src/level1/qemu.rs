//! QEMU as the emulated machine.

use super::files::Files;
use super::prepared::Prepared;
use crate::run::output;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

const QEMU: &str = "qemu-system-x86_64";

/// Enough for tests with guests of 2 GiB. Taken from the host as it is used.
const MEMORY_MIB: &str = "3072";

/// The kernel's command line.
///
/// The timer ticks, instead of being set anew each time. For QEMU may lose an interrupt
/// that comes while a processor enters a guest (`helper_vmrun` changes
/// `interrupt_request` without the lock). A tick that is lost comes again with the next;
/// a lost timer that was set once was found to leave the machine in its guest for good.
const CMDLINE: &str =
    "console=ttyS0 loglevel=5 panic=-1 mitigations=off tsc=reliable highres=off nohz=off";

/// The process. Dropping it kills it.
pub(super) struct Qemu(Child);

impl Qemu {
    /// Switches the machine on.
    pub(super) fn start(prepared: &Prepared, disk: &Path, files: &Files) -> Result<Self> {
        let version = output(Command::new(QEMU).arg("--version"))?;
        // Should this process be killed, so is QEMU.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", QEMU])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-machine", "q35"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt"])
            .args(["-smp", processors(&version), "-m", MEMORY_MIB])
            .arg("-kernel")
            .arg(prepared.kernel())
            .arg("-initrd")
            .arg(prepared.initramfs())
            .args(["-append", CMDLINE])
            .args(["-chardev", &file_device("console", &files.console)?])
            .args(["-serial", "chardev:console"])
            .args(["-device", "virtio-serial-pci"])
            .args(["-drive", &drive(disk)?])
            .args(["-device", "virtio-blk-pci,drive=root"]);
        for (port, path) in [
            ("output", Path::new("/proc/self/fd/1")),
            ("status", &files.status),
            ("threads", &files.threads),
        ] {
            command.args(["-chardev", &file_device(port, path)?]).args([
                "-device",
                &format!("virtserialport,chardev={port},name={port}"),
            ]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&files.errors)?)
            .spawn()
            .context("cannot start QEMU")?;
        Ok(Self(child))
    }

    /// What the commands print, piece by piece as it comes, from a thread of its own,
    /// so that waiting for it has a limit.
    pub(super) fn output(&mut self) -> Result<Receiver<Vec<u8>>> {
        let mut output = self.0.stdout.take().context("no output of QEMU")?;
        let (sender, pieces) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                match output.read(&mut buffer) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => break,
                    Ok(read) => {
                        if sender.send(buffer[..read].to_vec()).is_err() {
                            break;
                        }
                    }
                }
            }
        });
        Ok(pieces)
    }

    /// Waits until the machine has powered itself off.
    pub(super) fn wait(&mut self) -> Result<ExitStatus> {
        self.0.wait().context("cannot wait for QEMU")
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Either fails only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many processors can be emulated soundly.
///
/// Before QEMU 8.1 a processor that translated code while another one changed it could
/// keep the translation of what was there before (fixed by "accel/tcg: Always lock
/// pages before translation"). Linux changes its code whenever a static key changes,
/// which KVM's do with the first VM and with the last. With 7.2 the machine was found
/// in an endless breakpoint, which is how Linux changes code, in the scheduler. Another
/// time it had a guest run astray and its own stack overwritten, as when a changed
/// branch goes unnoticed. A busy host makes both likely.
fn processors(version: &str) -> &'static str {
    match release(version) {
        Some(release) if release >= (8, 1) => "2",
        _ => "1",
    }
}

/// Major and minor number in `QEMU emulator version 7.2.22 (…)`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split_once("version ")?.1.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn drive(disk: &Path) -> Result<String> {
    option("if=none,id=root,format=raw,cache=unsafe,file=", disk)
}

fn file_device(id: &str, path: &Path) -> Result<String> {
    option(&format!("file,id={id},path="), path)
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

#[cfg(test)]
mod tests {
    use super::processors;

    #[test]
    fn there_are_several_processors_only_where_translation_is_sound() {
        for (version, wanted) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", "1"),
            ("QEMU emulator version 8.0.5", "1"),
            ("QEMU emulator version 8.1.0", "2"),
            ("QEMU emulator version 10.0.2 (Debian)\nCopyright", "2"),
            ("something else", "1"),
        ] {
            assert_eq!(processors(version), wanted, "{version}");
        }
    }
}
