//! The shared directory on the host, and the only code that touches it.
//!
//! Every path is relative to the root's descriptor, made of plain names, and
//! opened with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`: the kernel
//! refuses `..` and every symbolic link on the way, so no rename or link made
//! meanwhile (by this guest, a clone of it or the host) leads outside. Symbolic
//! links are read by the guest and resolved by it, inside its own tree.

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, StatFs, Uid};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest path, in bytes.
const MAX_PATH: usize = 4096;

/// One name in a directory: not empty, not `.` or `..`, without `/` and NUL.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// # Errors
    /// `EINVAL` when it is no such name, `ENAMETOOLONG` when it is too long.
    pub(super) fn new(name: &'a [u8]) -> Result<Self, Errno> {
        if name.len() > 255 {
            return Err(Errno::NAMETOOLONG);
        }
        let special = name.is_empty() || name == b"." || name == b"..";
        if special || name.contains(&b'/') || name.contains(&0) {
            return Err(Errno::INVAL);
        }
        Ok(Self(name))
    }
}

/// Where something is, below the root. The root is the empty path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct TreePath(Vec<u8>);

impl TreePath {
    /// A path from a saved state: checked like one that the guest walked.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, Errno> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        bytes
            .split(|&b| b == b'/')
            .try_fold(Self::default(), |path, name| path.join(Name::new(name)?))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// # Errors
    /// `ENAMETOOLONG` when it becomes longer than the kernel takes.
    pub(super) fn join(&self, name: Name<'_>) -> Result<Self, Errno> {
        if self.0.len() + 1 + name.0.len() >= MAX_PATH {
            return Err(Errno::NAMETOOLONG);
        }
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(name.0);
        Ok(Self(path))
    }

    /// Where it is and what it is called there; the root is nowhere.
    pub(super) fn split(&self) -> Option<(Self, Name<'_>)> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.iter().rposition(|&b| b == b'/') {
            Some(at) => (Self(self.0[..at].to_vec()), Name(&self.0[at + 1..])),
            None => (Self::default(), Name(&self.0)),
        })
    }

    /// Follows a rename of `from`, which is this or above it, to `to`.
    pub(super) fn follow(&mut self, from: &Self, to: &Self) {
        let Some(rest) = self.0.strip_prefix(from.0.as_slice()) else {
            return;
        };
        if rest.is_empty() || rest.starts_with(b"/") {
            self.0 = [&to.0, rest].concat();
        }
    }
}

/// What to change of something's attributes.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    /// In bytes.
    pub(super) size: Option<u64>,
    /// Access and modification time.
    pub(super) times: Option<fs::Timestamps>,
}

/// A host directory.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    read_only: bool,
}

impl Tree {
    /// # Errors
    /// When `root` is not a directory that can be opened.
    pub(super) fn new(root: OwnedFd, read_only: bool) -> Result<Self, Errno> {
        match kind(&fs::fstat(&root)?) {
            FileType::Directory => Ok(Self { root, read_only }),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn writable(&self) -> Result<(), Errno> {
        if self.read_only {
            Err(Errno::ROFS)
        } else {
            Ok(())
        }
    }

    fn open_raw(&self, path: &TreePath, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = if path.0.is_empty() {
            b"."
        } else {
            path.0.as_slice()
        };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat2(&self.root, path, flags, mode, resolve)
    }

    /// A handle for `*at` calls and attributes; of a symbolic link itself.
    fn locate(&self, path: &TreePath) -> Result<OwnedFd, Errno> {
        self.open_raw(path, OFlags::PATH, Mode::empty())
    }

    pub(super) fn stat(&self, path: &TreePath) -> Result<Stat, Errno> {
        fs::fstat(self.locate(path)?)
    }

    pub(super) fn statfs(&self, path: &TreePath) -> Result<StatFs, Errno> {
        fs::fstatfs(self.locate(path)?)
    }

    pub(super) fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, Errno> {
        let link = self.locate(path)?;
        Ok(fs::readlinkat(link, c"", Vec::new())?.into_bytes())
    }

    /// Opens a file or directory, nothing else: a FIFO would block the device
    /// thread, a device node is none of the guest's business.
    pub(super) fn open(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC) {
            self.writable()?;
        }
        openable(&self.stat(path)?)?;
        let file = self.open_raw(path, flags | OFlags::NONBLOCK, Mode::empty())?;
        openable(&fs::fstat(&file)?)?;
        Ok(file)
    }

    pub(super) fn create(
        &self,
        path: &TreePath,
        flags: OFlags,
        mode: u32,
    ) -> Result<OwnedFd, Errno> {
        self.writable()?;
        match self.stat(path) {
            Ok(stat) => openable(&stat)?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        let flags = flags | OFlags::CREATE | OFlags::NONBLOCK;
        let file = self.open_raw(path, flags, permissions(mode))?;
        openable(&fs::fstat(&file)?)?;
        Ok(file)
    }

    pub(super) fn make_directory(
        &self,
        at: &TreePath,
        name: Name<'_>,
        mode: u32,
    ) -> Result<(), Errno> {
        self.writable()?;
        fs::mkdirat(self.locate(at)?, name.0, permissions(mode))
    }

    /// A FIFO or a socket. Device nodes of the guest's making would be devices of
    /// the host.
    pub(super) fn make_node(&self, at: &TreePath, name: Name<'_>, mode: u32) -> Result<(), Errno> {
        self.writable()?;
        let kind = FileType::from_raw_mode(mode);
        if !matches!(
            kind,
            FileType::Fifo | FileType::Socket | FileType::RegularFile
        ) {
            return Err(Errno::PERM);
        }
        fs::mknodat(self.locate(at)?, name.0, kind, permissions(mode), 0)
    }

    pub(super) fn make_link(
        &self,
        at: &TreePath,
        name: Name<'_>,
        target: &[u8],
    ) -> Result<(), Errno> {
        self.writable()?;
        fs::symlinkat(target, self.locate(at)?, name.0)
    }

    pub(super) fn hard_link(
        &self,
        of: &TreePath,
        at: &TreePath,
        name: Name<'_>,
    ) -> Result<(), Errno> {
        self.writable()?;
        let (old_at, old_name) = of.split().ok_or(Errno::PERM)?;
        let (from, to) = (self.locate(&old_at)?, self.locate(at)?);
        fs::linkat(from, old_name.0, to, name.0, AtFlags::empty())
    }

    pub(super) fn rename(
        &self,
        from: (&TreePath, Name<'_>),
        to: (&TreePath, Name<'_>),
    ) -> Result<(), Errno> {
        self.writable()?;
        fs::renameat(self.locate(from.0)?, from.1.0, self.locate(to.0)?, to.1.0)
    }

    pub(super) fn remove(
        &self,
        at: &TreePath,
        name: Name<'_>,
        directory: bool,
    ) -> Result<(), Errno> {
        self.writable()?;
        let flags = if directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        fs::unlinkat(self.locate(at)?, name.0, flags)
    }

    /// Changes attributes of what is at `path`; `open` is the guest's own open
    /// file of it, if there is one.
    pub(super) fn change(
        &self,
        path: &TreePath,
        open: Option<BorrowedFd<'_>>,
        changes: Changes,
    ) -> Result<(), Errno> {
        self.writable()?;
        // Owner first: changing it clears bits of the mode.
        if changes.uid.is_some() || changes.gid.is_some() {
            let uid = changes.uid.map(Uid::from_raw);
            let gid = changes.gid.map(Gid::from_raw);
            let on = self.locate(path)?;
            fs::chownat(on, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = changes.mode {
            let mode = permissions(mode);
            match open {
                Some(file) => fs::fchmod(file, mode)?,
                None => fs::fchmod(self.open_any(path)?, mode)?,
            }
        }
        if let Some(size) = changes.size {
            // The guest's file may be open for reading only.
            if open.is_none_or(|file| fs::ftruncate(file, size).is_err()) {
                fs::ftruncate(self.open(path, OFlags::WRONLY)?, size)?;
            }
        }
        if let Some(times) = &changes.times {
            match open {
                Some(file) => fs::futimens(file, times)?,
                None => fs::utimensat(self.locate(path)?, c"", times, AtFlags::EMPTY_PATH)?,
            }
        }
        Ok(())
    }

    /// Opens for whatever the file allows.
    fn open_any(&self, path: &TreePath) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::RDONLY)
            .or_else(|error| match error {
                Errno::ACCESS => self.open(path, OFlags::WRONLY),
                other => Err(other),
            })
    }
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn openable(stat: &Stat) -> Result<(), Errno> {
    match kind(stat) {
        FileType::RegularFile | FileType::Directory => Ok(()),
        FileType::Symlink => Err(Errno::LOOP),
        _ => Err(Errno::NXIO),
    }
}

/// Permission bits and the sticky bit. Set-user-ID and set-group-ID files of a
/// guest's making would run with the rights of the monitor's user on the host.
fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o1777)
}
