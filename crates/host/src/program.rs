//! The program that VMs, the pool and their helpers run: `hyperfork-vm`.

use hyperfork_api::VmName;
use hyperfork_sys::process::Process;
use hyperfork_sys::program;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// The program's name. It is installed beside `hyperfork`.
pub const NAME: &str = "hyperfork-vm";

/// The first argument of a VM's process. The second is the VM's name, for people who look
/// at process lists.
pub const VM: &str = "vm";

/// The first argument of the pool's process. The second is the run directory, the third are
/// its settings in JSON.
pub const POOL: &str = "pool";

/// The argument with which the program prints what it was built from, and does nothing else.
pub const BUILD: &str = "build";

/// How long the program may take to say what it was built from.
const BUILD_TIMEOUT: Duration = Duration::from_secs(5);

/// The program of VMs and of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(PathBuf);

impl Program {
    /// The program at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The program that is installed beside the calling program.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn beside_this_one() -> io::Result<Self> {
        let path = std::env::current_exe()?.with_file_name(NAME);
        match path.is_file() {
            true => Ok(Self(path)),
            false => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "{} is missing: it belongs to hyperfork and is installed beside it",
                    path.display()
                ),
            )),
        }
    }

    /// The calling process's own program, which is a VM's or the pool's: the same version,
    /// even if another has been installed since.
    pub fn of_this_process() -> Self {
        Self(PathBuf::from("/proc/self/exe"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the program was built from, according to itself.
    ///
    /// # Errors
    /// When it cannot be run, or fails; `TimedOut` when it does not end within 5 s, since it may be
    /// any program.
    pub fn build(&self) -> io::Result<String> {
        let mut command = program::clean(&self.0, NAME)?;
        command.arg(BUILD).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn()?;
        let process = Process::open(child.id())?;
        let (ended, end) = channel();
        // This thread ends with the program, and with those that have its output.
        thread::Builder::new().spawn(move || ended.send(child.wait_with_output()))?;
        let Ok(output) = end.recv_timeout(BUILD_TIMEOUT) else {
            let _ = process.kill();
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("it does not answer within {} s", BUILD_TIMEOUT.as_secs()),
            ));
        };
        let output = output?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(io::Error::other(format!(
                "it does not say: {}",
                output.status
            ))),
        }
    }

    pub(crate) fn vm(&self, name: &VmName) -> io::Result<Command> {
        self.command(VM, name.as_str().as_ref())
    }

    pub(crate) fn pool(&self, run_dir: &Path, settings: &str) -> io::Result<Command> {
        let mut command = self.command(POOL, run_dir.as_os_str())?;
        command.arg(settings);
        Ok(command)
    }

    fn command(&self, kind: &str, subject: &OsStr) -> io::Result<Command> {
        let mut command = program::clean(&self.0, NAME)?;
        command.arg(kind).arg(subject);
        Ok(command)
    }
}
