//! The cache on disk: artifacts under their keys, complete or absent.
//!
//! One lock file per artifact, under `flock`:
//!
//! | held | by | while |
//! |---|---|---|
//! | exclusively | a builder | it builds and puts the artifact in place |
//! | exclusively | the collector | it checks whether the artifact is used, and removes it if not |
//! | shared | a caller that asked for an artifact | until an image that names it is written |
//!
//! The kernel drops a lock with its holder, so a temporary directory whose
//! artifact is not locked belongs to a builder that died, and can go. Lock files
//! themselves stay: removing one while a process waits on it would make two locks.

use crate::error::is_disk_full;
use crate::{BuildError, CacheError, Environment, Progress};
use rustix::fs::FlockOperation;
use rustix::io::{Errno, retry_on_intr};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Names an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Id {
    pub(crate) kind: String,
    pub(crate) key: String,
}

impl Id {
    fn file_name(&self) -> String {
        format!("{}-{}", self.kind, self.key)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.key)
    }
}

/// What the cache records about an artifact beside its files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Artifacts it was made from: kept as long as it is, to build its successor
    /// quickly.
    pub(crate) inputs: Vec<Id>,
    /// Variables for the programs that run from it.
    #[serde(serialize_with = "with_pvm_env")]
    pub(crate) environment: Environment,
}

/// Earlier versions of this program use the same cache, and fail on a record without this list.
fn with_pvm_env<S: Serializer>(environment: &Environment, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Recorded<'a> {
        #[serde(flatten)]
        environment: &'a Environment,
        pvm_env: [(); 0],
    }
    let pvm_env = [];
    Recorded {
        environment,
        pvm_env,
    }
    .serialize(to)
}

/// An artifact that is there, and stays there while this value lives.
#[derive(Debug)]
pub(crate) struct Artifact {
    id: Id,
    path: PathBuf,
    // Shared; the collector leaves the artifact alone.
    _lock: Lock,
}

impl Artifact {
    /// Its name.
    pub(crate) fn id(&self) -> &Id {
        &self.id
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// What a build is to make.
pub(crate) struct Order<'a> {
    pub(crate) id: &'a Id,
    pub(crate) title: &'a str,
    pub(crate) space_needed: u64,
}

#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// The file in an artifact's directory that holds its [`Meta`].
const META: &str = "meta.json";

impl Cache {
    /// Opens the cache and clears away what builders that died have left.
    pub(crate) fn open(root: &Path) -> Result<Self, CacheError> {
        let cache = Self {
            root: root.to_owned(),
        };
        for directory in ["images", "locks", "tmp"] {
            create(&root.join(directory))?;
        }
        cache.sweep()?;
        Ok(cache)
    }

    pub(crate) fn path(&self, id: &Id) -> PathBuf {
        self.root.join(&id.kind).join(&id.key)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The record of an artifact that is there. One that cannot be understood, as another version
    /// of this program may have written it, is as good as none, and so is its artifact.
    pub(crate) fn meta(&self, id: &Id) -> Result<Option<Meta>, CacheError> {
        let path = self.path(id).join(META);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => {
                let text = read.map_err(CacheError::file("read", &path))?;
                Ok(serde_json::from_slice(&text).ok())
            }
        }
    }

    /// Whether the artifact is there, with a record that can be understood.
    pub(crate) fn has(&self, id: &Id) -> Result<bool, CacheError> {
        Ok(self.meta(id)?.is_some())
    }

    /// The error of an artifact that was there a moment ago.
    pub(crate) fn vanished(&self, id: &Id) -> CacheError {
        let gone = io::Error::new(io::ErrorKind::NotFound, "it was removed meanwhile");
        CacheError::file("use", &self.path(id))(gone)
    }

    /// The newest artifact of this kind whose key begins with `digest`.
    pub(crate) fn newest(&self, kind: &str, digest: &str) -> Option<Id> {
        let entries = fs::read_dir(self.root.join(kind)).ok()?;
        entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let key = entry.file_name().into_string().ok()?;
                let built = entry.metadata().ok()?.modified().ok()?;
                key.starts_with(digest).then_some((built, key))
            })
            .max()
            .map(|(_, key)| Id {
                kind: kind.to_owned(),
                key,
            })
    }

    /// The artifact, if it is there.
    pub(crate) fn find(&self, id: &Id) -> Result<Option<Artifact>, CacheError> {
        if !self.has(id)? {
            return Ok(None);
        }
        let lock = self.lock_file(id)?;
        self.lock(&lock, FlockOperation::LockShared)?;
        self.locked(id, lock)
    }

    /// The artifact, built now if it is not there; where another process is
    /// building it, after waiting for that.
    pub(crate) fn ensure(
        &self,
        order: &Order<'_>,
        progress: &mut dyn Progress,
        build: impl FnOnce(PathBuf, PathBuf, &mut dyn Progress) -> Result<Meta, BuildError>,
    ) -> Result<Artifact, CacheError> {
        if let Some(artifact) = self.find(order.id)? {
            return Ok(artifact);
        }
        let lock = self.lock_file(order.id)?;
        if !self.lock(&lock, FlockOperation::NonBlockingLockExclusive)? {
            let step = format!("waiting for another build of {}", order.title);
            progress.started(&step);
            self.lock(&lock, FlockOperation::LockExclusive)?;
            progress.finished(&step);
        }
        if !self.has(order.id)? {
            self.build(order, progress, build)?;
        }
        // Changing an flock is not atomic: the collector may come in between,
        // for an artifact that no image names yet. Only an exclusive lock can
        // have removed it, so look once it is shared.
        self.lock(&lock, FlockOperation::LockShared)?;
        let artifact = self.locked(order.id, lock)?;
        artifact.ok_or_else(|| self.vanished(order.id))
    }

    fn locked(&self, id: &Id, lock: Lock) -> Result<Option<Artifact>, CacheError> {
        Ok(self.has(id)?.then(|| Artifact {
            id: id.clone(),
            path: self.path(id),
            _lock: lock,
        }))
    }

    /// Builds with the exclusive lock held.
    fn build(
        &self,
        order: &Order<'_>,
        progress: &mut dyn Progress,
        build: impl FnOnce(PathBuf, PathBuf, &mut dyn Progress) -> Result<Meta, BuildError>,
    ) -> Result<(), CacheError> {
        let full = || CacheError::DiskFull {
            title: order.title.to_owned(),
            path: self.root.clone(),
            needed_mib: order.space_needed.div_ceil(1 << 20),
            free_mib: self.free_space() >> 20,
        };
        if self.free_space() < order.space_needed {
            return Err(full());
        }
        let scratch = self.scratch(order.id)?;
        let (out, work) = (scratch.0.join("out"), scratch.0.join("work"));
        let built = create(&out)
            .and_then(|()| create(&work))
            .and_then(|()| {
                build(out.clone(), work, progress).map_err(|source| CacheError::Build {
                    title: order.title.to_owned(),
                    source,
                })
            })
            .and_then(|meta| write_durably(&out.join(META), &meta))
            .and_then(|()| sync(&out))
            .and_then(|()| self.take_away(order.id, &scratch))
            .and_then(|()| self.put(&out, &self.path(order.id)));
        built.map_err(|error| match error {
            CacheError::Build { source, .. } if source.is_disk_full() => full(),
            CacheError::File { source, .. } if is_disk_full(&source) => full(),
            // What failed is the other artifact, and it says so itself.
            CacheError::Build {
                source: BuildError::Input(input),
                ..
            } => *input,
            other => other,
        })
    }

    /// Removes all artifacts of these kinds that no process holds and that are not
    /// [used](Cache::used). It checks that anew for each, under its lock: a process
    /// that is about to name it in an image holds it until that is done.
    pub(crate) fn collect(&self, kinds: &[&str]) -> Result<(), CacheError> {
        for kind in kinds {
            for key in names(&self.root.join(kind)) {
                let id = Id {
                    kind: (*kind).to_owned(),
                    key,
                };
                let lock = self.lock_file(&id)?;
                if self.lock(&lock, FlockOperation::NonBlockingLockExclusive)?
                    && !self.used()?.contains(&id)
                {
                    self.take_away(&id, &self.scratch(&id)?)?;
                }
            }
        }
        Ok(())
    }

    /// Takes an artifact out of its place, if it is there, to be removed with `scratch`: so it is
    /// never seen in part.
    fn take_away(&self, id: &Id, scratch: &Scratch) -> Result<(), CacheError> {
        let path = self.path(id);
        match fs::rename(&path, scratch.0.join("removed")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.map_err(CacheError::file("remove", &path)),
        }
    }

    /// Removes temporary directories whose builders have died.
    fn sweep(&self) -> Result<(), CacheError> {
        for name in names(&self.root.join("tmp")) {
            let Some((lock_name, _pid)) = name.rsplit_once('.') else {
                continue;
            };
            let path = self.root.join("locks").join(lock_name);
            let lock = open_lock(&path)?;
            if self.lock(&lock, FlockOperation::NonBlockingLockExclusive)? {
                remove(&self.root.join("tmp").join(&name));
            }
        }
        Ok(())
    }

    /// An empty temporary directory for the holder of `id`'s exclusive lock.
    pub(crate) fn scratch(&self, id: &Id) -> Result<Scratch, CacheError> {
        let tmp = self.root.join("tmp");
        let prefix = format!("{}.", id.file_name());
        for stale in names(&tmp) {
            if stale.starts_with(&prefix) {
                remove(&tmp.join(stale));
            }
        }
        // Not the name a dead builder used, whose last tools may still run.
        let scratch = Scratch(tmp.join(format!("{prefix}{}", std::process::id())));
        create(&scratch.0)?;
        Ok(scratch)
    }

    /// Renames a durable file or directory into its place, durably.
    pub(crate) fn put(&self, from: &Path, to: &Path) -> Result<(), CacheError> {
        let parent = to.parent().unwrap_or(&self.root);
        create(parent)?;
        fs::rename(from, to).map_err(CacheError::file("create", to))?;
        sync(parent)
    }

    pub(crate) fn lock_file(&self, id: &Id) -> Result<Lock, CacheError> {
        open_lock(&self.root.join("locks").join(id.file_name()))
    }

    /// Takes a lock; `false` where it was not to be waited for and is taken.
    pub(crate) fn lock(&self, lock: &Lock, how: FlockOperation) -> Result<bool, CacheError> {
        match retry_on_intr(|| rustix::fs::flock(&lock.0, how)) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(CacheError::file("lock in", &self.root)(error.into())),
        }
    }

    fn free_space(&self) -> u64 {
        // Where the file system does not tell, the build will find out.
        rustix::fs::statvfs(&self.root).map_or(u64::MAX, |fs| fs.f_bavail * fs.f_frsize)
    }
}

/// A lock file, unlocked with this value. Closing it would not do: a program
/// that another thread is just starting has a copy of the descriptor until it
/// is executed, and the lock would live as long.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// A temporary directory, removed with this value.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes what can be removed; the next sweep tries again.
fn remove(path: &Path) {
    let _ = fs::remove_dir_all(path);
}

fn create(path: &Path) -> Result<(), CacheError> {
    fs::create_dir_all(path).map_err(CacheError::file("create", path))
}

fn open_lock(path: &Path) -> Result<Lock, CacheError> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map(Lock)
        .map_err(CacheError::file("open", path))
}

/// The names in a directory; none where it is absent.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

pub(crate) fn write_durably(path: &Path, content: &impl Serialize) -> Result<(), CacheError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(&serde_json::to_vec_pretty(content)?)?;
        file.sync_all()
    };
    write().map_err(CacheError::file("write", path))
}

/// Makes a file, or a directory with all that is in it, durable.
fn sync(path: &Path) -> Result<(), CacheError> {
    let sync_all = || -> io::Result<()> {
        let mut todo = vec![path.to_owned()];
        while let Some(path) = todo.pop() {
            let kind = fs::symlink_metadata(&path)?.file_type();
            if kind.is_dir() {
                for entry in fs::read_dir(&path)? {
                    todo.push(entry?.path());
                }
            }
            if kind.is_dir() || kind.is_file() {
                File::open(&path)?.sync_all()?;
            }
        }
        Ok(())
    };
    sync_all().map_err(CacheError::file("make durable", path))
}
