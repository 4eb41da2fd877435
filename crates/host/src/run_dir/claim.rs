//! Claiming names and removing directories, while other processes do the same.

use super::{INFO, LOCK, RunDir, RunDirError, SHELLS, SOCKET_PATH_MAX, VmDir, failed};
use crate::program;
use hyperfork_api::{VmInfo, VmName};
use hyperfork_sys::fault;
use hyperfork_sys::process::{self, Process};
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The right to be the VM of a directory, which may have no name yet. The VM counts as alive as
/// long as a process holds the descriptor of the lock, or a copy of it.
#[derive(Debug)]
pub struct Claim {
    /// The directory.
    pub dir: VmDir,
    /// Its lock.
    pub lock: File,
}

/// How long the kernel may take to end a process that was killed.
const KILLED: Duration = Duration::from_secs(1);

/// How often to try to make a directory. Each attempt fails if another process cleans up at that
/// moment and removes the directory in which it is made.
const CLAIM_ATTEMPTS: u32 = 10_000;

impl RunDir {
    /// Makes the directory of a new VM.
    ///
    /// # Errors
    /// [`RunDirError`]; [`RunDirError::InUse`] also for a VM that has ended and
    /// was not removed.
    pub fn claim(&self, name: &VmName) -> Result<Claim, RunDirError> {
        if self.vm(name).is_taken() {
            return Err(RunDirError::InUse { name: name.clone() });
        }
        let mut claim = self.nameless()?;
        match claim.dir.rename(&self.vm(name)) {
            Ok(dir) => claim.dir = dir,
            Err(error) => {
                claim.abandon();
                return Err(error);
            }
        }
        Ok(claim)
    }

    /// Makes a directory that has no VM's name yet. [`VmDir::rename`] gives it one.
    ///
    /// # Errors
    /// [`RunDirError::Io`].
    pub fn nameless(&self) -> Result<Claim, RunDirError> {
        let shells = self.shells();
        let failed = |error| failed("make a directory in", &shells)(error);
        for _ in 0..CLAIM_ATTEMPTS {
            let dir = self.unused();
            let made = self
                .make_shells()
                .and_then(|()| DirBuilder::new().mode(0o700).create(&dir.path));
            // Either a killed process with this process's number has left the directory, or a
            // command that cleans up has just removed it, or the one around it, as abandoned.
            match made.map_err(|error| (error.kind(), error)) {
                Ok(()) => match dir.make_lock().map_err(failed)? {
                    Some(lock) => return Ok(Claim { dir, lock }),
                    None => drop(fs::remove_dir_all(&dir.path)),
                },
                Err((io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists, _)) => {}
                Err((_, error)) => return Err(failed(error)),
            }
        }
        Err(failed(io::ErrorKind::WouldBlock.into()))
    }

    /// The directory of a process that is not a VM yet, by its temporary name.
    pub fn shell(&self, name: &VmName) -> VmDir {
        VmDir {
            path: self.shells().join(name.as_str()),
            name: name.clone(),
        }
    }

    /// A temporary directory that this process has not used yet.
    pub(super) fn unused(&self) -> VmDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        self.shell(&VmName::new(name).expect("digits are a name"))
    }

    fn make_shells(&self) -> io::Result<()> {
        make_fleeting(&self.shells())
    }

    /// Removes what killed processes have left of shells, and of VMs that they were removing. A
    /// shell ends by itself when its pool is killed, unless it is stopped (SIGSTOP): that one is
    /// killed.
    pub fn sweep_shells(&self) {
        let shells = self.shells();
        // A symbolic link would lead to directories that are none of this program's.
        if !fs::symlink_metadata(&shells).is_ok_and(|meta| meta.is_dir()) {
            return;
        }
        for entry in fs::read_dir(&shells).into_iter().flatten().flatten() {
            if let Some(name) = entry.file_name().to_str().and_then(|n| VmName::new(n).ok()) {
                let dir = self.shell(&name);
                if dir.is_abandoned_shell() && dir.kill().is_ok() {
                    dir.ends_within(KILLED);
                }
                if let Ok(Some(_lock)) = dir.make_lock() {
                    let _ = remove_all(&dir.path);
                }
            }
        }
        // Succeeds only when it is empty.
        let _ = fs::remove_dir(shells);
    }
}

impl VmDir {
    /// Whether this is the directory of a shell that is stopped and whose launcher has ended. The
    /// launcher was the shell's parent, and its number is in the name ([`RunDir::unused`]).
    fn is_abandoned_shell(&self) -> bool {
        let launcher = self.name.as_str().split('-').next();
        let launcher = launcher.and_then(|number| number.parse::<u32>().ok());
        let (Some(launcher), Some(pid)) = (launcher, self.pid()) else {
            return false;
        };
        self.is_alive()
            && process::stands_still(pid)
            && process::parent_of(pid).is_some_and(|parent| parent != launcher)
    }

    /// The VM's process, if it lives and its number is known.
    pub fn process(&self) -> Option<Process> {
        let process = Process::open(self.pid()?).ok()?;
        // If the VM still lives, the process has not ended, so its number was not reused.
        self.is_alive().then_some(process)
    }

    /// The number of the VM's process, if that is known; another process may have it if the VM
    /// does not live.
    pub(super) fn pid(&self) -> Option<u32> {
        match self.read(LOCK) {
            Ok(pid) => std::str::from_utf8(&pid).ok()?.parse().ok(),
            Err(_) => self.process_without_lock(),
        }
    }

    /// The process that the VM's description names, if that is a VM's process: shows that a VM
    /// whose lock was removed still lives. Its owner ends it when it notices the removal.
    pub(super) fn process_without_lock(&self) -> Option<u32> {
        let info: VmInfo = serde_json::from_slice(&self.read_info().ok()?).ok()?;
        let pid = info.status.pid.filter(|_| info.status.state.is_alive())?;
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut arguments = arguments.split(|byte| *byte == 0);
        let is_vm = [program::NAME, program::VM]
            .into_iter()
            .all(|word| arguments.next() == Some(word.as_bytes()));
        is_vm.then_some(pid)
    }

    /// Kills the VM's process, if there is one.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&self) -> io::Result<()> {
        self.process().map_or(Ok(()), |process| process.kill())
    }

    /// Takes the lock, if there is one that no process holds and the directory still exists.
    ///
    /// # Errors
    /// The system's: no descriptor left.
    fn try_lock(&self) -> io::Result<Option<File>> {
        self.lock(OFlags::WRONLY)
    }

    /// As [`try_lock`](Self::try_lock); makes the lock if there is none, for a directory that is
    /// claimed, or removed.
    ///
    /// # Errors
    /// The system's: no room, no descriptor left.
    fn make_lock(&self) -> io::Result<Option<File>> {
        self.lock(OFlags::WRONLY | OFlags::CREATE)
    }

    fn lock(&self, how: OFlags) -> io::Result<Option<File>> {
        // Not emptied: the number of the process that holds it may be in it.
        let lock = match self.open(LOCK, how) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        match fs::symlink_metadata(self.lock_path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            there => Ok((there?.ino() == lock.metadata()?.ino()).then_some(lock)),
        }
    }

    /// Removes the directory of a VM that never ran because its launcher was killed; returns
    /// whether that was so.
    pub(super) fn reap(&self) -> bool {
        if self.has(INFO) {
            return false;
        }
        // Removes it while it is locked, so that no VM takes it meanwhile, and only if none had
        // taken it before.
        let lock = self.try_lock().ok().flatten();
        lock.is_some_and(|_lock| !self.has(INFO) && self.discard().is_ok())
    }

    /// Removes, for a VM that wants the name, what [`reap`](Self::reap) does, or an empty
    /// directory; returns whether that was so.
    pub(super) fn vacate(&self) -> bool {
        self.reap() || fs::remove_dir(&self.path).is_ok()
    }

    /// Removes the directory. It is renamed first, so that it loses its name atomically.
    pub(super) fn discard(&self) -> io::Result<()> {
        let run_dir = match self.path.parent() {
            Some(parent) if !parent.ends_with(SHELLS) => RunDir::at(parent.to_owned()),
            _ => return remove_all(&self.path),
        };
        for _ in 0..CLAIM_ATTEMPTS {
            let nameless = run_dir.unused();
            run_dir.make_shells()?;
            let (from, to) = (&self.path, &nameless.path);
            let renamed = renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
            let removed = renamed.map(|()| remove_all(to));
            nameless.remove_shells();
            match removed {
                Ok(removed) => return removed,
                // Either a killed process with this process's number has left the target, or another
                // command has just removed the empty directory of shells.
                Err(rustix::io::Errno::EXIST) => {}
                Err(rustix::io::Errno::NOENT) if self.exists() => {}
                // Perhaps another command has removed it.
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Gives the directory the name and place of `to`, if that is free. Open files and listening
    /// sockets in it stay usable.
    ///
    /// # Errors
    /// [`RunDirError`].
    pub fn rename(&self, to: &VmDir) -> Result<VmDir, RunDirError> {
        fault::point("shells.name").map_err(failed("make", &to.path))?;
        if to.console_socket().as_os_str().len() > SOCKET_PATH_MAX {
            return Err(RunDirError::TooDeep(to.path.clone()));
        }
        loop {
            match renameat_with(CWD, &self.path, CWD, &to.path, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(to.clone()),
                Err(rustix::io::Errno::EXIST) if to.vacate() => {}
                Err(rustix::io::Errno::EXIST) => {
                    return Err(RunDirError::InUse {
                        name: to.name.clone(),
                    });
                }
                Err(error) => return Err(failed("make", &to.path)(error.into())),
            }
        }
    }

    /// Removes the directory of shells if it is empty. (Not called when a shell becomes a VM:
    /// trying takes 20 µs, on the fork path.)
    fn remove_shells(&self) {
        if let Some(parent) = self.path.parent().filter(|dir| dir.ends_with(SHELLS)) {
            // Fails if there are other shells.
            let _ = fs::remove_dir(parent);
        }
    }
}

impl Claim {
    /// The claim of a process that has received the lock. Writes the process's number to the lock
    /// file, so that the process of a VM that does not answer can be found.
    ///
    /// # Errors
    /// The file system's.
    pub fn received(dir: VmDir, lock: File) -> io::Result<Self> {
        lock.write_all_at(std::process::id().to_string().as_bytes(), 0)?;
        Ok(Self { dir, lock })
    }

    /// Follows the directory to another name and place.
    ///
    /// # Errors
    /// `NotFound` when it is not there.
    pub fn take_place(&mut self, dir: VmDir) -> io::Result<()> {
        fault::point("clone.place")?;
        self.dir = dir;
        match self.is_in_place() {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} is not this VM's directory", self.dir.path.display()),
            )),
        }
    }

    /// Whether the directory is still in its place, with its lock.
    pub fn is_in_place(&self) -> bool {
        let (Ok(there), Ok(held)) = (fs::metadata(self.dir.lock_path()), self.lock.metadata())
        else {
            return false;
        };
        (there.dev(), there.ino()) == (held.dev(), held.ino())
    }

    /// Whether the directory was removed and another VM has its place.
    pub fn is_replaced(&self) -> bool {
        self.dir.lock_path().exists() && !self.is_in_place()
    }

    /// Gives up the name and removes the directory.
    pub fn abandon(self) {
        if !self.is_replaced() {
            let _ = self.dir.discard();
        }
        self.dir.remove_shells();
    }
}

/// Makes a directory that other processes may remove at any moment; the caller notices that when
/// it uses the directory.
pub(crate) fn make_fleeting(path: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        // It existed, and was removed before the library checked that it is a directory.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Removes a directory that other processes may be removing, too, or whose lock they may be
/// trying, which creates that file again.
fn remove_all(path: &Path) -> io::Result<()> {
    for _ in 0..CLAIM_ATTEMPTS {
        match fs::remove_dir_all(path).map_err(|error| error.kind()) {
            Ok(()) | Err(io::ErrorKind::NotFound) if !path.exists() => return Ok(()),
            Ok(()) | Err(io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {}
            Err(kind) => return Err(kind.into()),
        }
    }
    Err(io::ErrorKind::DirectoryNotEmpty.into())
}
