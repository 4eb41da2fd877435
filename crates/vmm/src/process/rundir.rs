//! Where VMs are found: a directory per VM under one directory per user.
//!
//! ```text
//! <run dir>/.shells/             processes that are no VM yet, each with a directory
//!           .pool/               the processes that keep some in stock (see pool)
//! <run dir>/<name>/lock          held by the VM's process as long as it lives
//!                  info.json     what the VM last told about itself
//!                  token         by what it is known, if it has an agent
//!                  control.sock  its control socket
//!                  vsock.sock    its guest's sockets; only once it is ready
//!                  console.sock  its console
//!                  console.log, output.log, monitor.log
//! ```
//!
//! A directory is made without a name, with all its sockets and logs in it, and
//! renamed when it is to be a VM: that claims the name, at once or not at all. When it is
//! removed, it first loses its name, so that nobody finds half of it. Holding the lock
//! proves life. So a process that was killed leaves a directory that everybody can tell
//! is dead.

use hyperfork_api::VmName;
use rustix::fs::{CWD, FlockOperation, Mode, RenameFlags, flock, renameat_with};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The directory of all of a user's VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir(PathBuf);

/// One VM's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDir {
    path: PathBuf,
    name: VmName,
}

/// The right to be the VM of a directory, which may have no name yet. Whoever holds the
/// descriptor (or a copy in another process) keeps the VM alive in the eyes of all
/// others.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) dir: VmDir,
    pub(super) lock: File,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// It belongs to somebody else.
    #[error("{0} belongs to another user: set XDG_RUNTIME_DIR to a directory of your own")]
    Foreign(PathBuf),
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

/// The directory of those without a name.
const SHELLS: &str = ".shells";

/// Where pools are, each in a directory of its own.
const POOLS: &str = ".pool";

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
    /// The calling user's: `$XDG_RUNTIME_DIR/hyperfork`, or where that is unset
    /// `/run/hyperfork` (root) or `/tmp/hyperfork-$UID`. Made if missing, for the
    /// user alone.
    ///
    /// # Errors
    /// [`RunDirError::Foreign`], [`RunDirError::Io`].
    pub fn for_user() -> Result<Self, RunDirError> {
        let uid = rustix::process::getuid();
        let path = match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => Path::new(&dir).join("hyperfork"),
            None if uid.is_root() => PathBuf::from("/run/hyperfork"),
            None => PathBuf::from(format!("/tmp/hyperfork-{}", uid.as_raw())),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(failed("make the run directory", &path))?;
        let meta = fs::symlink_metadata(&path).map_err(failed("look at", &path))?;
        if !meta.is_dir() || meta.uid() != uid.as_raw() {
            return Err(RunDirError::Foreign(path));
        }
        Ok(Self(path))
    }

    /// A run directory at `path`, which exists.
    pub(super) fn at(path: PathBuf) -> Self {
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

    /// All VMs, by name. What killed starters left of VMs that never lived is removed.
    ///
    /// # Errors
    /// [`RunDirError::Io`].
    pub fn list(&self) -> Result<Vec<VmDir>, RunDirError> {
        let entries = fs::read_dir(&self.0).map_err(failed("list", &self.0))?;
        let mut names: Vec<VmName> = entries
            .filter_map(|entry| VmName::new(entry.ok()?.file_name().into_string().ok()?).ok())
            .collect();
        names.sort();
        self.sweep_shells();
        let dirs = names.iter().map(|name| self.vm(name));
        Ok(dirs.filter(|dir| !dir.reap()).collect())
    }

    /// Makes the directory of a new VM.
    ///
    /// # Errors
    /// [`RunDirError`]; [`RunDirError::InUse`] also for a VM that has ended and
    /// was not removed.
    pub(super) fn claim(&self, name: &VmName) -> Result<Claim, RunDirError> {
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

    /// Makes a directory that is nobody's yet. [`VmDir::rename`] gives it its name.
    ///
    /// # Errors
    /// [`RunDirError::Io`].
    pub(super) fn nameless(&self) -> Result<Claim, RunDirError> {
        let shells = self.shells();
        let failed = failed("make a directory in", &shells);
        for _ in 0..CLAIM_ATTEMPTS {
            let dir = self.unused();
            let made = self
                .make_shells()
                .and_then(|()| DirBuilder::new().mode(0o700).create(&dir.path));
            // What is in the way was left by a killed process of this number; or somebody
            // who cleans up took the directory, or that of all, for abandoned just now.
            match made.map_err(|error| (error.kind(), error)) {
                Ok(()) => match dir.try_lock() {
                    Some(lock) => return Ok(Claim { dir, lock }),
                    None => drop(fs::remove_dir_all(&dir.path)),
                },
                Err((io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists, _)) => {}
                Err((_, error)) => return Err(failed(error)),
            }
        }
        Err(failed(io::ErrorKind::WouldBlock.into()))
    }

    /// The directory of a process that is no VM yet, by the name it goes by until it has
    /// one.
    pub(super) fn shell(&self, name: &VmName) -> VmDir {
        VmDir {
            path: self.shells().join(name.as_str()),
            name: name.clone(),
        }
    }

    /// A directory without a name that this process has not used yet.
    fn unused(&self) -> VmDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        self.shell(&VmName::new(name).expect("digits are a name"))
    }

    fn make_shells(&self) -> io::Result<()> {
        make_fleeting(&self.shells())
    }

    /// Where processes are that are no VMs yet.
    fn shells(&self) -> PathBuf {
        self.0.join(SHELLS)
    }

    /// The directory of this program's pool. Another version of it, which may be installed
    /// while VMs live, is another file, and has a pool of its own: the two would not
    /// understand each other.
    pub(super) fn pool(&self) -> PathBuf {
        let program = fs::metadata("/proc/self/exe").map_or(0, |meta| meta.ino());
        self.0.join(POOLS).join(format!("{program:x}"))
    }

    /// Makes the pool's directory, which the last pool may take away at any moment.
    pub(super) fn make_pool(&self) -> io::Result<PathBuf> {
        let path = self.pool();
        make_fleeting(&path).map(|()| path)
    }

    /// Removes the pool's directory, which has nothing of use in it any more.
    pub(super) fn remove_pool(&self) {
        let _ = fs::remove_dir_all(self.pool());
        // Succeeds only when there is no other.
        let _ = fs::remove_dir(self.0.join(POOLS));
    }

    /// Removes what killed processes left of shells, and of VMs that they were removing.
    pub(super) fn sweep_shells(&self) {
        for entry in fs::read_dir(self.shells()).into_iter().flatten().flatten() {
            if let Some(name) = entry.file_name().to_str().and_then(|n| VmName::new(n).ok()) {
                let dir = self.shell(&name);
                if let Some(_lock) = dir.try_lock() {
                    let _ = remove_all(&dir.path);
                }
            }
        }
        // Succeeds only when nobody has one.
        let _ = fs::remove_dir(self.shells());
    }
}

/// How often a directory is made while others clean up. Many may, one after the other,
/// and each may take away what it is made in.
const CLAIM_ATTEMPTS: u32 = 10_000;

impl VmDir {
    /// The VM's name.
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the VM's process is asked things.
    pub fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Where the guest's sockets are reached.
    pub fn vsock_socket(&self) -> PathBuf {
        self.path.join("vsock.sock")
    }

    /// Where the console is attached to.
    pub fn console_socket(&self) -> PathBuf {
        self.path.join("console.sock")
    }

    /// What the guest's console has printed.
    pub fn console_log(&self) -> PathBuf {
        self.path.join("console.log")
    }

    /// What the main program has printed.
    pub fn output_log(&self) -> PathBuf {
        self.path.join("output.log")
    }

    /// What the VM's process itself had to say.
    pub fn monitor_log(&self) -> PathBuf {
        self.path.join("monitor.log")
    }

    /// What the guest's root finds in `/run/hyperfork/token`, 32 digits: by it one that
    /// claims to be this VM is known.
    pub fn token_path(&self) -> PathBuf {
        self.path.join("token")
    }

    pub(super) fn info_path(&self) -> PathBuf {
        self.path.join("info.json")
    }

    fn lock_path(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Whether there is such a VM, alive or ended.
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Whether somebody has it; not so for what killed starters left.
    pub(super) fn is_taken(&self) -> bool {
        self.exists() && !self.reap()
    }

    /// Whether a process stands behind it.
    pub fn is_alive(&self) -> bool {
        let lock = rustix::fs::open(
            self.lock_path(),
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            Mode::empty(),
        );
        lock.is_ok_and(|lock| {
            let alive = flock(&lock, FlockOperation::NonBlockingLockShared).is_err();
            // A program that is just being started may have a copy of the descriptor.
            let _ = flock(&lock, FlockOperation::Unlock);
            alive
        })
    }

    /// Takes the lock, if nobody has it and the directory is still there.
    fn try_lock(&self) -> Option<File> {
        let lock = File::create(self.lock_path()).ok()?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
        let there = fs::metadata(self.lock_path()).ok()?;
        (there.ino() == lock.metadata().ok()?.ino()).then_some(lock)
    }

    /// Removes the directory of a VM that never came to life because its starter was
    /// killed; whether that was so.
    fn reap(&self) -> bool {
        if self.info_path().exists() {
            return false;
        }
        // Removed while it is locked, so that nobody becomes it meanwhile; and if nobody
        // was it before.
        self.try_lock()
            .is_some_and(|_lock| !self.info_path().exists() && self.discard().is_ok())
    }

    /// Removes the directory: first from where others look for it, at once.
    fn discard(&self) -> io::Result<()> {
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
                // What is in the way was left by a killed process of this number; or the
                // directory of all shells went with the last of them.
                Err(rustix::io::Errno::EXIST) => {}
                Err(rustix::io::Errno::NOENT) if self.exists() => {}
                // Somebody else has removed it, maybe.
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Gives the directory the name and place of `to`, if that is free. Whatever is open
    /// in it, or listens there, goes along.
    ///
    /// # Errors
    /// [`RunDirError`].
    pub(super) fn rename(&self, to: &VmDir) -> Result<VmDir, RunDirError> {
        if to.console_socket().as_os_str().len() > SOCKET_PATH_MAX {
            return Err(RunDirError::TooDeep(to.path.clone()));
        }
        loop {
            match renameat_with(CWD, &self.path, CWD, &to.path, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(to.clone()),
                Err(rustix::io::Errno::EXIST) if to.reap() => {}
                Err(rustix::io::Errno::EXIST) => {
                    return Err(RunDirError::InUse {
                        name: to.name.clone(),
                    });
                }
                Err(error) => return Err(failed("make", &to.path)(error.into())),
            }
        }
    }

    /// The last to go takes the directory of all shells along. (Not the last to become a
    /// VM: trying takes 20 µs, in the midst of a fork.)
    fn remove_shells(&self) {
        if let Some(parent) = self.path.parent().filter(|dir| dir.ends_with(SHELLS)) {
            // Others may be in it.
            let _ = fs::remove_dir(parent);
        }
    }

    /// Removes what an ended VM left.
    ///
    /// # Errors
    /// [`RunDirError::Alive`], [`RunDirError::Io`].
    pub fn remove(&self) -> Result<(), RunDirError> {
        if self.is_alive() {
            return Err(RunDirError::Alive {
                name: self.name.clone(),
            });
        }
        self.discard().map_err(failed("remove", &self.path))
    }

    /// Creates a file of the VM's, empty, to be read and written.
    pub(super) fn create(&self, path: &Path) -> Result<File, RunDirError> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(failed("create", path))
    }
}

impl Claim {
    /// The claim of a process that was handed the lock.
    pub(super) fn received(dir: VmDir, lock: File) -> Self {
        Self { dir, lock }
    }

    /// Gives the name up and removes the directory.
    pub(super) fn abandon(self) {
        let _ = self.dir.discard();
        self.dir.remove_shells();
    }
}

/// Makes a directory that others may take away at any moment: what is done in it next tells.
fn make_fleeting(path: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        // It was there, and gone when the library looked whether it is a directory.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Removes a directory that others may be removing, too, or looking at for its lock, which
/// makes that file anew.
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

#[cfg(test)]
mod tests {
    use super::super::client::ClientError;
    use super::super::record;
    use super::*;
    use crate::identity;
    use hyperfork_api::spec::Guest;
    use hyperfork_api::{Bytes, VmSpec};
    use std::sync::atomic::AtomicBool;

    fn run_dir() -> (tempfile::TempDir, RunDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(temp.path().to_owned());
        (temp, dir)
    }

    #[test]
    fn a_name_is_claimed_once_and_free_again_after_removal() {
        let (_temp, run) = run_dir();
        let name = VmName::new("p").unwrap();
        let claim = run.claim(&name).unwrap();
        assert!(run.vm(&name).is_alive());
        assert!(matches!(run.claim(&name), Err(RunDirError::InUse { .. })));
        assert!(matches!(
            run.vm(&name).remove(),
            Err(RunDirError::Alive { .. })
        ));
        fs::write(run.vm(&name).info_path(), "{}").unwrap();
        drop(claim);
        assert!(!run.vm(&name).is_alive());
        assert!(matches!(run.claim(&name), Err(RunDirError::InUse { .. })));
        run.vm(&name).remove().unwrap();
        run.claim(&name).unwrap();
    }

    #[test]
    fn what_a_killed_starter_left_is_neither_listed_nor_in_the_way() {
        let (_temp, run) = run_dir();
        let name = VmName::new("p").unwrap();
        drop(run.claim(&name).unwrap());
        assert_eq!(run.list().unwrap(), []);
        drop(run.claim(&name).unwrap());
        let _claim = run.claim(&name).unwrap();
        assert_eq!(run.list().unwrap(), [run.vm(&name)]);
    }

    #[test]
    fn removing_what_is_gone_already_leaves_nothing() {
        let (_temp, run) = run_dir();
        let claim = run.claim(&VmName::new("p").unwrap()).unwrap();
        let dir = claim.dir.clone();
        claim.abandon();
        assert!(dir.remove().is_err());
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 0);
    }

    struct Done<'a>(&'a AtomicBool);

    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_vm_that_comes_and_goes_is_found_whole_or_not_at_all() {
        const TIMES: u32 = 200;
        let (_temp, run) = run_dir();
        let name = VmName::new("p").unwrap();
        let spec = VmSpec {
            name: name.clone(),
            cpus: 1,
            memory: Bytes::mib(64),
            guest: Guest::Nano {
                options: String::new(),
            },
            image: "nano".to_owned(),
            max_forks: None,
            identical_clones: false,
            ready_timeout_ms: 1,
        };
        let info = record::born(&spec, &identity::booted(&name).unwrap(), None);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Also when it panics.
                let _done = Done(&done);
                for _ in 0..TIMES {
                    let claim = run.claim(&name).unwrap();
                    record::keep(&claim.dir, &info).unwrap();
                    let _ = flock(&claim.lock, FlockOperation::Unlock);
                    // Whoever looks at it may have its lock for a moment.
                    while let Err(error) = run.vm(&name).remove() {
                        assert!(matches!(error, RunDirError::Alive { .. }), "{error:?}");
                    }
                }
            });
            while !done.load(Ordering::Relaxed) {
                for dir in run.list().unwrap() {
                    match dir.info() {
                        Ok(found) => assert_eq!(found.name, name),
                        Err(ClientError::Unknown { .. } | ClientError::Starting { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
        });
        assert_eq!(run.list().unwrap(), []);
        // Removing one that is not there leaves nothing, either.
        assert!(run.vm(&name).remove().is_err());
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused_before_anything_is_made() {
        let (_temp, run) = run_dir();
        let deep = RunDir::at(run.path().join("x".repeat(100)));
        assert!(matches!(
            deep.claim(&VmName::new("p").unwrap()),
            Err(RunDirError::TooDeep(_))
        ));
    }
}
