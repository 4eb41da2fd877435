//! The run directory: one per user, with a directory for each VM.
//!
//! ```text
//! <run dir>/.shells/             directories of processes that are not a VM yet
//!           .pool/               the pools, which keep some in stock (see `pool`)
//! <run dir>/<name>/lock          held by the VM's process as long as it lives
//!                  info.json     the VM's last description
//!                  token         proves a party to be this VM, if it has an agent
//!                  control.sock  its control socket
//!                  vsock.sock    its guest's sockets; only once it is ready
//!                  console.sock  its console
//!                  console.log, output.log, monitor.log
//! ```
//!
//! A directory is made under `.shells`, with all its sockets and logs in it, and renamed when
//! its process becomes a VM, which claims the name atomically. To remove a directory, it is first
//! renamed back, so that no command finds half of it. The lock shows that the process lives:
//! that of a process that was killed is free, by which every command sees that the VM has ended.

mod claim;
mod ending;
mod files;

pub use claim::Claim;
pub(crate) use claim::make_fleeting;
pub(crate) use ending::await_end;
pub(crate) use files::{INFO, UNFINISHED};

use files::LOCK;
use hyperfork_api::VmName;
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The directory of all of a user's VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir(PathBuf);

/// One VM's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDir {
    path: PathBuf,
    name: VmName,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// It belongs to another user.
    #[error("{0} belongs to another user: set XDG_RUNTIME_DIR to a directory of your own")]
    Foreign(PathBuf),
    /// Other users may look into it, enter it or write to it.
    #[error("{0} is open to other users: close it with `chmod 700 {0}`")]
    Exposed(PathBuf),
    /// It would be another one in each working directory.
    #[error("{0} is not an absolute path: set XDG_RUNTIME_DIR to one")]
    Relative(PathBuf),
    /// The name is taken.
    #[error(
        "the name {name} is in use: choose another, or remove that VM with `hyperfork rm {name}`"
    )]
    InUse {
        /// The name.
        name: VmName,
    },
    /// A socket's path would be too long for the kernel.
    #[error("{0} is too deep for a socket: set XDG_RUNTIME_DIR to a shorter path")]
    TooDeep(PathBuf),
    /// It cannot be removed while the VM lives.
    #[error("{name} is still running: stop it first, or use `hyperfork rm -f {name}`")]
    Alive {
        /// The VM.
        name: VmName,
    },
    /// The system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The directory of processes that are not a VM yet.
const SHELLS: &str = ".shells";

/// The permissions of other users in a file's mode.
const OF_OTHERS: u32 = 0o077;

/// Longest socket path, without its NUL (`sockaddr_un`).
const SOCKET_PATH_MAX: usize = 107;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunDirError {
    move |source| RunDirError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

impl RunDir {
    /// The run directory at `path`: made if it is missing, for the calling user alone.
    ///
    /// # Errors
    /// [`RunDirError::Relative`], [`RunDirError::Foreign`], [`RunDirError::Exposed`],
    /// [`RunDirError::Io`].
    pub fn open(path: PathBuf) -> Result<Self, RunDirError> {
        if path.is_relative() {
            return Err(RunDirError::Relative(path));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(failed("make the run directory", &path))?;
        let meta = fs::symlink_metadata(&path).map_err(failed("look at", &path))?;
        if !meta.is_dir() || meta.uid() != rustix::process::getuid().as_raw() {
            return Err(RunDirError::Foreign(path));
        }
        if meta.mode() & OF_OTHERS != 0 {
            return Err(RunDirError::Exposed(path));
        }
        Ok(Self(path))
    }

    /// A run directory at `path`, which exists.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The directory of the VM called `name`, whether there is one or not.
    pub fn vm(&self, name: &VmName) -> VmDir {
        VmDir {
            path: self.0.join(name.as_str()),
            name: name.clone(),
        }
    }

    /// All VMs, by name. Removes what killed launchers have left of VMs that never ran, and
    /// leaves alone what is no VM's directory.
    ///
    /// # Errors
    /// [`RunDirError::Io`].
    pub fn list(&self) -> Result<Vec<VmDir>, RunDirError> {
        let entries = fs::read_dir(&self.0).map_err(failed("list", &self.0))?;
        // The kernel tells the entry's own type: that of a symbolic link, not of its target.
        let dirs = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut names: Vec<VmName> = dirs
            .filter_map(|entry| VmName::new(entry.file_name().into_string().ok()?).ok())
            .collect();
        names.sort();
        self.sweep_shells();
        let dirs = names.iter().map(|name| self.vm(name));
        Ok(dirs.filter(VmDir::is_vm).collect())
    }

    /// The directory of processes that are not a VM yet.
    fn shells(&self) -> PathBuf {
        self.0.join(SHELLS)
    }
}

impl VmDir {
    /// The VM's name.
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket of the VM's process for requests.
    pub fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// The socket through which the guest's vsock ports are reached.
    pub fn vsock_socket(&self) -> PathBuf {
        self.path.join("vsock.sock")
    }

    /// The socket of the guest's console.
    pub fn console_socket(&self) -> PathBuf {
        self.path.join("console.sock")
    }

    /// The output of the guest's console.
    pub fn console_log(&self) -> PathBuf {
        self.path.join("console.log")
    }

    /// The output of the main program.
    pub fn output_log(&self) -> PathBuf {
        self.path.join("output.log")
    }

    /// The log of the VM's process itself.
    pub fn monitor_log(&self) -> PathBuf {
        self.path.join("monitor.log")
    }

    /// The token, 32 digits, which the guest's root finds in `/run/hyperfork/token`: it proves a
    /// party to be this VM.
    pub fn token_path(&self) -> PathBuf {
        self.path.join("token")
    }

    /// The VM's last description.
    pub fn info_path(&self) -> PathBuf {
        self.path.join(INFO)
    }

    fn lock_path(&self) -> PathBuf {
        self.path.join(LOCK)
    }

    /// Whether there is such a directory: of a VM, alive or ended, or of something else.
    pub fn exists(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.is_dir())
    }

    /// Whether the directory is a VM's, and not what a killed launcher has left.
    pub fn is_vm(&self) -> bool {
        (self.has(INFO) || self.has(LOCK)) && !self.reap()
    }

    /// Whether the name is taken: by a VM, or by anything else that is not there to be removed.
    pub fn is_taken(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok() && !self.vacate()
    }

    /// Whether the VM's process lives.
    pub fn is_alive(&self) -> bool {
        match self.open(LOCK, OFlags::RDONLY) {
            Ok(lock) => {
                let alive = flock(&lock, FlockOperation::NonBlockingLockShared).is_err();
                // A program that is just being started may have a copy of the descriptor.
                let _ = flock(&lock, FlockOperation::Unlock);
                alive
            }
            Err(_) => self.process_without_lock().is_some(),
        }
    }

    /// Removes the directory of an ended VM, or of one whose process is ending.
    ///
    /// # Errors
    /// [`RunDirError::Alive`], [`RunDirError::Io`].
    pub fn remove(&self) -> Result<(), RunDirError> {
        if self.lives_on() {
            return Err(RunDirError::Alive {
                name: self.name.clone(),
            });
        }
        self.discard().map_err(failed("remove", &self.path))
    }

    /// Creates an empty file in the directory, to be read and written.
    pub fn create(&self, path: &Path) -> Result<File, RunDirError> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(failed("create", path))
    }
}

#[cfg(test)]
pub(crate) mod tests;
